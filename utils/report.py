"""report.png: what utils.evaluate saw, to look at."""

import io

import cv2
import numpy as np

from utils.contract import FPS, write_whole
from utils.dataset import thin

STRIPS, CURVES = 6, 3      # held-out frames, from closed to open; swapped pieces


def draw(path, footage, own, swapped):
    """Write real and generated lower faces, and below the mouth's curves. own, swapped: see stage.Take."""
    from matplotlib.figure import Figure  # here, because importing it takes a second that --help should not

    figure = Figure(figsize=(10.2, 15.6), dpi=100, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(10, 5))
    shown = [(i, lower) for take in own for i, lower in zip(take.frames, take.pictures, strict=True)]
    by_opening = sorted(range(len(shown)), key=lambda k: footage.opening[shown[k][0]])
    axes = above.subplots(STRIPS, 3)
    for row, k in zip(axes, thin(np.array(by_opening), STRIPS), strict=True):
        i, lower = shown[k]
        difference = cv2.convertScaleAbs(cv2.absdiff(footage.lower[i], lower), alpha=2)
        for axis, picture in zip(row, (footage.lower[i], lower, difference), strict=True):
            axis.imshow(picture, interpolation="bicubic")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{i / FPS:.2f} s")
    for axis, title in zip(axes[0], ("real", "generated, own sound", "difference × 2"), strict=True):
        axis.set_title(title)

    takes = [swapped[k] for k in thin(np.arange(len(swapped)), CURVES)]
    axes = below.subplots(2, len(takes), sharex="col", sharey="row", squeeze=False)
    for (upper, lower), take in zip(axes.T, takes, strict=True):
        for k, axis in enumerate((upper, lower)):
            for shape, style in ((take.heard.shape, {"color": "0.65", "linewidth": 3}), (take.shape, {"color": "C3"})):
                axis.plot(np.arange(take.count) / FPS, shape[:take.count, k], **style)
        upper.set_title(f"sound at {take.heard.first / FPS:.0f} s, picture at {take.seen.first / FPS:.0f} s", size=10)
        lower.set_xlabel("s")
    for axis, name in zip(axes[:, 0], ("opening", "width"), strict=True):
        axis.set_ylabel(f"mouth {name}, eye distances")
    below.legend(axes[0, 0].lines, ("real mouth of the sound", "generated"), loc="outside lower center", ncols=2)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())
