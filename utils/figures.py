"""Figures of merit: pure functions of mouths (T, 2), opening and width over time, and pictures (H, W, 3), 0..255."""

import cv2
import numpy as np
from scipy.ndimage import binary_opening, minimum_filter1d, uniform_filter1d

from utils.contract import FACE_SIZE, LOWER_TOP, ROWS_PER_FRAME

LAGS = range(-5, 6)   # frames looked at
NEAR = 2              # frames to either side of a phoneme in which the lips may close
CLOSED = 0.15         # share of the person's range of opening below which lips count as closed: the real video of GRID
                      # then closes at 10 of 10 sounds; at 0.05 the landmarks' noise hides 7 of them
QUIET = 0.25          # a pause is below this share of the way from the quietest to the loudest frames, in log level
PAUSE = 5             # frames that it lasts at least


def correlate(a, b):
    """Return the Pearson correlation of two curves while both last, 0 where one of them is flat."""
    n = min(len(a), len(b))
    a, b = a[:n] - a[:n].mean(), b[:n] - b[:n].mean()
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 1e-12 else 0.0


def alike(a, b, given=()):
    """Return the correlations [opening, width] of two mouths (T, 2) while both last.

    given: more curves (T, K); what they explain, by least squares, is taken out of both first (partial correlation).
    """
    n = min(map(len, (a, b, *given)))
    known = np.column_stack([np.ones(n), *(mouth[:n] for mouth in given)])
    a, b = (mouth[:n] - known @ np.linalg.lstsq(known, mouth[:n], rcond=None)[0] for mouth in (a, b))
    return [correlate(a[:, k], b[:, k]) for k in (0, 1)]


def lag(results):
    """Return the frames by which the first of [(curve, curve), ...] are late: where they correlate best on average."""
    found = [[correlate(a[max(0, k):], b[max(0, -k):]) for k in LAGS] for a, b in results]
    return LAGS[int(np.argmax(np.mean(found, axis=0)))]


def jitter(generated, real):
    """Return how much a curve trembles beside another: the ratio of their mean absolute second differences."""
    return float(np.abs(np.diff(generated, 2)).mean() / max(1e-12, np.abs(np.diff(real, 2)).mean()))


def closes(opening, low, high):
    """Return for each moment whether the lips close near it: (T,) bool. low, high: the person's range of opening."""
    return minimum_filter1d(opening, 2 * NEAR + 1, mode="nearest") < low + CLOSED * (high - low)


def pauses(mel):
    """Return where speech with the log-mel (4T, 80) pauses: (T,) bool, runs of PAUSE quiet frames or more."""
    level = uniform_filter1d(mel.reshape(-1, ROWS_PER_FRAME * mel.shape[1]).mean(axis=1), PAUSE, mode="nearest")
    low, high = np.quantile(level, (0.02, 0.9))
    return binary_opening(level < low + QUIET * (high - low), np.ones(PAUSE))


def mouth_box(lips, margin=FACE_SIZE // 28):
    """Return (rows, columns) of the lower half that hold lips (N, 40, 2), face pixels: 1st-99th percentile + margin."""
    low, high = np.quantile(lips.reshape(-1, 2) - (0, LOWER_TOP), (0.01, 0.99), axis=0)
    left, top = np.maximum(0, np.floor(low - margin)).astype(int)
    right, bottom = np.minimum((FACE_SIZE, FACE_SIZE - LOWER_TOP), np.ceil(high + margin)).astype(int)
    return slice(top, bottom), slice(left, right)


def ssim(a, b):
    """Return the structural similarity of two pictures, at most 1, the mean of their colours.

    Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5, only where it lies inside the picture.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b, aa, bb, ab = (cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5] for x in (a, b, a * a, b * b, a * b))
    squares, product, c1, c2 = mean_a ** 2 + mean_b ** 2, mean_a * mean_b, (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * product + c1) / (squares + c1) * (2 * (ab - product) + c2) / (aa + bb - squares + c2)))


def sharpness(picture):
    """Return the variance of the Laplacian of the grey picture (Pech-Pacheco et al. 2000)."""
    return float(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def seam(made, real, mask):
    """Return how steep the luma (H, W) is across the border of a blend mask, 0..1, beside the real frame's.

    The mean gradient along the mask's own, where 0.05 < mask < 0.95: 1 where nobody can see it.
    """
    down, right = np.gradient(mask.astype(np.float64))
    border = (mask > 0.05) & (mask < 0.95) & (np.hypot(down, right) > 1e-6)
    steep = [np.abs((y * down + x * right) / np.hypot(down, right).clip(1e-6))[border].sum()
             for y, x in (np.gradient(luma.astype(np.float64)) for luma in (made, real))]
    return float(steep[0] / steep[1]) if steep[1] else 1.0


def grain(made, real, mask, reach):
    """Return how fine the luma (H, W) is just inside a blend mask, 0..1, beside just outside it, over the same of the
    real frame: 1 if what is pasted is neither softer nor rougher than the skin around it.

    Variance of the Laplacian in the bands of `reach` pixels on either side of the border.
    """
    brush = np.ones((2 * round(reach) + 1,) * 2, np.uint8)
    solid, some = ((mask > limit).astype(np.uint8) for limit in (0.98, 0.02))
    bands = (solid > cv2.erode(solid, brush)), (some < cv2.dilate(some, brush))
    fine = [cv2.Laplacian(luma.astype(np.float32), cv2.CV_32F)[band].var() for luma in (made, real) for band in bands]
    return float(fine[0] * fine[3] / max(1e-9, fine[1] * fine[2]))
