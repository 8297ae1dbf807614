"""The parts of a training step that train.py and utils.pretrain share."""

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from models import losses
from models.unet import LipUNet
from utils.dataset.batches import MouthMaps
from utils.training import distributed
from utils.training.device import autocast, to_device
from utils.training.schedule import Schedule
from utils.training.state import TrainState

CLIP_NORM = 1.0          # maximum norm of a step's gradient


def until_over(schedule: Schedule, title: str) -> Iterator[float]:
    """Yield the learning rate of each step until the schedule is over, with a bar."""
    silent = distributed.rank() > 0
    with tqdm(total=100, desc=title, unit="%", leave=False, disable=silent) as bar:
        while not schedule.is_over():
            begun = time.monotonic()
            yield schedule.lr()
            schedule.advance(time.monotonic() - begun)
            bar.update(int(100 * schedule.progress) - bar.n)


def discriminator_step(
    state: TrainState,
    generated: Tensor,
    real: Tensor,
    lr: float,
) -> list[Tensor]:
    """Train the discriminator on mouths (B, 3, 56, 104). Returns its features of the real ones."""
    state.discriminator.requires_grad_(True)
    with autocast(state.device):
        logits, features = state.discriminator_ddp(torch.cat([real, generated]))
    loss = losses.discriminator_loss(*logits.float().chunk(2))
    optimizer_step(state.optimizer_d, loss, lr)
    state.discriminator.requires_grad_(False)
    return [feature[:len(real)].detach() for feature in features]


def realism_losses(
    state: TrainState,
    generated: Tensor,
    real_features: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """What the generator learns from the discriminator's view of mouths (B, 3, 56, 104):
    adversarial loss and feature loss.
    """
    with autocast(state.device):
        logits, features = state.discriminator(generated)
        feature = losses.feature_loss(features, real_features)
    return losses.adversarial_loss(logits.float()), feature


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
    real_mouth = real[..., *crop]
    generated_mouth = generated[..., *crop]
    real_features = discriminator_step(state, generated_mouth.detach(), real_mouth, lr)
    return realism_losses(state, generated_mouth, real_features)


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
