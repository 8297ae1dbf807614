"""The measures: each finds what it is there to find."""

import cv2
import numpy as np
import pytest
import torch

from utils.evaluate import metrics


def smooth_curves(rng, frames=75, columns=2):
    """Smooth random curves (frames, columns)."""
    noise = rng.standard_normal((frames, columns))
    return cv2.GaussianBlur(noise, (1, 0), sigmaX=0.01, sigmaY=2)


@pytest.fixture
def picture():
    """A picture with edges and fine texture."""
    rng = np.random.default_rng(3)
    blocks = np.kron(rng.integers(60, 200, (6, 10, 3)), np.ones((10, 10, 1)))
    noise = rng.normal(0, 6, (60, 100, 3))
    return (blocks + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def mask():
    """A blend mask of the picture's size, with a soft edge."""
    solid = np.pad(np.ones((20, 40), np.float32), ((20, 20), (30, 30)))
    return cv2.GaussianBlur(solid, (0, 0), 3)


# -- mouths ----------------------------------------------------------------------------------------
def test_a_known_lag_is_found():
    curve = smooth_curves(np.random.default_rng(0), 90)[:, 0]
    assert metrics.lag([(curve[:-3], curve[3:])] * 2) == 3, "late"
    assert metrics.lag([(curve[2:], curve[:-2])]) == -2, "early"
    assert metrics.lag([(curve, curve)]) == 0


def test_curves_of_different_lengths_are_compared_while_both_last():
    mouth = smooth_curves(np.random.default_rng(0))
    assert metrics.correlate_mouths(mouth[:50], mouth) == pytest.approx([1, 1])
    assert metrics.correlate_mouths(mouth, -mouth[:50]) == pytest.approx([-1, -1])
    assert metrics.correlate(mouth[:, 0], np.ones(75)) == 0, "a flat curve follows nothing"


def test_what_given_curves_explain_is_no_likeness():
    rng = np.random.default_rng(4)
    shared, a, b = (smooth_curves(rng, 2000) for _ in range(3))
    assert min(metrics.correlate_mouths(shared + a, shared + b)) > 0.4
    assert np.abs(metrics.correlate_mouths(shared + a, shared + b, [shared])).max() < 0.1


def test_jitter_is_1_for_the_real_thing_and_grows_with_trembling():
    rng = np.random.default_rng(1)
    curve = smooth_curves(rng)[:, 0]
    assert metrics.jitter(curve, curve) == 1
    assert metrics.jitter(curve + rng.normal(0, 0.2, 75), curve) > 1.5
    assert metrics.jitter(0.3 * curve, curve) == pytest.approx(0.3)


def test_lips_close_where_the_opening_is_least():
    opening = np.full(40, 0.5)
    opening[20] = 0.05
    closed = metrics.closes(opening, 0.0, 1.0)
    assert np.flatnonzero(closed).tolist() == [18, 19, 20, 21, 22]
    assert not metrics.closes(opening, -1.0, 0.5).any()


# -- pictures --------------------------------------------------------------------------------------
def test_a_seam_is_1_for_the_real_thing_and_a_hard_edge_is_seen(picture, mask):
    luma = picture[..., 1]
    assert metrics.seam(luma, luma, mask) == 1
    smooth = cv2.GaussianBlur(luma, (0, 0), 8)
    assert metrics.seam(np.where(mask > 0.5, 60, smooth), smooth, mask) > 3


def test_grain_says_whether_what_is_pasted_is_as_fine_as_the_skin_around_it(mask):
    skin = 120 + np.random.default_rng(2).normal(0, 8, mask.shape)
    soft = cv2.GaussianBlur(skin, (0, 0), 2)
    pasted = mask * soft + (1 - mask) * skin
    assert metrics.grain(skin, skin, mask, 4) == pytest.approx(1)
    assert metrics.grain(pasted, skin, mask, 4) < 0.3
    assert metrics.grain(skin, pasted, mask, 4) > 3


def test_sharpness_falls_with_blur(picture):
    blurred = cv2.GaussianBlur(picture, (0, 0), 1)
    assert metrics.sharpness(blurred) < 0.6 * metrics.sharpness(picture)


def test_ssim_is_that_of_pytorch_msssim(picture):
    oracle = pytest.importorskip("pytorch_msssim")
    for other in (picture, cv2.GaussianBlur(picture, (0, 0), 2), picture[::-1]):
        a, b = (
            torch.from_numpy(rgb.copy()).double().permute(2, 0, 1)[None]
            for rgb in (picture, other)
        )
        expected = oracle.ssim(a, b, data_range=255).item()
        assert metrics.ssim(picture, other) == pytest.approx(expected, abs=2e-4)


def test_the_mouth_box_lies_about_the_lips_and_inside_the_lower_half():
    lips = np.array([[(60, 110), (100, 140)], [(62, 112), (98, 150)]], float)
    box = metrics.mouth_box(np.repeat(lips, 50, axis=0))
    assert box == (slice(20, 72), slice(54, 106))
    box = metrics.mouth_box(np.array([[(1, 85), (167, 167)]], float))
    assert box == (slice(0, 84), slice(0, 168))
