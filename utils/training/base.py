"""The base: a network that has heard and seen many people, from which a training starts.

    model, model_args    the network of utils.pretrain, float16
    discriminator        the discriminator, float16
    contract             constants it was trained with
    about                what it was learned from, for people
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from utils.cli import UserError
from utils.contract import CONTRACT
from utils.storage import check_contract, reading, write_atomically
from utils.training.checkpoint import checked_tensors
from utils.training.state import TrainState

SHIPPED = Path(__file__).parents[1] / "assets" / "base.pth"
SHIPPED_SHA256 = ""
# Of the person, not of the base: where the landmarks of this face lie, and how far they move.
PERSONAL = ("landmark_pose_fit", "landmark_std")
FREE = ("face_size", "template")  # of the contract: convolutions fit any size


def save_base(path: Path, state: TrainState, about: str):
    """Write the averaged network and the discriminator as a base."""
    content = {
        "model": _halved(state.averaged.state_dict()),
        "model_args": state.model.model_args,
        "discriminator": _halved(state.discriminator.state_dict()),
        "contract": CONTRACT,
        "about": about,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def load_base(path: Path) -> dict[str, Any]:
    """Content of a base file, in float32.

    Raises UserError if it is missing, damaged or made with other constants. It opens with
    weights_only=True: a file from a stranger runs no code.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    content = path.read_bytes()
    if path == SHIPPED and hashlib.sha256(content).hexdigest() != SHIPPED_SHA256:
        raise UserError(f"{path} is damaged (its SHA-256 is not the expected one)")
    with reading(path, UserError):
        base = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        check_contract({**base["contract"], **{key: CONTRACT[key] for key in FREE}},
                       f"{path} was trained", UserError)
        for name in ("model", "discriminator"):
            base[name] = {key: _widened(value) for key, value in base[name].items()}
    return base


def start_from(base: dict[str, Any], state: TrainState):
    """Put the base's weights in place of those of a new state, but for what is the person's.

    Raises ValueError if they are of another network.
    """
    own = state.model.state_dict()
    wanted = {**base["model"], **{name: own[name].cpu() for name in PERSONAL}}
    weights = checked_tensors(wanted, own)
    for network in (state.model, state.averaged):
        network.load_state_dict(weights)
    expected = state.discriminator.state_dict()
    state.discriminator.load_state_dict(checked_tensors(base["discriminator"], expected))


def _halved(tensors):
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()}


def _widened(tensor):
    return tensor.float() if tensor.is_floating_point() else tensor
