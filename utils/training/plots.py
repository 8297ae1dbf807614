"""How training goes: log.csv and loss.png."""

import csv
import io
from pathlib import Path
from typing import Any

from utils.storage import write_atomically


def write_log(folder: Path, history: list[dict[str, Any]]):
    """Write log.csv and loss.png of a training's history, a dict for each epoch.

    Epochs may have different columns: where one lacks a column, its field is empty.
    """
    from matplotlib.figure import Figure  # takes a second to import, which --help should not

    names: dict[str, None] = {}
    for row in history:
        names.update(dict.fromkeys(row))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names))
    writer.writeheader()
    writer.writerows(history)
    write_atomically(folder / "log.csv", text.getvalue().encode())

    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    for key in ("train_loss", "val_loss"):
        axes.plot(epochs, [row[key] for row in history], marker=".", label=key)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean difference of pixels; val_loss: of the mouth only")
    axes.set_yscale("log")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(folder / "loss.png", content.getvalue())
