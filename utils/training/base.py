"""The base: a network that has heard and seen many people, from which a training starts.

    model                the network of utils.pretrain, float16
    discriminator        the discriminator, float16
    voices               sounds of the people it was learned from, see Voices
    contract             constants it was trained with
    about                what it was learned from, for people

Who learns one voice forgets others, so a training rehearses: at each step it is also asked for the
mouths of the base's own people (rehearsal, Robins 1995). What is kept of their sounds cannot be
listened to: the features of windows of 0.64 s in random order, after the audio encoder's
convolutions, which stay as they are in a training for that reason.
"""

import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.discriminator import Discriminator
from models.unet import LipUNet
from utils.cli import UserError
from utils.contract import CONTRACT
from utils.storage import check_contract, reading
from utils.training import checkpoint

SHIPPED = Path(__file__).parents[1] / "assets" / "base.pth"
SHIPPED_SHA256 = "14639955131f25cd6c01881a168c04c206aafd186ee41efc578ad81f5529fa69"
# Of the person, not of the base: where the landmarks of this face lie, and how far they move.
PERSONAL = ("landmark_pose_fit", "landmark_std")
COMPONENTS = 24          # principal components of the features that are kept
LANDMARK_STEPS = 8       # of the int8 landmarks in a unit: up to 16 units
FREE = ("face_size", "template")  # of the contract: convolutions fit any size


class Voices(NamedTuple):
    """Sounds of many people, and the mouths that made them.

    features (V, 16, 192) float32, of AudioEncoder.features(). landmarks (V, 130) float32,
    normalised.
    """

    features: Tensor
    landmarks: Tensor

    def draw(self, count: int) -> "Voices":
        """`count` of them at random."""
        chosen = torch.randint(len(self.features), (count,))
        return Voices(self.features[chosen], self.landmarks[chosen])


def save_base(
    path: Path,
    model: LipUNet,
    discriminator: Discriminator,
    voices: Voices,
    about: str,
):
    """Write a base, whole or not at all."""
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
    """Content of a base file, in float32, for a network like `model`; "voices" are Voices.

    Raises UserError if it is missing, damaged, of another network or made with other constants. It
    opens with weights_only=True: a file from a stranger runs no code.
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
        networks = {"model": model, "discriminator": Discriminator()}
        for name, network in networks.items():
            weights = {key: _widened(value) for key, value in base[name].items()}
            base[name] = checkpoint.checked_tensors(weights, network.state_dict())
        base["voices"] = _expanded(base["voices"])
    return base


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
    """Features as int8 coefficients of their principal components, landmarks as int8."""
    flat = voices.features.flatten(0, 1)                                 # (16 V, 192)
    mean = flat.mean(dim=0)
    _, _, components = torch.pca_lowrank(flat - mean, COMPONENTS)        # (192, C)
    coefficients = (flat - mean) @ components                            # (16 V, C)
    scale = coefficients.abs().amax(dim=0) / 127                         # (C,)
    codes = (coefficients / scale).round().to(torch.int8)
    landmarks = (voices.landmarks * LANDMARK_STEPS).round().clamp(-127, 127)
    return {
        "codes": codes.unflatten(0, voices.features.shape[:2]),          # (V, 16, C)
        "components": components * scale,                                # (192, C)
        "mean": mean,
        "landmarks": landmarks.to(torch.int8)}


def _expanded(voices):
    features = voices["codes"].float() @ voices["components"].T + voices["mean"]
    return Voices(features, voices["landmarks"].float() / LANDMARK_STEPS)


def _halved(tensors):
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()}


def _widened(tensor):
    return tensor.float() if tensor.is_floating_point() else tensor
