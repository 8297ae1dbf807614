"""Landmarks of a face: finding them in a picture, which is which, and what they say of the face."""

import contextlib
import functools
import os
from pathlib import Path

import numpy as np

from utils.contract import FACE_SIZE, TEMPLATE
from utils.face.geometry import fit_similarity, shrink, transform_points
from utils.shots import QUICK_FRAMES, shots, smooth
from utils.storage import Track, read_asset

# -- numbers in MediaPipe's face mesh --------------------------------------------------------------
ALL_POINTS = 478            # landmarks of a face
STABLE = list(TEMPLATE)     # eye corners and nose bridge: speech does not move them
EYES = [33, 263]            # outer eye corners; their distance is the unit of mouth and head pose
BRIDGE = [6, 197, 195]      # nose bridge: beside the eyes it shows turning and nodding
LIP_PAIRS = ((13, 14), (82, 87), (312, 317))  # upper and lower inner lip: middle, either side
MOUTH_CORNERS = (61, 291)
LIPS = [
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375,  # outer edge, lower lip
    291, 185, 40, 39, 37, 0, 267, 269, 270, 409,   # outer edge, upper lip
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324,   # inner edge, lower lip
    308, 191, 80, 81, 82, 13, 312, 311, 310, 415   # inner edge, upper lip
]  # fmt: skip
JAW = [
    234, 93, 132, 58, 172, 136, 150, 149, 176, 148,
    152,  # the chin; before it one ear and cheek, after it the others
    377, 400, 378, 379, 365, 397, 288, 361, 323, 454
]  # fmt: skip
NOSE = [1, 2, 98, 327]      # tip and base

WARP_POINTS = LIPS + JAW + NOSE  # the landmarks that a track keeps: a reference is warped by them
LIP_COLUMNS = slice(0, len(LIPS))
LOWER_INNER_COLUMNS = slice(21, 30)  # inner edge of the lower lip, and of the upper one, in pairs
UPPER_INNER_COLUMNS = slice(31, 40)
JAW_COLUMNS = slice(len(LIPS), len(LIPS) + len(JAW))
CHIN_COLUMNS = slice(len(LIPS) + 6, len(LIPS) + 15)  # the part of the jaw that speech moves


def mouth_matrix() -> np.ndarray:
    """(2L, 2) float32: landmarks (..., 2L) @ this = opening and width of an upright mouth."""
    column = {number: 2 * k for k, number in enumerate(WARP_POINTS)}  # of x; y is the next
    matrix = np.zeros((2 * len(WARP_POINTS), 2), np.float32)
    for upper, lower in LIP_PAIRS:
        matrix[column[upper] + 1, 0] = -1 / len(LIP_PAIRS)
        matrix[column[lower] + 1, 0] = 1 / len(LIP_PAIRS)
    right, left = MOUTH_CORNERS
    matrix[column[right], 1] = -1
    matrix[column[left], 1] = 1
    return matrix


# -- the landmarker --------------------------------------------------------------------------------
MODEL_PATH = Path(__file__).parents[1] / "assets" / "face_landmarker.task"
MODEL_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
LONGEST_SIDE_PX = 640       # larger pictures are shrunk for the landmarker, which works on 256 px
# From one timestamp to the next. Video mode smooths over time (One Euro filter), and what it gives
# comes half a frame late; after so long a pause it does not.
FRAME_MS = 10**6


class Landmarker:
    """Finds the 478 landmarks of each face in a picture (MediaPipe FaceLandmarker).

    people = 1: pictures of one shot in order, with one face that is followed (video mode: steadier
    and faster). people > 1: pictures on their own, with at most that many faces in each.
    UserError if the model file is missing or damaged.
    """

    def __init__(self, people: int = 1):
        # here, because importing it takes seconds that --help should not
        from mediapipe.tasks.python import BaseOptions, vision

        self._follows = people == 1
        self._time_ms = 0
        modes = vision.RunningMode
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=_model()),
            running_mode=modes.VIDEO if self._follows else modes.IMAGE,
            num_faces=people
        )
        with _silent_stderr():
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
            self(np.zeros((64, 64, 3), np.uint8))  # what it prints, it prints at its first picture

    def __call__(self, rgb: np.ndarray) -> list[np.ndarray]:
        """Landmarks (478, 2) float32 of each face in an RGB uint8 picture, in its pixels."""
        from mediapipe import Image, ImageFormat

        height, width = rgb.shape[:2]
        scale = LONGEST_SIDE_PX / max(height, width)
        if scale < 1:
            rgb = shrink(rgb, None, fx=scale, fy=scale)
        image = Image(image_format=ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
        self._time_ms += FRAME_MS
        if self._follows:
            result = self._landmarker.detect_for_video(image, self._time_ms)
        else:
            result = self._landmarker.detect(image)
        size = np.array((width, height), np.float32)
        faces = []
        for face in result.face_landmarks:
            shares = [(point.x, point.y) for point in face]
            faces.append(np.array(shares, np.float32) * size)
        return faces

    def close(self):
        """End the landmarker's threads."""
        self._landmarker.close()


@functools.cache
def _model():
    return read_asset(MODEL_PATH, MODEL_SHA256)


@contextlib.contextmanager
def _silent_stderr():
    """Hide the notes of MediaPipe's C++ side while it starts; errors still come as exceptions."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


# -- what the landmarks say ------------------------------------------------------------------------
def fill_gaps(landmarks: np.ndarray, valid: np.ndarray, cuts: np.ndarray):
    """Interpolate the landmarks (N, 478, 2) of frames that are not valid, in place.

    On the line between the nearest valid frames of the same shot; of any shot if it has none.
    """
    for first, stop in shots(cuts, len(valid)):
        known = first + np.flatnonzero(valid[first:stop])
        if not len(known):  # never shown, so another shot's will do
            known = np.flatnonzero(valid)
        for i in first + np.flatnonzero(~valid[first:stop]):
            position = int(np.searchsorted(known, i))
            before = known[max(0, position - 1)]
            after = known[min(position, len(known) - 1)]
            share = (i - before) / max(1, after - before)
            change = landmarks[after] - landmarks[before]
            landmarks[i] = landmarks[before] + share * change


def measure(landmarks: np.ndarray, valid: np.ndarray, cuts: np.ndarray) -> Track:
    """Track of a face whose landmarks (N, 478, 2) float32 are known in every frame, in source px.

    The landmarks may be mapped from a file: only the columns that are needed are read. valid (N,)
    bool and cuts (C,) go into the track as they are.
    """
    points = smooth(landmarks[:, WARP_POINTS], cuts, QUICK_FRAMES).astype(np.float32)
    steady = smooth(landmarks[:, STABLE], cuts)
    template = np.array(list(TEMPLATE.values())) * FACE_SIZE
    transform = fit_similarity(steady, template)
    return Track(
        transform=transform.astype(np.float32),
        landmarks=points,
        valid=valid,
        cuts=cuts,
        lips=transform_points(points[:, LIP_COLUMNS], transform).astype(np.float32),
        pose=smooth(_head_pose(landmarks), cuts).astype(np.float32),
        mouth=smooth(_mouth_opening_and_width(landmarks), cuts, QUICK_FRAMES).astype(np.float32)
    )


def _head_pose(points):
    """Head pose (N, 2), turn and nod: where the nose bridge is between the eyes, in eye distances.

    points (N, 478, 2). Speech moves none of those used, so that a reference frame chosen by head
    pose says nothing of the mouth.
    """
    upright_eyes = np.array([(-0.5, 0.0), (0.5, 0.0)])
    upright = fit_similarity(points[:, EYES], upright_eyes)
    bridge = transform_points(points[:, BRIDGE], upright)
    return bridge.mean(axis=1)


def _mouth_opening_and_width(points):
    """Mouth (N, 2) in eye distances: opening between the inner lips, width from corner to corner.

    points (N, 478, 2).
    """
    openings = [_distance(points, upper, lower) for upper, lower in LIP_PAIRS]
    opening = np.mean(openings, axis=0)
    width = _distance(points, *MOUTH_CORNERS)
    eye_distance = _distance(points, *EYES)
    return np.stack([opening, width], axis=-1) / eye_distance[:, None]


def _distance(points, a, b):
    return np.linalg.norm(points[:, a] - points[:, b], axis=-1)
