"""Parts of training, most of them shared by train.py and utils.pretrain."""

import copy
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from models import losses
from models.unet import LipUNet
from utils.cli import say
from utils.dataset.batches import LipDataset, MouthMaps
from utils.face.landmarks import mouth_matrix
from utils.training import distributed
from utils.training.base import AUDIO_BRANCH, Teacher
from utils.training.device import autocast, to_device
from utils.training.schedule import Schedule
from utils.training.state import TrainState

CLIP_NORM = 1.0          # maximum norm of a step's gradient
SHARES = (1, 0.75, 0.5, 0.25, 0)  # of what a training has changed in the audio branch: tried


def until_over(schedule: Schedule, title: str) -> Iterator[float]:
    """Yield the learning rate of each step until the schedule is over, with a bar."""
    silent = distributed.rank() > 0
    with tqdm(total=100, desc=title, unit="%", leave=False, disable=silent) as bar:
        while not schedule.is_over():
            begun = time.monotonic()
            yield schedule.lr()
            schedule.advance(time.monotonic() - begun)
            bar.update(int(100 * schedule.progress) - bar.n)


def hearing_loss(predicted: Tensor, real: Tensor) -> Tensor:
    """Loss of normalised landmarks (B, 130): that of all of them, and that of the mouth."""
    to_mouth = torch.from_numpy(mouth_matrix()).to(real.device)              # (130, 2)
    mouth = losses.mouth_loss(predicted @ to_mouth, real @ to_mouth)
    return losses.landmark_loss(predicted, real) + mouth


@torch.no_grad()
def held_out_hearing(model: LipUNet, held: LipDataset) -> float:
    """Loss of a network in eval mode on the sounds of the held-out part, as they were recorded."""
    device = model.mel_mean.device
    mel = torch.from_numpy(held.clip.mel_windows[held.frames]).to(device)
    real = torch.from_numpy(held.norm.landmarks[held.frames]).to(device)
    return hearing_loss(model.predict_landmarks(model.encode_audio(mel)), real).item()


def restrain(teacher: Teacher, model: LipUNet, held: LipDataset) -> LipUNet:
    """A copy of `model`, its audio branch taken back towards the base's as far as serves the
    held-out part (WiSE-FT, Wortsman et al. 2022): what a clip teaches of sound may hold for its
    very frames only. How far is said.
    """
    old = teacher.network.state_dict()
    restrained = copy.deepcopy(model)

    def keep(share):
        restrained.load_state_dict({
            name: old[name].lerp(new, share) if name.startswith(AUDIO_BRANCH) else new
            for name, new in model.state_dict().items()})

    figures = {}
    for share in SHARES:
        keep(share)
        figures[share] = held_out_hearing(restrained, held)
    best = min(SHARES, key=figures.__getitem__)
    keep(best)
    say(f"hearing: loss {figures[best]:.2f} on the held-out part, the base's {figures[0]:.2f}; "
        f"{best:.0%} of what was learned is kept")
    return restrained


def judge(
    state: TrainState,
    generated: Tensor,
    real: Tensor,
    crop: tuple[slice, slice],
    lr: float,
) -> tuple[Tensor, Tensor]:
    """Train the discriminator on the mouths in pictures (B, 3, 84, 168), then ask it: adversarial
    loss and feature loss of the generated ones. crop: where the mouths are, of MouthMaps.
    """
    real = real[..., *crop]                                                  # (B, 3, 56, 104)
    generated = generated[..., *crop]                                        # (B, 3, 56, 104)

    # 1. it learns to tell photographed from generated mouths
    state.discriminator.requires_grad_(True)
    with autocast(state.device):
        logits, features = state.discriminator_ddp(torch.cat([real, generated.detach()]))
    loss = losses.discriminator_loss(*logits.float().chunk(2))
    optimizer_step(state.optimizer_d, loss, lr)
    state.discriminator.requires_grad_(False)
    real_features = [feature[:len(real)].detach() for feature in features]

    # 2. what it says of the generated ones
    with autocast(state.device):
        logits, features = state.discriminator(generated)
        feature = losses.feature_loss(features, real_features)
    return losses.adversarial_loss(logits.float()), feature


def optimizer_step(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> float:
    """One step down the loss. Returns the norm of the gradient before it is clipped; if it is not
    finite nothing is changed; check_finite() ends a training then.
    """
    group = optimizer.param_groups[0]
    group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(group["params"], CLIP_NORM).item()
    if math.isfinite(norm):
        optimizer.step()
    return norm


def to_float(pictures: Tensor) -> Tensor:
    """uint8 pictures (B, 84, 168, 3) as float32 (B, 3, 84, 168), 0..1."""
    return pictures.permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def validate(
    model: LipUNet,
    loader: DataLoader,
    maps: MouthMaps,
    device: torch.device,
) -> float:
    """Held-out figure, lower is better; sound as recorded, references as inference chooses them:
    mean absolute difference of the mouth's pixels, 0..1, drawn at its real landmarks. At the
    predicted ones it would favour blurred mouths, which are never far off.
    """
    model.eval()
    mouth_sum = pictures = 0.0
    for batch in loader:
        batch = to_device(batch, device)
        real = to_float(batch.lower_face)
        with autocast(device):
            generated, _ = model(*batch.inputs)
        count = len(real)
        mouth_sum += count * losses.picture_loss(generated, real, maps.val_weight).item()
        pictures += count
    mouth_sum, pictures = distributed.all_reduce_sum(mouth_sum, pictures)
    return mouth_sum / pictures
