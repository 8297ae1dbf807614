"""The base: a network that has heard and seen many people, from which a training starts.

    model                the network of utils.pretrain, float16
    discriminator        the discriminator, float16
    voices               sounds of the people it was learned from
    contract             constants it was trained with
    about                what it was learned from, for people

Who learns one voice forgets others, so the base stays beside a training as its teacher: at each
step of hearing the network is also asked what it hears in other people's sounds, and is to answer
as the base does (learning without forgetting, Li and Hoiem 2016). What it has learned is taken back
towards the base as far as that serves. What is kept of their sounds cannot be listened to: the
features of windows of 0.64 s in random order, after the audio encoder's convolutions, which stay as
they are in a training for that reason.
"""

import copy
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.discriminator import Discriminator
from models.unet import LipUNet
from utils.cli import UserError, say
from utils.contract import CONTRACT
from utils.storage import check_contract, read_asset, reading
from utils.training import checkpoint

SHIPPED = Path(__file__).parents[1] / "assets" / "base.pth"
SHIPPED_SHA256 = "6ed6ba101af57abc0d7e42c1a9d34a9d0b57a2104c974d19fd0b9e375bd578cd"
# Of the person, not of the base: where the landmarks of this face lie, and how far they move.
PERSONAL = ("landmark_pose_fit", "landmark_std")
AUDIO_BRANCH = ("audio_encoder", "landmark_head")  # what the names of its weights begin with
COMPONENTS = 24          # principal components of the features that are kept
FREE = ("face_size", "template")  # of the contract: convolutions fit any size


class Teacher:
    """The base as it is, which tells what it hears in other people's voices.

    base: of load_base(). model: a network like the base's, of which nothing is changed.
    """

    def __init__(self, base: dict[str, Any], model: LipUNet, device: torch.device):
        network = copy.deepcopy(model)
        network.load_state_dict(base["model"])
        self.network = network.to(device).eval().requires_grad_(False)
        self.voices: Tensor = base["voices"].to(device)

    @torch.no_grad()
    def ask(self, count: int) -> tuple[Tensor, Tensor]:
        """Features (count, 16, 192) of sounds at random, and the normalised landmarks (count, 130)
        that the base hears in them.

        Each sound lies between those of two people (mixup, Zhang et al. 2018): of voices that
        nobody has there is no end, those of the file alone would be learned by heart.
        """
        one, other = self.voices[torch.randint(len(self.voices), (2, count))]
        share = torch.rand(count, 1, 1).to(one.device)
        features = share * one + (1 - share) * other                     # (count, 16, 192)
        landmarks = self.network.predict_landmarks(self.network.audio_encoder(features))
        return features, landmarks


def save_base(
    path: Path,
    model: LipUNet,
    discriminator: Discriminator,
    voices: Tensor,
    about: str,
):
    """Write a base, whole or not at all. voices (V, 16, 192) float32: LipUNet.audio_features() of
    sounds of its people.
    """
    content = {
        "model": _halved(model.state_dict()),
        "discriminator": _halved(discriminator.state_dict()),
        "voices": _compressed(voices),
        "contract": CONTRACT,
        "about": about,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, content)


def load_base(path: Path, model: LipUNet) -> dict[str, Any]:
    """Content of a base file, in float32, for a network like `model`; "voices" (V, 16, 192).

    Raises UserError if it is missing, damaged, of another network or made with other constants. It
    opens with weights_only=True: a file from a stranger runs no code.
    """
    with reading(path, UserError):
        content = read_asset(path, SHIPPED_SHA256) if path == SHIPPED else path.read_bytes()
        base = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        check_contract({**base["contract"], **{key: CONTRACT[key] for key in FREE}},
                       f"{path} was trained", UserError)
        networks = {"model": model, "discriminator": Discriminator()}
        for name, network in networks.items():
            weights = {key: _widened(value) for key, value in base[name].items()}
            base[name] = checkpoint.checked_tensors(weights, network.state_dict())
        base["voices"] = _expanded(base["voices"])
    return base


def find_base(path: Path | None, model: LipUNet) -> dict[str, Any] | None:
    """The base of a file. None if that is not wanted, or cannot be, which is said."""
    if path is None:
        return None
    try:
        return load_base(path, model)
    except UserError as error:
        say(f"note: {error}; without a base training takes many times as long, and other voices "
            "than this person's are not followed well")
        return None


def start_from(base: dict[str, Any], model: LipUNet):
    """Put the base's weights in place of those of a new network, but for what is the person's."""
    own = {name: getattr(model, name) for name in PERSONAL}
    model.load_state_dict({**base["model"], **own})


def freeze_features(model: LipUNet):
    """Keep the convolutions of the audio encoder as they are: the features of the voices are of
    them.
    """
    encoder = model.audio_encoder
    for module in (encoder.conv1, encoder.norm1, encoder.conv2, encoder.norm2):
        module.requires_grad_(False)


def _compressed(voices):
    """Features as int8 coefficients of their principal components."""
    flat = voices.flatten(0, 1)                                          # (16 V, 192)
    mean = flat.mean(dim=0)
    _, _, components = torch.pca_lowrank(flat - mean, COMPONENTS)        # (192, C)
    coefficients = (flat - mean) @ components                            # (16 V, C)
    scale = coefficients.abs().amax(dim=0) / 127                         # (C,)
    codes = (coefficients / scale).round().to(torch.int8)
    return {
        "codes": codes.unflatten(0, voices.shape[:2]),                   # (V, 16, C)
        "components": components * scale,                                # (192, C)
        "mean": mean}


def _expanded(voices):
    return voices["codes"].float() @ voices["components"].T + voices["mean"]


def _halved(tensors):
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()}


def _widened(tensor):
    return tensor.float() if tensor.is_floating_point() else tensor
