"""Measures: pure functions of mouths (T, 2), opening and width over time, and of pictures.

A curve is (T,), one value a frame. Pictures are (H, W, 3) uint8 RGB. Luma and blend masks (0..1)
are (H, W).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.ndimage import minimum_filter1d

from utils.contract import FACE_SIZE, LOWER_HEIGHT, LOWER_TOP

LAGS_FRAMES = range(-5, 6)   # by which a mouth may be early or late: more is not looked for
CLOSURE_FRAMES = 2           # to either side of a phoneme, in which the lips may close
# Share of the person's range of opening below which lips count as closed: the real video of GRID
# then closes at 10 of 10 sounds; at 0.05 the noise of the landmarks hides 7 of them.
CLOSED_SHARE = 0.15
BOX_MARGIN_PX = FACE_SIZE // 28  # from the lips to the edge of the box that is compared
SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
SSIM_C1 = (0.01 * 255) ** 2  # keep both ratios finite where a picture is black or even
SSIM_C2 = (0.03 * 255) ** 2
BORDER_MASK = 0.05           # the border of a mask lies where it is this far from 0 and from 1
SOLID_MASK = 0.98            # above it nothing of the source frame is seen
FAINT_MASK = 0.02            # below it nothing of what is pasted is seen
TINY = 1e-6                  # slope of a mask below which it is flat: it has no direction there


# -- mouths ----------------------------------------------------------------------------------------
def correlate(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two curves while both last; 0 where one of them is flat."""
    frames = min(len(a), len(b))
    a = a[:frames] - a[:frames].mean()
    b = b[:frames] - b[:frames].mean()
    size = np.linalg.norm(a) * np.linalg.norm(b)
    if size <= 1e-12:
        return 0.0
    return float(a @ b / size)


def correlate_mouths(
    a: np.ndarray,
    b: np.ndarray,
    given: Sequence[np.ndarray] = ()
) -> list[float]:
    """Correlations [opening, width] of two mouths (T, 2) while both last.

    given: more curves (T, K). What they explain, by least squares, is taken out of both mouths
    first (partial correlation).
    """
    frames = min(len(curves) for curves in (a, b, *given))
    known = np.column_stack([np.ones(frames), *(curves[:frames] for curves in given)])
    a = _unexplained(a[:frames], known)
    b = _unexplained(b[:frames], known)
    return [correlate(a[:, k], b[:, k]) for k in (0, 1)]


def _unexplained(mouth, known):
    """What is left of a mouth (T, 2) once its least-squares fit by known curves (T, K) is gone."""
    fit, *_ = np.linalg.lstsq(known, mouth, rcond=None)
    return mouth - known @ fit


def lag(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
    """Frames by which the first curves of the pairs are late: where they correlate best."""
    found = []  # mean correlation at each lag
    for frames in LAGS_FRAMES:
        moved = [correlate(a[max(0, frames):], b[max(0, -frames):]) for a, b in pairs]
        found.append(np.mean(moved))
    return LAGS_FRAMES[np.argmax(found)]


def jitter(generated: np.ndarray, real: np.ndarray) -> float:
    """How much a curve trembles: its mean absolute second difference over that of a real one."""
    trembling = np.abs(np.diff(generated, 2)).mean()
    trembling_real = np.abs(np.diff(real, 2)).mean()
    return float(trembling / max(1e-12, trembling_real))


def closes(
    opening: np.ndarray,
    low: float,
    high: float
) -> np.ndarray:
    """Whether the lips close near each moment, (T,) bool.

    low, high: the person's range of opening, in the unit of `opening` (T,).
    """
    least = minimum_filter1d(opening, 2 * CLOSURE_FRAMES + 1, mode="nearest")
    return least < low + CLOSED_SHARE * (high - low)


# -- pictures --------------------------------------------------------------------------------------
def mouth_box(lips: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the lower half that hold the lips (N, 40, 2), px of the aligned face.

    They reach from the 1st to the 99th percentile of the points, and BOX_MARGIN_PX further.
    """
    points = lips.reshape(-1, 2) - (0, LOWER_TOP)
    low, high = np.quantile(points, (0.01, 0.99), axis=0)
    low = np.floor(low - BOX_MARGIN_PX)
    high = np.ceil(high + BOX_MARGIN_PX)
    left, top = np.maximum(0, low).astype(int)
    right, bottom = np.minimum((FACE_SIZE, LOWER_HEIGHT), high).astype(int)
    return slice(top, bottom), slice(left, right)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two pictures, at most 1, the mean of their colours.

    Wang et al. 2004, only where the Gaussian window lies inside the picture.
    """
    a = a.astype(np.float64)
    b = b.astype(np.float64)
    mean_a = _local_mean(a)
    mean_b = _local_mean(b)
    squares = mean_a**2 + mean_b**2
    product = mean_a * mean_b
    variances = _local_mean(a**2 + b**2) - squares
    covariance = _local_mean(a * b) - product
    luminance = (2 * product + SSIM_C1) / (squares + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return float(np.mean(luminance * structure))


def _local_mean(values):
    """Means under a Gaussian window, without the edge where it would leave the picture."""
    edge = SSIM_WINDOW_PX // 2
    blurred = cv2.GaussianBlur(values, (SSIM_WINDOW_PX, SSIM_WINDOW_PX), SSIM_SIGMA_PX)
    return blurred[edge:-edge, edge:-edge]


def sharpness(picture: np.ndarray) -> float:
    """Fineness of an RGB picture."""
    return fineness(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))


def fineness(luma: np.ndarray) -> float:
    """Variance of the Laplacian of luma (H, W) (Pech-Pacheco et al. 2000)."""
    return float(cv2.Laplacian(luma, cv2.CV_64F).var())


def seam(
    made: np.ndarray,
    real: np.ndarray,
    mask: np.ndarray
) -> float:
    """Steepness of the luma across the border of a blend mask, over that of the real frame's luma.

    1 where nobody can see the seam. It is the mean gradient along the gradient of the mask.
    """
    down, right = np.gradient(mask.astype(np.float64))
    slope = np.hypot(down, right)
    border = (mask > BORDER_MASK) & (mask < 1 - BORDER_MASK) & (slope > TINY)

    def steepness(luma):
        y, x = np.gradient(luma.astype(np.float64))
        across = y * down + x * right
        return np.abs(across[border] / slope[border]).sum()

    steepness_real = steepness(real)
    return float(steepness(made) / steepness_real) if steepness_real else 1.0


def grain(
    made: np.ndarray,
    real: np.ndarray,
    mask: np.ndarray,
    reach: float
) -> float:
    """Fineness of the luma just inside the border of a blend mask over that just outside, and that
    over the same of the real frame: 1 if what is pasted is as fine as the skin around it.

    Fineness is the variance of the Laplacian in a band of `reach` px along the border.
    """
    side = 2 * round(reach) + 1
    brush = np.ones((side, side), np.uint8)
    inside = (mask > SOLID_MASK) & (cv2.erode(mask, brush) <= SOLID_MASK)
    outside = (mask <= FAINT_MASK) & (cv2.dilate(mask, brush) > FAINT_MASK)

    made = cv2.Laplacian(made, cv2.CV_64F)
    real = cv2.Laplacian(real, cv2.CV_64F)
    across = made[inside].var() * real[outside].var()
    expected = made[outside].var() * real[inside].var()
    return float(across / max(1e-9, expected))
