"""The input rule, and the packed pictures and features."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from helpers.messages import one_line

from utils import contract
from utils.audio import MelWindows
from utils.cli import DataError
from utils.dataset.batches import LipDataset, split
from utils.dataset.clip import Clip


@pytest.fixture
def clip(tiny_data):
    return Clip(tiny_data)


@pytest.fixture
def copy(tiny_data, tmp_path):
    """A copy of the prepared clip that a test may damage."""
    ignored = shutil.ignore_patterns("pack", ".lock")
    return shutil.copytree(tiny_data, tmp_path / "data", ignore=ignored)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_training_and_inference_feed_bit_equal_tensors(clip):
    """Held-out batches are the inputs that inference makes of the clip's own sound."""
    references = clip.references()
    windows = MelWindows(clip.mel)
    frames = split(clip)[1]
    dataset = LipDataset(clip, train=False)
    for first in range(0, len(frames), 8):
        batch = dataset.__getitems__(list(range(first, min(first + 8, len(frames)))))
        some = frames[first:first + 8]
        assert equal(batch[:4], clip.inputs(some, windows[some], references))
        assert torch.equal(batch.lower_face, torch.from_numpy(clip.lower_faces[some]))
        assert torch.equal(batch.target_points, torch.from_numpy(clip.points[some]))


def test_no_pixel_of_the_current_lower_half_is_fed(clip, copy):
    """Another lower half in frame i leaves frame i's input bit-equal, and changes others'."""
    references = clip.references()
    i = int(references[5, 0])
    path = contract.face_path(copy, i)
    picture = cv2.imread(str(path))
    noise = np.random.default_rng(0).integers(0, 256, (84, 168, 3))
    picture[contract.LOWER_TOP:] = noise
    cv2.imwrite(str(path), picture)
    changed = Clip(copy)
    assert not np.array_equal(changed.lower_faces[i], clip.lower_faces[i])
    for frame, same in ((i, True), (5, False)):
        frames = np.array([frame])
        windows = clip.mel_windows[frames]
        before = clip.inputs(frames, windows, references)
        after = changed.inputs(frames, windows, changed.references())
        assert equal(before, after) is same


def test_references_do_not_depend_on_the_mouth_of_their_frame(clip):
    """Another mouth in a frame, while it serves no other, leaves its input as it was."""
    before = clip.references()
    lonely = np.setdiff1d(np.arange(clip.frames), before)
    windows = clip.mel_windows[lonely]
    inputs = clip.inputs(lonely, windows, before)
    for moved in (clip.track.lips, clip.track.landmarks, clip.points):
        moved[lonely] += 7
    assert np.array_equal(clip.references(), before)
    assert equal(clip.inputs(lonely, windows, before), inputs)


def test_two_seconds_of_footage_are_enough(clip):
    """Of 50 frames each has a reference a second away; of 40 the middle has none: that is said."""
    track = clip.track
    for name in ("transform", "landmarks", "valid", "lips", "pose", "mouth", "usable"):
        setattr(track, name, getattr(track, name)[:50])
    track.cuts = np.array([0])
    track.valid = np.ones(50, bool)
    distance = np.abs(clip.references() - np.arange(50)[:, None])
    assert (distance >= 25).all()
    for name in ("transform", "landmarks", "valid", "lips", "pose", "mouth", "usable"):
        setattr(track, name, getattr(track, name)[:40])
    with pytest.raises(DataError, match=r"40 usable frames.*preprocess\.py LONGER_VIDEO"):
        clip.references()


def test_the_pack_is_made_again_when_a_file_is_replaced(copy):
    """A picture or feature replaced by hand is what training sees."""
    Clip(copy)
    picture = np.full((168, 168, 3), 77, np.uint8)
    cv2.imwrite(str(contract.face_path(copy, 3)), picture)
    block = np.full((4, 80), -3.0, np.float32)
    np.save(contract.mel_path(copy, 3), block)
    clip = Clip(copy)
    assert (clip.lower_faces[3] == 77).all()
    assert np.array_equal(clip.mel[12:16], block)
    assert len(list((copy / "pack").glob("face-*"))) == 1


def test_a_damaged_pack_is_made_again(copy):
    Clip(copy)
    for path in (copy / "pack").glob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])
    assert Clip(copy).lower_faces.shape == (150, 84, 168, 3)


def truncate(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(("of", "damage"), [
    (contract.face_path, truncate),
    (contract.face_path, lambda path: path.rename(path.with_name("999999.png"))),
    (contract.face_path, lambda path: cv2.imwrite(str(path), np.zeros((20, 20, 3), np.uint8))),
    (contract.mel_path, truncate),
    (contract.mel_path, lambda path: path.write_text("hello")),
    (contract.mel_path, lambda path: np.save(path, np.full((4, 80), np.nan, np.float32))),
    (contract.mel_path, lambda path: np.save(path, np.zeros((4, 81), np.float32))),
])
def test_a_damaged_file_is_named(copy, of, damage):
    """A malformed picture or feature gives its name and the command that helps."""
    damage(of(copy, 2))
    with pytest.raises(DataError) as error:
        Clip(copy)
    assert "000002" in one_line(error)
    assert "python preprocess.py" in str(error.value)
