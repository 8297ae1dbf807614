"""Tracking: cuts, frames without a face, several people, small faces."""

import cv2
import numpy as np
import pytest
from helpers.people import assert_follows, middle, scene

from utils import sample, storage
from utils.face import landmarks, tracking
from utils.face.landmarks import Landmarker
from utils.face.tracking import find_cuts, track_face
from utils.media.pixels import to_uint8
from utils.media.reader import read_frames


@pytest.fixture(scope="module")
def pictures(tiny_clip):
    """The first 30 pictures of the tiny clip."""
    return [frame.rgb() for frame in read_frames(tiny_clip, 0, 30)]


@pytest.fixture(scope="module")
def wall(pictures):
    """A picture without a face."""
    return np.full_like(pictures[0], 128)


# -- cuts ------------------------------------------------------------------------------------------
def texture(seed):
    """A large random picture."""
    cells = np.random.default_rng(seed).integers(0, 256, (15, 30, 3), np.uint8)
    return cv2.resize(cells, (600, 300), interpolation=cv2.INTER_CUBIC)


def cuts_of(pictures):
    """Where find_cuts sees cuts, after checking that it gives every picture back in order."""
    found = list(find_cuts(iter(pictures)))
    assert len(found) == len(pictures)
    assert all(rgb is picture for (rgb, _), picture in zip(found, pictures, strict=True))
    return [k for k, (_, is_cut) in enumerate(found) if is_cut]


def test_a_join_is_a_cut_and_motion_is_none():
    moving = [texture(0)[:, 2 * k : 2 * k + 300] for k in range(25)]
    other = [texture(1)[:, 2 * k : 2 * k + 300] for k in range(25)]
    assert cuts_of(moving) == [0]
    assert cuts_of([*moving, *other]) == [0, 25]
    assert cuts_of([*moving[:10], *other[:10], *moving[10:]]) == [0, 10, 20]


def test_noise_light_and_a_still_picture_are_no_cuts():
    still = [texture(0)[:, :300]] * 20
    rng = np.random.default_rng(0)
    noisy = [picture + rng.integers(-20, 21, picture.shape) for picture in still]
    brighter = [picture * (0.7 + 0.02 * k) for k, picture in enumerate(still)]
    for pictures in (still, noisy, brighter):
        assert cuts_of([to_uint8(picture) for picture in pictures]) == [0]


def test_few_pictures_or_none_are_no_trouble():
    assert cuts_of([]) == []
    assert cuts_of([texture(0)]) == [0]
    assert cuts_of([texture(0)] * 3) == [0]


# -- finding ---------------------------------------------------------------------------------------
@pytest.fixture
def rough(monkeypatch):
    """Landmarks are not smoothed."""
    monkeypatch.setattr(landmarks, "QUICK_FRAMES", 10**6)


def test_frames_without_a_face_are_interpolated_and_marked(rough, pictures, wall):
    track, people = track_face([*pictures[:10], wall, wall, wall, *pictures[13:]])
    assert people == [1]
    assert np.flatnonzero(~track.valid).tolist() == [10, 11, 12]
    points = track.landmarks
    for k in (10, 11, 12):
        share = (k - 9) / 4
        between = (1 - share) * points[9] + share * points[13]
        np.testing.assert_allclose(points[k], between, atol=1e-3)
    assert all(np.isfinite(array).all() for array in vars(track).values())


@pytest.mark.parametrize("frames", [0, 5])
def test_pictures_without_any_face_give_no_valid_frame_and_no_number(wall, frames):
    track, people = track_face([wall] * frames)
    assert len(track) == frames
    assert people == [0] * min(frames, 1)
    assert not track.valid.any()
    for name, (dtype, shape) in storage.TRACK_ARRAYS.items():
        array = getattr(track, name)
        assert (array.shape, array.dtype) == ((frames, *shape), dtype)
        assert name == "valid" or np.isnan(array).all()


def test_a_face_that_starts_late_is_held_from_its_first_place(rough, pictures, wall):
    track, _ = track_face([wall, wall, *pictures[2:8]])
    assert track.valid.tolist() == [False] * 2 + [True] * 6
    np.testing.assert_array_equal(track.landmarks[0], track.landmarks[2])


def test_a_shot_without_a_face_borrows_from_another(rough, pictures):
    dark = [np.full_like(pictures[0], 20)] * 5
    track, people = track_face([*pictures[:8], *dark])
    assert track.cuts.tolist() == [0, 8]
    assert people == [1, 0]
    np.testing.assert_array_equal(track.landmarks[8:], track.landmarks[[7] * 5])


def test_a_join_in_the_clip_is_found_and_does_not_shift_the_face(pictures):
    moved = [np.roll(rgb[:, ::-1], (40, -60), axis=(0, 1)) for rgb in pictures[:15]]
    track, _ = track_face([*pictures[:15], *moved])
    assert track.cuts.tolist() == [0, 15]
    assert track.valid.all()
    alone, _ = track_face(moved)
    np.testing.assert_allclose(track.transform[15:], alone.transform, rtol=0.02, atol=1.0)


def test_the_opening_grows_with_the_drawn_mouth():
    drawn = [sample.draw_face(opening, 0.45, 0.0) for opening in (0.0, 0.5, 1.0)]
    shut, half, wide = (track_face([picture]).track.opening[0] for picture in drawn)
    assert shut + 0.05 < half < wide - 0.05


# -- several people, small faces -------------------------------------------------------------------
def test_the_largest_is_followed_and_another_if_asked():
    steps = np.arange(16)
    frames = [scene([(200, 20 + 2 * k, 40, 0.1), (300, 320 - k, 30, 0.1)]) for k in steps]
    large, people = track_face(frames)
    assert people == [2]
    assert_follows(large, 470 - steps)
    assert_follows(track_face(frames, 2).track, 120 + 2 * steps)
    assert not track_face(frames, 3).track.valid.any()


def test_who_is_larger_for_a_moment_is_not_followed():
    small, large = (220, 40, 60, 0.1), (300, 330, 30, 0.1)
    frames = [scene([small, large] if k in range(12, 18) else [small]) for k in range(48)]
    assert_follows(track_face(frames).track, 150)


def test_after_a_cut_the_same_place_goes_before_a_little_more_size():
    first = scene([(210, 20, 60, 0.1), (250, 340, 60, 0.1)])
    second = scene([(250, 20, 60, 0.1), (210, 340, 60, 0.1)])
    brighter = to_uint8(second.astype(np.float32) + 40)
    track, _ = track_face([first] * 12 + [brighter] * 12)
    assert track.cuts.tolist() == [0, 12]
    assert (middle(track) > 320).all()


def test_a_small_face_is_found_in_its_enlarged_part_of_the_picture():
    frames = [scene([(72, 500, 240, 0.1)], (540, 960))] * 4
    detector = Landmarker(tracking.MOST_PEOPLE)
    assert not tracking.find_faces(frames[0], detector, closely=False)  # else this says nothing
    detector.close()
    assert_follows(track_face(frames).track, 536, tolerance=8)


def test_a_face_that_leaves_its_crop_is_found_again():
    steps = [min(3, max(0, k - 14)) for k in range(40)]
    frames = [scene([(200, 10 + 140 * step, 80, 0.1)]) for step in steps]  # too fast to follow
    track, _ = track_face(frames)
    assert track.cuts.tolist() == [0]
    assert track.valid[:15].all()
    assert not track.valid[16]
    again = 17 + np.flatnonzero(track.valid[17:])[0]
    assert again <= 17 + tracking.SURVEY_FRAMES
    assert track.valid[again:].all()
    assert (np.abs(middle(track)[again:] - 530) < 25).all()


def test_the_crop_moves_with_the_face():
    frames = [scene([(180, 10 + 12 * k, 80, 0.1)]) for k in range(36)]
    assert_follows(track_face(frames).track, 100 + 12 * np.arange(36))
