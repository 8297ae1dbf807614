"""What FACE_SIZE pixels cannot hold: beard, pores, grain. Kept of a few frames at full size, and lent to what is drawn.

A generated lower half that is enlarged to the source's size is softer than the skin around it. So preprocess.py keeps
the lower half of a few frames as the source has it, with the mouth closed and open. Where one of them, moved by dense
optical flow, looks like what was drawn, its fine detail takes the place of what was drawn. Nothing comes from the frame
that is pasted into: it would show the old word.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from utils.console import UserError
from utils.contract import FACE_SIZE, LOWER_TOP, detail_path, remedy_for
from utils.face import align, closed_and_open, coarser, is_wide, larger, lower_box, nearest_pose, to_lower, within, zoom
from utils.pixels import read_png

UNIT = FACE_SIZE / 168   # the lengths below are for a face of 168 pixels
KEPT = 10                # frames kept of closed and of open mouths each
STILL = 0.5              # quantile of the head's pace above which a frame may be blurred by it
COARSE = 2.5 * UNIT      # px, sigma: what is finer is taken from the frames kept
SAME, SMOOTH = 1.2 * UNIT, 1.5 * UNIT  # px, sigma: below the first nothing is compared: hair differs; and of the flow
ALIKE = 60               # grey levels: much further apart, the frame kept shows something else than what was drawn
IN_MOUTH = 1, 6          # the same about the mouth: for what moves lips, and for what FACE_SIZE pixels cannot hold
MOUTH = 2                # standard deviations of the lips' points: how far the mouth reaches
CHOOSY = 1               # grey levels by which one of two frames must be nearer than the other to count alone
LITTLE = 0.1             # weight below which fine detail is not worth fetching
FIRST = 6                # grey levels that the closed mouth has ahead: where both fit, their mean would be soft
STEP = 1.5 * UNIT        # px between the places of a smooth map: flow, weights, mask
TIMES = 2, 4             # least and most by which a picture is enlarged along rows and columns first
RESTORE, PIXEL = 0.22, 0.8  # what fetching between pixels takes from the finest detail is given before: share, sigma


def choose(track, size):
    """Return the numbers of the frames to keep, rising: closed and open mouths, of head poses as far apart as can be
    among frames in which the head moves little. size: (height, width) of the source."""
    pace = np.linalg.norm(np.gradient(track["pose"], axis=0), axis=1)
    valid = np.flatnonzero(track["valid"])
    still = valid[pace[valid] <= np.quantile(pace[valid], STILL)]
    still = still[[is_wide(lower_box(track["transform"][i], size)) for i in still]]
    parts = closed_and_open(track["shape"][:, 0], still)
    return np.unique(np.concatenate([_spread(track["pose"], part) for part in parts if len(part)] or [still]))


def _spread(pose, frames):
    """Return KEPT of the frames at most: the one of the most usual pose, then always the furthest from those taken."""
    apart = np.linalg.norm(pose[frames] - np.median(pose[frames], axis=0), axis=1)
    taken = [int(apart.argmin())]
    apart[:] = np.inf
    while len(taken) < min(KEPT, len(frames)):
        apart = np.minimum(apart, np.linalg.norm(pose[frames] - pose[frames[taken[-1]]], axis=1))
        taken.append(int(apart.argmax()))
    return frames[taken]


def grey(rgb):
    """Return the luma of an RGB picture, uint8."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


class Kept:
    """A frame that was kept. rgb: its lower half in the source; transform (2, 3): source -> face; size: of the source.

    low (84, 168) uint8: its luma as the network has it; middle: of that what is finer than COARSE; fine: what that
    lacks, of the size of rgb; both float32; back (2, 3): lower pixels -> pixels of rgb.
    """

    def __init__(self, rgb, transform, size):
        top, _, left, _ = lower_box(transform, size)
        here = within(transform, top, left)
        self.low = grey(align(rgb, here)[LOWER_TOP:])
        here = to_lower(here)
        self.middle = restored(finer(self.low))
        self.fine = restored(grey(rgb) - enlarge(self.low.astype(np.float32), here, rgb.shape[1::-1]))
        self.back = cv2.invertAffineTransform(here)


def finer(grey):
    """Return what of a picture (84, 168) is finer than COARSE, float32."""
    return grey - cv2.GaussianBlur(grey.astype(np.float32), (0, 0), COARSE)


def restored(fine):
    """Return fine detail with what fetching it between pixels will take away."""
    return fine + RESTORE * (fine - cv2.GaussianBlur(fine, (0, 0), PIXEL))


def enlarge(picture, here, size):
    """Return a map of lower pixels over a part of the source of size (width, height). here (2, 3): part -> lower.

    Cubic to a whole number of times its size, then linear: as sharp as cubic alone, and twice as fast.
    """
    times = int(np.clip(np.ceil(1 / zoom(here)), *TIMES))
    picture = cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    return cv2.warpAffine(picture, larger(here, times), size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)


def bounds(weight):
    """Return (left, top, right, bottom) of where a map (84, 168) is not 0, and a pixel about it."""
    rows, columns = np.flatnonzero(weight.any(axis=1)), np.flatnonzero(weight.any(axis=0))
    return columns[0] - 1, rows[0] - 1, columns[-1] + 1, rows[-1] + 1


def smoothly(field, here, size):
    """Return a smooth map of lower pixels over a part of the source, as enlarge() takes them: fetched every few pixels
    and drawn straight between them, which is ten times as fast."""
    step = max(1, int(STEP / zoom(here)))
    width, height = size
    coarse = cv2.warpAffine(field, coarser(here, step), (-(-width // step), -(-height // step)),
                            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(coarse, None, fx=step, fy=step)[:height, :width] if step > 1 else coarse


class Detail:
    """Lends fine detail to generated lower halves. UserError if the frames that preprocess.py kept are damaged."""

    def __init__(self, data, meta, track):
        frames, size = np.arange(meta["frames"]), meta["size"][::-1]
        numbers = np.intersect1d(meta["detail"], frames).astype(int)

        def read(i):
            path, rgb = detail_path(data, i), read_png(detail_path(data, i))
            top, bottom, left, right = lower_box(track["transform"][i], size)
            if rgb is None or rgb.shape != (bottom - top, right - left, 3):
                raise UserError(f"{path} is missing or no RGB picture of {right - left}x{bottom - top}; "
                                f"{remedy_for(data)}")
            return Kept(rgb, track["transform"][i], size)

        with ThreadPoolExecutor() as threads:
            self.kept = dict(zip(numbers, threads.map(read, numbers), strict=True))
        parts = closed_and_open(track["shape"][:, 0], numbers)
        self.serving = [nearest_pose(track["pose"], frames, part) for part in parts if len(part)]
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.flow.setUseSpatialPropagation(True)
        self.flow.setVariationalRefinementIterations(2)  # not 5: as good, a quarter faster
        y, x = np.mgrid[:FACE_SIZE - LOWER_TOP, :FACE_SIZE].astype(np.float32)
        self.grid = np.stack([x, y], axis=-1)
        lips = track["lips"] - (0, LOWER_TOP)
        from_middle = (self.grid - lips.mean(axis=(0, 1))) / (MOUTH * np.maximum(1, lips.std(axis=(0, 1))))
        mouth = np.minimum(1, 2 * np.exp(-0.5 * (from_middle ** 2).sum(axis=-1))).astype(np.float32)
        self.alike = [ALIKE - (ALIKE - least) * mouth for least in IN_MOUTH]

    def __call__(self, i, lower, mask, here, size):
        """Return (taken, lent): what to take off the luma of what was drawn, float32 (84, 168), and what to add once it
        is enlarged to a part of source frame i, float32 (height, width).

        lower (84, 168, 3) uint8: what was drawn; mask (84, 168) float32: how much of it will be seen; here (2, 3):
        pixels of the part -> lower pixels; size (width, height).
        """
        drawn = grey(lower)
        lenders = [self.kept[serving[i]] for serving in self.serving if serving[i] >= 0]
        found = [(kept, *self._fit(drawn, kept)) for kept in lenders]
        if not found:
            return np.float32(0), np.float32(0)
        apart = np.array([np.sqrt(error) + FIRST * rank for rank, (*_, error) in enumerate(found)])
        least = apart.min(axis=0)
        shares = np.exp((least - apart) / CHOOSY)
        shares /= shares.sum(axis=0)
        rather, finest = (np.exp(-(least / alike) ** 2) for alike in self.alike)
        theirs, lent = np.zeros_like(least), np.zeros(size[::-1], np.float32)
        for share, (kept, flow, middle, _) in zip(shares, found, strict=True):
            theirs += share * middle
            self._lend(lent, kept, flow, share * finest, mask, here)
        return rather * (finer(drawn) - theirs), lent

    def _lend(self, lent, kept, flow, weight, mask, here):
        """Add the fine detail of a kept frame, moved by the flow and weighted, to a part of the source, float32."""
        counts = weight * mask > LITTLE  # of most places one frame lends nearly all
        if not counts.any():
            return
        top, bottom, left, right = lower_box(here, lent.shape, bounds(counts))
        here, size = within(here, top, left), (right - left, bottom - top)
        x, y = cv2.split(cv2.transform(self.grid + flow, kept.back))  # where each lower pixel is in the kept frame
        x, y, weight = (smoothly(field, here, size) for field in (x, y, weight))
        fine = cv2.remap(kept.fine, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        cv2.accumulateProduct(fine, weight, lent[top:bottom, left:right])

    def _fit(self, drawn, kept):
        """Return the flow (84, 168, 2) from what was drawn to a kept frame; the latter's `middle`, moved by it; and how
        much the two differ then, squared; (84, 168)."""
        flow = cv2.GaussianBlur(self.flow.calc(drawn, kept.low, None), (0, 0), SMOOTH)
        place = self.grid + flow
        low = cv2.remap(kept.low, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        middle = cv2.remap(kept.middle, place, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        apart = cv2.GaussianBlur(low.astype(np.float32) - drawn, (0, 0), SAME)  # where beard is, not each hair
        return flow, middle, cv2.GaussianBlur(apart ** 2, (0, 0), COARSE)
