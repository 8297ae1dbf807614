"""Is something in front of the mouth: a hand, a microphone, a cup? Such frames are not learnt from, nor painted over.

The landmarker draws its mouth on a hand as well. So each mouth is compared with what head pose and mouth shape say
that it should look like (regression), and then with how this person's mouths look at all (principal components), both
fitted to the frames that agree best with each other: whatever is in front is rare and looks different.
"""

import cv2
import numpy as np
from scipy.ndimage import binary_opening

from utils.contract import LOWER_TOP
from utils.face import shots

SIZE = (28, 14)          # px, width and height to which a lower half is shrunk
ROWS, COLUMNS = slice(2, 13), slice(7, 21)  # of these, where the mouth is
SHAPE = 11, 14, 3        # of that part of a picture
SURE = 0.6               # share of the frames that are taken for uncovered at first
KEPT = 2.5               # times the usual difference up to which a frame counts as one of them later
COMPONENTS = 8
COVERED = 4.2            # times the usual difference, of the clip and of the shot, from which the mouth is covered
NOISE = 2.0              # grey levels: smaller usual differences are those of a drawing
SHORTEST = 3             # frames that a cover lasts at least: a single one is a flash
FEWEST = 50              # frames: fewer tell too little
BLOCK = 1000             # frames computed at a time: those of an hour would need a gigabyte


def thumbnail(aligned):
    """Return the small mouth (11, 14, 3) uint8 of an aligned face (168, 168, 3) uint8."""
    return cv2.resize(aligned[LOWER_TOP:], SIZE, interpolation=cv2.INTER_AREA)[ROWS, COLUMNS]


def covered(mouths, track):
    """Return (N,) bool: the frames in which something is in front of the mouth.

    mouths (N, 11, 14, 3) uint8: of thumbnail(). track: see contract.read_track.
    """
    valid, flagged = track["valid"], np.zeros(len(mouths), bool)
    if valid.sum() < FEWEST:
        return flagged
    looks = mouths.reshape(len(mouths), -1)[valid]
    apart, opening = np.full(len(mouths), np.nan), track["shape"][valid, 0]
    sure = _surely_uncovered(looks, track["pose"][valid], track["shape"][valid])
    apart[valid] = np.where(opening <= opening[sure].max(), _apart(looks, sure), 0)  # a rare wide mouth is no cover
    for first, last in shots(track["cuts"], len(mouths)):
        here = apart[first:last]
        if np.isfinite(here).any():  # a shot in other light differs as a whole
            flagged[first:last] = here > COVERED * max(1.0, np.nanquantile(here, 0.2))
    return binary_opening(flagged, np.ones(SHORTEST))


def _surely_uncovered(looks, pose, shape):
    """Return (N,) bool: the frames that look most as pose and shape let expect (least trimmed squares)."""
    known = np.hstack([pose, shape])
    known = np.clip((known - np.median(known, axis=0)) / np.maximum(known.std(axis=0), 1e-6), -3, 3)
    known = np.column_stack([np.ones(len(known)), known, known ** 2, known[:, 0] * known[:, 1]])
    known = known.astype(np.float32)
    middle = np.median(looks, axis=0)
    apart = _difference(looks, lambda block: looks[block] - middle)
    for _ in range(6):
        sure = apart <= np.quantile(apart, SURE)
        weighted = known * sure[:, None]
        fit = np.linalg.lstsq(weighted.T @ known, sum(weighted[block].T @ looks[block] for block in _blocks(looks)))[0]
        apart = _difference(looks, lambda block, fit=fit: looks[block] - known[block] @ fit)
    return apart <= np.quantile(apart, SURE)


def _blocks(looks):
    return [slice(first, first + BLOCK) for first in range(0, len(looks), BLOCK)]


def _difference(looks, rest):
    """Return (N,): the root of the mean square of rest(slice), (n, D), over D."""
    return np.concatenate([np.sqrt((rest(block) ** 2).mean(axis=1)) for block in _blocks(looks)])


def _apart(looks, kept):
    """Return (N,): how far each frame is from the principal components of those kept, which grow from `kept`, over
    the usual distance."""
    for _ in range(8):
        mean, some = looks[kept].mean(axis=0, dtype=np.float32), looks[kept][::max(1, kept.sum() // 600)]
        basis = np.linalg.svd(some - mean, full_matrices=False)[2][:COMPONENTS]
        away = np.eye(len(mean), dtype=np.float32) - basis.T @ basis
        apart = _difference(looks, lambda block, mean=mean, away=away: (looks[block] - mean) @ away)
        apart /= max(NOISE, np.median(apart[kept]))
        kept = apart < KEPT
    return apart
