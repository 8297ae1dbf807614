"""report.png: what utils.evaluate saw, to look at."""

import io

import cv2
import numpy as np

from utils.contract import FPS, write_whole
from utils.dataset import thin

STRIPS, CURVES = 6, 3      # held-out frames, from closed to open; swapped pieces


def draw(path, footage, own, swapped):
    """Write real and generated lower faces, and the mouth's curves below. own, swapped: see stage.Take."""
    from matplotlib.figure import Figure  # here, because importing it takes a second that --help should not

    figure = Figure(figsize=(10.2, 15.4), dpi=100, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(10, 5))
    strips(above.subplots(STRIPS, 3), footage, own)
    takes = [swapped[k] for k in thin(np.arange(len(swapped)), CURVES)]
    curves(below.subplots(2, len(takes), sharex="col", sharey="row", squeeze=False), takes)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def strips(axes, footage, own):
    """Draw rows of real, generated and twice their difference, of frames from closed to open."""
    frames = np.concatenate([take.frames for take in own])
    pictures = [picture for take in own for picture in take.pictures]
    for row, k in zip(axes, thin(np.argsort(footage.opening[frames]), len(axes)), strict=True):
        real = footage.lower[frames[k]]
        difference = cv2.convertScaleAbs(cv2.absdiff(real, pictures[k]), alpha=2)
        for axis, picture in zip(row, (real, pictures[k], difference), strict=True):
            axis.imshow(picture, interpolation="bicubic")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{frames[k] / FPS:.2f} s")
    for axis, title in zip(axes[0], ("real", "generated, own sound", "difference × 2"), strict=True):
        axis.set_title(title)


def curves(axes, takes):
    """Draw opening and width over time, real against generated, of takes with another piece's sound."""
    for column, take in zip(axes.T, takes, strict=True):
        time = np.arange(take.count) / FPS
        for k, axis in enumerate(column):
            axis.plot(time, take.heard.shape[:take.count, k], color="0.65", linewidth=3, label="real, of the sound")
            axis.plot(time, take.shape[:, k], color="C3", label="generated")
        column[0].set_title(f"sound from {take.heard.first / FPS:.0f} s, picture from {take.seen.first / FPS:.0f} s",
                            fontsize=10)
        column[1].set_xlabel("s")
    for axis, name in zip(axes[:, 0], ("opening", "width"), strict=True):
        axis.set_ylabel(f"mouth {name}, eye distances")
    axes[0, 0].legend(frameon=False, fontsize=9)
