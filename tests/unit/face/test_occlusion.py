"""Occlusion: what is in front of the mouth is noticed; what only looks different is not."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from utils import storage
from utils.contract import face_path
from utils.face.occlusion import THUMBNAIL_SHAPE, mouth_thumbnail, occluded_frames
from utils.media.pixels import read_png


@pytest.fixture(scope="module")
def track(tiny_data):
    """The track of the tiny clip, 150 frames."""
    return storage.read_track(tiny_data, storage.read_meta(tiny_data))


@pytest.fixture(scope="module")
def faces(tiny_data, track):
    """The aligned faces of the tiny clip, (150, 168, 168, 3)."""
    return np.stack([read_png(face_path(tiny_data, i)) for i in range(len(track))])


def microphone(face):
    """The aligned face with a microphone before its mouth."""
    face = face.copy()
    cv2.ellipse(face, (84, 140), (24, 28), 0, 0, 360, (25, 25, 28), -1)
    cv2.rectangle(face, (76, 150), (92, 167), (40, 40, 45), -1)
    return face


def hand(face):
    """The aligned face with a hand of its own colour before its mouth."""
    face = face.copy()
    skin = face[90:100, 60:110].reshape(-1, 3).mean(axis=0)
    cv2.ellipse(face, (84, 134), (58, 26), 20, 0, 360, (0.85 * skin).astype(int).tolist(), -1)
    shadow = (0.6 * skin).astype(int).tolist()
    for x in range(40, 130, 20):
        cv2.line(face, (x, 114), (x, 160), shadow, 2)
    return face


def find(faces, track):
    """Numbers of the occluded frames."""
    thumbnails = np.stack([mouth_thumbnail(face) for face in faces])
    assert thumbnails.shape == (len(track), *THUMBNAIL_SHAPE)
    return np.flatnonzero(occluded_frames(thumbnails, track)).tolist()


def test_an_open_view_of_the_mouth_is_not_occluded(faces, track):
    assert find(faces, track) == []


@pytest.mark.parametrize("cover", [microphone, hand])
@pytest.mark.parametrize(("first", "stop"), [(60, 66), (20, 60), (0, 10), (140, 150)])
def test_what_is_in_front_of_the_mouth_is_found(faces, track, cover, first, stop):
    faces = faces.copy()
    for i in range(first, stop):
        faces[i] = cover(faces[i])
    assert find(faces, track) == list(range(first, stop))


def test_a_flash_is_no_occlusion(faces, track):
    faces = faces.copy()
    faces[70] = 255
    assert find(faces, track) == []


def test_a_shot_in_other_light_is_not_occluded(faces, track):
    light = np.float32((0.7, 0.75, 0.9))
    darker = np.clip(faces[110:] * light, 0, 255).astype(np.uint8)
    faces = np.concatenate([faces[:110], darker])
    assert find(faces, replace(track, cuts=np.array([0, 110]))) == []


def test_frames_without_a_face_are_never_occluded(faces, track):
    faces = faces.copy()
    faces[60:75] = 0
    valid = np.ones(len(track), bool)
    valid[60:75] = False
    assert find(faces, replace(track, valid=valid)) == []


def test_few_frames_say_nothing(faces, track):
    assert find(faces, replace(track, valid=np.arange(len(track)) < 40)) == []
