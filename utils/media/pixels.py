"""Samples of pictures: FFmpeg's planes as arrays, YUV to RGB and back, PNG files."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from utils.cli import UserError

PNG_MOST_PIXELS = 1 << 26       # a larger picture can only be meant to fill the memory: refused
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_SIZE_BYTES = slice(16, 24)  # width and height in the header, two big-endian uint32
PNG_COMPRESSION = 1             # 0..9, lossless each: speed counts more here than size

# Studio range, the usual one: luma spans 16..235 and chroma 16..240 about 128, instead of 0..255.
LUMA_BLACK = 16
LUMA_SPAN = 219
CHROMA_MIDDLE = 128
CHROMA_SPAN = 224

# FFmpeg's numbers of colour spaces, primaries and transfers: 0 and 3 are reserved.
UNDEFINED = 2
KNOWN_TAGS = {*range(1, 23)} - {3}
BT_709 = 1

# Weights (red, blue) of luma by FFmpeg's number of the colour space: BT.709 and BT.2020.
LUMA_WEIGHTS = {BT_709: (0.2126, 0.0722), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
BT_601 = (0.299, 0.114)  # weights of all others, as FFmpeg's converter takes them
FULL_RANGE = 2           # FFmpeg's number for samples that use 0..255


class ColourSpace(NamedTuple):
    """How planes become RGB: the weights of red and blue in luma, and the range."""

    red: float
    blue: float
    full_range: bool  # samples use all of 0..255


def forget_unknown_tags(picture: av.VideoFrame):
    """Have colour tags that mean nothing, such as the zeros of some cameras, say "undefined"."""
    for name in ("colorspace", "color_primaries", "color_trc"):
        if getattr(picture, name) not in KNOWN_TAGS:
            setattr(picture, name, UNDEFINED)


def planes_of(picture: av.VideoFrame) -> list[np.ndarray]:
    """Planes y (H, W), u and v (H/2, W/2), uint8, of a 4:2:0 picture: views, writing changes it."""
    return [
        np.ndarray(
            (plane.height, plane.width), np.uint8, memoryview(plane), strides=(plane.line_size, 1)
        )
        for plane in picture.planes
    ]


def picture_from_planes(planes: Iterable[np.ndarray]) -> av.VideoFrame:
    """Picture yuv420p with a copy of the planes; odd sizes lose their last row or column."""
    y, u, v = planes
    height, width = y.shape
    picture = av.VideoFrame(width & ~1, height & ~1, "yuv420p")
    for samples, plane in zip((y, u, v), planes_of(picture), strict=True):
        height, width = plane.shape
        plane[:] = samples[:height, :width]
    return picture


def yuv_to_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, colours: ColourSpace) -> np.ndarray:
    """RGB (H, W, 3) float32, nominally 0..255, of luma and chroma (H, W), uint8 or float."""
    red, blue, full_range = colours
    y = y.astype(np.float32)
    u = u.astype(np.float32) - CHROMA_MIDDLE
    v = v.astype(np.float32) - CHROMA_MIDDLE
    if not full_range:
        y -= LUMA_BLACK
        y *= 255 / LUMA_SPAN
        u *= 255 / CHROMA_SPAN
        v *= 255 / CHROMA_SPAN
    r = y + 2 * (1 - red) * v
    b = y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.stack([r, g, b], axis=-1)


def rgb_to_yuv_matrix(colours: ColourSpace) -> np.ndarray:
    """(3, 4) that makes y, u, v of (r, g, b, 1), for cv2.transform(): yuv_to_rgb's inverse."""
    red, blue, full_range = colours
    luma = np.array((red, 1 - red - blue, blue, 0))
    u = (np.array((0, 0, 1, 0)) - luma) / (2 * (1 - blue))
    v = (np.array((1, 0, 0, 0)) - luma) / (2 * (1 - red))
    matrix = np.stack([luma, u, v])
    if not full_range:
        matrix *= np.array([[LUMA_SPAN], [CHROMA_SPAN], [CHROMA_SPAN]]) / 255
        matrix[0, 3] = LUMA_BLACK
    matrix[1:, 3] = CHROMA_MIDDLE
    return matrix


def to_uint8(samples: np.ndarray) -> np.ndarray:
    """Samples rounded and cut to 0..255."""
    return np.clip(np.rint(samples), 0, 255).astype(np.uint8)


def read_png(path: Path) -> np.ndarray | None:
    """RGB uint8 (H, W, 3) of a PNG file; None if missing, damaged or over PNG_MOST_PIXELS."""
    try:  # not cv2.imread: on Windows it cannot open a path with, say, Chinese characters
        content = np.fromfile(path, np.uint8)
        pixels = content[PNG_SIZE_BYTES].view(">u4").prod(dtype=np.uint64)
    except (OSError, ValueError):  # ValueError: the file ends within these bytes
        return None
    if content[:8].tobytes() != PNG_SIGNATURE or pixels > PNG_MOST_PIXELS:
        return None
    return cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)


def read_picture(path: Path, size: tuple[int, int], error: type[UserError]) -> np.ndarray:
    """RGB uint8 of a PNG file; `error` that names it if it is damaged or not (width, height)."""
    picture = read_png(path)
    width, height = size
    if picture is None or picture.shape != (height, width, 3):
        raise error(f"{path} is missing or no RGB picture of {width}x{height}")
    return picture


def encode_png(rgb: np.ndarray, compression: int = PNG_COMPRESSION) -> bytes:
    """Content of a PNG file that holds an RGB uint8 picture (H, W, 3) bit for bit."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    # the fastest filters, with and without compression
    fastest = cv2.IMWRITE_PNG_FILTER_SUB if compression else cv2.IMWRITE_PNG_FILTER_NONE
    options = cv2.IMWRITE_PNG_COMPRESSION, compression, cv2.IMWRITE_PNG_FILTER, fastest
    _, content = cv2.imencode(".png", bgr, options)
    return content.tobytes()
