"""Tracking: cuts, frames without a face, several people, small faces, and what is damaged."""

import sys

import cv2
import numpy as np
import pytest

import preprocess
from conftest import one_line
from utils import contract, media, pixels, sample, tracking
from utils.console import UserError


@pytest.fixture(scope="module")
def pictures(tiny_clip):
    """The first 30 pictures of the tiny clip."""
    return [frame.rgb() for frame in media.read_frames(tiny_clip, 0, 30)]


# -- cuts --------------------------------------------------------------------------------------------
def texture(seed):
    """Return a large random picture."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (15, 30, 3), np.uint8), (600, 300), interpolation=cv2.INTER_CUBIC)


def cuts(pictures):
    """Return where find_cuts sees cuts, after checking that it gives every picture back in order."""
    found = list(tracking.find_cuts(iter(pictures)))
    assert len(found) == len(pictures) and all(a is b for (a, _), b in zip(found, pictures, strict=True))
    return [k for k, (_, is_cut) in enumerate(found) if is_cut]


def test_a_join_is_a_cut_and_motion_is_none():
    moving = [texture(0)[:, 2 * k:2 * k + 300] for k in range(25)]
    other = [texture(1)[:, 2 * k:2 * k + 300] for k in range(25)]
    assert cuts(moving) == [0]
    assert cuts([*moving, *other]) == [0, 25]
    assert cuts([*moving[:10], *other[:10], *moving[10:]]) == [0, 10, 20]


def test_noise_light_and_a_still_picture_are_no_cuts():
    still = [texture(0)[:, :300]] * 20
    rng = np.random.default_rng(0)
    noisy = [np.clip(p.astype(int) + rng.integers(-20, 21, p.shape), 0, 255).astype(np.uint8) for p in still]
    brighter = [np.clip(p * (0.7 + 0.02 * k), 0, 255).astype(np.uint8) for k, p in enumerate(still)]
    assert cuts(still) == cuts(noisy) == cuts(brighter) == [0]


def test_few_pictures_or_none_are_no_trouble():
    assert cuts([]) == [] and cuts([texture(0)]) == [0] and cuts([texture(0)] * 3) == [0]


# -- finding -----------------------------------------------------------------------------------------
def test_frames_without_a_face_are_interpolated_and_marked(pictures):
    grey = np.full_like(pictures[0], 128)
    track = tracking.track([*pictures[:10], grey, grey, grey, *pictures[13:]])
    assert np.flatnonzero(~track["valid"]).tolist() == [10, 11, 12]
    points = track["landmarks"]
    for k in (10, 11, 12):
        share = (k - 9) / 4
        np.testing.assert_allclose(points[k], (1 - share) * points[9] + share * points[13], atol=1e-3)
    assert all(np.isfinite(track[key]).all() for key in ("landmarks", "transform", "lips", "pose", "shape"))


def test_pictures_without_any_face_give_no_valid_frame(pictures):
    track = tracking.track([np.full_like(pictures[0], 128)] * 5)
    assert len(track["valid"]) == 5 and not track["valid"].any()
    assert len(tracking.track([])["valid"]) == 0


def test_a_face_that_starts_late_is_held_from_its_first_place(pictures):
    grey = np.full_like(pictures[0], 128)
    track = tracking.track([grey, grey, *pictures[2:8]])
    assert track["valid"].tolist() == [False] * 2 + [True] * 6
    np.testing.assert_array_equal(track["landmarks"][0], track["landmarks"][2])


def test_a_join_in_the_clip_is_found_and_does_not_shift_the_face(pictures):
    moved = [np.roll(rgb[::, ::-1], (40, -60), axis=(0, 1)) for rgb in pictures[:15]]
    track = tracking.track([*pictures[:15], *moved])
    assert track["cuts"].tolist() == [0, 15] and track["valid"].all()
    alone = tracking.track(moved)
    np.testing.assert_allclose(track["transform"][15:], alone["transform"], rtol=0.02, atol=1.0)


def test_a_large_picture_is_measured_in_its_own_pixels(pictures):
    large = cv2.resize(pictures[0], (1600, 1600), interpolation=cv2.INTER_LINEAR)
    points, large = (tracking.track([rgb])["landmarks"][0] for rgb in (pictures[0], large))
    assert np.abs(large[:, :2] * 512 / 1600 - points[:, :2]).max() < 4


def test_the_opening_grows_with_the_drawn_mouth():
    measured = [tracking.track([sample.draw(opening, 0.45, 0.0)])["shape"][0, 0] for opening in (0.0, 0.5, 1.0)]
    assert measured[0] + 0.05 < measured[1] < measured[2] - 0.05


def test_a_damaged_or_missing_model_file_is_refused_in_one_line(tmp_path, monkeypatch):
    content = bytearray(tracking.MODEL.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.task").write_bytes(content)
    for path in (tmp_path / "model.task", tmp_path / "none.task"):
        tracking._model.cache_clear()
        monkeypatch.setattr(tracking, "MODEL", path)
        with pytest.raises(UserError) as error:
            tracking.Landmarker()
        assert str(path) in one_line(error) and "SHA-256" in str(error.value)


# -- several people, small faces ---------------------------------------------------------------------
def scene(faces, size=(360, 640)):
    """Return a picture (height, width) with drawn faces in it: (side, left, top, opening) each."""
    picture = np.full((*size, 3), 90, np.uint8)
    for side, left, top, opening in faces:
        drawn = cv2.resize(sample.draw(opening, 0.45, 0.0), (side, side), interpolation=cv2.INTER_AREA)
        picture[top:top + side, left:left + side] = drawn
    return picture


def middle(track):
    """Return the x of the face in each frame."""
    return track["landmarks"][:, :, 0].mean(axis=1)


def test_the_largest_is_followed_and_another_if_asked():
    frames = [scene([(200, 20 + 2 * k, 40, 0.1), (300, 320 - k, 30, 0.1)]) for k in range(16)]
    crowd = []
    large = tracking.track(frames, crowd=crowd)
    small, nobody = tracking.track(frames, 2), tracking.track(frames, 3)
    assert crowd == [2] and large["valid"].all() and small["valid"].all() and not nobody["valid"].any()
    assert (np.abs(middle(large) - (470 - np.arange(16))) < 25).all()
    assert (np.abs(middle(small) - (120 + 2 * np.arange(16))) < 25).all()


def test_who_is_larger_for_a_moment_is_not_followed():
    frames = [scene([(220, 40, 60, 0.1), *([(300, 330, 30, 0.1)] if k in range(12, 18) else [])]) for k in range(48)]
    track = tracking.track(frames)
    assert track["valid"].all() and (np.abs(middle(track) - 150) < 25).all()


def test_after_a_cut_the_same_place_goes_before_a_little_more_size():
    pair = [[(210, 20, 60, 0.1), (250, 340, 60, 0.1)], [(250, 20, 60, 0.1), (210, 340, 60, 0.1)]]
    frames = [np.clip(scene(faces).astype(int) + 40 * k, 0, 255).astype(np.uint8)
              for k, faces in enumerate(pair) for _ in range(12)]
    track = tracking.track(frames)
    assert track["cuts"].tolist() == [0, 12] and (middle(track) > 320).all()


def test_a_small_face_is_found_in_its_enlarged_part_of_the_picture():
    frames = [scene([(72, 500, 240, 0.1)], (540, 960)) for _ in range(4)]
    find = tracking.Landmarker(tracking.MOST_PEOPLE)
    assert not tracking.look(frames[0], find, closely=False)  # else the test says nothing
    find.close()
    track = tracking.track(frames)
    assert track["valid"].all() and (np.abs(middle(track) - 536) < 8).all()


def test_a_face_that_leaves_its_crop_is_found_again():
    frames = [scene([(200, 10 + 140 * min(3, max(0, k - 14)), 80, 0.1)]) for k in range(40)]  # too fast to be followed
    track = tracking.track(frames)
    assert track["cuts"].tolist() == [0] and track["valid"][:15].all() and not track["valid"][16]
    again = 17 + np.flatnonzero(track["valid"][17:])[0]
    assert again <= 17 + tracking.SURVEY and track["valid"][again:].all()
    assert (np.abs(middle(track)[again:] - 530) < 25).all()


def test_the_crop_moves_with_the_face():
    frames = [scene([(180, 10 + 12 * k, 80, 0.1)]) for k in range(36)]
    track = tracking.track(frames)
    assert track["valid"].all() and (np.abs(middle(track) - (100 + 12 * np.arange(36))) < 25).all()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Path of 2.4 seconds of two people, the right one larger; the left one has a microphone before the mouth at the
    end of it."""
    path = tmp_path_factory.mktemp("pair") / "pair.mp4"
    tone = 0.1 * np.sin(np.arange(38400) / 9).astype(np.float32)[:, None]
    with media.VideoWriter(path, 640, 360, 18, "ultrafast", iter([tone]), 16000) as video:
        for k in range(60):
            opening = 0.5 + 0.5 * np.sin(k)
            picture = scene([(230, 20 + k // 4, 60, opening), (320, 310, 30, opening)])
            if k >= 50:
                cv2.ellipse(picture, (135 + k // 4, 230), (24, 28), 0, 0, 360, (25, 25, 28), -1)
            planes = pixels.rgb_to_yuv(picture.astype(np.float32), (0.299, 0.114, False))
            video.write([pixels.to_uint8(planes[0]), *[pixels.to_uint8(plane[::2, ::2]) for plane in planes[1:]]])
    return path


def prepare(pair, tmp_path, monkeypatch, *more):
    """Run preprocess.py on the pair. Returns (meta, track)."""
    data = tmp_path / "data"
    monkeypatch.setattr(sys, "argv", ["preprocess.py", str(pair), "--data", str(data), *more])
    preprocess.main()
    meta = contract.read_meta(data)
    return meta, contract.read_track(data, meta)


def test_the_larger_person_is_prepared_and_the_other_said(pair, tmp_path, monkeypatch, capsys):
    meta, track = prepare(pair, tmp_path, monkeypatch)
    assert meta["frames"] == 60 and track["valid"].all() and (np.abs(middle(track) - 470) < 25).all()
    assert "up to 2 faces are in the picture; number 1 was followed" in capsys.readouterr().err


def test_another_person_is_prepared_if_asked_and_said(pair, tmp_path, monkeypatch, capsys):
    _, track = prepare(pair, tmp_path, monkeypatch, "--face", "2")
    assert (np.abs(middle(track) - 142) < 25).all()
    assert track["valid"][:50].all() and not track["valid"][50:].any()
    errors = capsys.readouterr().err
    assert "number 2 was followed" in errors and "in front of the mouth in 10 frames (the first at 2.0 s)" in errors


def test_a_person_who_is_not_there_is_refused(pair, tmp_path, monkeypatch):
    with pytest.raises(UserError) as error:
        prepare(pair, tmp_path, monkeypatch, "--face", "3")
    assert "--face 3 was asked for, but 2 faces are in" in one_line(error)
    assert not (tmp_path / "data" / "meta.json").exists()
