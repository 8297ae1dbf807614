"""Displacement fields and warping."""

import numpy as np
import torch

from models.warp import rbf_displacement, warp


def test_warp_moves_by_the_displacement_in_tenths_of_the_width():
    """1 in x fetches from a tenth of the width to the right; 0 leaves every pixel."""
    picture = torch.rand(1, 3, 40, 80)
    displacement = torch.zeros(1, 2, 40, 80)
    assert torch.allclose(warp(picture, displacement), picture, atol=1e-5)
    displacement[:, 0] = 1
    moved = warp(picture, displacement)
    assert torch.allclose(moved[..., :72], picture[..., 8:], atol=1e-4)
    displacement[:, 0] = 0
    displacement[:, 1] = 0.5
    moved = warp(picture, displacement)
    assert torch.allclose(moved[..., :36, :], picture[..., 4:, :], atol=1e-4)


def test_landmarks_land_on_the_target_points_and_the_rest_stays():
    """A blob at the reference's lips lands 5 px away, as wanted; a blob at the chin stays."""
    points = torch.tensor([[[[60.0, 30.0], [70.0, 30.0], [80.0, 30.0]]]])
    target_points = points[:, 0] + torch.tensor([3.0, -4.0])
    picture = torch.zeros(1, 1, 84, 168)
    picture[..., 29:32, 69:72] = 1
    picture[..., 70:73, 100:103] = 1
    displacement = rbf_displacement(target_points, points, 84, 168)
    moved = warp(picture, displacement[:, 0])[0, 0]
    y, x = np.unravel_index(moved[:50].argmax(), (50, 168))
    assert abs(x - 73) <= 1
    assert abs(y - 26) <= 1
    assert torch.allclose(moved[60:], picture[0, 0, 60:], atol=5e-3)


def test_the_field_is_finite_for_points_that_coincide():
    points = torch.full((2, 3, 7, 2), 20.0)
    assert rbf_displacement(points[:, 0], points, 37, 51).abs().max() == 0
    field = rbf_displacement(torch.rand(2, 7, 2) * 30, points, 37, 51)
    assert field.shape == (2, 3, 2, 37, 51)
    assert torch.isfinite(field).all()


def test_the_field_is_the_same_under_autocast():
    points = torch.full((2, 3, 7, 2), 20.0)
    target_points = torch.rand(2, 7, 2) * 30
    field = rbf_displacement(target_points, points, 37, 51)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rbf_displacement(target_points, points, 37, 51), field)
