"""Generated lower faces back into the frames they belong to."""

import cv2
import numpy as np
from scipy.ndimage import minimum_filter1d, uniform_filter1d

from utils.contract import FACE_SIZE, LOWER_TOP
from utils.face import CARRIED, JAW, align, smooth, to_face
from utils.pixels import rgb_to_yuv, to_uint8, yuv_to_rgb

UNIT = FACE_SIZE / 168       # the lengths below are for a face of 168 pixels
MARGIN, INSET = 4 * UNIT, 5 * UNIT  # px by which the blend region reaches beyond the chin, and stays inside the cheeks
FEATHER = 4 * UNIT           # px, sigma of its soft edge
RAMP = 8 * UNIT              # px from the edge of the lower half to full strength
CHIN = slice(6, 15)          # the part of JAW that speech moves
MARGINS = np.interp(np.abs(np.arange(len(JAW)) - 10), (2, 5), (MARGIN, -INSET))  # px, of each point of JAW
COLOUR_SIGMA = 14 * UNIT     # px over which colour is matched: light and white balance, not features
COLOUR_ALIKE = 20            # grey levels: much more apart, two pixels show different things, not different light
LEAST = 32                   # px of the source: what is narrower, at the frame's edge, may shrink to nothing
FADE = 5                     # frames over which the paste fades about frames without a face


class Paster:
    """Pastes lower faces into the frames of one clip. track: see contract.read_track, with the landmarks CARRIED."""

    def __init__(self, track):
        self.transform = track["transform"]
        self.outline = jaw_outline(track)
        solid = minimum_filter1d(track["valid"].astype(np.float32), 2 * (FADE // 2) + 1, mode="nearest")
        self.strength = uniform_filter1d(solid, 2 * (FADE // 2) + 1, mode="nearest") * track["valid"]

    def mask(self, i):
        """Return the blend region of frame i in face pixels, (84, 168) float32, 0 on every edge."""
        h, w = FACE_SIZE - LOWER_TOP, FACE_SIZE
        region = np.zeros((h, w), np.float32)
        cv2.fillPoly(region, [np.round((self.outline[i] - (0, LOWER_TOP)) * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
        region = cv2.GaussianBlur(np.pad(region, ((h, 0), (0, 0)), mode="edge"), (0, 0), FEATHER)[h:]
        y, x = np.arange(h)[:, None], np.arange(w)[None]
        return region * _ramp(np.minimum(y, h - 1 - y) / RAMP) * _ramp(np.minimum(x, w - 1 - x) / RAMP)

    def __call__(self, planes, colours, i, lower):
        """Paste `lower` (84, 168, 3) uint8 into the planes (see media.Frame.planes) of source frame i, in place.

        Samples outside the blend region keep their values bit for bit.
        """
        transform, (top, bottom, left, right) = self.transform[i], self._box(i, planes[0].shape)
        if not self.strength[i] or min(bottom - top, right - left) < LEAST:
            return
        y = planes[0][top:bottom, left:right]
        u, v = (plane[top // 2:bottom // 2, left // 2:right // 2] for plane in planes[1:])
        size = (right - left, bottom - top)
        rgb = yuv_to_rgb(y, *(cv2.resize(c, size, interpolation=cv2.INTER_LINEAR) for c in (u, v)), colours)
        here = transform.astype(np.float64).copy()     # box pixels -> face pixels
        here[:, 2] += here[:, :2] @ (left, top)
        mask = self.mask(i)
        real = align(np.clip(rgb, 0, 255).astype(np.uint8), here)[LOWER_TOP:]
        matched = match_colour(lower.astype(np.float32), real.astype(np.float32), mask)
        here[1, 2] -= LOWER_TOP                        # box pixels -> lower pixels
        fetch = cv2.WARP_INVERSE_MAP
        matched = cv2.warpAffine(matched, here, size, flags=cv2.INTER_CUBIC | fetch, borderMode=cv2.BORDER_REPLICATE)
        mask = cv2.warpAffine(mask, here, size, flags=cv2.INTER_LINEAR | fetch) * self.strength[i]
        blended = rgb_to_yuv(rgb + (matched - rgb) * mask[..., None], colours)
        half = cv2.resize(mask, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
        for plane, new, where in zip((y, u, v), blended, (mask, half, half), strict=True):
            new = cv2.resize(new, where.shape[::-1], interpolation=cv2.INTER_AREA)
            np.copyto(plane, to_uint8(new), where=where > 0)

    def _box(self, i, size):
        """Return (top, bottom, left, right) of frame i's lower half in the source, even and inside the frame."""
        corners = np.array([(0, LOWER_TOP), (FACE_SIZE, LOWER_TOP), (0, FACE_SIZE), (FACE_SIZE, FACE_SIZE)], np.float64)
        back = cv2.invertAffineTransform(self.transform[i].astype(np.float64))
        points = corners @ back[:, :2].T + back[:, 2]
        left, top = np.maximum(0, np.floor(points.min(axis=0) / 2).astype(int) * 2 - 2)
        right, bottom = np.minimum((size[1], size[0]), np.ceil(points.max(axis=0) / 2).astype(int) * 2 + 2)
        return top, bottom, left, right


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
    """Return `lower` with the light of `real` along the blend border, both float32 (84, 168, 3), 0..255.

    Their difference on the border is spread inwards by normalised convolution (Knutsson and Westin 1993).
    """
    difference = real - lower
    alike = np.exp(-(np.abs(difference).max(axis=-1) / COLOUR_ALIKE) ** 2)  # skin on skin, not skin on background
    weight = 4 * mask * (1 - mask) * alike + 1e-4
    spread = cv2.GaussianBlur(difference * weight[..., None], (0, 0), COLOUR_SIGMA)
    return lower + spread / cv2.GaussianBlur(weight, (0, 0), COLOUR_SIGMA)[..., None]
