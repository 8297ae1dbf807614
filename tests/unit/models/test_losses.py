"""The losses and the discriminator."""

import torch
from torch.nn.functional import avg_pool2d

from models import losses
from models.discriminator import Discriminator


def test_losses_are_zero_on_the_truth():
    real = torch.rand(1, 3, 84, 168)
    weight = torch.ones(84, 168)
    assert losses.picture_loss(real, real, weight) == 0
    assert losses.gradient_loss(real, real, weight) == 0
    assert losses.landmark_loss(torch.ones(2, 4), torch.ones(2, 4)) == 0
    mouth = torch.rand(5, 2)
    assert losses.mouth_loss(mouth, mouth) == 0


def test_a_mouth_that_moves_too_little_costs_more_than_its_differences():
    """A mouth off by as much everywhere costs less than one that is half as lively."""
    real = torch.tensor([[-1.0, 0.5], [1.0, -0.5]]).repeat(8, 1)
    shifted = real + torch.tensor([0.5, 0.25])
    assert losses.mouth_loss(0.5 * real, real) > 1.1 * losses.mouth_loss(shifted, real)


def test_an_error_where_the_weight_is_large_costs_more():
    real = torch.rand(1, 3, 84, 168)
    weight = torch.ones(84, 168)
    weight[:42] = 3
    upper, lower = real.clone(), real.clone()
    upper[:, :, 10:20] += 0.1
    lower[:, :, 60:70] += 0.1
    loss = losses.picture_loss(upper, real, weight)
    assert loss > 2.9 * losses.picture_loss(lower, real, weight)


def test_a_blurred_edge_costs_gradient_loss():
    weight = torch.ones(84, 168)
    edge = torch.zeros(1, 3, 84, 168)
    edge[..., 84:] = 1
    blurred = avg_pool2d(edge, 5, 1, 2)
    shifted = edge + (blurred - edge).abs().mean()  # as far off, but no less sharp
    assert losses.gradient_loss(blurred, edge, weight) > 0.01
    assert losses.gradient_loss(shifted, edge, weight) < 0.01


def test_the_discriminator_learns_to_tell_blurred_from_sharp():
    """A few steps of its loss set the logits of noise above those of flat crops."""
    torch.manual_seed(0)
    discriminator = Discriminator()
    sharp = torch.rand((4, 3, 56, 104), generator=torch.Generator().manual_seed(0))
    flat = avg_pool2d(sharp, 5, 1, 2)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    for _ in range(30):
        loss = losses.discriminator_loss(discriminator(sharp)[0], discriminator(flat)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    discriminator.eval()
    real, features = discriminator(sharp)
    fake, blurred = discriminator(flat)
    assert real.shape == (4, 1, 7, 13)
    assert real.mean() > fake.mean() + 0.5
    assert losses.adversarial_loss(real) < losses.adversarial_loss(fake)
    assert losses.feature_loss(features, features) == 0
    assert losses.feature_loss(blurred, features) > 0
