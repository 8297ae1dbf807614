"""Generated lower faces back into the frames they belong to."""

from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import minimum_filter1d, uniform_filter1d

from utils.contract import FACE_SIZE, LOWER_HEIGHT, LOWER_TOP
from utils.face.geometry import (
    Affine,
    align,
    is_wide,
    nonzero_bounds,
    resample,
    resample_smooth,
    shrink,
    source_box,
    transform_points,
)
from utils.face.landmarks import JAW_COLUMNS
from utils.media.pixels import ColourSpace, rgb_to_yuv_matrix, yuv_to_rgb
from utils.shots import smooth
from utils.storage import Track

UNIT_PX = FACE_SIZE / 168        # the lengths in px below are for a face of 168 pixels
CHIN_MARGIN_PX = 4 * UNIT_PX     # the blend region reaches this far beyond the chin
CHEEK_INSET_PX = 5 * UNIT_PX     # the blend region stays this far inside the cheeks
CHIN_POINT = 10                  # of the 21 points of the jaw, the middle of the chin
CHIN_POINTS = slice(6, 15)       # the part of the jaw that speech moves
WIDE_OPEN_QUANTILE = 0.99        # the blend region has room for a mouth opened this wide
FEATHER_SIGMA_PX = 4 * UNIT_PX   # softness of the region's edge: less would show a seam
INVISIBLE_SHARE = 1 / 255        # the edge ends where not even black on white would show
RAMP_PX = 8 * UNIT_PX            # from the border of the lower half to full strength
SUBPIXEL_BITS = 4                # the region is drawn to 1/16 of a pixel
COLOUR_SIGMA_PX = 14 * UNIT_PX   # colour is matched over this distance: light, not features
SAME_SURFACE_LEVELS = 20         # a much larger difference of grey levels is not one of light
# Of the finest detail, by scale: what moving references and averaging them has taken away. Found
# where what is pasted is as fine as the skin around it.
SHARPEN_SHARES = {1: 0.8, 2: 0.52, 3: 0.33, 4: 0.25}
SHARPEN_SIGMA_PX = 0.8           # of the source: what counts as finest
FADE_FRAMES = 5                  # odd: the paste fades this long before and after a missing face


class PlanePart(NamedTuple):
    """Part of one plane of a frame, and the map from its pixels to those of the lower half."""

    samples: np.ndarray  # (H, W) uint8, a view: writing to it changes the frame
    affine: Affine

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        height, width = self.samples.shape
        return width, height


class Paster:
    """Pastes lower faces into the frames of one clip.

    track: of that clip. outline (N, 21, 2): see jaw_outline. strength (N,) float32, 0..1: how much
    is pasted.
    """

    def __init__(self, track: Track):
        """Work out the blend region and the strength for every frame."""
        self.transform = track.transform
        self.outline = jaw_outline(track)
        self.strength = _fade_around_gaps(track.valid)
        self.ramps = np.outer(_border_ramp(LOWER_HEIGHT), _border_ramp(FACE_SIZE))

    def __call__(
        self,
        planes: list[np.ndarray],
        colours: ColourSpace,
        i: int,
        lower_face: np.ndarray
    ):
        """Paste lower_face (84 S, 168 S, 3) uint8 RGB into source frame i, in place.

        S: 1, or how many times larger than the network's it is. planes: y (H, W), u and v
        (H/2, W/2), uint8. Samples outside the blend region keep their values bit for bit; where no
        face was found, or too little of it is in the picture, all do.
        """
        mask = self.mask(i)
        affine = Affine(self.transform[i])
        face_box = source_box(affine, planes[0].shape)
        if not (self.strength[i] and is_wide(face_box) and mask.any()):
            return
        affine = affine.to_lower_half()
        box = source_box(affine, planes[0].shape, nonzero_bounds(mask))
        if min(box.size) < 2:
            return
        parts = _parts_in_box(planes, affine, box)
        luma = parts[0]
        light = light_difference(lower_face, _light(parts, colours), mask)
        matrix = rgb_to_yuv_matrix(colours)
        drawn = _resample_planes(lower_face, matrix, parts, resample)
        drawn[0] = sharpen(drawn[0], SHARPEN_SHARES[lower_face.shape[1] // FACE_SIZE])
        changes = _resample_planes(light, matrix[:, :3], parts, resample_smooth)
        weight = resample_smooth(mask, luma.affine, luma.size)
        _blend(parts, drawn, changes, weight * self.strength[i])

    def mask(self, i: int) -> np.ndarray:
        """Blend region of frame i, (84, 168) float32: 1 around the mouth, 0 on every edge."""
        region = np.zeros_like(self.ramps)
        outline = self.outline[i] - (0, LOWER_TOP)
        corners = np.round(outline * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(region, [corners], 1.0, cv2.LINE_AA, SUBPIXEL_BITS)
        above = int(4 * FEATHER_SIGMA_PX)  # the reach of the blur: the face goes on above
        padded = np.pad(region, ((above, 0), (0, 0)), mode="edge")
        soft = blur(padded, FEATHER_SIGMA_PX)[above:]
        visible = np.maximum(0, soft - INVISIBLE_SHARE)
        return visible / (1 - INVISIBLE_SHARE) * self.ramps


# -- the steps of a paste ------------------------------------------------------------------------
def _parts_in_box(planes, affine, box):
    """PlanePart of y, u and v; affine: pixels of the frame -> pixels of the lower half."""
    y, u, v = planes
    half = box.halved().slices
    affine = affine.cropped(box.top, box.left)
    half_affine = affine.downscaled(2)
    return [
        PlanePart(y[box.slices], affine),
        PlanePart(u[half], half_affine),
        PlanePart(v[half], half_affine)
    ]


def _light(parts, colours):
    """What the frame shows, RGB float32 (42, 84, 3): light is smooth, half the size is enough."""
    size = FACE_SIZE // 2, LOWER_HEIGHT // 2
    y, u, v = (align(part.samples, part.affine.upscaled(0.5), size) for part in parts)
    return yuv_to_rgb(y, u, v, colours)


def light_difference(lower_face: np.ndarray, real: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What brings lower_face (84 S, 168 S, 3), 0..255, into the light of `real` (42, 84, 3): RGB to
    be added, (21, 42, 3) float32.

    Their difference along the border of the blend region, mask (84, 168), is spread inwards by
    normalised convolution (Knutsson and Westin 1993).
    """
    height, width, _ = real.shape
    difference = real - shrink(lower_face, (width, height))
    # 1 for skin on skin, 0 for skin on background
    same_surface = bell(np.abs(difference).max(axis=-1), SAME_SURFACE_LEVELS)
    inside = _halve(mask)
    weight = (4 * inside * (1 - inside) * same_surface + 1e-4)[..., None]
    weighted = np.dstack([difference * weight, weight])
    spread = blur(_halve(weighted), COLOUR_SIGMA_PX / 4)
    return spread[..., :3] / spread[..., 3:]


def _resample_planes(rgb, matrix, parts, resample):
    """[y, u, v] float32 in the sizes of parts of RGB of the lower half, in any size.

    matrix: of rgb_to_yuv_matrix(). resample: one of geometry's functions.
    """
    scale = rgb.shape[1] / FACE_SIZE
    planes = cv2.split(cv2.transform(rgb, matrix))
    return [
        resample(plane.astype(np.float32), part.affine.upscaled(scale), part.size)
        for plane, part in zip(planes, parts, strict=True)
    ]


def _blend(parts, drawn, changes, weight):
    """Move parts towards drawn + changes by weight (H, W), 0..1, in place; where it is 0 nothing
    changes.
    """
    half_weight = _halve(weight)
    weights = (weight, half_weight, half_weight)
    for part, new, light, share in zip(parts, drawn, changes, weights, strict=True):
        old = part.samples
        change = cv2.subtract(new, old, dtype=cv2.CV_32F)
        change = cv2.multiply(cv2.add(change, light), share)
        cv2.add(old, change, old, dtype=cv2.CV_8U)  # rounded and cut to 0..255


def _halve(picture):
    """Picture of half the width and height: means of 2 x 2 pixels."""
    return shrink(picture, None, fx=0.5, fy=0.5)


def sharpen(luma: np.ndarray, share: float) -> np.ndarray:
    """Luma (H, W) float32 with `share` more of its finest detail."""
    return luma + share * (luma - blur(luma, SHARPEN_SIGMA_PX))


def bell(difference: np.ndarray, width: float) -> np.ndarray:
    """1 where there is no difference, 0.37 at `width`, soon 0 beyond it."""
    return np.exp(-((difference / width) ** 2))


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Picture (H, W) or (H, W, C) after a Gaussian blur, sigma in px."""
    return cv2.GaussianBlur(picture, (0, 0), sigma)


# -- what is known of all frames before ----------------------------------------------------------
def jaw_outline(track: Track) -> np.ndarray:
    """Outline of the blend region from ear to ear, (N, 21, 2) in face pixels.

    Along the cheeks it stays inside the jaw line and follows head turns, so that the source keeps
    its own edge against the background. At the chin it reaches as far as the chin gets, in this
    head pose, when the mouth is opened wide: a region that ended at the old chin would show the
    old word, or two chins.
    """
    jaw = transform_points(track.landmarks[:, JAW_COLUMNS], track.transform)
    centre = np.array((FACE_SIZE / 2, LOWER_TOP + 8 * UNIT_PX))
    from_centre = smooth(jaw - centre, track.cuts)
    reach = np.linalg.norm(from_centre, axis=-1)
    direction = from_centre / np.maximum(reach, 1e-6)[..., None]

    # how far each point reaches when the mouth is opened wide: a linear fit on pose and opening
    opening = track.opening
    known = np.column_stack([np.ones(len(jaw)), track.pose, opening])
    fit, *_ = np.linalg.lstsq(known, reach, rcond=None)
    left_to_open = np.quantile(opening, WIDE_OPEN_QUANTILE) - opening
    wide_reach = known @ fit + np.outer(left_to_open, np.maximum(fit[-1], 0))
    reach[:, CHIN_POINTS] = np.maximum(reach, wide_reach)[:, CHIN_POINTS]

    steps_from_chin = np.abs(np.arange(jaw.shape[1]) - CHIN_POINT)
    margins = np.interp(steps_from_chin, (2, 5), (CHIN_MARGIN_PX, -CHEEK_INSET_PX))
    return centre + direction * (reach + margins)[..., None]


def _fade_around_gaps(valid):
    """(N,) float32: 0 where no face was found, and 1 from a few frames away on."""
    solid = minimum_filter1d(valid.astype(np.float32), FADE_FRAMES, mode="nearest")
    return uniform_filter1d(solid, FADE_FRAMES, mode="nearest") * valid


def _border_ramp(length):
    """(length,) float32: 0 at either end, 1 from RAMP_PX on, smooth at both."""
    steps = np.arange(length)
    share = np.minimum(steps, steps[::-1]) / RAMP_PX
    x = np.minimum(1, share).astype(np.float32)
    return x * x * (3 - 2 * x)
