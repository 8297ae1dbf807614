"""Augmentation of sound and light."""

import numpy as np
import torch

from utils.dataset import augment
from utils.dataset.clip import Clip


def test_augmented_sound_is_still_the_speech(tiny_data):
    """Windows still correlate with the recorded ones, and are never below the mel's floor."""
    windows = Clip(tiny_data).mel_windows[np.arange(30, 90)]
    changed = augment.augment_mel(windows, np.random.default_rng(0))
    assert changed.shape == windows.shape
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    both = zip(windows, changed, strict=True)
    similar = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in both]
    assert 0.6 < np.median(similar) < 0.9999


def test_a_noise_floor_has_the_level_asked_for():
    floor = augment.noise_floor((100, 64, 80), np.random.default_rng(0), -9, -8)
    level = floor.mean(axis=(1, 2))
    assert level.min() > -10.5
    assert level.max() < -6.5


def test_rows_are_interpolated_and_the_ends_repeated():
    values = np.array([[[0.0, 10.0], [1.0, 20.0], [4.0, 0.0]]], np.float32)
    places = np.array([[-1.0, 0.5, 1.5, 9.0]])
    found = augment.interpolate_rows(values, places)
    assert np.allclose(found[0], [[0, 10], [0.5, 15], [2.5, 10], [4, 0]])


def test_light_stays_within_the_range_of_a_picture():
    pictures = torch.full((1, 2, 2, 3), 200, dtype=torch.uint8)
    lit = augment.relight(pictures, np.array([0.5, 1.0, 2.0]))
    assert lit[0, 0, 0].tolist() == [100, 200, 255]
