"""Shots: every frame in one of them, and no smoothing across a cut."""

import numpy as np
import pytest

from utils.shots import SMOOTHING_FRAMES, seconds_of, shot_bounds, shots, smooth


def random_values(*shape):
    """Numbers without any order in time."""
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, shape)


@pytest.mark.parametrize("cuts", [[0], [0, 1], [0, 3, 9], list(range(10))])
def test_each_frame_lies_in_one_shot(cuts):
    parts = shots(np.array(cuts), 10)
    frames = []
    for first, stop in parts:
        assert type(first) is int
        assert type(stop) is int
        frames += range(first, stop)
    assert frames == list(range(10))
    assert [first for first, _ in parts] == cuts


def test_frames_are_named_by_their_seconds():
    frames = np.zeros(500, bool)
    frames[25:60] = True
    assert seconds_of(frames) == "1.0-2.4 s"
    frames[175:] = True
    assert seconds_of(frames) == "1.0-2.4, 7.0-20.0 s"
    frames[::2] = False
    assert seconds_of(frames).count("-") == 5 and seconds_of(frames).endswith(" ... s")


def test_the_bounds_of_a_frame_are_those_of_its_shot():
    bounds = shot_bounds(np.array([0, 3]), 5)
    first_shot = [[0, 3]] * 3
    second_shot = [[3, 5]] * 2
    assert bounds.tolist() == first_shot + second_shot


def test_smoothing_keeps_a_steady_turn():
    turn = np.linspace(0, 30, 50)[:, None]
    smoothed = smooth(turn, [0])
    np.testing.assert_allclose(smoothed, turn, atol=1e-9)


def test_smoothing_takes_out_noise():
    noise = random_values(2000, 2)
    smoothed = smooth(noise, [0])
    assert smoothed.std() < 0.7


def test_smoothing_does_not_cross_a_cut():
    values = np.repeat([0.0, 100.0], 20)
    smoothed = smooth(values, [0, 20])
    np.testing.assert_allclose(smoothed, values, atol=1e-9)
    across = smooth(values, [0])
    assert across[18] != 0
    assert across[21] != 100


def test_a_shot_shorter_than_the_filter_stays_as_it_is():
    values = random_values(SMOOTHING_FRAMES - 1)
    smoothed = smooth(values, [0])
    np.testing.assert_array_equal(smoothed, values)


def test_smoothing_leaves_its_input_alone():
    values = random_values(40).astype(np.float32)
    before = values.copy()
    smoothed = smooth(values, [0])
    assert smoothed.dtype == np.float64
    np.testing.assert_array_equal(values, before)
