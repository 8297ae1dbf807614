"""Samples of pictures: colours as FFmpeg shows them, there and back; PNG files bit for bit."""

import struct

import cv2
import numpy as np
import pytest
from helpers.videos import make_video

from utils.media import pixels
from utils.media.pixels import ColourSpace
from utils.media.reader import read_frames

WEIGHTS = [pixels.BT_601, *sorted(set(pixels.LUMA_WEIGHTS.values()))]
COLOURS = [ColourSpace(*weights, full) for weights in WEIGHTS for full in (False, True)]


def rgb_to_yuv(rgb, colours):
    return cv2.split(cv2.transform(rgb, pixels.rgb_to_yuv_matrix(colours)))


@pytest.mark.parametrize("colours", COLOURS)
def test_rgb_to_yuv_and_back_is_the_same_colour(colours):
    rgb = np.random.default_rng(0).uniform(0, 255, (40, 50, 3)).astype(np.float32)
    planes = rgb_to_yuv(rgb, colours)
    np.testing.assert_allclose(pixels.yuv_to_rgb(*planes, colours), rgb, atol=0.01)


@pytest.mark.parametrize("colours", COLOURS)
def test_whole_numbers_become_the_same_colours_rounded(colours):
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    rounded = rgb_to_yuv(rgb, colours)
    exact = rgb_to_yuv(rgb.astype(np.float32), colours)
    for plane, wanted in zip(rounded, exact, strict=True):
        assert plane.dtype == np.uint8 and wanted.dtype == np.float32
        np.testing.assert_allclose(plane, wanted.clip(0, 255), atol=0.75)


@pytest.mark.parametrize("colours", COLOURS)
def test_white_has_the_highest_luma_and_no_chroma(colours):
    white = rgb_to_yuv(np.full((1, 1, 3), 255, np.float32), colours)
    highest = 255 if colours.full_range else 235
    np.testing.assert_allclose(np.ravel(white), (highest, 128, 128), atol=0.01)


def quarter(picture, row, column):
    """Mean colour in the middle of one of the four quarters of a picture (64, 64, 3)."""
    top, left = 8 + 32 * row, 8 + 32 * column
    return picture[top:top + 16, left:left + 16].reshape(-1, 3).mean(axis=0)


@pytest.mark.parametrize(("space", "span"), [(1, 1), (1, 2), (5, 1), (5, 2), (9, 1)])
def test_planes_have_the_colours_that_ffmpeg_shows(tmp_path, space, span):
    flat = [[[200, 40, 40], [40, 180, 60]], [[50, 60, 210], [220, 200, 90]]]
    drawn = np.kron(np.array(flat, np.uint8), np.ones((32, 32, 1), np.uint8))
    tags = {"colorspace": space, "color_range": span}
    path = make_video(tmp_path / "a.mp4", [drawn] * 3, tags=tags, options={"crf": "5"})
    frame = next(read_frames(path))
    weights = pixels.LUMA_WEIGHTS.get(space, pixels.BT_601)
    assert frame.colours == ColourSpace(*weights, span == 2)
    y, u, v = frame.planes()
    twice = np.ones((2, 2))
    ours = pixels.yuv_to_rgb(y, np.kron(u, twice), np.kron(v, twice), frame.colours)
    for row in (0, 1):
        for column in (0, 1):
            colour = quarter(ours, row, column)
            np.testing.assert_allclose(colour, quarter(frame.rgb(), row, column), atol=3)
            np.testing.assert_allclose(colour, quarter(drawn, row, column), atol=5)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("span", [1, 2])
def test_other_sample_formats_keep_their_colours_in_the_planes(tmp_path, pix_fmt, span):
    drawn = np.full((48, 64, 3), (200, 120, 60), np.uint8)
    tags = {"colorspace": 1, "color_range": span}
    path = make_video(tmp_path / "a.mkv", [drawn] * 2, codec="ffv1", pix_fmt=pix_fmt, tags=tags)
    frame = next(read_frames(path))
    assert frame.colours == ColourSpace(0.2126, 0.0722, span == 2)
    y, u, v = frame.planes()
    rgb = pixels.yuv_to_rgb(y[24, 32], u[12, 16], v[12, 16], frame.colours)
    np.testing.assert_allclose(rgb, (200, 120, 60), atol=3)
    np.testing.assert_allclose(frame.rgb()[24, 32], (200, 120, 60), atol=3)


def test_a_picture_holds_a_copy_of_its_planes():
    y = np.arange(47 * 63, dtype=np.uint32).reshape(47, 63).astype(np.uint8)
    u = y[:24, :32].copy()
    picture = pixels.picture_from_planes([y, u, u])
    planes = pixels.planes_of(picture)
    assert [plane.shape for plane in planes] == [(46, 62), (23, 31), (23, 31)]
    np.testing.assert_array_equal(planes[0], y[:46, :62])
    planes[0][:] = 7
    assert (pixels.planes_of(picture)[0] == 7).all()
    assert y[0, 0] == 0


@pytest.mark.parametrize("compression", [0, 1, 9])
def test_a_png_holds_the_picture_bit_for_bit(tmp_path, compression):
    rgb = np.random.default_rng(0).integers(0, 256, (84, 168, 3), np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(pixels.encode_png(rgb, compression))
    np.testing.assert_array_equal(cv2.imread(str(path))[:, :, ::-1], rgb)
    np.testing.assert_array_equal(pixels.read_png(path), rgb)


def test_a_png_is_as_small_as_it_was_asked_for():
    y, x = np.mgrid[:84, :168]
    smooth = np.dstack([x, y, x + y]).astype(np.uint8)
    stored, fast, small = (len(pixels.encode_png(smooth, level)) for level in (0, 1, 9))
    assert stored > smooth.nbytes > 2 * fast >= 2 * small
    assert len(pixels.encode_png(smooth)) == fast


def test_a_png_that_is_missing_or_damaged_is_none(tmp_path):
    path = tmp_path / "a.png"
    assert pixels.read_png(path) is None
    content = pixels.encode_png(np.zeros((8, 8, 3), np.uint8))
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for damaged in (b"", b"no picture", content[:20], content[:40], jpeg):
        path.write_bytes(damaged)
        assert pixels.read_png(path) is None


def test_a_png_that_would_fill_the_memory_is_not_decoded(tmp_path, monkeypatch):
    content = pixels.encode_png(np.zeros((84, 168, 3), np.uint8))
    path = tmp_path / "a.png"
    path.write_bytes(content[:16] + struct.pack(">II", 30000, 30000) + content[24:])
    monkeypatch.setattr(cv2, "imdecode", None)
    assert pixels.read_png(path) is None
