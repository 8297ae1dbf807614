"""Checkpoints: plain dicts of tensors, numbers, strings, lists and dicts, written whole or not at
all.

    model, model_args    the network (its exponential average) and how it is built
    training             networks and optimizers, all that --resume needs; empty in best.pth
    scheduler            {"heard": steps of hearing, "step": of drawing}
    epoch, best          epochs made; lowest held-out figure
    settings             batch_size, lr, epochs, seed of the training
    history              a dict of numbers for each epoch: what log.csv shows
    base                 whether it began from a base, which is then its teacher
    contract, data       constants it was trained with; {"id", "clip"} of what it was trained on
"""

import io
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.unet import LipUNet
from utils.cli import CheckpointError, say
from utils.contract import N_MELS
from utils.face.landmarks import WARP_POINTS
from utils.storage import check_contract, reading, write_atomically

LARGEST_COUNT = 10**9    # of steps, epochs, pictures: more can only be damage
LARGEST_CHANNELS = 512   # of a layer: a larger network is not built, it would fill the memory
LARGEST_AUDIO_WIDTH = 2048


def save(path: Path, content: dict[str, Any]):
    """Write a checkpoint, whole or not at all."""
    # not to the file itself: PyTorch's own writer says "unexpected pos" where a disk is full
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: str | Path) -> tuple[LipUNet, dict[str, Any]]:
    """The network in eval mode on the CPU, and the checkpoint.

    Raises CheckpointError if the file is missing, damaged, of other contract constants or not one
    of ours. It opens with weights_only=True: a file from a stranger runs no code.
    """
    path = Path(path)
    if not path.is_file():
        raise _missing(path)
    with reading(path, CheckpointError):
        saved = torch.load(path, map_location="cpu", weights_only=True)
        check_contract(saved["contract"], f"{path} was trained", CheckpointError)
        _check(saved)
        model = LipUNet(**saved["model_args"])
        model.load_state_dict(checked_tensors(saved["model"], model.state_dict()))
    return model.eval(), saved


def checked_tensors(found: Any, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the dict `found`, each of the name, shape and dtype of one in `expected`, and
    finite. Raises ValueError if they are not.
    """
    if not isinstance(found, dict) or found.keys() != expected.keys():
        raise ValueError("it has other tensors")
    for name, tensor in expected.items():
        other = found[name]
        if not _is_similar(other, tensor):
            raise ValueError(f"{name} is no {tensor.dtype} of {tuple(tensor.shape)}")
        if not torch.isfinite(other).all():
            raise ValueError(f"{name} is not finite")
    return dict(found)


def keep_earlier(folder: Path):
    """Rename the checkpoints of an earlier training to *.old.pth, and say it."""
    if not (folder / "best.pth").exists():
        return  # it ended within its first epoch: nothing worth keeping
    kept = []
    for name in ("last", "best"):
        path = folder / f"{name}.pth"
        if path.exists():
            old = folder / f"{name}.old.pth"
            os.replace(path, old)
            kept.append(str(old))
    say(f"kept the earlier training as {' and '.join(kept)} "
        "(to go on with a training, use --resume)")


def _missing(path):
    last = path.with_name("last.pth")
    if last != path and last.is_file():
        return CheckpointError(
            f"{path} does not exist; training has not finished its first epoch",
            options="--resume")
    return CheckpointError(f"{path} does not exist")


def _check(saved):
    """Raise an error that names the key if a value is missing or cannot be."""
    args = saved["model_args"]
    settings = saved["settings"]
    data = saved["data"]
    widths = [*args["channels"], args["num_references"]]
    valid = {
        "model": isinstance(saved["model"], dict),
        "training": isinstance(saved["training"], dict),
        "mels": args["mels"] == N_MELS,
        "num_landmarks": args["num_landmarks"] == len(WARP_POINTS),
        "channels": all(_is_count(width, 1, LARGEST_CHANNELS) for width in widths),
        "audio_width": _is_count(args["audio_width"], 1, LARGEST_AUDIO_WIDTH),
        "dropout": _is_number(args["dropout"]) and 0 <= args["dropout"] <= 1,
        "epoch": _is_count(saved["epoch"]),
        "heard": _is_count(saved["scheduler"]["heard"]),
        "step": _is_count(saved["scheduler"]["step"]),
        "best": type(saved["best"]) is float and saved["best"] >= 0,
        "settings": settings.keys() == {"batch_size", "lr", "epochs", "seed"},
        "seed": _is_count(settings["seed"]),
        "batch_size": _is_count(settings["batch_size"], 1),
        "epochs": _is_count(settings["epochs"], 1),
        "lr": _is_number(settings["lr"]) and settings["lr"] >= 0,
        "id": isinstance(data["id"], str),
        "clip": isinstance(data["clip"], str),
        "base": type(saved["base"]) is bool,
        "history": all(_is_history_row(row) for row in saved["history"]),
    }
    for key, is_valid in valid.items():
        if not is_valid:
            raise ValueError(f"it has no valid {key}")


def _is_history_row(row):
    """Whether it is a dict of finite numbers; whoever logs one number more is welcome."""
    known = {"epoch", "train_loss", "val_loss"}
    return known <= row.keys() and all(_is_number(value) for value in row.values())


def _is_count(value, low=0, high=LARGEST_COUNT):
    return type(value) is int and low <= value <= high


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _is_similar(found, expected):
    return (
        torch.is_tensor(found)
        and found.layout == torch.strided
        and found.device.type == "cpu"
        and found.shape == expected.shape
        and found.dtype == expected.dtype
    )
