"""Checkpoints: plain dicts of tensors, numbers, strings, lists and dicts, written whole or not at all."""

import io
import math
from pathlib import Path

import torch

from models.unet import LipUNet
from utils.console import UserError
from utils.contract import N_MELS, check, check_contract, number, text, whole, write_whole
from utils.face import CARRIED

ROW = ["epoch", "train", "held_out", "heard", "lr", "pictures_per_s", "seconds"]  # of the history: one an epoch
MANY = 10 ** 9
KEYS = {"model": {}, "learner": {}, "contract": {},
        "model_args": {"references": whole(2, 2), "mels": whole(N_MELS, N_MELS),
                       "points": whole(len(CARRIED), len(CARRIED)),
                       "channels": lambda found: type(found) is list and all(map(whole(8, 512), found)),
                       "audio_width": whole(1, 2048), "dropout": number(0, 1)},
        "scheduler": {"step": whole(0, MANY)}, "epoch": whole(0, MANY), "best": number(0, math.inf),
        "settings": {"batch_size": whole(1, MANY), "lr": number(0, MANY), "epochs": whole(1, MANY)},
        "data": {"id": text, "clip": text},
        "history": lambda rows: type(rows) is list and all(
            type(row) is dict and list(row) == ROW and all(map(number(-MANY, MANY), row.values())) for row in rows)}


def save(path, checkpoint):
    """Write a checkpoint, whole or not at all."""
    content = io.BytesIO()  # not to the file itself: PyTorch's own writer says "unexpected pos" where a disk is full
    torch.save(checkpoint, content)
    write_whole(path, content.getbuffer())


def load(path, command="python train.py"):
    """Return (model in eval mode on the CPU, the checkpoint dict).

    Raises UserError, ending in the command that mends it, if it is missing, damaged, of other contract constants
    or not one of ours. Opens with weights_only=True: a file from a stranger runs no code.
    """
    path = Path(path)
    remedy = f"run: {command}"
    if not path.is_file():
        last = path.with_name("last.pth")
        if last != path and last.is_file():
            remedy = f"training has not finished its first epoch; run: {command} --resume"
        raise UserError(f"{path} does not exist; {remedy}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises from zipfile, pickle or torch, each its own kind
        raise UserError(f"{path} is damaged or no checkpoint ({type(error).__name__}); {remedy}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint of train.py; {remedy}")
    check(checkpoint, KEYS, f"{path}", f"it is no checkpoint of this train.py; {remedy}")
    check_contract(checkpoint["contract"], f"{path} was trained", remedy)
    try:
        model = LipUNet(**checkpoint["model_args"])
        model.load_state_dict(fitting(checkpoint["model"], model.state_dict()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit models/unet.py ({error}); {remedy}") from error
    return model.eval(), checkpoint


def fitting(found, own):
    """Return the tensors in the dict `found`, after checking that each has its like in `own` and is finite.

    Raises ValueError if names, shapes or dtypes differ.
    """
    if not isinstance(found, dict) or found.keys() != own.keys():
        raise ValueError("it has other tensors")
    for name, tensor in own.items():
        other = found[name]
        if not torch.is_tensor(other) or other.layout != torch.strided or other.device.type != "cpu" \
                or other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise ValueError(f"{name} is no {tensor.dtype} of {tuple(tensor.shape)}")
        if not torch.isfinite(other).all():
            raise ValueError(f"{name} is not finite")
    return dict(found)
