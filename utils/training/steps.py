"""The parts of a training step that train.py and utils.pretrain share."""

import math

import torch
from torch import Tensor

from models import losses
from utils.training.device import autocast
from utils.training.state import TrainState

# -- edit these -----------------------------------------------------------------------------------
CLIP_NORM = 1.0               # maximum norm of a step's gradient
DISCRIMINATOR_LR_SHARE = 0.5  # the discriminator's learning rate over the generator's
ADVERSARIAL_WEIGHT = 0.01     # of the discriminator's logits: more is sharper, too much invents
FEATURE_WEIGHT = 0.4          # of the difference in the discriminator's features
# -------------------------------------------------------------------------------------------------


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
    optimizer_step(state.optimizer_d, loss, lr * DISCRIMINATOR_LR_SHARE)
    state.discriminator.requires_grad_(False)
    return [feature[:len(real)].detach() for feature in features]


def realism_loss(state: TrainState, generated: Tensor, real_features: list[Tensor]) -> Tensor:
    """What the generator learns from the discriminator's view of mouths (B, 3, 56, 104)."""
    with autocast(state.device):
        logits, features = state.discriminator(generated)
        feature = losses.feature_loss(features, real_features)
    adversarial = losses.adversarial_loss(logits.float())
    return ADVERSARIAL_WEIGHT * adversarial + FEATURE_WEIGHT * feature


def optimizer_step(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> float:
    """One step down the loss, each group of weights at its "lr_share" of the rate. Returns the norm
    of the gradient before it is clipped; if it is not finite nothing is changed, and the log stops
    the training.
    """
    weights = []
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_share", 1)
        weights += group["params"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(weights, CLIP_NORM).item()
    if math.isfinite(norm):
        optimizer.step()
    return norm


def to_float(pictures: Tensor) -> Tensor:
    """uint8 pictures (B, 84, 168, 3) as float32 (B, 3, 84, 168), 0..1."""
    return pictures.permute(0, 3, 1, 2).float() / 255
