"""report.png: what utils.evaluate saw, to look at."""

import io
from pathlib import Path

import cv2
import numpy as np

from utils.contract import FPS
from utils.dataset.clip import Clip
from utils.dataset.references import evenly_spaced
from utils.evaluate.rendering import Rendering
from utils.storage import write_atomically

STRIPS = 6          # held-out frames, from the most closed to the most open mouth
CURVES = 3          # swapped renderings whose mouth is drawn over time
DIFFERENCE_GAIN = 2


def draw(path: Path, clip: Clip, own: list[Rendering], swapped: list[Rendering]):
    """Write real and generated lower faces (of `own`), and below the mouth's curves (`swapped`)."""
    from matplotlib.figure import Figure  # here: importing it takes a second, --help should not

    figure = Figure(figsize=(10.2, 15.6), dpi=100, layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(10, 5)).flat
    _draw_faces(above, clip, own)
    _draw_curves(below, swapped)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


def _draw_faces(figure, clip, own):
    """Rows of a real lower face, the generated one, and their difference."""
    frames = np.concatenate([rendering.frames for rendering in own])
    lower_faces = [lower_face for rendering in own for lower_face in rendering.lower_faces]
    from_closed_to_open = np.argsort(clip.track.opening[frames], kind="stable")
    axes = figure.subplots(STRIPS, 3)
    for row, k in zip(axes, evenly_spaced(from_closed_to_open, STRIPS), strict=True):
        real = clip.lower_faces[frames[k]]
        generated = lower_faces[k]
        difference = cv2.absdiff(real, generated)
        difference = cv2.convertScaleAbs(difference, alpha=DIFFERENCE_GAIN)
        for axis, picture in zip(row, (real, generated, difference), strict=True):
            axis.imshow(picture, interpolation="bicubic")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{frames[k] / FPS:.2f} s")
    axes[0, 0].set_title("real")
    axes[0, 1].set_title("generated, own sound")
    axes[0, 2].set_title(f"difference × {DIFFERENCE_GAIN}")


def _draw_curves(figure, swapped):
    """Opening and width over time of the generated mouth, and of the real mouth of the sound."""
    chosen = evenly_spaced(np.arange(len(swapped)), CURVES)
    axes = figure.subplots(2, len(chosen), sharex="col", sharey="row", squeeze=False)
    for column, number in zip(axes.T, chosen, strict=True):
        made = swapped[number]
        count = len(made.frames)
        seconds = np.arange(count) / FPS
        for k, axis in enumerate(column):
            axis.plot(seconds, made.driving.mouth[:count, k], color="0.65", linewidth=3)
            axis.plot(seconds, made.mouth[:, k], color="C3")
        column[0].set_title(f"sound at {made.driving.first / FPS:.0f} s, "
                            f"picture at {made.shown.first / FPS:.0f} s", size=10)
        column[1].set_xlabel("s")
    axes[0, 0].set_ylabel("mouth opening, eye distances")
    axes[1, 0].set_ylabel("mouth width, eye distances")
    labels = ("real mouth of the sound", "generated")
    figure.legend(axes[0, 0].lines, labels, loc="outside lower center", ncols=2)
