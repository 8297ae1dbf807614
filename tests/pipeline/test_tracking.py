"""preprocess.py on two people: which of them is prepared, and what is said of the other."""

import cv2
import numpy as np
import pytest
from helpers.people import assert_follows, middle, scene
from helpers.videos import make_video

from utils import storage

FRAMES = 60
COVERED_FROM = 50  # frame from which the left person has a microphone before the mouth


def pictures():
    """Yield 2.4 seconds of two people, the right one larger."""
    for k in range(FRAMES):
        opening = 0.5 + 0.5 * np.sin(k)
        picture = scene([(230, 20 + k // 4, 60, opening), (320, 310, 30, opening)])
        if k >= COVERED_FROM:
            cv2.ellipse(picture, (135 + k // 4, 230), (24, 28), 0, 0, 360, (25, 25, 28), -1)
        yield picture


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Path of their video, with a tone."""
    path = tmp_path_factory.mktemp("pair") / "pair.mp4"
    tone = 0.1 * np.sin(np.arange(38400) / 9).astype(np.float32)
    return make_video(path, pictures(), sound=tone, sound_rate=16000)


def read_track(data):
    return storage.read_track(data, storage.read_meta(data))


def test_the_larger_person_is_prepared_and_the_other_said(pair, tmp_path, run_script):
    result = run_script("preprocess", pair, "--data", tmp_path / "data")
    assert result.code == 0
    track = read_track(tmp_path / "data")
    assert len(track) == FRAMES
    assert_follows(track, 470)
    assert "up to 2 faces are in the picture; number 1 was followed" in result.err


def test_another_person_is_prepared_if_asked_and_said(pair, tmp_path, run_script):
    result = run_script("preprocess", pair, "--data", tmp_path / "data", "--face", 2)
    track = read_track(tmp_path / "data")
    assert (np.abs(middle(track) - 142) < 25).all()
    assert track.valid[:COVERED_FROM].all()
    assert not track.valid[COVERED_FROM:].any()
    assert "number 2 was followed" in result.err
    assert "in front of the mouth in 10 frames (the first at 2.0 s)" in result.err


def test_a_person_who_is_not_there_is_refused(pair, tmp_path, run_script):
    result = run_script("preprocess", pair, "--data", tmp_path / "data", "--face", 3)
    assert result.code == 1
    assert "--face 3 was asked for, but 2 faces are in" in result.err.splitlines()[-1]
    assert not (tmp_path / "data" / "meta.json").exists()
