"""Faces: landmarks, the alignment that speech does not move, and what the mouth does."""

import contextlib
import hashlib
import os
from collections import deque
from pathlib import Path

import cv2
import numpy as np
from scipy.signal import savgol_filter

from utils.console import UserError
from utils.contract import FACE_SIZE, TEMPLATE

MODEL = Path(__file__).parent / "assets" / "face_landmarker.task"
MODEL_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"

STABLE = list(TEMPLATE)            # eye corners and nose bridge: speech does not move them
EYES = (33, 263)                   # outer eye corners; their distance is the unit of mouth opening and width
BRIDGE = (6, 197, 195)             # nose bridge: with the eyes it tells yaw and pitch
LIP_PAIRS = ((13, 14), (82, 87), (312, 317))  # upper and lower inner lip, middle and either side
MOUTH_CORNERS = (61, 291)
LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
        78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415]
JAW = [234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454]
NOSE = [1, 2, 98, 327]             # tip and base
CARRIED = LIPS + JAW + NOSE        # what a reference's lower half is moved by

MAX_SIDE = 1280        # px: larger pictures are shrunk for the landmarker, which works on 256 px anyway
SMOOTHING = 7          # frames of the Savitzky-Golay filter (2nd order: no lag, keeps quick head turns)
CUT_RATIO, CUT_LEAST = 4.0, 2.0  # a cut: a change this many times its neighbours', and this many grey levels
CUT_NEIGHBOURS = 3     # frames on either side


@contextlib.contextmanager
def _quiet():
    """Silence the notes that MediaPipe's C++ side prints while it starts; errors still come as exceptions."""
    keep, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(keep, 2)
        os.close(keep)
        os.close(null)


class Landmarker:
    """478 face landmarks of the pictures of one shot, in order (MediaPipe FaceLandmarker, video mode)."""

    def __init__(self):
        content = MODEL.read_bytes() if MODEL.is_file() else b""
        if hashlib.sha256(content).hexdigest() != MODEL_SHA256:
            raise UserError(f"{MODEL} is missing or damaged (its SHA-256 is not the expected one); "
                            "restore it from the project and run again")
        self.content, self.landmarker = content, None
        self.reset()

    def reset(self):
        """Forget the face that was followed: a new shot begins."""
        import mediapipe  # here, because importing it takes seconds that --help should not
        from mediapipe.tasks.python import BaseOptions, vision

        self.close()
        options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_buffer=self.content),
                                               running_mode=vision.RunningMode.VIDEO, num_faces=1)
        with _quiet():
            self.landmarker = vision.FaceLandmarker.create_from_options(options)
            self.picture = lambda rgb: mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)
            self.landmarker.detect_for_video(self.picture(np.zeros((64, 64, 3), np.uint8)), 0)
        self.time = 0

    def __call__(self, rgb):
        """Return (478, 3) float32 landmarks of an RGB uint8 picture, in its pixels, or None without a face."""
        height, width = rgb.shape[:2]
        shrink = MAX_SIDE / max(height, width)
        small = cv2.resize(rgb, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else rgb
        self.time += 40  # ms; video mode wants timestamps that rise
        found = self.landmarker.detect_for_video(self.picture(np.ascontiguousarray(small)), self.time).face_landmarks
        if not found:
            return None
        points = np.array([(p.x, p.y, p.z) for p in found[0]], np.float32)
        return points * np.array((width, height, width), np.float32)

    def close(self):
        if self.landmarker is not None:
            self.landmarker.close()
            self.landmarker = None


def find_cuts(frames):
    """Yield (rgb, is_cut) for RGB pictures: True where a new shot, or another recording, begins.

    A cut is a change of the whole picture that stands out from those of the frames around it, so motion and
    noise are none. Holds CUT_NEIGHBOURS pictures.
    """
    waiting, changes, before, count = deque(), [], None, 0

    def judge(k):
        near = changes[max(1, k - CUT_NEIGHBOURS):k] + changes[k + 1:k + 1 + CUT_NEIGHBOURS]
        return k == 0 or (changes[k] > CUT_LEAST and changes[k] > CUT_RATIO * max(near, default=np.inf))

    for rgb in frames:
        small = cv2.cvtColor(cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        small = small.astype(np.float32)
        changes.append(0.0 if before is None else float(np.abs(small - before).mean()))
        before = small
        waiting.append(rgb)
        if len(waiting) > CUT_NEIGHBOURS:
            yield waiting.popleft(), judge(count)
            count += 1
    for rgb in waiting:
        yield rgb, judge(count)
        count += 1


def track(frames):
    """Find the face in each RGB picture and measure it.

    Returns a dict of arrays as `contract.read_track` describes them. Frames without a face get landmarks
    interpolated between their neighbours and valid False. `landmarks` and `valid` are empty without pictures.
    """
    landmarker, landmarks, valid, cuts = Landmarker(), [], [], []
    try:
        for i, (rgb, is_cut) in enumerate(find_cuts(frames)):
            if is_cut:
                cuts.append(i)
                if i:
                    landmarker.reset()
            points = landmarker(rgb)
            valid.append(points is not None)
            landmarks.append(np.full((478, 3), np.nan, np.float32) if points is None else points)
    finally:
        landmarker.close()
    landmarks, valid = np.array(landmarks, np.float32), np.array(valid, bool)
    if not valid.any():
        return {"landmarks": landmarks, "valid": valid}
    return measure(interpolate(landmarks, valid, cuts), valid, np.array(cuts, np.int64))


def interpolate(landmarks, valid, cuts):
    """Return landmarks (N, 478, 3) with those of invalid frames filled in between their neighbours of the same shot."""
    found = landmarks.reshape(len(valid), -1)
    filled = found.copy()
    for first, last in shots(cuts, len(valid)):
        known = first + np.flatnonzero(valid[first:last])
        if len(known) == last - first:
            continue
        if not len(known):  # a shot without any face: never shown, so another shot's will do
            known = np.flatnonzero(valid)
        for column in range(found.shape[1]):
            filled[first:last, column] = np.interp(np.arange(first, last), known, found[known, column])
    return filled.reshape(landmarks.shape)


def measure(landmarks, valid, cuts):
    """Return the track (see `contract.read_track`) for landmarks (N, 478, 3) in source pixels."""
    points = landmarks[..., :2]
    steady = smooth(points[:, STABLE], cuts)
    transform = fit_similarity(steady, np.array(list(TEMPLATE.values())) * FACE_SIZE)
    return {"transform": transform.astype(np.float32), "landmarks": landmarks, "valid": valid, "cuts": cuts,
            "lips": to_face(points[:, LIPS], transform).astype(np.float32),
            "pose": smooth(head_pose(points), cuts).astype(np.float32),
            "shape": mouth_shape(points).astype(np.float32)}


def shots(cuts, frames):
    """Return [(first, last + 1), ...] of the shots."""
    return list(zip(cuts, [*cuts[1:], frames], strict=True))


def shot_bounds(cuts, frames):
    """Return (N, 2): for each frame the first frame of its shot and the one after its last."""
    return np.repeat(shots(cuts, frames), np.diff([*cuts, frames]), axis=0)


def smooth(values, cuts):
    """Smooth (N, ...) over time within each shot, without lag."""
    values = np.array(values, np.float64)
    for first, last in shots(cuts, len(values)):
        if last - first >= SMOOTHING:
            values[first:last] = savgol_filter(values[first:last], SMOOTHING, 2, axis=0)
    return values


def fit_similarity(points, target):
    """Return the (N, 2, 3) transforms (rotation, scale, shift) that bring points (N, K, 2) nearest target (K, 2).

    Least squares in closed form, a point being the complex number x + iy (Umeyama 1991 without reflection).
    """
    p, t = points[..., 0] + 1j * points[..., 1], target[:, 0] + 1j * target[:, 1]
    centre = p.mean(axis=1, keepdims=True)
    turn = ((p - centre).conj() * (t - t.mean())).sum(axis=1) / (np.abs(p - centre) ** 2).sum(axis=1)
    shift = t.mean() - turn * centre[:, 0]
    return np.stack([np.stack([turn.real, -turn.imag, shift.real], axis=-1),
                     np.stack([turn.imag, turn.real, shift.imag], axis=-1)], axis=1)


def to_face(points, transform):
    """Bring points (N, K, 2) from source into face pixels."""
    return np.einsum("nij,nkj->nki", transform[:, :, :2], points) + transform[:, None, :, 2]


def head_pose(points):
    """Return (N, 2): where the nose bridge stands between the eyes, in eye distances: turn, nod.

    It uses points that speech does not move, so that a choice made by it tells nothing of the mouth.
    """
    left, right = points[:, EYES[0]], points[:, EYES[1]]
    upright = fit_similarity(np.stack([left, right], axis=1), np.array([(-0.5, 0.0), (0.5, 0.0)]))
    return to_face(points[:, list(BRIDGE)], upright).mean(axis=1)


def mouth_shape(points):
    """Return (N, 2): opening (inner lips, vertical) and width (corner to corner), over the eye distance."""
    eye = np.linalg.norm(points[:, EYES[0]] - points[:, EYES[1]], axis=-1)
    opening = np.mean([np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in LIP_PAIRS], axis=0)
    width = np.linalg.norm(points[:, MOUTH_CORNERS[0]] - points[:, MOUTH_CORNERS[1]], axis=-1)
    return np.stack([opening, width], axis=-1) / eye[:, None]


def align(rgb, transform):
    """Return the aligned face (FACE_SIZE, FACE_SIZE, 3) uint8 of an RGB picture; edges are repeated outwards."""
    shrink = np.sqrt(abs(np.linalg.det(transform[:, :2])))
    if shrink < 0.6:  # area-average first, or hair and beard turn into moire
        rgb = cv2.resize(rgb, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        # resize moves pixel centres: x' = shrink (x + 0.5) - 0.5, and the transform has to follow
        transform = transform.copy().astype(np.float64)
        transform[:, 2] += transform[:, :2] @ np.full(2, 0.5 / shrink - 0.5)
        transform[:, :2] /= shrink
    return cv2.warpAffine(rgb, transform, (FACE_SIZE, FACE_SIZE), flags=cv2.INTER_CUBIC if shrink >= 1 else
                          cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
