"""Samples: between FFmpeg's pictures and arrays, between YUV and RGB, between pictures and PNG files."""

import av
import cv2
import numpy as np

MOST_PIXELS = 1 << 26       # of a picture file: more can only be meant to fill the memory


def planes_of(picture):
    """Return the planes of a 4:2:0 picture, y (H, W), u and v (H/2, W/2), uint8: what is changed is changed there."""
    return [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:plane.height, :plane.width]
            for plane in picture.planes]


def drawn(planes):
    """Return planes as a picture; if their sizes are odd, without the last row or column."""
    y, u, v = planes
    picture = av.VideoFrame(y.shape[1] & ~1, y.shape[0] & ~1, "yuv420p")
    for samples, plane in zip((y, u, v), planes_of(picture), strict=True):
        plane[:] = samples[:plane.shape[0], :plane.shape[1]]
    return picture


def yuv_to_rgb(y, u, v, colours):
    """(H, W) luma and (H, W) chroma, uint8 or float, to RGB float32 (H, W, 3), nominally 0..255."""
    red, blue, full = colours
    y = y.astype(np.float32) if full else (y.astype(np.float32) - 16) * (255 / 219)
    chroma = 1 if full else 255 / 224
    u, v = (u.astype(np.float32) - 128) * chroma, (v.astype(np.float32) - 128) * chroma
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.stack([r, g, b], axis=-1)


def rgb_to_yuv(rgb, colours):
    """RGB float32 (H, W, 3) to three float32 (H, W) planes: the inverse of yuv_to_rgb."""
    red, blue, full = colours
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    if full:
        return y, u + 128, v + 128
    return y * (219 / 255) + 16, u * (224 / 255) + 128, v * (224 / 255) + 128


def luma_range(colours):
    """Return what a step of 1 in grey is in luma."""
    return 1.0 if colours[2] else 219 / 255


def to_uint8(samples):
    """Round samples and cut them to 0..255."""
    return np.clip(np.rint(samples), 0, 255).astype(np.uint8)


def read_png(path):
    """Return a PNG file as RGB uint8 (H, W, 3), or None if it is missing, damaged or larger than MOST_PIXELS."""
    try:  # not cv2.imread: on Windows it cannot open a path with, say, Chinese characters
        content = np.fromfile(path, np.uint8)
    except OSError:
        return None
    if content[:8].tobytes() != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        return None
    size = content[16:24].view(">u4").astype(np.int64)  # looked at before memory is taken for it
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR) if size.prod() <= MOST_PIXELS else None
    return None if picture is None else picture[:, :, ::-1]


def png(rgb):
    """Return an RGB uint8 picture as the bytes of a PNG file."""
    _, content = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_PNG_COMPRESSION, 1))
    return content.tobytes()
