"""The losses, each with its reason. Pictures are (B, 3, H, W), 0..1; every loss is a mean."""

import torch
import torch.nn.functional as F
from torch import Tensor

MOVEMENT_WEIGHT = 0.1    # in mouth_loss(): more moves the mouth further where a sound is unsure


def picture_loss(
    generated: Tensor,
    real: Tensor,
    weight: Tensor,
) -> Tensor:
    """Weighted L1: every pixel counts, the mouth more. weight (H, W), mean 1."""
    difference = (generated - real).abs()
    return (difference * weight).mean()


def gradient_loss(
    generated: Tensor,
    real: Tensor,
    weight: Tensor,
) -> Tensor:
    """Weighted L1 between differences of neighbouring pixels.

    L1 alone is content with the median of all mouths that a sound allows, which is blurred; edges
    of lips and teeth count here.
    """
    difference = generated - real
    rows = difference.diff(dim=2).abs() * weight[1:]
    columns = difference.diff(dim=3).abs() * weight[:, 1:]
    return rows.mean() + columns.mean()


def landmark_loss(predicted: Tensor, real: Tensor) -> Tensor:
    """Smooth L1 on normalised landmarks (B, 2L): direct supervision of the audio branch, which
    learns from it which mouth a sound belongs to.
    """
    return F.smooth_l1_loss(predicted, real)


def mouth_loss(predicted: Tensor, real: Tensor) -> Tensor:
    """Smooth L1 on opening and width of mouths (B, 2), and L1 between their standard deviations
    over the batch.

    Among all landmarks opening and width hardly count, and they are what speech moves most. What is
    sure of a sound is less than what a mouth does: a loss of differences alone is content with the
    mean of all that may be, and the mouth moves too little, least where the voice is new.
    """
    movement = (predicted.std(dim=0) - real.std(dim=0)).abs().mean()
    return F.smooth_l1_loss(predicted, real) + MOVEMENT_WEIGHT * movement


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Hinge loss of the discriminator's logits: real ones above 1, generated ones below -1."""
    of_real = F.relu(1 - real)
    of_generated = F.relu(1 + generated)
    return of_real.mean() + of_generated.mean()


def adversarial_loss(generated: Tensor) -> Tensor:
    """The generator wants higher logits: teeth and skin that look photographed, not the average of
    all that they might be.
    """
    return -generated.mean()


def feature_loss(
    generated: list[Tensor],
    real: list[Tensor],
) -> Tensor:
    """L1 between the discriminator's features of generated and real crops (feature matching, Wang
    et al. 2018): it keeps the adversarial loss on this very mouth, and does most of the sharpening.
    """
    losses = []
    for ours, theirs in zip(generated, real, strict=True):
        losses.append(F.l1_loss(ours, theirs))
    return torch.stack(losses).mean()
