"""What FACE_SIZE pixels cannot hold: beard, pores, grain, taken from a few frames at full size.

A generated lower face that is enlarged to the source's size is softer than the skin around it. So
preprocess.py keeps the lower half of a few frames as the source has it, with the mouth closed and
open. Where one of them, moved by dense optical flow, looks like the generated face, its fine detail
replaces the generated one. Nothing comes from the frame that is pasted into: it would show the old
word.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.linalg import norm
from scipy.special import softmax

from utils.cli import DataError
from utils.contract import FACE_SIZE, LOWER_HEIGHT, LOWER_TOP, detail_path
from utils.dataset.references import closed_and_open, nearest_pose
from utils.face.geometry import (
    Affine,
    Box,
    align,
    enlarge,
    is_wide,
    nonzero_bounds,
    resample_smooth,
    source_box,
)
from utils.media.pixels import read_png
from utils.storage import Meta, Track

UNIT_PX = FACE_SIZE / 168      # the lengths in px of this room are for a face of 168 pixels
MOST_FRAMES = 10               # kept of closed and of open mouths each
STILL_QUANTILE = 0.5           # of the head's speed: in faster frames motion may blur the detail
BAND_SIGMA_PX = 2.5 * UNIT_PX  # what is finer than this is taken from the frames kept
COMPARE_SIGMA_PX = 1.2 * UNIT_PX  # finer differences do not count: each hair differs
FLOW_SIGMA_PX = 1.5 * UNIT_PX  # smoothness of the flow
SAME_LEVELS = 60               # a much larger difference in grey: another thing is seen there
MOUTH_BAND_LEVELS = 1          # the same in the mouth, for what moves lips
MOUTH_FINE_LEVELS = 6          # the same in the mouth, for what FACE_SIZE pixels cannot hold
MOUTH_REACH_STD = 2            # the mouth reaches this many standard deviations of the lip points
DECISIVE_LEVELS = 1            # a frame that is closer by this in grey counts nearly alone
CLOSED_AHEAD_LEVELS = 6        # the closed mouth wins ties: the mean of both would be soft
LEAST_WEIGHT_SHARE = 0.1       # fine detail of less weight is not worth the time
SHARPEN_SHARE = 0.22           # of the finest detail: what reading between pixels takes away
SHARPEN_SIGMA_PX = 0.8         # what counts as finest there
FLOW_REFINEMENTS = 2           # not 5, the default: as good, a quarter faster


def choose_detail_frames(track: Track, size: tuple[int, int]) -> np.ndarray:
    """Numbers of the frames to keep, rising, int64; size: (height, width) of the source.

    Closed and open mouths, in head poses as different as possible, among frames in which the head
    moves little.
    """
    speed = norm(np.gradient(track.pose, axis=0), axis=1)
    valid = np.flatnonzero(track.valid)
    still = valid[speed[valid] <= np.quantile(speed[valid], STILL_QUANTILE)]
    in_picture = [is_wide(source_box(Affine(track.transform[i]), size)) for i in still]
    still = still[in_picture]
    mouths = closed_and_open(track.opening, still)
    chosen = [_spread_out(track.pose, frames) for frames in mouths if len(frames)]
    return np.unique(np.concatenate(chosen or [still]))


def _spread_out(pose, frames):
    """At most MOST_FRAMES of the frames: the most usual pose, then always the furthest left."""
    poses = pose[frames]
    from_usual = norm(poses - np.median(poses, axis=0), axis=1)
    chosen = [from_usual.argmin()]
    while len(chosen) < min(MOST_FRAMES, len(frames)):
        from_chosen = norm(poses[:, None] - poses[chosen], axis=-1)  # (F, chosen)
        chosen.append(from_chosen.min(axis=1).argmax())
    return frames[chosen]


class DetailFrame:
    """Lower half of a frame that was kept at the source's size.

    low (84, 168) uint8: its luma as the network has it; band (84, 168): of that what is finer than
    BAND_SIGMA_PX; fine: what low lacks, of the size of rgb; both float32;
    from_lower_half: pixels of the lower half -> pixels of rgb.
    """

    def __init__(self, rgb: np.ndarray, affine: Affine, box: Box):
        """rgb: what the source shows in `box`; affine: source -> face."""
        to_face = affine.cropped(box.top, box.left)
        to_lower_half = to_face.to_lower_half()
        self.low = _luma(align(rgb, to_face)[LOWER_TOP:])
        self.band = _sharpen(_fine_band(self.low))
        soft = enlarge(self.low.astype(np.float32), to_lower_half, box.size)
        self.fine = _sharpen(_luma(rgb) - soft)
        self.from_lower_half = to_lower_half.inverse()


class Match(NamedTuple):
    """How a DetailFrame fits a generated face; arrays of (84, 168)."""

    frame: DetailFrame
    place: np.ndarray  # (84, 168, 2) float32: where in its lower half each pixel is found
    band: np.ndarray   # its band, read there
    error: np.ndarray  # squared difference in grey


class DetailTransfer:
    """Adds the fine detail of the kept frames of one clip to generated faces.

    frames: DetailFrame by number. nearest: for closed and for open mouths, of each frame of the
    clip the kept frame of the nearest head pose, or -1, (N,).
    """

    def __init__(self, data: str | Path, meta: Meta, track: Track):
        """DataError if a picture in data/detail/ is damaged."""
        self.frames = _read_frames(data, meta, track)
        numbers = np.fromiter(self.frames, int)
        mouths = closed_and_open(track.opening, numbers)
        clip = np.arange(meta.frames)
        self.nearest = [nearest_pose(track.pose, clip, kept) for kept in mouths if len(kept)]
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.flow.setUseSpatialPropagation(True)
        self.flow.setVariationalRefinementIterations(FLOW_REFINEMENTS)
        y, x = np.mgrid[:LOWER_HEIGHT, :FACE_SIZE]
        self.grid = np.dstack([x, y]).astype(np.float32)
        mouth = self._mouth(track.lips - (0, LOWER_TOP))
        self.band_levels = SAME_LEVELS - (SAME_LEVELS - MOUTH_BAND_LEVELS) * mouth
        self.fine_levels = SAME_LEVELS - (SAME_LEVELS - MOUTH_FINE_LEVELS) * mouth

    def _mouth(self, lips):
        """1 in the mouth, falling to 0 around it, (84, 168) float32; lips (N, 40, 2)."""
        centre = lips.mean(axis=(0, 1))
        reach = MOUTH_REACH_STD * np.maximum(1, lips.std(axis=(0, 1)))
        offset = (self.grid - centre) / reach
        distance = (offset**2).sum(axis=-1)
        inside = 2 * np.exp(-0.5 * distance)
        return np.minimum(1, inside).astype(np.float32)

    def __call__(
        self,
        i: int,
        lower_face: np.ndarray,
        mask: np.ndarray,
        affine: Affine,
        size: tuple[int, int]
    ) -> tuple[np.ndarray | float, np.ndarray | float]:
        """(removed, added): detail of a generated face, and the detail that takes its place.

        removed, float32 (84, 168), is taken off its luma. added, float32 (height, width), goes on
        top once it is enlarged to a part of source frame i.

        lower_face (84, 168, 3) uint8; mask (84, 168) float32: how much of it will be seen;
        affine: pixels of the part -> pixels of the lower half; size: (width, height) of the part.
        """
        luma = _luma(lower_face)
        sources = [nearest[i] for nearest in self.nearest]
        matches = [self._match(luma, self.frames[number]) for number in sources if number >= 0]
        if not matches:
            return no_detail()
        levels = np.sqrt([match.error for match in matches])
        levels[1:] += CLOSED_AHEAD_LEVELS
        least = levels.min(axis=0)
        shares = softmax(-levels / DECISIVE_LEVELS, axis=0)
        band_weight = bell(least, self.band_levels)
        fine_weight = bell(least, self.fine_levels)
        added = np.zeros(size[::-1], np.float32)
        reference_band = np.zeros_like(least)
        for share, match in zip(shares, matches, strict=True):
            reference_band += share * match.band
            weight = share * fine_weight
            seen = weight * mask > LEAST_WEIGHT_SHARE  # in most places one frame gives nearly all
            self._add_fine(added, match, weight, seen, affine)
        return band_weight * (_fine_band(luma) - reference_band), added

    def _match(self, luma, frame):
        """Match of a DetailFrame with the luma (84, 168) uint8 of a generated face."""
        flow = self.flow.calc(luma, frame.low, None)  # type: ignore[call-overload]
        place = self.grid + blur(flow, FLOW_SIGMA_PX)
        x, y = cv2.split(place)
        edge = cv2.BORDER_REPLICATE
        low = cv2.remap(frame.low, x, y, cv2.INTER_LINEAR, borderMode=edge)
        band = cv2.remap(frame.band, x, y, cv2.INTER_CUBIC, borderMode=edge)
        difference = blur(low.astype(np.float32) - luma, COMPARE_SIGMA_PX)
        return Match(frame, place, band, error=blur(difference**2, BAND_SIGMA_PX))

    def _add_fine(self, added, match, weight, seen, affine):
        """Add the fine detail of a match, by weight (84, 168), to `added` where `seen` is true."""
        if not seen.any():
            return
        frame = match.frame
        box = source_box(affine, added.shape, nonzero_bounds(seen))
        affine = affine.cropped(box.top, box.left)
        place = cv2.transform(match.place, frame.from_lower_half.matrix)
        fields = *cv2.split(place), weight
        x, y, weight = (resample_smooth(field, affine, box.size) for field in fields)
        fine = cv2.remap(frame.fine, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        cv2.accumulateProduct(fine, weight, added[box.slices])


# -- small things --------------------------------------------------------------------------------
def no_detail(*_: object) -> tuple[float, float]:
    """(removed, added) of a paste without fine detail."""
    return 0.0, 0.0


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Picture (H, W) or (H, W, C) after a Gaussian blur, sigma in px."""
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def bell(difference: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """1 where there is no difference, 0.37 at `width`, soon 0 beyond it."""
    return np.exp(-((difference / width) ** 2))


def _read_frames(data, meta, track):
    """The DetailFrame of each frame that was kept, by its number, rising."""
    size = meta.size[::-1]

    def read(i):
        path = detail_path(data, i)
        affine = Affine(track.transform[i])
        box = source_box(affine, size)
        rgb = read_png(path)
        if rgb is None or rgb.shape != (box.height, box.width, 3):
            raise DataError(f"{path} is missing or no RGB picture of {box.width}x{box.height}")
        return DetailFrame(rgb, affine, box)

    numbers = sorted({i for i in meta.detail if i < meta.frames})
    with ThreadPoolExecutor() as threads:
        return dict(zip(numbers, threads.map(read, numbers), strict=True))


def _luma(rgb):
    """Luma of an RGB picture, uint8."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def _fine_band(luma):
    """What of a luma (84, 168) is finer than BAND_SIGMA_PX, float32."""
    return luma - blur(luma.astype(np.float32), BAND_SIGMA_PX)


def _sharpen(fine):
    """Fine detail with more of the finest: what reading it between pixels will take away."""
    return fine + SHARPEN_SHARE * (fine - blur(fine, SHARPEN_SIGMA_PX))
