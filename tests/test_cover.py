"""Covers: what is in front of the mouth is noticed, and what only looks a little different is not."""

import cv2
import numpy as np
import pytest

from utils import contract, cover, pixels


@pytest.fixture(scope="module")
def clip(tiny_data):
    """(aligned faces (150, 168, 168, 3), track) of the tiny clip."""
    meta = contract.read_meta(tiny_data)
    faces = np.stack([pixels.read_png(contract.face_path(tiny_data, i)) for i in range(meta["frames"])])
    return faces, contract.read_track(tiny_data, meta)


def microphone(picture):
    """Return the aligned face with a microphone before its mouth."""
    picture = picture.copy()
    cv2.ellipse(picture, (84, 140), (24, 28), 0, 0, 360, (25, 25, 28), -1)
    cv2.rectangle(picture, (76, 150), (92, 167), (40, 40, 45), -1)
    return picture


def hand(picture):
    """Return the aligned face with a hand of its own colour before its mouth."""
    picture = picture.copy()
    colour = tuple(int(v * 0.85) for v in picture[90:100, 60:110].reshape(-1, 3).mean(axis=0))
    cv2.ellipse(picture, (84, 134), (58, 26), 20, 0, 360, colour, -1)
    for x in range(40, 130, 20):
        cv2.line(picture, (x, 114), (x, 160), tuple(int(v * 0.7) for v in colour), 2)
    return picture


def find(faces, track):
    """Return the covered frames as a list."""
    return np.flatnonzero(cover.covered(np.stack([cover.thumbnail(face) for face in faces]), track)).tolist()


def test_an_open_view_of_the_mouth_is_not_covered(clip):
    assert find(*clip) == []


@pytest.mark.parametrize("what", [microphone, hand])
@pytest.mark.parametrize(("first", "last"), [(60, 66), (20, 60), (0, 10), (140, 150)])
def test_what_is_in_front_of_the_mouth_is_found(clip, what, first, last):
    faces, track = clip
    seen = [what(face) if first <= i < last else face for i, face in enumerate(faces)]
    assert find(seen, track) == list(range(first, last))


def test_a_flash_is_no_cover(clip):
    faces, track = clip
    faces = faces.copy()
    faces[70] = 255
    assert find(faces, track) == []


def test_a_shot_in_other_light_is_not_covered(clip):
    faces, track = clip
    faces = np.concatenate([faces[:110], np.clip(faces[110:] * np.float32((0.7, 0.75, 0.9)), 0, 255).astype(np.uint8)])
    assert find(faces, {**track, "cuts": np.array([0, 110])}) == []


def test_frames_without_a_face_and_few_frames_tell_nothing(clip):
    faces, track = clip
    seen = [np.zeros_like(face) if 60 <= i < 75 else face for i, face in enumerate(faces)]
    assert find(seen, {**track, "valid": (np.arange(150) < 60) | (np.arange(150) >= 75)}) == []
    assert find(seen, {**track, "valid": np.arange(150) < 40}) == []
