"""The losses, each a function with its reason. Pictures are (B, 3, H, W), 0..1; every loss is a mean."""

import torch.nn.functional as F


def picture_loss(generated, real, weight):
    """Weighted L1: every pixel counts, the mouth more. weight (H, W), mean 1."""
    return ((generated - real).abs() * weight).mean()


def gradient_loss(generated, real, weight):
    """Weighted L1 between neighbouring-pixel differences.

    L1 alone is content with the median of all mouths that a sound allows, which is blurred; edges of lips and
    teeth weigh in here.
    """
    rows = (generated.diff(dim=2) - real.diff(dim=2)).abs() * weight[1:]
    columns = (generated.diff(dim=3) - real.diff(dim=3)).abs() * weight[:, 1:]
    return rows.mean() + columns.mean()


def landmark_loss(predicted, real):
    """Smooth L1 on normalised landmarks (B, 2L): tells the audio branch directly what mouth it heard."""
    return F.smooth_l1_loss(predicted, real)


def discriminator_loss(real, generated):
    """Hinge loss of the discriminator's verdicts: real ones above 1, generated ones below -1."""
    return F.relu(1 - real).mean() + F.relu(1 + generated).mean()


def adversarial_loss(generated):
    """What the generator wants of the verdicts: up. It asks for teeth and skin that look photographed, not for
    the average of all that they might be."""
    return -generated.mean()


def feature_loss(generated, real):
    """L1 between the discriminator's features of generated and real crops (feature matching, Wang et al. 2018):
    it keeps the adversarial loss on this very mouth, and does most of the sharpening."""
    return sum((a - b).abs().mean() for a, b in zip(generated, real, strict=True)) / len(real)
