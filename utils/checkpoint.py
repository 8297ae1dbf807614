"""Checkpoints: plain dicts of tensors, numbers, strings, lists and dicts, written whole or not at all."""

import io
from pathlib import Path

import torch

from models.unet import LipUNet
from utils.console import UserError
from utils.contract import check_contract, write_whole
from utils.face import CARRIED

KEYS = {"model": dict, "model_args": dict, "learner": dict, "scheduler": dict, "epoch": int, "best": float,
        "settings": dict, "contract": dict, "data": dict, "history": list}


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
    for key, kind in KEYS.items():
        if not isinstance(checkpoint.get(key), kind):
            raise UserError(f"{path} has no valid '{key}'; it is no checkpoint of this train.py; {remedy}")
    check_contract(checkpoint["contract"], f"{path} was trained", remedy)
    try:
        model = LipUNet(**checkpoint["model_args"])
        if model.model_args["points"] != len(CARRIED):
            raise ValueError(f"{model.model_args['points']} landmarks, not {len(CARRIED)}")
        model.load_state_dict(checkpoint["model"])
    except (RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path} does not fit models/unet.py ({str(error).splitlines()[0]}); {remedy}") from error
    return model.eval(), checkpoint
