"""Which frames serve as references: one closed mouth, one open mouth, near in head pose."""

import numpy as np
from numpy.linalg import norm

from utils.contract import REFERENCE_GAP_FRAMES
from utils.storage import Track

CLOSED_QUANTILE = 0.30   # of opening: at most this counts as a closed mouth
OPEN_QUANTILE = 0.80     # of opening: at least this counts as an open mouth
POSE_HYSTERESIS = 0.03   # eye distances by which another reference must be nearer to replace one
DRAWN_IN_TRAINING = 5    # random references: training takes the nearest in head pose
MOST_CANDIDATES = 200    # frames to choose from in each shot: more cost time and gain nothing
STILL_QUANTILE = 0.5     # of the head's speed: in faster frames motion may blur what is kept
MOST_KEPT = 40           # closed mouths that are kept in full size, and open ones: 0.2 MB each
FEWEST_KEPT = 3          # of either in a shot, if there are many shots


def choose_references(
    track: Track,
    allowed: np.ndarray,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Frame numbers (N, 2) int64 of a closed-mouth and an open-mouth reference for each frame; -1
    where there is none.

    They come from the frames `allowed` (N,) bool of the same shot, at least REFERENCE_GAP_FRAMES
    away: a neighbour would show the old mouth. A shot too short for that borrows from others.
    Without `rng` the choice is the nearest head pose, steady over time so that the picture does not
    flicker; with `rng` it is the nearest of a few random ones, others at each call.
    """
    chosen = np.full((len(track), 2), -1)
    everywhere = np.flatnonzero(allowed)
    elsewhere = closed_and_open(track.opening, everywhere)
    for first, stop in track.shots():
        inside = everywhere[(everywhere >= first) & (everywhere < stop)]
        same_shot = closed_and_open(track.opening, inside)
        for role in (0, 1):
            for candidates in (same_shot[role], elsewhere[role], everywhere):
                missing = first + np.flatnonzero(chosen[first:stop, role] < 0)
                if not len(missing) or not len(candidates):
                    continue
                candidates = evenly_spaced(candidates, MOST_CANDIDATES)
                if rng is None:
                    chosen[missing, role] = nearest_pose(track.pose, missing, candidates)
                else:
                    found = nearest_of_random(track.pose, missing, candidates, rng)
                    chosen[missing, role] = found
    return chosen


def choose_kept(track: Track) -> np.ndarray:
    """Numbers of the frames to keep in full size for use as references, rising, int64.

    Of each shot closed and open mouths, in head poses as different as possible, among frames in
    which the head moves little; also the first and the last that shows the face: with them each
    frame has one that is far enough away.
    """
    speed = norm(np.gradient(track.pose, axis=0), axis=1)
    valid = np.flatnonzero(track.valid)
    still = valid[speed[valid] <= np.quantile(speed[valid], STILL_QUANTILE)]
    most = max(FEWEST_KEPT, MOST_KEPT // len(track.cuts))
    chosen = [valid[[0, -1]]]
    for first, stop in track.shots():
        inside = still[(still >= first) & (still < stop)]
        for frames in closed_and_open(track.opening, inside):
            chosen.append(_spread_out(track.pose, frames, most))
    return np.unique(np.concatenate(chosen))


def _spread_out(pose, frames, most):
    """At most `most` of the frames: the first, the last, then always the furthest pose left."""
    if len(frames) <= most:
        return frames
    poses = pose[frames]
    chosen = [0, len(frames) - 1]
    while len(chosen) < most:
        from_chosen = norm(poses[:, None] - poses[chosen], axis=-1)  # (F, chosen)
        chosen.append(int(from_chosen.min(axis=1).argmax()))
    return frames[chosen]


def closed_and_open(
    opening: np.ndarray,
    frames: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Those of the frame numbers whose mouth is closed, and those whose mouth is open.

    opening (N,): of every frame of the clip.
    """
    if not len(frames):
        return frames, frames
    low, high = np.quantile(opening[frames], (CLOSED_QUANTILE, OPEN_QUANTILE))
    return frames[opening[frames] <= low], frames[opening[frames] >= high]


def nearest_pose(
    pose: np.ndarray,
    frames: np.ndarray,
    candidates: np.ndarray,
) -> np.ndarray:
    """Candidate of the nearest head pose for each of the frames, (F,) int64, or -1.

    It is at least REFERENCE_GAP_FRAMES away, and stays until another is nearer by
    POSE_HYSTERESIS. pose (N, 2): of every frame of the clip.
    """
    chosen = np.full(len(frames), -1)
    current = None
    for k, frame in enumerate(frames):
        cost = norm(pose[candidates] - pose[frame], axis=1)
        cost[np.abs(candidates - frame) < REFERENCE_GAP_FRAMES] = np.inf
        best = int(cost.argmin())
        # written so that a cost of infinity on both sides changes too
        if current is None or not cost[current] <= cost[best] + POSE_HYSTERESIS:
            current = best
        if np.isfinite(cost[current]):
            chosen[k] = candidates[current]
    return chosen


def nearest_of_random(
    pose: np.ndarray,
    frames: np.ndarray,
    candidates: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The nearest in head pose of DRAWN_IN_TRAINING random candidates for each frame, (F,) int64,
    or -1: about as near as in use, and others at each call.
    """
    times = range(DRAWN_IN_TRAINING)
    drawn = np.stack([_random_candidates(frames, candidates, rng) for _ in times])  # (5, F)
    distance = norm(pose[drawn] - pose[frames], axis=-1)                     # (5, F)
    return drawn[distance.argmin(axis=0), np.arange(len(frames))]


def evenly_spaced(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the values, evenly spaced, in their order."""
    places = np.linspace(0, len(values) - 1, min(len(values), most))
    return values[places.astype(int)]


def _random_candidates(frames, candidates, rng):
    # candidates rise: those too near a frame are one run, from `low` to `high`
    low = np.searchsorted(candidates, frames - REFERENCE_GAP_FRAMES, side="right")
    high = np.searchsorted(candidates, frames + REFERENCE_GAP_FRAMES, side="left")
    too_near = np.maximum(high - low, 0)
    free = len(candidates) - too_near
    pick = (rng.random(len(frames)) * free).astype(np.int64)
    pick += np.where(pick >= low, too_near, 0)
    pick = np.minimum(pick, len(candidates) - 1)
    return np.where(free > 0, candidates[pick], -1)
