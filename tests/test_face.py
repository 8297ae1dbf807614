"""Faces: the alignment that speech does not move, cuts, gaps, and where pixels come to lie."""

import cv2
import numpy as np
import pytest

from utils import contract, face, media

TARGET = np.array(list(contract.TEMPLATE.values())) * contract.FACE_SIZE


@pytest.fixture(scope="module")
def pictures(tiny_clip):
    """The first 30 pictures of the tiny clip."""
    return [frame.rgb() for frame in media.read_frames(tiny_clip, 0, 30)]


@pytest.fixture
def landmarks(tiny_data):
    """The landmarks of the tiny clip, (150, 478, 3), own memory."""
    return contract.read_track(tiny_data, contract.read_meta(tiny_data))["landmarks"].copy()


def similarity(degrees, scale, shift):
    """Return the 2x3 matrix of a rotation, scale and shift."""
    turn = scale * np.exp(1j * np.radians(degrees))
    return np.array([[turn.real, -turn.imag, shift[0]], [turn.imag, turn.real, shift[1]]])


# -- geometry ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("degrees", "scale", "shift"), [(0, 1, (0, 0)), (30, 0.4, (200, -50)), (-170, 3.0, (7, 900))])
def test_a_known_rotation_scale_and_shift_is_found(degrees, scale, shift):
    points = np.random.default_rng(0).uniform(0, 500, (4, 7, 2))
    known = similarity(degrees, scale, shift)
    target = points[0] @ known[:, :2].T + known[:, 2]
    np.testing.assert_allclose(face.fit_similarity(points, target)[0], known, atol=1e-6)
    np.testing.assert_allclose(face.to_face(points[:1], known[None])[0], target, atol=1e-6)


def test_smoothing_keeps_a_steady_motion_and_never_crosses_a_cut():
    motion = np.arange(40)[:, None] * np.array([3.0, -1.5])
    motion[25:] += 500
    np.testing.assert_allclose(face.smooth(motion, [0, 25]), motion, atol=1e-8)
    assert np.abs(face.smooth(motion, [0]) - motion).max() > 10


def test_smoothing_takes_jitter_away_and_leaves_its_input_and_short_shots_alone():
    jitter = np.random.default_rng(0).normal(0, 1, (200, 5, 2))
    before = jitter.copy()
    assert face.smooth(jitter, [0]).std() < 0.75
    np.testing.assert_array_equal(jitter, before)
    np.testing.assert_array_equal(face.smooth(jitter, np.arange(0, 200, 4)), before)


def test_mouth_and_jaw_change_neither_alignment_nor_pose_by_one_bit(landmarks):
    valid, cuts = np.ones(len(landmarks), bool), np.array([0])
    before = face.measure(landmarks.copy(), valid, cuts)
    landmarks[:, face.LIPS + face.JAW] += np.random.default_rng(0).normal(0, 20, (len(landmarks), 61, 3))
    after = face.measure(landmarks, valid, cuts)
    np.testing.assert_array_equal(before["transform"], after["transform"])
    np.testing.assert_array_equal(before["pose"], after["pose"])
    assert not np.array_equal(before["shape"], after["shape"])


def test_the_alignment_takes_rotation_scale_and_shift_out(landmarks):
    valid, cuts = np.ones(len(landmarks), bool), np.array([0])
    moved = landmarks.copy()
    moved[..., :2] = landmarks[..., :2] @ similarity(20, 1.7, (0, 0))[:, :2].T + (30, -40)
    for key in ("lips", "shape", "pose"):
        np.testing.assert_allclose(face.measure(moved, valid, cuts)[key], face.measure(landmarks, valid, cuts)[key],
                                   atol=0.01)


def test_the_eyes_come_to_lie_on_the_template_and_the_mouth_in_the_lower_half(landmarks):
    track = face.measure(landmarks, np.ones(len(landmarks), bool), np.array([0]))
    eyes = face.to_face(landmarks[:, list(face.EYES), :2], track["transform"])
    assert np.abs(eyes - np.array([contract.TEMPLATE[k] for k in face.EYES]) * contract.FACE_SIZE).max() < 6
    assert track["lips"][..., 1].min() > contract.LOWER_TOP
    jaw = face.to_face(landmarks[:, face.JAW, :2], track["transform"])
    assert jaw[..., 1].max() < contract.FACE_SIZE


def dot(picture, where):
    """Draw a soft white dot at a place given in pixels, a pixel's middle being a whole number."""
    y, x = np.mgrid[:picture.shape[0], :picture.shape[1]]
    bright = 255 * np.exp(-((x - where[0]) ** 2 + (y - where[1]) ** 2) / (2 * 4.0 ** 2))
    np.maximum(picture, bright[..., None].astype(np.uint8), out=picture)


@pytest.mark.parametrize("scale", [0.25, 0.4, 0.59, 0.61, 0.9, 1.6])
@pytest.mark.parametrize("degrees", [0, 25])
def test_a_dot_lands_where_the_template_says(scale, degrees):
    for target in TARGET[[0, 3, 6]]:
        transform = similarity(degrees, scale, (0, 0))
        size = int(168 / scale) + 80
        transform[:, 2] = TARGET.mean(axis=0) - transform[:, :2] @ (size / 2 + 0.3, size / 2 - 0.4)
        picture = np.zeros((size, size, 3), np.uint8)
        dot(picture, np.linalg.solve(transform[:, :2], target - transform[:, 2]))
        aligned = face.align(picture, transform.astype(np.float32))[..., 0].astype(np.float64)
        assert aligned.shape == (168, 168)
        found = [(aligned.sum(axis=axis) * np.arange(168)).sum() / aligned.sum() for axis in (0, 1)]
        np.testing.assert_allclose(found, target, atol=0.5)


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.17])
def test_both_ways_of_shrinking_agree_about_position(scale):
    """The area-averaged picture (below 0.6; below 0.3 in two steps) lies where the directly warped one does."""
    noise = np.random.default_rng(0).normal(0, 1, (int(250 / scale), int(250 / scale)))
    smooth = cv2.GaussianBlur(noise, (0, 0), 4 / scale)
    picture = np.repeat(np.clip(128 + 450 / scale * smooth, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    transform = similarity(7, scale, (-40.3, -20.7))
    averaged = face.align(picture, transform)[..., 0].astype(np.float32)
    direct = cv2.warpAffine(picture, transform, (168, 168), flags=cv2.INTER_LINEAR)[..., 0].astype(np.float32)
    (dx, dy), _ = cv2.phaseCorrelate(averaged, direct)
    assert np.hypot(dx, dy) < 0.1 and np.abs(averaged - direct).mean() < 2


def test_shrinking_averages_so_that_fine_stripes_do_not_turn_into_coarse_ones():
    stripes = np.repeat(np.tile(np.uint8([0, 255]), (600, 300))[..., None], 3, axis=2)
    assert face.align(stripes, similarity(0, 0.28, (0, 0))).std() < 20


def test_a_face_beyond_the_frame_repeats_the_edge():
    picture = np.full((100, 100, 3), 200, np.uint8)
    np.testing.assert_array_equal(face.align(picture, similarity(0, 1, (-80, 60))), 200)
