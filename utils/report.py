"""Pictures to look at: how training goes (preview.png, loss.png), and what utils.evaluate saw (report.png)."""

import csv
import io

import cv2
import numpy as np

from utils.contract import FPS, MEL_FLOOR, write_whole
from utils.dataset import thin
from utils.generate import lowers
from utils.pixels import png

PREVIEWS = 5               # held-out frames in preview.png
STRIPS, CURVES = 6, 3      # held-out frames, from closed to open; swapped pieces


def preview(path, model, dataset, where):
    """Write rows of held-out frames: closed and open reference, generated, real, and generated on silence."""
    by_opening = dataset.frames[np.argsort(dataset.footage.opening[dataset.frames])]  # from closed to open
    frames = thin(by_opening, PREVIEWS)
    own = dataset.footage.windows(frames)
    pictures = [list(lowers(model, dataset.footage, dataset.fixed, frames, windows.__getitem__, where))
                for windows in (own, np.full_like(own, np.log(MEL_FLOOR)))]
    closed, opened = (dataset.footage.lower[dataset.fixed[frames, k]] for k in (0, 1))
    columns = [closed, opened, pictures[0], dataset.footage.lower[frames], pictures[1]]
    titles = ("closed reference", "open reference", "generated", "real", "on silence")
    sheet = np.hstack([np.vstack(list(column)) for column in columns])
    sheet = cv2.resize(sheet, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    head = np.full((28, sheet.shape[1], 3), 255, np.uint8)
    for k, title in enumerate(titles):
        cv2.putText(head, title, (8 + k * sheet.shape[1] // 5, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1,
                    cv2.LINE_AA)
    write_whole(path, png(np.vstack([head, sheet])))


def log(folder, history):
    """Write log.csv and loss.png of a training's history, a list of dicts."""
    from matplotlib.figure import Figure  # here, because importing it takes a second that --help should not

    text = io.StringIO()
    rows = csv.DictWriter(text, history[0])
    rows.writeheader()
    rows.writerows(history)
    write_whole(folder / "log.csv", text.getvalue().encode())
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    for key in ("train", "held_out"):
        axes.plot([row["epoch"] for row in history], [row[key] for row in history], marker=".", label=key)
    axes.set(xlabel="epoch", ylabel="train: loss; held_out: difference of the mouth", yscale="log")
    axes.legend()
    _save(folder / "loss.png", figure)


def _save(path, figure):
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def draw(path, footage, own, swapped):
    """Write real and generated lower faces, and below the mouth's curves. own, swapped: see stage.Take."""
    from matplotlib.figure import Figure

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
    _save(path, figure)
