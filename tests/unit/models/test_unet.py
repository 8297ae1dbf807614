"""The network: shapes, what it listens to, where it starts."""

import numpy as np
import pytest
import torch

from models import losses
from models.unet import LipUNet


def network(height=84, width=168):
    """A new LipUNet whose landmarks usually lie on a grid over the lower half."""
    model = LipUNet()
    columns = np.linspace(0.3, 0.7, 13) * width
    rows = np.linspace(0.1, 0.9, 5) * height
    x, y = np.meshgrid(columns, rows)
    points = np.stack([x, y], axis=-1).reshape(-1)
    model.landmark_pose_fit[2] = torch.from_numpy(points)
    return model.eval()


def batch(size=2, height=84, width=168, seed=0):
    """Random inputs by name for LipUNet.forward."""
    rng = np.random.default_rng(seed)
    usual = network(height, width).landmark_pose_fit[2].reshape(65, 2)
    noise = rng.normal(0, 1, (size, 2, 65, 2)).astype(np.float32)
    reference = rng.integers(0, 256, (size, 2, height, width, 3), dtype=np.uint8)
    mel = rng.normal(-6, 2, (size, 64, 80)).astype(np.float32)
    pose = rng.normal(0, 0.05, (size, 2)).astype(np.float32)
    return {
        "reference": torch.from_numpy(reference),
        "points": usual + torch.from_numpy(noise),
        "mel": torch.from_numpy(mel),
        "pose": torch.from_numpy(pose),
    }


@pytest.mark.parametrize("size", [(84, 168), (168, 336), (42, 84), (37, 51), (85, 167)])
def test_output_has_the_size_of_the_input(size):
    """Sizes that do not divide by 16, or even by 2, come out as they went in."""
    picture, landmarks = network(*size)(**batch(1, *size))
    assert picture.shape == (1, 3, *size)
    assert landmarks.shape == (1, 130)
    assert torch.isfinite(picture).all()


@pytest.mark.parametrize("references", [1, 2, 3])
def test_any_number_of_references_is_drawn_from(references):
    inputs = batch()
    model = LipUNet(num_references=references).eval()
    for key in ("reference", "points"):
        inputs[key] = inputs[key][:, :1].expand(-1, references, *[-1] * (inputs[key].dim() - 2))
    picture, _ = model(**inputs)
    assert picture.shape == (2, 3, 84, 168)


def test_new_network_starts_from_the_references():
    """Before training most of the picture is the mean of the references: it starts from a face."""
    torch.manual_seed(0)
    inputs, model = batch(1), network()
    usual = model.landmark_pose_fit[2].reshape(1, 1, 65, 2)
    inputs["points"] = usual.expand(1, 2, 65, 2)  # the references' lips are in place
    picture, _ = model(**inputs)
    mean = inputs["reference"].float().mean(dim=1).permute(0, 3, 1, 2) / 255
    assert np.corrcoef(picture.detach().flatten(), mean.flatten())[0, 1] > 0.8


def test_every_weight_learns():
    """Two steps give every parameter a gradient: nothing is built and then not used."""
    torch.manual_seed(0)
    model, weight = LipUNet(), torch.ones(84, 168)
    real, lips = torch.rand(2, 3, 84, 168), torch.randn(2, 130)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        picture, landmarks = model(**batch())
        loss = losses.picture_loss(picture, real, weight)
        loss = loss + losses.gradient_loss(picture, real, weight)
        loss = loss + losses.landmark_loss(landmarks, lips)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    idle = []
    for name, parameter in model.named_parameters():
        if parameter.grad is None or not parameter.grad.abs().sum():
            idle.append(name)
    assert idle == []


def test_all_inputs_are_listened_to():
    """Sound, references and pose each change the picture; only the sound changes the landmarks."""
    torch.manual_seed(0)
    model = network()
    for parameter in (model.to_weights.weight, model.to_displacement.weight):
        torch.nn.init.normal_(parameter, std=0.05)
    inputs, other = batch(seed=0), batch(seed=1)
    picture, landmarks = model(**inputs)
    for key in inputs:
        changed, predicted = model(**{**inputs, key: other[key]})
        assert (changed - picture).abs().max() > 1e-4, key
        assert torch.equal(predicted, landmarks) == (key != "mel"), key


def test_each_picture_depends_on_its_own_row_only():
    """What else is in the batch changes nothing: batch sizes of training and use may differ."""
    model = network()
    inputs = batch(4)
    together, _ = model(**inputs)
    alone, _ = model(**{key: value[2:3] for key, value in inputs.items()})
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_landmarks_to_pixels_undoes_the_normalisation():
    """Landmarks 0 lie where the head pose alone has them; the scale is in pixels."""
    model = LipUNet()
    fit = torch.arange(390.0).reshape(3, 130)
    model.landmark_pose_fit.copy_(fit)
    model.landmark_std.fill_(2.0)
    pose = torch.tensor([[0.5, -1.0]])
    pixels = model.landmarks_to_pixels(torch.ones(1, 130), pose)
    assert torch.allclose(pixels.flatten(), 0.5 * fit[0] - fit[1] + fit[2] + 2)


def test_training_draws_at_the_real_landmarks():
    """At the landmarks that it predicts, training draws what inference draws."""
    torch.manual_seed(0)
    model = network()
    inputs = batch()
    picture, landmarks = model(**inputs)
    target_points = model.landmarks_to_pixels(landmarks, inputs["pose"])
    drawn, predicted = model(**inputs, target_points=target_points)
    assert torch.allclose(drawn, picture, atol=1e-5)
    assert torch.allclose(predicted, landmarks, atol=1e-5)
    other, _ = model(**inputs, target_points=target_points + 5)
    assert (other - picture).abs().max() > 1e-3
