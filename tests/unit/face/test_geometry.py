"""Geometry: the alignment that is fitted, boxes that are cut out, and where pixels come to lie."""

import cv2
import numpy as np
import pytest

from utils.contract import FACE_SIZE, LOWER_HEIGHT, LOWER_TOP, TEMPLATE
from utils.face.geometry import (
    LOWER_HALF,
    SMALLEST_BOX_PX,
    SMOOTH_STEP_PX,
    Affine,
    Box,
    align,
    fit_similarity,
    is_wide,
    nonzero_bounds,
    resample,
    resample_smooth,
    source_box,
    transform_points,
)

TARGET = np.array(list(TEMPLATE.values())) * FACE_SIZE
POINTS = np.random.default_rng(0).uniform(0, 500, (20, 2))


def similarity(degrees, scale, shift):
    """Affine map: a rotation, scale and shift."""
    rotation = scale * np.exp(1j * np.radians(degrees))
    x_row = rotation.real, -rotation.imag, shift[0]
    y_row = rotation.imag, rotation.real, shift[1]
    return Affine([x_row, y_row])


def mapped(points, affine):
    """Points (..., 2) of the first picture where they lie in the second."""
    return points @ affine.linear.T + affine.shift


def in_smaller_picture(points, step):
    """Where points lie in a picture made `step` times smaller."""
    return (points + 0.5) / step - 0.5


# -- maps ------------------------------------------------------------------------------------------
def test_the_inverse_leads_back():
    affine = similarity(30, 0.4, (200, -50))
    np.testing.assert_allclose(mapped(mapped(POINTS, affine), affine.inverse()), POINTS)
    assert affine.scale == pytest.approx(0.4)


def test_a_map_is_a_value():
    matrix = np.eye(2, 3, dtype=np.float32)
    affine = Affine(matrix)
    matrix[:] = 7
    affine.downscaled(3), affine.upscaled(2), affine.cropped(4, 5), affine.to_lower_half()
    np.testing.assert_array_equal(affine.matrix, np.eye(2, 3))
    assert affine.matrix.dtype == np.float64


def test_pixel_centres_keep_their_place_when_either_picture_changes():
    affine = similarity(-20, 0.7, (30, 40))
    places = mapped(POINTS, affine)
    downscaled = mapped(in_smaller_picture(POINTS, 3), affine.downscaled(3))
    np.testing.assert_allclose(downscaled, places)
    upscaled = mapped(POINTS, affine.upscaled(4))
    np.testing.assert_allclose(in_smaller_picture(upscaled, 4), places)
    cropped = mapped(POINTS - (10, 20), affine.cropped(top=20, left=10))
    np.testing.assert_allclose(cropped, places)
    np.testing.assert_allclose(mapped(POINTS, affine.to_lower_half()), places - (0, LOWER_TOP))


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"),
    [(0, 1, (0, 0)), (30, 0.4, (200, -50)), (-170, 3.0, (7, 900))],
)
def test_a_known_rotation_scale_and_shift_is_found(degrees, scale, shift):
    points = np.random.default_rng(0).uniform(0, 500, (4, 7, 2))
    known = similarity(degrees, scale, shift)
    target = mapped(points[0], known)
    np.testing.assert_allclose(fit_similarity(points, target)[0], known.matrix, atol=1e-6)
    moved = transform_points(points[:1], known.matrix[None])
    np.testing.assert_allclose(moved[0], target, atol=1e-6)


# -- boxes -----------------------------------------------------------------------------------------
def test_a_box_gives_sizes_and_slices():
    box = Box(top=2, bottom=10, left=4, right=20)
    assert (box.height, box.width, box.size) == (8, 16, (16, 8))
    assert np.zeros((30, 30))[box.slices].shape == (8, 16)
    assert box.halved() == (1, 5, 2, 10)


@pytest.mark.parametrize("degrees", [0, 25, 100])
def test_the_box_has_even_edges_and_covers_the_lower_half(degrees):
    affine = similarity(degrees, 0.4, (84, 84)).cropped(top=-500, left=-500)
    box = source_box(affine, (1000, 1000, 3))
    assert not any(edge % 2 for edge in box)
    xs = LOWER_HALF.left, LOWER_HALF.right
    ys = LOWER_HALF.top, LOWER_HALF.bottom
    corners = mapped(np.array([(x, y) for x in xs for y in ys]), affine.inverse())
    assert (corners.min(axis=0) >= (box.left, box.top)).all()
    assert (corners.max(axis=0) <= (box.right, box.bottom)).all()
    assert is_wide(box)


def test_the_box_stays_inside_the_frame_and_a_face_outside_is_not_wide():
    inside = source_box(similarity(0, 1, (0, 0)), (101, 99))
    assert inside == (LOWER_TOP - 2, 101, 0, 99)
    outside = source_box(similarity(0, 1, (500, 0)), (101, 99))
    assert not is_wide(outside)
    assert not is_wide(Box(0, SMALLEST_BOX_PX - 1, 0, 1000))


def test_the_bounds_are_a_pixel_wider_than_what_is_not_zero():
    weight = np.zeros((84, 168))
    weight[10, 30] = weight[15, 20] = 0.5
    assert nonzero_bounds(weight) == Box(top=9, bottom=16, left=19, right=31)
    with pytest.raises(IndexError):
        nonzero_bounds(np.zeros((84, 168)))


# -- the aligned face ------------------------------------------------------------------------------
def white_dot(size, place):
    """Picture (size, size, 3) with a soft white dot at (x, y), px."""
    y, x = np.mgrid[:size, :size]
    squared_distance = (x - place[0]) ** 2 + (y - place[1]) ** 2
    bright = 255 * np.exp(-squared_distance / (2 * 4.0**2))
    return np.repeat(bright[..., None].astype(np.uint8), 3, axis=2)


def middle_of(grey):
    """(x, y) of the middle of what is bright."""
    grey = grey.astype(np.float64)
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]]
    return [(grey * x).sum() / grey.sum(), (grey * y).sum() / grey.sum()]


@pytest.mark.parametrize("scale", [0.25, 0.4, 0.59, 0.61, 0.9, 1.6])
@pytest.mark.parametrize("degrees", [0, 25])
def test_a_dot_lands_where_the_template_says(scale, degrees):
    size = int(FACE_SIZE / scale) + 80
    middle = np.array((size / 2 + 0.3, size / 2 - 0.4))
    shift = TARGET.mean(axis=0) - mapped(middle, similarity(degrees, scale, (0, 0)))
    affine = Affine(similarity(degrees, scale, shift).matrix.astype(np.float32))
    for target in TARGET[[0, 3, 6]]:
        picture = white_dot(size, mapped(target, affine.inverse()))
        aligned = align(picture, affine)
        assert aligned.shape == (FACE_SIZE, FACE_SIZE, 3)
        np.testing.assert_allclose(middle_of(aligned[..., 0]), target, atol=0.5)


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.17])
def test_both_ways_of_shrinking_agree_about_position(scale):
    """Pictures averaged over areas (below 0.6; below 0.3 in two steps) lie where warped ones do."""
    size = int(250 / scale)
    noise = np.random.default_rng(0).normal(0, 1, (size, size))
    smooth = 128 + 450 / scale * cv2.GaussianBlur(noise, (0, 0), 4 / scale)
    grey = np.clip(smooth, 0, 255).astype(np.uint8)
    affine = similarity(7, scale, (-40.3, -20.7))
    averaged = align(grey, affine).astype(np.float32)
    direct = cv2.warpAffine(grey, affine.matrix, (FACE_SIZE, FACE_SIZE), flags=cv2.INTER_LINEAR)
    direct = direct.astype(np.float32)
    (dx, dy), _ = cv2.phaseCorrelate(averaged, direct)
    assert np.hypot(dx, dy) < 0.1
    assert np.abs(averaged - direct).mean() < 2


def test_shrinking_averages_so_that_fine_stripes_do_not_turn_into_coarse_ones():
    stripes = np.tile(np.uint8([0, 255]), (600, 300))
    stripes = np.repeat(stripes[..., None], 3, axis=2)
    assert align(stripes, similarity(0, 0.28, (0, 0))).std() < 20


@pytest.mark.parametrize("scale", [1, 0.3])
def test_a_face_beyond_the_frame_repeats_the_edge(scale):
    picture = np.full((100, 100, 3), 200, np.uint8)
    np.testing.assert_array_equal(align(picture, similarity(0, scale, (-80, 60))), 200)


# -- maps of the lower half over the source --------------------------------------------------------
@pytest.mark.parametrize("scale", [0.04, 0.2, 0.36, 0.8, 1.3, 2.5])
@pytest.mark.parametrize("resampled", [resample, resample_smooth])
def test_a_map_of_the_lower_half_comes_out_where_it_belongs(resampled, scale):
    """Each place gets what lies where the affine map says."""
    affine = similarity(np.degrees(0.1), scale, (40.3, 20.6))
    width, height = int(90 / scale), int(50 / scale)
    y, x = np.mgrid[:height, :width]
    places = mapped(np.stack([x, y], axis=-1), affine)
    rows, columns = np.mgrid[:LOWER_HEIGHT, :FACE_SIZE].astype(np.float32)
    edge = int(SMOOTH_STEP_PX / scale) + 1  # where a smooth map is led on
    inside = np.s_[edge:-edge, edge:-edge]
    for field, wanted in ((columns, places[..., 0]), (rows, places[..., 1])):
        found = resampled(field, affine, (width, height))
        assert found.shape == (height, width)
        np.testing.assert_allclose(found[inside], wanted[inside], atol=0.05 * max(1, scale))


def test_an_enlarged_picture_keeps_its_sharpness_and_a_shrunk_one_is_averaged():
    """Black and white stripes a pixel wide: seen when enlarged, grey without moire when shrunk."""
    stripes = np.tile(np.uint8([0, 255]), (LOWER_HEIGHT, FACE_SIZE // 2))
    enlarged = resample(stripes, similarity(0, 0.36, (3, 2)), (200, 100))
    assert enlarged.dtype == np.uint8 and enlarged.std() > 70
    shrunk = resample(stripes, similarity(0, 2.1, (10, 8)), (60, 30))
    assert shrunk.std() < 20
    assert shrunk.mean() == pytest.approx(127.5, abs=5)
