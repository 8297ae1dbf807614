"""The network and its losses: shapes, what it listens to, where it starts."""

import numpy as np
import pytest
import torch

from models.discriminator import Discriminator
from models.losses import adversarial_loss, discriminator_loss, feature_loss, gradient_loss, landmark_loss, picture_loss
from models.unet import LipUNet, carry, warp


def network(height=84, width=168):
    """Return a new LipUNet whose landmarks usually lie on a grid over the lower half."""
    model = LipUNet()
    x, y = np.meshgrid(np.linspace(0.3, 0.7, 13) * width, np.linspace(0.1, 0.9, 5) * height)
    model.usual[2] = torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1))
    return model.eval()


def batch(size=2, height=84, width=168, seed=0):
    """Return a random input dict for LipUNet.forward."""
    rng = np.random.default_rng(seed)
    return {"reference": torch.from_numpy(rng.integers(0, 256, (size, 2, height, width, 3), dtype=np.uint8)),
            "points": network(height, width).usual[2].reshape(65, 2) + torch.from_numpy(
                rng.normal(0, 1, (size, 2, 65, 2)).astype(np.float32)),
            "mel": torch.from_numpy(rng.normal(-6, 2, (size, 64, 80)).astype(np.float32)),
            "pose": torch.from_numpy(rng.normal(0, 0.05, (size, 2)).astype(np.float32))}


@pytest.mark.parametrize("size", [(84, 168), (168, 336), (42, 84), (37, 51), (85, 167)])
def test_output_has_the_size_of_the_input(size):
    """Sizes that do not divide by 16, or even by 2, come out as they went in."""
    picture, landmarks = network(*size)(**batch(1, *size))
    assert picture.shape == (1, 3, *size)
    assert landmarks.shape == (1, 130)
    assert torch.isfinite(picture).all()


def test_new_network_starts_from_the_references():
    """Before training two thirds of the picture are the mean of the references: learning starts from a face."""
    torch.manual_seed(0)
    inputs, model = batch(1), network()
    inputs["points"] = model.usual[2].reshape(1, 1, 65, 2).expand(1, 2, 65, 2)  # the references' lips are in place
    picture, _ = model(**inputs)
    mean = inputs["reference"].float().mean(dim=1).permute(0, 3, 1, 2) / 255
    assert np.corrcoef(picture.detach().flatten(), mean.flatten())[0, 1] > 0.8


def test_every_weight_learns():
    """Two steps of training give every parameter a gradient: nothing is built and then not used."""
    torch.manual_seed(0)
    model, weight = LipUNet(), torch.ones(84, 168)
    real, lips = torch.rand(2, 3, 84, 168), torch.randn(2, 130)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        picture, heard = model(**batch())
        loss = picture_loss(picture, real, weight) + gradient_loss(picture, real, weight) + landmark_loss(heard, lips)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_all_inputs_are_listened_to():
    """Sound, references and pose each change the picture; only the sound changes the landmarks."""
    torch.manual_seed(0)
    model = network()
    for parameter in (model.mix.weight, model.flow.weight):
        torch.nn.init.normal_(parameter, std=0.05)
    inputs, other = batch(seed=0), batch(seed=1)
    picture, lips = model(**inputs)
    for key in inputs:
        changed, heard = model(**{**inputs, key: other[key]})
        assert (changed - picture).abs().max() > 1e-4, key
        assert torch.equal(heard, lips) == (key != "mel"), key


def test_each_picture_depends_on_its_own_row_only():
    """What else is in the batch changes nothing: batch sizes of training and inference may differ."""
    model = network()
    inputs = batch(4)
    together, _ = model(**inputs)
    alone, _ = model(**{key: value[2:3] for key, value in inputs.items()})
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_warp_moves_by_the_flow_in_tenths_of_the_width():
    """A flow of 1 in x fetches from a tenth of the width to the right; 0 leaves every pixel."""
    picture = torch.rand(1, 3, 40, 80)
    flow = torch.zeros(1, 2, 40, 80)
    assert torch.allclose(warp(picture, flow), picture, atol=1e-5)
    flow[:, 0] = 1
    assert torch.allclose(warp(picture, flow)[..., :72], picture[..., 8:], atol=1e-4)
    flow[:, 0], flow[:, 1] = 0, 0.5
    assert torch.allclose(warp(picture, flow)[..., :36, :], picture[..., 4:, :], atol=1e-4)


def test_carry_brings_the_lips_where_they_belong_and_leaves_the_rest():
    """A blob at the reference's lips lands on the wanted place, 5 px away; a blob at the chin stays."""
    points = torch.tensor([[[[60.0, 30.0], [70.0, 30.0], [80.0, 30.0]]]])
    lips = points[:, 0] + torch.tensor([3.0, -4.0])
    picture = torch.zeros(1, 1, 84, 168)
    picture[..., 29:32, 69:72] = 1
    picture[..., 70:73, 100:103] = 1
    moved = warp(picture, carry(lips, points, 84, 168)[:, 0])[0, 0]
    y, x = np.unravel_index(moved[:50].argmax(), (50, 168))
    assert abs(x - 73) <= 1 and abs(y - 26) <= 1
    assert torch.allclose(moved[60:], picture[0, 0, 60:], atol=5e-3)


def test_carry_is_finite_for_points_that_coincide_and_the_same_under_autocast():
    points = torch.full((2, 3, 7, 2), 20.0)
    belong = torch.rand(2, 7, 2) * 30
    assert carry(points[:, 0], points, 37, 51).abs().max() == 0
    flow = carry(belong, points, 37, 51)
    assert flow.shape == (2, 3, 2, 37, 51) and torch.isfinite(flow).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(carry(belong, points, 37, 51), flow)


def test_place_undoes_the_normalisation():
    """Landmarks 0 lie where the head pose alone has them; the scale is in pixels."""
    model = LipUNet()
    model.usual.copy_(torch.arange(390.0).reshape(3, 130))
    model.spread.fill_(2.0)
    pose = torch.tensor([[0.5, -1.0]])
    where = model.place(torch.ones(1, 130), pose)
    assert torch.allclose(where.flatten(), 0.5 * model.usual[0] - model.usual[1] + model.usual[2] + 2)


def test_losses_are_zero_on_the_truth_and_weigh_the_mouth():
    """An error where the weight is large costs more; a blurred edge costs gradient loss."""
    real = torch.rand(1, 3, 84, 168)
    weight = torch.ones(84, 168)
    assert picture_loss(real, real, weight) == 0
    assert gradient_loss(real, real, weight) == 0
    assert landmark_loss(torch.ones(2, 4), torch.ones(2, 4)) == 0
    weight[:42] = 3
    upper, lower = real.clone(), real.clone()
    upper[:, :, 10:20] += 0.1
    lower[:, :, 60:70] += 0.1
    assert picture_loss(upper, real, weight) > 2.9 * picture_loss(lower, real, weight)
    edge = torch.zeros(1, 3, 84, 168)
    edge[..., 84:] = 1
    blurred = torch.nn.functional.avg_pool2d(edge, 5, 1, 2)
    flat = edge + (blurred - edge).abs().mean()  # as far off, but no less sharp
    assert gradient_loss(blurred, edge, torch.ones(84, 168)) > 0.01 > gradient_loss(flat, edge, torch.ones(84, 168))


def test_discriminator_learns_to_tell_blurred_from_sharp_and_its_features_say_how():
    """A few steps of its loss set verdicts of noise above those of flat crops; equal crops have equal features."""
    torch.manual_seed(0)
    judge, rng = Discriminator(), torch.Generator().manual_seed(0)
    sharp = torch.rand((4, 3, 56, 104), generator=rng)
    flat = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2)
    optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
    for _ in range(30):
        loss = discriminator_loss(judge(sharp)[0], judge(flat)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    judge.eval()
    (real, features), (fake, blurred) = judge(sharp), judge(flat)
    assert real.shape == (4, 1, 7, 13) and real.mean() > fake.mean() + 0.5
    assert adversarial_loss(real) < adversarial_loss(fake)
    assert feature_loss(features, features) == 0 < feature_loss(blurred, features)
