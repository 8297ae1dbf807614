"""The choice of reference frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.contract import REFERENCE_GAP_FRAMES
from utils.dataset import references
from utils.dataset.clip import Clip
from utils.dataset.references import closed_and_open, evenly_spaced, nearest_pose


@pytest.fixture
def clip(tiny_data):
    return Clip(tiny_data)


@pytest.mark.parametrize("random", [False, True])
def test_references_are_a_second_away_and_of_the_same_shot(clip, random):
    """Closed and open mouths, none within a second; across a cut only for lack of them."""
    clip.track.cuts = np.array([0, 70])
    rng = np.random.default_rng(0) if random else None
    chosen = clip.references(rng=rng)
    frames = np.arange(clip.frames)
    assert (np.abs(chosen - frames[:, None]) >= REFERENCE_GAP_FRAMES).all()
    same_shot = (chosen < 70) == (frames < 70)[:, None]
    for i, role in zip(*np.nonzero(~same_shot), strict=True):
        shot = np.arange(70) if i < 70 else np.arange(70, clip.frames)
        fitting = closed_and_open(clip.track.opening, shot)[role]
        assert (np.abs(fitting - i) < REFERENCE_GAP_FRAMES).all()
    assert same_shot.mean() > 0.5
    closed, opened = clip.track.opening[chosen].mean(axis=0)
    assert opened > closed + 0.05


def test_training_draws_references_near_in_head_pose(clip, monkeypatch):
    """The nearest of a few random ones: nearer than any random one, and others at each call."""
    def distance(drawn):
        monkeypatch.setattr(references, "DRAWN_IN_TRAINING", drawn)
        chosen = clip.references(rng=np.random.default_rng(0))
        other = clip.references(rng=np.random.default_rng(1))
        assert not np.array_equal(chosen, other)
        pose = clip.track.pose
        return np.linalg.norm(pose[chosen[:, 0]] - pose, axis=1).mean()

    assert distance(5) < 0.75 * distance(1)


def test_steady_references_change_seldom(clip):
    """A reference stays while it serves nearly as well, so that the picture does not flicker."""
    changes = (np.diff(clip.references(), axis=0) != 0).any(axis=1)
    assert changes.sum() <= clip.frames / 10


@settings(max_examples=50, deadline=None)
@given(
    frames=st.integers(1, 120),
    candidates=st.sets(st.integers(0, 119), min_size=1),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_nearest_pose_is_near_enough_and_never_within_a_second(frames, candidates, seed):
    pose = np.random.default_rng(seed).normal(0, 0.1, (120, 2))
    candidates = np.array(sorted(candidates))
    chosen = nearest_pose(pose, np.arange(frames), candidates)
    for frame, reference in enumerate(chosen):
        allowed = candidates[np.abs(candidates - frame) >= REFERENCE_GAP_FRAMES]
        assert (reference in allowed) if len(allowed) else reference == -1
        if len(allowed):
            distance = np.linalg.norm(pose[allowed] - pose[frame], axis=1)
            found = np.linalg.norm(pose[reference] - pose[frame])
            assert found <= distance.min() + references.POSE_HYSTERESIS + 1e-9


@given(st.lists(st.integers(), max_size=50), st.integers(1, 60))
def test_evenly_spaced_values_keep_their_order_and_ends(values, most):
    found = evenly_spaced(np.array(values, object), most).tolist()
    assert len(found) == min(len(values), most)
    if len(found) > 1:
        assert found[0] == values[0]
        assert found[-1] == values[-1]
    places = iter(values)
    assert all(value in places for value in found)
