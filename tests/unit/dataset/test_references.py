"""The choice of reference frames."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.contract import REFERENCE_GAP_FRAMES
from utils.dataset import references
from utils.dataset.clip import Clip
from utils.dataset.references import (
    choose_kept,
    closed_and_open,
    evenly_spaced,
    nearest_pose,
)
from utils.storage import Track


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


# -- what is kept in full size ---------------------------------------------------------------------
def wandering(frames, cuts=(0,), seed=0):
    """A Track of a head that wanders, now fast, now slowly, while its mouth opens and closes."""
    rng = np.random.default_rng(seed)
    pace = rng.choice([0.2, 2.0], frames // 10 + 1).repeat(10)[:frames, None]
    speeds = 0.01 * pace * rng.normal(0, 1, (frames, 2))
    mouth = np.abs(rng.normal(0, 0.2, (frames, 2)))
    valid = np.ones(frames, bool)
    valid[:7] = False
    valid[-4:] = False
    return Track(
        transform=np.tile(np.eye(2, 3), (frames, 1, 1)),
        landmarks=np.zeros((frames, 65, 2)),
        valid=valid,
        cuts=np.array(cuts),
        lips=np.zeros((frames, 40, 2)),
        pose=np.cumsum(speeds, axis=0),
        mouth=mouth,
    )


def speed_of(track):
    return np.linalg.norm(np.gradient(track.pose, axis=0), axis=1)


def test_closed_and_open_mouths_of_a_still_head_are_kept():
    track = wandering(1500)
    kept = choose_kept(track)
    most = references.MOST_KEPT
    assert (np.diff(kept) > 0).all()
    assert track.valid[kept].all()
    assert kept[0] == 7 and kept[-1] == 1495
    assert 2 * most <= len(kept) <= 2 * most + 2
    inner = kept[1:-1]
    slow = np.quantile(speed_of(track)[track.valid], references.STILL_QUANTILE)
    assert speed_of(track)[inner].max() <= slow
    opening = track.opening[inner]
    low, high = np.quantile(track.opening, (0.35, 0.75))
    assert (opening < low).sum() >= most - 2
    assert (opening > high).sum() >= most - 2
    assert ((opening < low) | (opening > high)).all()


def test_what_is_kept_has_head_poses_as_different_as_possible():
    """The furthest pose from all that was kept is nearer than with frames evenly spaced in time."""
    track = wandering(3000, seed=1)
    still = np.flatnonzero(track.valid & (speed_of(track) <= np.median(speed_of(track))))
    closed, _ = closed_and_open(track.opening, still)

    def furthest(kept):
        distance = np.linalg.norm(track.pose[closed][:, None] - track.pose[kept], axis=-1)
        return distance.min(axis=1).max()

    kept = np.intersect1d(choose_kept(track), closed)
    assert furthest(kept) < 0.7 * furthest(evenly_spaced(closed, len(kept)))


@pytest.mark.parametrize("shots", [2, 20, 60])
def test_each_of_many_shots_keeps_a_few(shots):
    cuts = np.arange(shots) * 100
    track = wandering(100 * shots, cuts)
    kept = choose_kept(track)
    each = max(references.FEWEST_KEPT, references.MOST_KEPT // shots)
    assert len(kept) <= shots * 2 * each + 2
    still = track.valid & (speed_of(track) <= np.median(speed_of(track)))
    for first in cuts:
        inside = kept[(kept >= first) & (kept < first + 100)]
        if still[first:first + 100].sum() >= 20:  # of which a fifth are open
            assert len(inside) >= 2 * references.FEWEST_KEPT
        assert len(inside) <= 2 * each + 2


def test_few_frames_are_kept_whole():
    track = wandering(60)
    kept = choose_kept(track)
    assert kept[0] == 7 and kept[-1] == 55
    assert 10 <= len(kept) <= 49


def test_references_in_full_size_are_kept_ones_a_second_away(clip):
    chosen = clip.kept_references()
    assert np.isin(chosen, clip.meta.references).all()
    frames = np.arange(clip.frames)
    assert (np.abs(chosen - frames[:, None]) >= REFERENCE_GAP_FRAMES).all()
    closed, opened = clip.track.opening[chosen].mean(axis=0)
    assert opened > closed + 0.05


def test_other_references_are_taken_only_where_no_kept_one_is_far_enough_away(clip):
    clip.meta = replace(clip.meta, references=[60, 70])
    chosen = clip.kept_references()
    frames = np.arange(clip.frames)
    near = (frames > 70 - REFERENCE_GAP_FRAMES) & (frames < 60 + REFERENCE_GAP_FRAMES)
    assert near.any()
    assert np.array_equal(chosen[near], clip.references()[near])
    assert np.isin(chosen[~near], [60, 70]).all()
    clip.meta = replace(clip.meta, references=[])
    assert np.array_equal(clip.kept_references(), clip.references())


def test_another_reference_of_the_same_shot_is_better_than_a_kept_one_of_another(clip):
    clip.track.cuts = np.array([0, 70])
    clip.meta = replace(clip.meta, references=[100, 149])
    chosen = clip.kept_references()
    plain = clip.references()
    first = np.arange(70)
    same_shot = plain[first] < 70
    assert same_shot.mean() > 0.5
    assert np.array_equal(chosen[first][same_shot], plain[first][same_shot])
    assert np.isin(chosen[first][~same_shot], [100, 149]).all()


def test_somebody_elses_face_is_no_reference(clip):
    """A kept frame that may not be learned from serves only if no frame may be learned from."""
    unlike = clip.meta.references[::2]
    clip.track.usable = clip.track.valid.copy()
    clip.track.usable[unlike] = False
    assert not np.isin(clip.kept_references(), unlike).any()
    clip.track.usable[:] = False
    assert np.isin(clip.kept_references(), clip.meta.references).all()
