"""Faces: which landmark is what, the alignment that speech does not move, and what the mouth does."""

import math

import cv2
import numpy as np
from scipy.signal import savgol_filter

from utils.contract import FACE_SIZE, LOWER_TOP, REFERENCE_GAP, TEMPLATE

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

CLOSED, OPEN = 0.30, 0.80  # quantiles of opening: at most / at least this counts as a closed / an open mouth
STEADINESS = 0.015     # eye distances of head pose that a better reference must gain before it replaces one
LEAST = 32             # px of the source: a lower half that has less to either side is left alone
SMOOTHING = 7          # frames of the Savitzky-Golay filter (2nd order: no lag, keeps quick head turns)


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


def align(rgb, transform, size=(FACE_SIZE, FACE_SIZE)):
    """Return the aligned face (FACE_SIZE, FACE_SIZE, 3) uint8 of an RGB picture; edges are repeated outwards. size
    (width, height): of what else the transform leads to."""
    shrink = zoom(transform)
    if shrink < 0.6:  # area-average first, or hair and beard turn into moire
        top, bottom, left, right = lower_box(transform, rgb.shape, (-1, -1, size[0] + 1, size[1] + 1))
        if min(bottom - top, right - left) > 0:  # only the face, not all of the frame
            rgb, transform = rgb[top:bottom, left:right], within(transform, top, left)
        step = int(0.6 / shrink)
        width, height = rgb.shape[1] // step, rgb.shape[0] // step
        if step > 1 and min(width, height) > 0:  # whole numbers of pixels are averaged several times as fast
            rgb = cv2.resize(rgb[:height * step, :width * step], (width, height), interpolation=cv2.INTER_AREA)
            transform, shrink = coarser(transform, step), shrink * step
        rgb = cv2.resize(rgb, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        transform = coarser(transform, 1 / shrink)
    return cv2.warpAffine(rgb, transform, size, flags=cv2.INTER_CUBIC if shrink >= 1 else cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REPLICATE)


def zoom(transform):
    """Return the pixels that a pixel becomes in the picture that a transform (2, 3) leads to."""
    (a, b, _), (c, d, _) = transform.tolist()
    return math.sqrt(abs(a * d - b * c))


def coarser(transform, step):
    """Return the transform (2, 3) float64 from a picture that was made `step` times smaller: a pixel's centre, now at
    (x + 0.5) / step - 0.5, still leads where it did."""
    coarse = transform * np.float64((step, step, 1))
    coarse[:, 2] += (step - 1) / 2 * (transform[:, 0] + transform[:, 1])
    return coarse


def to_lower(transform):
    """Return the transform (2, 3) float64 to lower pixels of one to face pixels."""
    return transform - ((0, 0, 0), (0, 0, LOWER_TOP))


def larger(transform, by):
    """Return the transform (2, 3) float64 to a picture `by` times as large as the one it leads to."""
    return transform * by + (0, 0, (by - 1) / 2)


def lower_box(transform, size, part=(0, LOWER_TOP, FACE_SIZE, FACE_SIZE)):
    """Return (top, bottom, left, right) of the lower half in a source of size (height, width), even and inside it.

    part: (left, top, right, bottom) of what is wanted, face pixels.
    """
    x, y, x2, y2 = part
    back, sides = cv2.invertAffineTransform(transform.astype(np.float64)).tolist(), []
    for (a, b, shift), most in zip(back, (size[1], size[0]), strict=True):  # plain numbers: asked for in every frame
        sides += [max(0, math.floor((min(a * x, a * x2) + min(b * y, b * y2) + shift) / 2) * 2 - 2),
                  min(most, math.ceil((max(a * x, a * x2) + max(b * y, b * y2) + shift) / 2) * 2 + 2)]
    left, right, top, bottom = sides
    return top, bottom, left, right


def is_wide(box):
    """True if a lower_box has enough of the face: at the frame's edge it may shrink to nothing."""
    top, bottom, left, right = box
    return min(bottom - top, right - left) >= LEAST


def within(transform, top, left):
    """Return the transform (2, 3) float64 of a picture's part that begins at row `top` and column `left`."""
    here = transform.astype(np.float64)
    here[:, 2] += here[:, :2] @ (left, top)
    return here


# -- which frame serves which ------------------------------------------------------------------------
def closed_and_open(opening, frames):
    """Return those of the frame numbers whose mouth is closed, and those whose mouth is open. opening (N,)."""
    if not len(frames):
        return frames, frames
    low, high = np.quantile(opening[frames], (CLOSED, OPEN))
    return frames[opening[frames] <= low], frames[opening[frames] >= high]


def nearest_pose(pose, frames, candidates):
    """Return the candidate of nearest head pose for each of the frames, or -1: REFERENCE_GAP away at least, and kept
    while it serves. pose (N, 2)."""
    chosen, kept = np.full(len(frames), -1, np.int64), None
    for k, frame in enumerate(frames):
        cost = np.linalg.norm(pose[candidates] - pose[frame], axis=1)
        cost[np.abs(candidates - frame) < REFERENCE_GAP] = np.inf
        best = int(cost.argmin())
        if kept is None or not cost[kept] <= cost[best] + STEADINESS:
            kept = best
        if np.isfinite(cost[kept]):
            chosen[k] = candidates[kept]
    return chosen
