"""Frames in which something is in front of the mouth: a hand, a microphone, a cup.

The landmarker draws its mouth on a hand as well. So each mouth is compared first with what head
pose and mouth say that it should look like (regression), then with how this person's mouths look at
all (principal components). Both are fitted to the frames that agree best with each other, because
whatever is in front is rare and looks different. Such frames are neither trained on nor changed.
"""

import numpy as np
from scipy.ndimage import binary_opening

from utils.contract import LOWER_TOP
from utils.face.geometry import shrink
from utils.storage import Track

THUMBNAIL_SHAPE = 11, 14, 3  # of a small mouth: rows, columns, colours
LOWER_HALF_PX = 28, 14       # width and height to which a lower half is shrunk for it
MOUTH_ROWS = slice(2, 13)    # of the shrunk lower half: where the mouth is
MOUTH_COLUMNS = slice(7, 21)  # of the shrunk lower half: where the mouth is
FEWEST_FRAMES = 50           # with fewer of the face nothing can be said
SHORTEST_FRAMES = 3          # what covers the mouth for less is a flash

CERTAIN_SHARE = 0.6          # of the frames: at first those that fit best count as uncovered
QUARTILE_RANGES = 3          # from the median at most: a rare head pose must not bend the fit
COMPONENTS = 8               # principal components of a person's mouths
ROUNDS = 8                   # of fitting again to the frames that fit: enough to settle
USUAL_RATIO = 2.5            # times the median misfit: up to it a frame counts as usual
COVERED_RATIO = 4.2          # times the median misfit, of the clip and of the shot: covered
SHOT_QUANTILE = 0.2          # of a shot's unlikeness, as its usual one: other light raises it all
NOISE_GREY_LEVELS = 2.0      # a smaller median misfit is that of a drawing: it counts as this much
SAMPLE_FRAMES = 600          # that are enough to fit regression and components to
BLOCK_FRAMES = 1000          # compared at a time: all those of an hour would need a gigabyte


def mouth_thumbnail(aligned: np.ndarray) -> np.ndarray:
    """Small mouth (11, 14, 3) uint8 of an aligned face (168, 168, 3) uint8."""
    small = shrink(aligned[LOWER_TOP:], LOWER_HALF_PX)
    return small[MOUTH_ROWS, MOUTH_COLUMNS]


def occluded_frames(thumbnails: np.ndarray, track: Track) -> np.ndarray:
    """Whether something is in front of the mouth, (N,) bool; never in frames that are not valid.

    thumbnails (N, 11, 14, 3) uint8: each frame's mouth_thumbnail().
    """
    valid = track.valid
    covered = np.zeros(len(valid), bool)
    if valid.sum() < FEWEST_FRAMES:
        return covered
    pixels = thumbnails[valid].reshape(valid.sum(), -1)
    known = np.hstack([track.pose, track.mouth])
    certain = _certain_frames(pixels, known[valid])
    unlikeness = np.full(len(valid), np.nan)
    unlikeness[valid] = _unlikeness(pixels, certain)
    widest = track.opening[valid][certain].max()
    unlikeness[valid & (track.opening > widest)] = 0  # only a mouth that is rarely so wide open
    for first, stop in track.shots():
        shot = unlikeness[first:stop]
        if np.isfinite(shot).any():
            usual = max(1.0, np.nanquantile(shot, SHOT_QUANTILE))
            covered[first:stop] = shot > COVERED_RATIO * usual
    return binary_opening(covered, np.ones(SHORTEST_FRAMES))


def _certain_frames(pixels, known):
    """Frames (N,) bool that look most as expected (least trimmed squares, Rousseeuw 1984).

    pixels (N, D) are expected from a polynomial in `known` (N, 4), head pose and mouth.
    """
    from sklearn.linear_model import LinearRegression  # here, because it takes a second
    from sklearn.preprocessing import PolynomialFeatures, RobustScaler

    known = RobustScaler().fit_transform(known)
    known = np.clip(known, -QUARTILE_RANGES, QUARTILE_RANGES)
    known = PolynomialFeatures(degree=2).fit_transform(known)
    middle = np.median(pixels, axis=0)
    misfit = _misfit(pixels, lambda _: middle, known)
    for _ in range(ROUNDS):
        sample = _sample(misfit <= np.quantile(misfit, CERTAIN_SHARE))
        regression = LinearRegression().fit(known[sample], pixels[sample])
        misfit = _misfit(pixels, regression.predict, known)
    return misfit <= np.quantile(misfit, CERTAIN_SHARE)


def _unlikeness(pixels, usual):
    """Misfit (N,) to the principal components of the usual frames, over their median misfit.

    Begins with the frames `usual` (N,) bool; then all that fit are the usual ones.
    """
    for _ in range(ROUNDS):
        misfit = _misfit_of_components(pixels, _sample(usual))
        misfit /= max(NOISE_GREY_LEVELS, np.median(misfit[usual]))
        usual = misfit < USUAL_RATIO
    return misfit


def _misfit_of_components(pixels, sample):
    from sklearn.decomposition import PCA

    pca = PCA(COMPONENTS, svd_solver="full").fit(pixels[sample])
    return _misfit(pixels, lambda rows: pca.inverse_transform(pca.transform(rows)), pixels)


def _sample(chosen):
    """Numbers of about SAMPLE_FRAMES frames, evenly spread over those chosen."""
    frames = np.flatnonzero(chosen)
    step = max(1, len(frames) // SAMPLE_FRAMES)
    return frames[::step]


def _misfit(pixels, predict, known):
    """Root mean square (N,) of the difference between pixels (N, D) and predict(known (N, K))."""
    misfits = []
    for first in range(0, len(pixels), BLOCK_FRAMES):
        block = slice(first, first + BLOCK_FRAMES)
        difference = pixels[block] - predict(known[block])
        misfits.append(np.sqrt((difference**2).mean(axis=1)))
    return np.concatenate(misfits)
