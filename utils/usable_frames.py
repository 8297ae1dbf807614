"""Which frames may be trained on and judged by: those in which what is learned was recorded.

A frame without them is rendered as any other. It only teaches what is wrong: a mouth that speaks
while nothing is heard, or that rests while speech is heard.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_closing, binary_opening, maximum_filter1d, minimum_filter1d

from utils.audio import QUIET_SHARE, SAMPLES_PER_FRAME, find_pauses
from utils.cli import DataError, say
from utils.contract import FPS, MEL_FLOOR
from utils.face.geometry import transform_points
from utils.face.landmarks import CHIN_COLUMNS, LIP_COLUMNS
from utils.shots import seconds_of, smooth
from utils.storage import Track

SILENT_SPAN = 1e-4     # of 1: a frame's sound that moves by less was not recorded in any room
SILENT_FRAMES = FPS    # for as long as this: speech that a noise gate has cut up has shorter pauses
EDGE_FRAMES = 5        # the same at the ends of the sound, where no gate is at work
SAME_LEVELS = 0.1      # grey levels by which a mere repetition changes. The noise of a camera: 0.6
STEADY_FRAMES = 5      # repetitions in a row: at a low rate there are fewer
SAME_SHARE = 0.1       # of the largest change nearby: a repetition that an encoder has changed
NEAR_FRAMES = 5        # what counts as nearby
REST_TIMES = 2         # a picture that stays this many times longer than usual is no low rate
LEAST_MOVEMENT = 0.03  # eye distances of opening, within a second: a photo has 0.01, and nearly
                       # every second of speech more
FLOOR_LOG = 0.01       # log-mel above MEL_FLOOR: with less nothing was recorded
HUSHED_SHARE = 0.5     # as audio.QUIET_SHARE: a breath or an echo need not move the mouth
NEVER_SHARE = 0.1      # of the speech: if the mouth moves in less, nothing can be learned

# Shots of two people: in such a unit 82 % of the pairs of different speakers of VoxCeleb2 differ by
# more than 1, of the halves of one clip 1 %, of GRID's 49 clips of one man none.
PROPORTION_PX = 5.0    # root mean square of the landmarks, px of the aligned face ...
TURNED_PX = 30.0       # ... and this much more for each eye distance by which the pose differs
COLOUR_LOG = 0.2       # log of red and blue over green by which a difference counts twice


class Flaws(NamedTuple):
    """What keeps frames from being trained on: each (N,) bool."""

    unrecorded: np.ndarray  # there is no sound
    frozen: np.ndarray      # one picture stands for a second or more
    cut_off: np.ndarray     # mouth or chin lie beyond the picture's edge

    def say(self, valid: np.ndarray):
        """Say in how many of the frames `valid` (N,) bool each is, and when."""
        names = (
            "no sound was recorded",
            "the picture stands still",
            "mouth or chin lie beyond the picture's edge"
        )
        for name, flawed in zip(names, self, strict=True):
            frames = flawed & valid
            if frames.any():
                say(f"note: {name} in {frames.sum()} frames ({seconds_of(frames)}); they are "
                    "rendered, but never trained on")


def unrecorded_frames(sound: np.ndarray, frames: int) -> np.ndarray:
    """Frames (N,) bool of 16 kHz samples (n,) without sound: before, behind or in a hole of it."""
    sound = sound[:frames * SAMPLES_PER_FRAME]
    pieces = sound[:len(sound) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME]
    pieces = pieces.reshape(-1, SAMPLES_PER_FRAME)
    silent = np.ones(frames, bool)
    silent[:len(pieces)] = np.ptp(pieces, axis=1) < SILENT_SPAN
    beyond = SILENT_FRAMES - EDGE_FRAMES  # what counts as silent before the first frame
    silent = np.pad(silent, beyond, constant_values=True)
    return binary_opening(silent, np.ones(SILENT_FRAMES))[beyond:-beyond]


def frozen_frames(changes: np.ndarray) -> np.ndarray:
    """Frames (N,) bool of seconds in which the picture stands still.

    changes (N,): mean difference of each frame's face to the frame before, grey levels.
    """
    steady = binary_opening(changes < SAME_LEVELS, np.ones(STEADY_FRAMES))
    stands = binary_closing(steady, np.ones(3))  # an encoder's key frames change a little
    return binary_opening(stands, np.ones(FPS))


def cut_off_frames(track: Track, size: tuple[int, int]) -> np.ndarray:
    """Frames (N,) bool in which lips or chin lie beyond the edge; size: (width, height), px."""
    points = track.landmarks[:, np.r_[LIP_COLUMNS, CHIN_COLUMNS]]
    low = points.min(axis=1)
    high = points.max(axis=1)
    return (low.min(axis=1) < 0) | (high[:, 0] > size[0]) | (high[:, 1] > size[1])


def picture_rate(changes: np.ndarray) -> float:
    """Different pictures a second, at most 25, whatever the file says; changes (N,): see above."""
    least = SAME_SHARE * maximum_filter1d(changes, NEAR_FRAMES)
    steps = np.diff(np.flatnonzero(changes > np.maximum(SAME_LEVELS, least)))
    if not len(steps):
        return float(FPS)
    return FPS / steps[steps <= REST_TIMES * np.median(steps)].mean()


def spoken_frames(
    mel: np.ndarray, recorded: np.ndarray, quiet_share: float = QUIET_SHARE
) -> np.ndarray:
    """Frames (N,) bool of log-mel (4N, 80) with speech; none where nothing was recorded."""
    spoken = recorded.copy()
    if recorded.any():
        spoken[recorded] = ~find_pauses(mel.reshape(len(recorded), -1)[recorded], quiet_share)
    return spoken


def moving_frames(track: Track) -> np.ndarray:
    """Frames (N,) bool within a second of which the mouth opens or closes."""
    opening = smooth(track.opening, track.cuts)
    moves = np.zeros(len(track), bool)
    for first, stop in track.shots():
        shot = opening[first:stop]
        movement = maximum_filter1d(shot, FPS) - minimum_filter1d(shot, FPS)
        moves[first:stop] = movement >= LEAST_MOVEMENT
    return moves


def moving_share(track: Track, mel: np.ndarray, recorded: np.ndarray) -> float:
    """Share of the speech, without what is nearly a pause, in which the mouth moves; 1 if nobody
    speaks. mel (4N, 80); recorded (N,) bool: there is sound.
    """
    seen = spoken_frames(mel, recorded, HUSHED_SHARE) & track.valid
    return float(moving_frames(track)[seen].mean()) if seen.any() else 1.0


def check_mouth(track: Track, mel: np.ndarray):
    """Raise DataError if the mouth never moves while speech is heard."""
    loudest = mel.reshape(len(track), -1).max(axis=1)
    share = moving_share(track, mel, loudest > np.log(MEL_FLOOR) + FLOOR_LOG)
    if share < NEVER_SHARE:
        raise DataError(
            f"the mouth never moves while speech is heard (in {share:.0%} of the speech): is it a "
            "photo, or does somebody speak who is not seen? Nothing can be learned from it; take "
            "a video of the person speaking", video="ANOTHER_VIDEO")


def unlike_frames(track: Track, thumbnails: np.ndarray) -> np.ndarray:
    """Frames (N,) bool of the shots that may show another person than the longest shot.

    By the proportions of the face, and the colours of thumbnails (N, 11, 14, 3) uint8: see
    occlusion.mouth_thumbnail. Shots with less than a second of the face are not looked at.
    """
    unlike = np.zeros(len(track), bool)
    shots = [slice(*shot) for shot in track.shots() if track.valid[slice(*shot)].sum() >= FPS]
    if len(shots) < 2:
        return unlike
    points = transform_points(track.landmarks, track.transform)

    def look(shot):
        seen = track.valid[shot]
        red, green, blue = np.log1p(np.median(thumbnails[shot][seen], axis=(0, 1, 2)))
        proportions = np.median(points[shot][seen], axis=0)
        return proportions, np.median(track.pose[shot][seen], axis=0), (red - green, blue - green)

    usual = look(max(shots, key=lambda shot: track.valid[shot].sum()))
    for shot in shots:
        proportions, pose, colour = map(np.subtract, look(shot), usual)
        factor = 1 + np.sqrt(np.square(colour).mean()) / COLOUR_LOG
        least = PROPORTION_PX + TURNED_PX * np.linalg.norm(pose)
        unlike[shot] = factor * np.sqrt(np.square(proportions).mean()) > least
    return unlike
