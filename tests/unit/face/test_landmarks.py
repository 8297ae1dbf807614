"""Landmarks: speech moves neither alignment nor head pose, and the model file is checked."""

import cv2
import numpy as np
import pytest
from helpers.messages import one_line

from utils.cli import UserError
from utils.contract import EYE_DISTANCE_PX, FACE_SIZE, LOWER_TOP, TEMPLATE
from utils.face import landmarks as face
from utils.face.geometry import transform_points
from utils.media.reader import read_frames
from utils.shots import QUICK_FRAMES, smooth

FRAMES = 30
VALID = np.ones(FRAMES, bool)
CUTS = np.array([0])


@pytest.fixture(scope="module")
def found(tiny_clip):
    """The landmarks (30, 478, 2) of the tiny clip's first frames."""
    landmarker = face.Landmarker()
    faces = [landmarker(frame.rgb())[0] for frame in read_frames(tiny_clip, 0, FRAMES)]
    landmarker.close()
    return np.stack(faces)


def measure(landmarks):
    return face.measure(landmarks, VALID, CUTS)


def test_mouth_and_jaw_change_neither_alignment_nor_pose_by_one_bit(found):
    speaking = found.copy()
    speech = face.LIPS + face.JAW
    speaking[:, speech] += np.random.default_rng(0).normal(0, 20, (FRAMES, len(speech), 2))
    before, after = measure(found), measure(speaking)
    np.testing.assert_array_equal(before.transform, after.transform)
    np.testing.assert_array_equal(before.pose, after.pose)
    assert not np.array_equal(before.mouth, after.mouth)


def test_the_alignment_takes_rotation_scale_and_shift_out(found):
    radians = np.radians(20)
    cos, sin = 1.7 * np.cos(radians), 1.7 * np.sin(radians)
    moved = found @ np.array([(cos, sin), (-sin, cos)]) + (30, -40)
    before, after = measure(found), measure(moved)
    np.testing.assert_allclose(after.lips, before.lips, atol=0.01)
    np.testing.assert_allclose(after.mouth, before.mouth, atol=0.01)
    np.testing.assert_allclose(after.pose, before.pose, atol=0.01)


def test_the_eyes_lie_on_the_template_and_the_mouth_in_the_lower_half(found):
    track = measure(found)
    eyes = transform_points(found[:, face.EYES], track.transform)
    template = np.array([TEMPLATE[point] for point in face.EYES]) * FACE_SIZE
    assert np.abs(eyes - template).max() < 6
    assert track.lips[..., 1].min() > LOWER_TOP
    jaw = transform_points(track.landmarks[:, face.JAW_COLUMNS], track.transform)
    assert jaw[..., 1].max() < FACE_SIZE


def test_the_mouth_matrix_reads_opening_and_width(found):
    """As the track has them, of a face that looks at the camera: to a few percent."""
    track = measure(found)
    points = transform_points(track.landmarks, track.transform).reshape(FRAMES, -1)
    mouth = points @ face.mouth_matrix() / EYE_DISTANCE_PX
    np.testing.assert_allclose(mouth, track.mouth, atol=0.02)
    assert track.mouth[:, 0].std() > 0.02


def test_a_track_keeps_the_points_that_a_reference_is_warped_by(found):
    track = measure(found)
    quick = smooth(found[:, face.WARP_POINTS], track.cuts, QUICK_FRAMES)
    np.testing.assert_array_equal(track.landmarks, quick.astype(np.float32))
    assert (track.landmarks.shape, track.landmarks.dtype) == ((FRAMES, 65, 2), np.float32)
    columns = np.array(face.WARP_POINTS)
    assert columns[face.LIP_COLUMNS].tolist() == face.LIPS
    assert columns[face.JAW_COLUMNS].tolist() == face.JAW
    assert columns[face.JAW_COLUMNS.stop:].tolist() == face.NOSE
    assert len(set(face.WARP_POINTS)) == 65


def test_a_large_picture_is_measured_in_its_own_pixels(tiny_clip):
    rgb = next(read_frames(tiny_clip, 0, 1)).rgb()
    large = cv2.resize(rgb, (1600, 1600), interpolation=cv2.INTER_LINEAR)
    landmarker = face.Landmarker(people=2)
    (small_face,), (large_face,) = landmarker(rgb), landmarker(large)
    landmarker.close()
    assert np.abs(large_face * len(rgb) / 1600 - small_face).max() < 4


@pytest.mark.parametrize("name", ["damaged.task", "missing.task"])
def test_a_damaged_or_missing_model_file_is_refused_in_one_line(name, tmp_path, monkeypatch):
    content = bytearray(face.MODEL_PATH.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.task").write_bytes(content)
    face._model.cache_clear()
    monkeypatch.setattr(face, "MODEL_PATH", tmp_path / name)
    with pytest.raises(UserError) as error:
        face.Landmarker()
    assert str(tmp_path / name) in one_line(error)
    assert "SHA-256" in str(error.value)
