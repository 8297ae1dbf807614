"""Affine maps between the source's pixels and the aligned face, and the resampling that uses them.

A pixel's centre has whole coordinates, so a picture's upper left corner lies at (-0.5, -0.5). That
is why a change of scale also shifts: see Affine.downscaled and Affine.upscaled.
"""

import math
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from utils.contract import FACE_SIZE, LOWER_TOP

AREA_BELOW_SCALE = 0.6  # faces shrunk further are averaged over areas: else hair turns to moire
SMALLEST_BOX_PX = 32    # source px: a lower half with a shorter side than this is left alone
SMOOTH_STEP_PX = 1.5 * FACE_SIZE / 168  # face px between the places at which a smooth map is read
READ_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # the map tells where each new pixel is read

Size = tuple[int, int]  # width, height, as OpenCV has it

shrink = partial(cv2.resize, interpolation=cv2.INTER_AREA)  # each new pixel is a mean over its area
_warp = partial(cv2.warpAffine, borderMode=cv2.BORDER_REPLICATE)


class Box(NamedTuple):
    """Rectangle of pixels: rows top to bottom - 1, columns left to right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Number of rows; negative if the box is turned inside out."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns; negative if the box is turned inside out."""
        return self.right - self.left

    @property
    def size(self) -> Size:
        """(width, height)."""
        return self.width, self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a picture with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def halved(self) -> "Box":
        """Same region of a picture of half the size, as the colour planes are."""
        return Box(*(edge // 2 for edge in self))


LOWER_HALF = Box(
    top=LOWER_TOP,
    bottom=FACE_SIZE,
    left=0,
    right=FACE_SIZE
)


class Affine:
    """Affine map of pixels (x, y) from one picture to another.

    matrix (2, 3) float64: a copy of the given one, so that a change of that does not change the
    map. linear (2, 2): its rotation and scale. shift (2,): where the first picture's (0, 0) comes
    to lie. A value: its methods return other maps and leave this one as it is.
    """

    def __init__(self, matrix: np.ndarray):
        self.matrix = np.array(matrix, np.float64)
        self.linear = self.matrix[:, :2]
        self.shift = self.matrix[:, 2]

    @property
    def scale(self) -> float:
        """Pixels that one pixel's side becomes."""
        (a, b), (c, d) = self.linear.tolist()
        return math.sqrt(abs(a * d - b * c))

    def inverse(self) -> "Affine":
        """Map from the second picture to the first."""
        return Affine(cv2.invertAffineTransform(self.matrix))

    def downscaled(self, step: float) -> "Affine":
        """Map from a first picture made `step` times smaller.

        A pixel's centre, then at (x + 0.5) / step - 0.5, still comes to lie where it did.
        """
        centre = (step - 1) / 2
        shift = self.shift + centre * self.linear.sum(axis=1)
        return _affine(self.linear * step, shift)

    def upscaled(self, times: float) -> "Affine":
        """Map to a second picture made `times` times larger."""
        centre = (times - 1) / 2
        return _affine(self.linear * times, self.shift * times + centre)

    def cropped(self, top: int, left: int) -> "Affine":
        """Map from the part of the first picture that begins at row `top` and column `left`."""
        return _affine(self.linear, self.shift + self.linear @ (left, top))

    def to_lower_half(self) -> "Affine":
        """Map to the lower half of the face, of one to the whole face."""
        return _affine(self.linear, self.shift - (0, LOWER_TOP))


def _affine(linear, shift):
    return Affine(np.concatenate((linear, shift[:, None]), axis=1))


# -- points ----------------------------------------------------------------------------------------
def fit_similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Similarity transforms (N, 2, 3) that bring points (N, K, 2) nearest to a target (K, 2).

    Rotation, scale and shift by least squares in closed form, a point being the complex number
    x + iy (Umeyama 1991, without reflection).
    """
    source = _as_complex(points)
    wanted = _as_complex(target)
    centre = source.mean(axis=1, keepdims=True)
    offset = source - centre
    product = offset.conj() * (wanted - wanted.mean())
    squared_size = (np.abs(offset) ** 2).sum(axis=1)
    rotation = product.sum(axis=1) / squared_size  # and scale
    shift = wanted.mean() - rotation * centre[:, 0]
    x_row = rotation.real, -rotation.imag, shift.real
    y_row = rotation.imag, rotation.real, shift.imag
    return np.stack([*x_row, *y_row], axis=-1).reshape(-1, 2, 3)


def _as_complex(points):
    return points[..., 0] + 1j * points[..., 1]


def transform_points(points: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Points (N, K, 2) moved by the transforms (N, 2, 3), one for each N."""
    linear = transforms[:, :, :2]
    shift = transforms[:, None, :, 2]
    return np.einsum("nij,nkj->nki", linear, points) + shift


# -- boxes -----------------------------------------------------------------------------------------
def source_box(
    affine: Affine,
    size: tuple[int, ...],
    part: Box = LOWER_HALF
) -> Box:
    """Box of the first picture that covers `part` of the second, with even edges and a margin.

    size: (height, width, ...) of the first picture, which the box does not leave. Where the face is
    outside, the box is empty or has negative sides: see is_wide().
    """
    height, width = size[:2]
    x_row, y_row = affine.inverse().matrix.tolist()
    left, right = _even_range(x_row, part, width)
    top, bottom = _even_range(y_row, part, height)
    return Box(top, bottom, left, right)


def _even_range(row, part, length):
    """First and last + 1 pixel along one axis, whose coordinate is row @ (x, y, 1)."""
    a, b, shift = row  # plain numbers, because this runs for every frame
    low_x, high_x = sorted((a * part.left, a * part.right))
    low_y, high_y = sorted((b * part.top, b * part.bottom))
    low = low_x + low_y + shift
    high = high_x + high_y + shift
    first = math.floor(low / 2) * 2 - 2
    stop = math.ceil(high / 2) * 2 + 2
    return max(0, first), min(length, stop)


def is_wide(box: Box) -> bool:
    """True if a source_box() has enough of the face: at the frame's edge it may be empty."""
    return min(box.size) >= SMALLEST_BOX_PX


def nonzero_bounds(weight: np.ndarray) -> Box:
    """Box around all pixels of a map (H, W) that are not 0, for source_box(): a pixel wider.

    IndexError if every pixel is 0.
    """
    rows = np.flatnonzero(weight.any(axis=1))
    columns = np.flatnonzero(weight.any(axis=0))
    top, bottom = rows[[0, -1]].tolist()
    left, right = columns[[0, -1]].tolist()
    return Box(top - 1, bottom + 1, left - 1, right + 1)


# -- pictures --------------------------------------------------------------------------------------
def align(
    rgb: np.ndarray,
    affine: Affine,
    size: Size = (FACE_SIZE, FACE_SIZE)
) -> np.ndarray:
    """Aligned face (FACE_SIZE, FACE_SIZE, 3) uint8 of an RGB picture, or of one plane (H, W).

    Edges are repeated outwards. size: (width, height), if the map leads to something else.
    """
    interpolation = cv2.INTER_CUBIC if affine.scale >= 1 else cv2.INTER_LINEAR
    if affine.scale < AREA_BELOW_SCALE:
        rgb, affine = _average_areas(rgb, affine, size)
    return _warp(rgb, affine.matrix, size, flags=interpolation)


def _average_areas(rgb, affine, size):
    """Picture shrunk to about the scale of the face, and the map from it."""
    width, height = size
    wanted = Box(
        top=-1,
        bottom=height + 1,
        left=-1,
        right=width + 1
    )
    box = source_box(affine, rgb.shape, wanted)
    if min(box.size) > 0:  # only the face, not all of the frame
        rgb = rgb[box.slices]
        affine = affine.cropped(box.top, box.left)
    scale = affine.scale
    step = int(AREA_BELOW_SCALE / scale)
    height = rgb.shape[0] // step
    width = rgb.shape[1] // step
    if step > 1 and min(width, height) > 0:  # whole numbers of pixels are averaged much faster
        rgb = rgb[: height * step, : width * step]
        rgb = shrink(rgb, (width, height))
        affine = affine.downscaled(step)
        scale *= step
    return shrink(rgb, None, fx=scale, fy=scale), affine.downscaled(1 / scale)


def resample(
    picture: np.ndarray,
    affine: Affine,
    size: Size
) -> np.ndarray:
    """Picture of the lower half, resampled over a part of the source of size (width, height).

    affine: pixels of that part -> pixels of the picture.
    """
    step = int(affine.scale)
    if step > 1:
        picture = shrink(picture, None, fx=1 / step, fy=1 / step)
        affine = affine.upscaled(1 / step)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return _warp(picture, affine.matrix, size, flags=flags)


def resample_smooth(
    field: np.ndarray,
    affine: Affine,
    size: Size
) -> np.ndarray:
    """Smooth map of the lower half (displacement, weight), resampled as resample() does.

    Read every SMOOTH_STEP_PX and drawn straight between those places: ten times as fast.
    """
    width, height = size
    step = max(1, int(SMOOTH_STEP_PX / affine.scale))
    columns = math.ceil(width / step)
    rows = math.ceil(height / step)
    affine = affine.downscaled(step)
    field = _warp(field, affine.matrix, (columns, rows), flags=READ_FLAGS)
    if step > 1:
        field = cv2.resize(field, None, fx=step, fy=step)
    return field[:height, :width]
