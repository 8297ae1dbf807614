"""The held-out split, and batches for training and validation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from utils.cli import DataError
from utils.contract import EYE_DISTANCE_PX
from utils.dataset import augment, batches
from utils.dataset.batches import MOUTH_STD, LipDataset, mouth_weight_maps, split
from utils.dataset.clip import Clip
from utils.face.landmarks import LIP_PAIRS, WARP_POINTS, mouth_matrix


@pytest.fixture
def clip(tiny_data):
    return Clip(tiny_data)


def epoch_of(dataset, seed, batch_size=8):
    """The batches of an epoch, in the order of the frames."""
    dataset.set_epoch(seed)
    loader = DataLoader(dataset, batch_size, collate_fn=LipDataset.collate)
    return list(loader)


SPEECH = np.random.default_rng(1).normal(-3, 0.1, (4 * 90_000, 1)) * np.ones((1, 80), np.float32)


def footage(frames, speaks=None, shown_frames=0, **flags):
    """What split() looks at: speech with a breath every 2 s, or where `speaks` (N,) says."""
    if speaks is None:
        speaks = np.arange(frames) % 50 < 40
    mel = np.where(np.repeat(speaks, 4)[:, None], SPEECH[:4 * frames], -9).astype(np.float32)
    usable = flags.get("usable", np.ones(frames, bool))
    track = SimpleNamespace(usable=usable, valid=usable)
    meta = SimpleNamespace(shown_frames=shown_frames or frames)
    return SimpleNamespace(frames=frames, mel=mel, track=track, meta=meta, data="data")


def test_split_is_a_contiguous_end_with_a_gap():
    for frames in (150, 500, 3000, 90_000):
        trained, held = split(footage(frames))
        assert held[-1] == frames - 1
        assert trained[0] == 0
        assert held[0] - trained[-1] == batches.GUARD_FRAMES + 1
        assert np.array_equal(held, np.arange(held[0], frames))
        assert len(held) / frames == pytest.approx(0.1, abs=0.01) or frames < 500


def upto(frame, frames=500):
    """(N,) bool: True before that frame."""
    return np.arange(frames) < frame


@pytest.mark.parametrize(("changes", "first"), [
    ({}, 450),
    ({"usable": upto(435)}, 395),        # an end card
    ({"usable": upto(495)}, 450),        # a flash at the end is none
    ({"speaks": upto(300)}, 291),        # a long silence at the end
    ({"shown_frames": 300}, 250),        # another take behind the one that is rendered
    ({"usable": upto(0)}, 450),          # nothing fits
])
def test_the_held_out_part_is_the_last_that_can_be_judged_by(changes, first):
    trained, held = split(footage(500, **changes))
    assert held[0] == pytest.approx(first, abs=1)
    assert len(held) == 50
    rest = np.setdiff1d(np.arange(500), np.arange(held[0] - 25, held[-1] + 26))
    assert np.array_equal(trained, rest)


@pytest.mark.parametrize(("usable", "seconds"), [
    (upto(60, 150), "2.4-6.0 s"),
    (~upto(110, 150), "0.0-4.4 s"),
    (upto(20, 150) | ~upto(130, 150), "0.8-5.2 s"),
])
def test_where_too_little_is_left_the_line_says_what_to_cut(clip, usable, seconds):
    clip.track.usable = usable
    with pytest.raises(DataError, match=r"train on and \d+ to judge by, too few") as error:
        LipDataset(clip, train=True)
    assert f"nothing can be learned from {seconds}: cut that out" in str(error.value)


def test_frames_that_are_not_usable_are_in_no_part(clip):
    """Neither trained on, nor validated with, nor references of training, nor in the statistics."""
    clip.track.usable = clip.track.usable.copy()
    clip.track.usable[[*range(20, 40), 130]] = False
    clip.mel[80:160] = 50.0
    trained = LipDataset(clip, train=True)
    assert not np.isin(range(20, 40), trained.frames).any()
    assert 130 not in LipDataset(clip, train=False).frames
    trained.set_epoch(1)
    assert not np.isin(range(20, 40), trained.references).any()
    assert trained.mel_statistics()[0].max() < 0
    assert not np.isin(range(20, 40), clip.references()).any()


def test_footage_that_nothing_can_be_learned_from_can_still_be_spoken_on(clip):
    clip.track.usable = np.zeros(clip.frames, bool)
    assert (clip.references() >= 0).all()


def test_training_sees_nothing_of_the_held_out_part(clip):
    """Neither pictures, references nor sound of a training batch come from the held-out part."""
    dataset = LipDataset(clip, train=True)
    held = split(clip)[1]
    lower_faces = np.array(clip.lower_faces)
    lower_faces[held] = 0  # a held-out picture would show as black
    clip.lower_faces = lower_faces
    clip.mel[held[0] * 4:] = np.nan  # and held-out sound as nan
    for batch in epoch_of(dataset, 0):
        assert batch.reference.float().mean(dim=(2, 3, 4)).min() > 1
        assert batch.lower_face.float().mean(dim=(1, 2, 3)).min() > 1
        assert torch.isfinite(batch.mel).all()
    mel, _ = dataset.draw_sounds(500)
    assert torch.isfinite(mel).all()


def test_an_epoch_shows_every_training_frame_once_and_its_seed_repeats_it(clip, monkeypatch):
    monkeypatch.setattr(augment, "SILENT_SHARE", 0)
    dataset = LipDataset(clip, train=True)
    first, again, other = (epoch_of(dataset, seed) for seed in (3, 3, 4))
    seen = torch.cat([batch.target_points for batch in first]).numpy()
    assert np.array_equal(seen, clip.points[dataset.frames])
    for a, b, c in zip(first, again, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert not torch.equal(a.mel, c.mel)
        assert not torch.equal(a.reference, c.reference)


def test_sounds_come_with_the_landmarks_of_their_frame(clip, monkeypatch):
    monkeypatch.setattr(augment, "SILENT_SHARE", 0)
    monkeypatch.setattr(augment, "AS_RECORDED_SHARE", 1)
    dataset = LipDataset(clip, train=True)
    dataset.set_epoch(0)
    mel, landmarks = dataset.draw_sounds(40)
    assert mel.shape == (40, 64, 80)
    windows = clip.mel_windows[dataset.trained]
    for heard, seen in zip(mel.numpy(), landmarks.numpy(), strict=True):
        [k] = np.flatnonzero((windows == heard).all(axis=(1, 2)))
        assert np.array_equal(seen, dataset.norm.landmarks[dataset.trained[k]])


def test_silence_is_shown_a_closed_mouth(clip, monkeypatch):
    """Samples that hear only a noise floor are shown a frame whose mouth is closed."""
    monkeypatch.setattr(augment, "SILENT_SHARE", 1)
    dataset = LipDataset(clip, train=True)
    dataset.set_epoch(0)
    mel, landmarks = dataset.draw_sounds(64)
    assert mel.max() < -3.5
    at_rest = dataset.norm.landmarks[dataset.at_rest]
    assert all((at_rest == row).all(axis=1).any() for row in landmarks.numpy())
    opening = clip.track.opening
    assert opening[dataset.at_rest].max() <= np.quantile(opening, 0.3)


def test_validation_frames_are_evenly_spaced_and_as_recorded(clip):
    dataset = LipDataset(clip, train=False, max_frames=5)
    held = split(clip)[1]
    assert dataset.frames.tolist() == held[np.linspace(0, len(held) - 1, 5).astype(int)].tolist()
    batch = dataset.__getitems__([2])
    assert torch.equal(batch.mel, torch.from_numpy(clip.mel_windows[dataset.frames[2:3]]))


def test_a_clip_too_short_to_train_on_is_refused(clip):
    clip.track.usable[40:] = False
    with pytest.raises(DataError, match=r"0 frames to train on.*preprocess\.py LONGER_VIDEO"):
        LipDataset(clip, train=True)


def test_landmarks_are_normalised_without_head_pose(clip):
    """Pose and normalised landmarks give the points back; a trembling pose opens no mouth."""
    clip.track.pose = clip.track.pose + 0.1 * clip.track.opening[:, None] * (1, 0)
    dataset = LipDataset(clip, train=True)
    norm = dataset.norm
    known = np.column_stack([clip.track.pose, np.ones(clip.frames)])
    back = known @ norm.pose_fit + norm.landmarks * norm.std
    assert np.allclose(back.reshape(clip.points.shape), clip.points, atol=1e-2)
    mouth = norm.landmarks[dataset.trained] @ mouth_matrix()
    assert np.sqrt(mouth.var(axis=0).mean()) == pytest.approx(MOUTH_STD, rel=1e-3)
    turn = 0.01 * norm.pose_fit[0].reshape(-1, 2)  # by a pose that goes with an opening of 0.1
    upper, lower = (WARP_POINTS.index(point) for point in LIP_PAIRS[0])
    assert abs(turn[lower, 1] - turn[upper, 1]) < 0.2 * 0.1 * EYE_DISTANCE_PX


def test_the_mouth_is_found_where_the_lips_are(clip):
    """The crop is 56 x 104 inside the picture, even at its edge; both maps have mean 1."""
    dataset = LipDataset(clip, train=True)
    lips = clip.track.lips
    for move in (0, -40, 40):
        clip.track.lips = lips + move
        maps = mouth_weight_maps(dataset, 4.0)
        rows, columns = maps.crop
        assert maps.train_weight.mean() == pytest.approx(1)
        assert maps.val_weight.mean() == pytest.approx(1)
        assert (rows.stop - rows.start, columns.stop - columns.start) == (56, 104)
        assert rows.start >= 0 and rows.stop <= 84
        assert columns.start >= 0 and columns.stop <= 168
    maps = mouth_weight_maps(dataset, 4.0)
    clip.track.lips = lips
    maps = mouth_weight_maps(dataset, 4.0)
    y, x = np.unravel_index(maps.val_weight.argmax(), maps.val_weight.shape)
    assert np.hypot(*(lips.reshape(-1, 2).mean(axis=0) - (x, y + 84))) < 3
