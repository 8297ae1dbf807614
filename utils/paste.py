"""Generated lower faces back into the frames they belong to."""

import cv2
import numpy as np
from scipy.ndimage import minimum_filter1d, uniform_filter1d

from utils.contract import FACE_SIZE, LOWER_TOP
from utils.detail import bounds, enlarge, smoothly
from utils.face import CARRIED, JAW, align, coarser, is_wide, larger, lower_box, smooth, to_face, to_lower, within
from utils.pixels import luma_range, rgb_to_yuv, yuv_to_rgb

UNIT = FACE_SIZE / 168       # the lengths below are for a face of 168 pixels
MARGIN, INSET = 4 * UNIT, 5 * UNIT  # px by which the blend region reaches beyond the chin, and stays inside the cheeks
FEATHER = 4 * UNIT           # px, sigma of its soft edge
FAINT = 1 / 255              # the edge ends where not even black on white would show
RAMP = 8 * UNIT              # px from the edge of the lower half to full strength
CHIN = slice(6, 15)          # the part of JAW that speech moves
MARGINS = np.interp(np.abs(np.arange(len(JAW)) - 10), (2, 5), (MARGIN, -INSET))  # px, of each point of JAW
COLOUR_SIGMA = 14 * UNIT     # px over which colour is matched: light and white balance, not features
COLOUR_ALIKE = 20            # grey levels: much more apart, two pixels show different things, not different light
FADE = 5                     # frames over which the paste fades about frames without a face


class Paster:
    """Pastes lower faces into the frames of one clip. track: see contract.read_track, with the landmarks CARRIED.
    detail: a detail.Detail, or None: then what is enlarged stays soft."""

    def __init__(self, track, detail=None):
        self.transform, self.detail = track["transform"], detail
        self.outline = jaw_outline(track)
        solid = minimum_filter1d(track["valid"].astype(np.float32), 2 * (FADE // 2) + 1, mode="nearest")
        y, x = np.mgrid[:FACE_SIZE - LOWER_TOP, :FACE_SIZE]
        self.ramps = _ramp(np.minimum(y, y[::-1]) / RAMP) * _ramp(np.minimum(x, x[:, ::-1]) / RAMP)
        self.strength = uniform_filter1d(solid, 2 * (FADE // 2) + 1, mode="nearest") * track["valid"]

    def mask(self, i):
        """Return the blend region of frame i in face pixels, (84, 168) float32, 0 on every edge."""
        region = np.zeros(self.ramps.shape, np.float32)
        cv2.fillPoly(region, [np.round((self.outline[i] - (0, LOWER_TOP)) * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
        above = int(4 * FEATHER)  # the blur's reach: the face goes on above
        region = cv2.GaussianBlur(np.pad(region, ((above, 0), (0, 0)), mode="edge"), (0, 0), FEATHER)[above:]
        return np.maximum(0, region - FAINT) / (1 - FAINT) * self.ramps

    def __call__(self, planes, colours, i, lower):
        """Paste `lower` (84, 168, 3) uint8 into the planes (see media.Frame.planes) of source frame i, in place.

        Samples outside the blend region keep their values bit for bit.
        """
        if not self.strength[i] or not is_wide(lower_box(self.transform[i], planes[0].shape)):
            return
        mask = self.mask(i)
        if not mask.any():
            return
        here = to_lower(self.transform[i])
        top, bottom, left, right = lower_box(here, planes[0].shape, bounds(mask))
        if bottom - top < 2 or right - left < 2:
            return
        box = slice(top, bottom), slice(left, right)
        half = slice(top // 2, bottom // 2), slice(left // 2, right // 2)
        parts = [plane[part] for plane, part in zip(planes, (box, half, half), strict=True)]
        whole = within(here, top, left)                        # pixels of the box -> lower pixels
        maps = whole, coarser(whole, 2), coarser(whole, 2)     # the same of each plane
        light = FACE_SIZE // 2, (FACE_SIZE - LOWER_TOP) // 2   # is smooth: half the size tells it
        real = [align(part, larger(here, 0.5), light) for part, here in zip(parts, maps, strict=True)]
        matched = match_colour(lower, yuv_to_rgb(*real, colours), mask)
        big = smoothly(mask, whole, parts[0].shape[::-1]) * self.strength[i]
        small = cv2.resize(big, parts[1].shape[::-1], interpolation=cv2.INTER_AREA)
        drawn, lent = list(rgb_to_yuv(matched, colours)), np.float32(0)
        if self.detail is not None:
            taken, lent = self.detail(i, lower, mask, whole, parts[0].shape[::-1])
            drawn[0] = drawn[0] - taken * luma_range(colours)
        drawn = [enlarge(plane, here, part.shape[::-1]) for plane, here, part in zip(drawn, maps, parts, strict=True)]
        drawn[0] += lent * luma_range(colours)
        for part, new, where in zip(parts, drawn, (big, small, small), strict=True):
            change = cv2.multiply(cv2.subtract(new, part, dtype=cv2.CV_32F), where)
            cv2.add(part, change, part, dtype=cv2.CV_8U)  # rounded, cut to 0..255; where the mask is 0, as it was


def _ramp(x):
    """0 at 0, 1 from 1 on, smooth at both."""
    x = np.clip(x, 0, 1).astype(np.float32)
    return x * x * (3 - 2 * x)


def jaw_outline(track):
    """Return (N, 21, 2): the outline of the blend region from ear to ear in face pixels.

    Along the cheeks it stays inside the jaw line and follows head turns, so that the source keeps its own edge
    against the background. About the chin it reaches as far as the chin gets, in this head pose, when the mouth is
    opened wide: a region that ended at the old chin would show the old word, or two chins.
    """
    jaw = to_face(track["landmarks"][:, [CARRIED.index(point) for point in JAW], :2], track["transform"])
    centre = np.array((FACE_SIZE / 2, LOWER_TOP + 8 * UNIT))
    away = smooth(jaw - centre, track["cuts"])
    reach = np.linalg.norm(away, axis=-1)
    direction = away / np.maximum(reach, 1e-6)[..., None]
    opening = track["shape"][:, :1]
    known = np.column_stack([np.ones(len(jaw)), track["pose"], opening])
    fit, *_ = np.linalg.lstsq(known, reach, rcond=None)  # reach of each point by head pose and opening
    wide = np.quantile(opening, 0.99) - opening
    reach[:, CHIN] = np.maximum(reach, known @ fit + wide * np.maximum(fit[-1], 0))[:, CHIN]
    return centre + direction * (reach + MARGINS)[..., None]


def match_colour(lower, real, mask):
    """Return `lower` (84, 168, 3), 0..255, with the light of `real` (42, 84, 3) along the blend border, float32: light
    is smooth, and half the size tells it.

    Their difference on the border is spread inwards by normalised convolution (Knutsson and Westin 1993).
    """
    ours, mask = (cv2.resize(picture, real.shape[1::-1], interpolation=cv2.INTER_AREA) for picture in (lower, mask))
    difference = real - ours
    alike = np.exp(-(np.abs(difference).max(axis=-1) / COLOUR_ALIKE) ** 2)  # skin on skin, not skin on background
    weight = 4 * mask * (1 - mask) * alike + 1e-4
    spread = cv2.resize(np.dstack([difference * weight[..., None], weight]), None, fx=0.5, fy=0.5,
                        interpolation=cv2.INTER_AREA)
    spread = cv2.GaussianBlur(spread, (0, 0), COLOUR_SIGMA / 4)
    return lower + cv2.resize(spread[..., :3] / spread[..., 3:], lower.shape[1::-1])
