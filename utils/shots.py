"""Shots: the parts of a clip between two cuts, smoothing that respects them; frames in words."""

from itertools import pairwise

import numpy as np
from scipy.signal import savgol_filter

from utils.contract import FPS

MOST_SPANS = 5  # that are named in a message
SMOOTHING_FRAMES = 7  # window of the Savitzky-Golay filter; its 2nd order keeps quick head turns
QUICK_FRAMES = 5  # the same for what moves with speech


def shots(cuts: np.ndarray, frames: int) -> list[tuple[int, int]]:
    """The shots of a clip as (first frame, one after the last); cuts: first frame of each."""
    edges = [*map(int, cuts), frames]
    return list(pairwise(edges))


def shot_bounds(cuts: np.ndarray, frames: int) -> np.ndarray:
    """First frame of its shot, and one after the last, for each frame: (N, 2) int64."""
    bounds = np.array(shots(cuts, frames))
    lengths = bounds[:, 1] - bounds[:, 0]
    return np.repeat(bounds, lengths, axis=0)


def seconds_of(frames: np.ndarray) -> str:
    """When the frames (N,) bool are seen, for a message: "1.0-2.4, 7.0-9.0 s"."""
    edges = np.flatnonzero(np.diff(frames, prepend=False, append=False)) / FPS
    spans = [f"{first:.1f}-{stop:.1f}" for first, stop in edges.reshape(-1, 2)]
    more = " ..." if len(spans) > MOST_SPANS else ""
    return ", ".join(spans[:MOST_SPANS]) + more + " s"


def smooth(
    values: np.ndarray, cuts: np.ndarray, frames: int = SMOOTHING_FRAMES
) -> np.ndarray:
    """Values (N, ...) as float64, smoothed over time within each shot, without lag.

    frames: window. A shot shorter than that stays as it is.
    """
    smoothed = np.array(values, np.float64)
    for first, stop in shots(cuts, len(smoothed)):
        if stop - first >= frames:
            shot = slice(first, stop)
            smoothed[shot] = savgol_filter(smoothed[shot], frames, 2, axis=0)
    return smoothed
