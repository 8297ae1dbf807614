"""Pasting: nothing changes but the lower face, softly, and not where no face was found."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from utils import contract, storage
from utils.compositing import paste
from utils.compositing.paste import Paster, light_difference, sharpen
from utils.face.geometry import Affine, align, transform_points
from utils.face.landmarks import LIP_COLUMNS, WARP_POINTS
from utils.media.pixels import ColourSpace, read_png, yuv_to_rgb
from utils.media.reader import read_frames

H = contract.LOWER_HEIGHT
W = contract.FACE_SIZE
SIDE = 512  # of the tiny clip's pictures
LIMITED = ColourSpace(0.299, 0.114, full_range=False)
HD = ColourSpace(0.2126, 0.0722, full_range=False)
FULL = ColourSpace(0.299, 0.114, full_range=True)
BLACK = np.zeros((H, W, 3), np.uint8)


@pytest.fixture(scope="module")
def track(tiny_data):
    """The track of the tiny clip."""
    return storage.read_track(tiny_data, storage.read_meta(tiny_data))


@pytest.fixture(scope="module")
def paster(track):
    """A Paster of the tiny clip."""
    return Paster(track)


@pytest.fixture(scope="module")
def frame(tiny_clip):
    """Frame 60 of the tiny clip."""
    return frame_of(tiny_clip, 60)


def frame_of(clip, i):
    return next(read_frames(clip, i, i + 1))


def real_lower_face(data, i):
    return read_png(contract.face_path(data, i))[contract.LOWER_TOP:]


@pytest.fixture(scope="module")
def kept(tiny_data):
    """Number of a frame whose lower half was kept in full size, and that lower half."""
    number = storage.read_meta(tiny_data).references[10]
    return number, read_png(contract.reference_path(tiny_data, number))


def noise(scale):
    """A lower face `scale` times as large as the network's."""
    return np.random.default_rng(0).integers(0, 256, (H * scale, W * scale, 3), np.uint8)


def lower_pixels(points):
    """Face pixels as (column, row) of the lower half."""
    return np.round(points - (0, contract.LOWER_TOP)).astype(int)


def shifted(track, x, y):
    """The track with its faces x, y source pixels further right and down."""
    transform = track.transform.copy()
    transform[:, :, 2] -= transform[:, :, :2] @ np.float32((x, y))
    landmarks = track.landmarks + np.float32((x, y))
    return replace(track, landmarks=landmarks, transform=transform)


def scaled(track, scale):
    """The track in a picture drawn `scale` times as large."""
    transform = [Affine(matrix).downscaled(1 / scale).matrix for matrix in track.transform]
    landmarks = (track.landmarks + 0.5) * scale - 0.5
    return replace(track, landmarks=landmarks, transform=np.float32(transform))


def region(paster, i, shape):
    """Where in the source (bool, of `shape`) the blend region is, and two pixels around it."""
    mask = np.zeros((contract.FACE_SIZE, W), np.float32)
    mask[contract.LOWER_TOP:] = paster.mask(i) > 0
    matrix = paster.transform[i].astype(np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    there = cv2.warpAffine(mask, matrix, shape[::-1], flags=flags)
    return cv2.dilate((there > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def change(new, old):
    return np.abs(new.astype(float) - old)


# -- what changes --------------------------------------------------------------------------------
@pytest.mark.parametrize(("i", "scale"), [(0, 1), (60, 1), (149, 1), (60, 2), (0, 3), (149, 4)])
def test_every_sample_outside_the_region_stays_bit_for_bit(paster, tiny_clip, i, scale):
    planes = frame_of(tiny_clip, i).planes()
    before = [plane.copy() for plane in planes]
    paster(planes, LIMITED, i, noise(scale))
    inside = region(paster, i, planes[0].shape)
    half = inside.reshape(SIDE // 2, 2, SIDE // 2, 2).any(axis=(1, 3))
    assert inside.mean() < 0.25
    for new, old, where in zip(planes, before, (inside, half, half), strict=True):
        np.testing.assert_array_equal(new[~where], old[~where])
        assert (new[where] != old[where]).mean() > 0.5


def test_the_real_lower_face_pasted_back_changes_little(paster, frame, tiny_data):
    planes = frame.planes()
    before = frame.planes()
    paster(planes, frame.colours, 60, real_lower_face(tiny_data, 60))
    inside = region(paster, 60, planes[0].shape)
    assert 0 < change(planes[0], before[0])[inside].mean() < 2
    assert change(planes[1], before[1]).mean() < 0.2


def test_in_full_size_hardly_anything_changes(paster, tiny_clip, kept):
    """The lower half that was kept, pasted where it came from, keeps its place and fineness."""
    i, full_size = kept
    frame = frame_of(tiny_clip, i)
    before = frame.planes()[0]
    inside = region(paster, i, before.shape)
    fine = cv2.Laplacian(before, cv2.CV_32F)[inside].std()
    results = []
    for lower_face in (full_size, cv2.resize(full_size, (W, H), interpolation=cv2.INTER_AREA)):
        planes = frame.planes()
        paster(planes, frame.colours, i, lower_face)
        error = change(planes[0], before)[inside].mean()
        results.append((error, cv2.Laplacian(planes[0], cv2.CV_32F)[inside].std() / fine))
    (error, fineness), (small_error, small_fineness) = results
    assert 0 < error < 0.7 * small_error
    assert small_fineness < 0.9 < fineness < 1.2


def test_a_pasted_mouth_is_the_mouth_that_is_seen(paster, track, tiny_clip, tiny_data):
    """The open mouth of one frame in a frame whose mouth is shut: measured where it was pasted."""
    shut = np.argmin(track.opening[20:-20]) + 20
    wide = np.argmax(track.opening)
    frame = frame_of(tiny_clip, shut)
    planes = frame.planes()
    wanted = real_lower_face(tiny_data, wide)
    paster(planes, frame.colours, shut, wanted)
    y, u, v = (cv2.resize(plane, (SIDE, SIDE)) for plane in planes)
    rgb = yuv_to_rgb(y, u, v, frame.colours)
    rgb = np.clip(rgb, 0, 255).astype(np.uint8)
    seen = align(rgb, Affine(track.transform[shut]))[contract.LOWER_TOP:]
    lips = track.lips[wide]
    left, top = lower_pixels(lips.min(axis=0))
    right, bottom = lower_pixels(lips.max(axis=0))
    mouth = np.s_[top:bottom, left:right]
    before = real_lower_face(tiny_data, shut)
    was = change(before, wanted)[mouth].mean()
    now = change(seen, wanted)[mouth].mean()
    assert now < 0.25 * was


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("colours", [LIMITED, HD, FULL])
def test_a_grey_lower_face_stays_grey_in_every_matrix(paster, frame, colours, scale):
    planes = [np.full(plane.shape, 128, np.uint8) for plane in frame.planes()]
    paster(planes, colours, 60, np.full((H * scale, W * scale, 3), 140, np.uint8))
    assert change(planes[1], 128).max() <= 1
    assert change(planes[2], 128).max() <= 1


# -- the region ----------------------------------------------------------------------------------
def test_the_region_ends_softly_within_the_lower_face_and_holds_the_mouth(paster, track):
    for i in range(0, 150, 10):
        mask = paster.mask(i)
        assert mask.shape == (H, W)
        assert mask.min() >= 0
        assert mask.max() <= 1
        edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
        assert not any(edge.any() for edge in edges)
        assert np.abs(np.diff(mask, axis=0)).max() < 0.25
        assert np.abs(np.diff(mask, axis=1)).max() < 0.25
        x, y = lower_pixels(track.lips[i]).T
        assert mask[y, x].min() > 0.95
        assert mask[int(y.mean()), int(x.mean())] == pytest.approx(1, abs=1e-3)


def test_the_region_reaches_the_chin_and_does_not_follow_single_words(paster, track):
    chin = track.landmarks[:, [WARP_POINTS.index(152)]]
    chin = transform_points(chin, track.transform)[:, 0, 1]
    lowest = paster.outline[..., 1].max(axis=1)
    assert (lowest > chin).all()
    assert np.abs(np.diff(lowest)).max() < 1


def test_the_lips_lie_in_the_pasted_part(track):
    lips = transform_points(track.landmarks[:, LIP_COLUMNS], track.transform)
    assert lips[..., 1].min() > contract.LOWER_TOP + 4


# -- how much ------------------------------------------------------------------------------------
def test_no_paste_where_no_face_was_found_and_a_fade_about_it(track, frame):
    valid = track.valid.copy()
    valid[58:63] = False
    paster = Paster(replace(track, valid=valid))
    strength = paster.strength
    assert not strength[58:63].any()
    assert (strength[:50] == 1).all()
    assert (strength[71:] == 1).all()
    fade = strength[50:59]
    between = fade[(fade > 0) & (fade < 1)].round(3)
    assert (np.diff(fade) <= 0).all()
    assert len(set(between)) >= 2
    assert np.abs(np.diff(strength)).max() < 0.5
    planes = frame.planes()
    paster(planes, frame.colours, 60, BLACK)
    for new, old in zip(planes, frame.planes(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_weaker_paste_changes_less(track, frame):
    strengths = np.array([1, 0.5, 0.25])
    changes = []
    for strength in strengths:
        paster = Paster(track)
        paster.strength[60] = strength
        planes = frame.planes()
        paster(planes, frame.colours, 60, BLACK)
        changes.append(change(planes[0], frame.planes()[0]).sum())
    np.testing.assert_allclose(changes, strengths * changes[0], rtol=0.05)


# -- colour --------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_constant_difference_of_light_is_taken_out(paster, scale):
    mask = paster.mask(60)
    size = (H * scale, W * scale, 3)
    lower_face = np.random.default_rng(0).uniform(60, 190, size).astype(np.float32)
    real = cv2.resize(lower_face, (W // 2, H // 2), interpolation=cv2.INTER_AREA)
    lighter = lower_face + np.float32((12, -9, 5))
    light = light_difference(lighter, real, mask)
    assert light.shape == (H // 4, W // 4, 3)
    assert change(light, (-12, 9, -5)).max() < 0.5
    np.testing.assert_allclose(light_difference(lower_face, real, mask), 0, atol=1e-3)


@pytest.mark.parametrize("scale", [1, 3])
def test_a_lower_face_in_another_light_is_pasted_in_the_light_of_the_frame(paster, frame, scale):
    planes = [np.full(plane.shape, 128, np.uint8) for plane in frame.planes()]
    expected = [plane.copy() for plane in planes]
    grey = (128 - 16) * 255 / 219
    light = np.array((7, -6, 5)) + grey
    lower_face = np.full((H * scale, W * scale, 3), light.round(), np.uint8)
    paster(planes, LIMITED, 60, lower_face)
    for new, old in zip(planes, expected, strict=True):
        assert change(new, old).max() <= 1


def test_another_mouth_does_not_pull_the_colour_of_the_skin(paster, track):
    mask = paster.mask(60)
    lower_face = np.full((H, W, 3), 150, np.float32)
    real = np.full((H // 2, W // 2, 3), 150, np.float32)
    x, y = lower_pixels(track.lips[60].mean(axis=0))
    lower_face[y - 6:y + 6, x - 15:x + 15] = 20  # a mouth that is open
    light = cv2.resize(light_difference(lower_face, real, mask), (W, H))
    border = (mask > 0.2) & (mask < 0.8)
    assert np.abs(light[border]).max() < 2
    assert np.abs(light[y - 6:y + 6, x - 15:x + 15]).mean() < 10


# -- fineness ------------------------------------------------------------------------------------
def test_sharpening_brings_out_what_is_finest_and_keeps_the_rest():
    flat = np.full((40, 40), 77, np.float32)
    np.testing.assert_allclose(sharpen(flat, 0.7), 77, atol=1e-3)
    fine = noise(1)[..., 0].astype(np.float32)
    assert sharpen(fine, 0.7).std() > 1.3 * fine.std()
    assert np.array_equal(sharpen(fine, 0), fine)
    coarse = cv2.GaussianBlur(fine, (0, 0), 6)
    assert change(sharpen(coarse, 0.7), coarse).max() < 1.5


def test_every_scale_is_sharpened_the_less_the_larger_it_is():
    shares = [paste.SHARPEN_SHARES[scale] for scale in storage.SCALES]
    assert min(shares) >= 0
    assert shares == sorted(shares, reverse=True)


# -- faces elsewhere and of other sizes ----------------------------------------------------------
SHIFTS = [
    (-250, 0), (250, 0), (0, 200), (0, -330), (240, 190), (-241, 0.5), (900, 0), (0, -900),
]  # fmt: skip


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_face_partly_or_wholly_outside_the_frame_is_no_trouble(track, tiny_clip, shift):
    frame = frame_of(tiny_clip, 0)
    planes = frame.planes()
    before = frame.planes()
    paster = Paster(shifted(track, *shift))
    paster(planes, frame.colours, 0, BLACK)
    inside = region(paster, 0, planes[0].shape)
    assert [plane.shape for plane in planes] == [plane.shape for plane in before]
    np.testing.assert_array_equal(planes[0][~inside], before[0][~inside])
    assert np.array_equal(planes[0], before[0]) == (not inside.any())


@pytest.mark.parametrize("scale", [0.35, 2.5])
def test_small_and_large_faces_are_pasted_alike(track, frame, tiny_data, scale):
    """The real lower face in the same picture drawn smaller or larger."""
    side = round(SIDE * scale) & ~1
    paster = Paster(scaled(track, side / SIDE))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    y, u, v = frame.planes()
    planes = [cv2.resize(y, (side, side), interpolation=way)]
    planes += [cv2.resize(plane, (side // 2, side // 2), interpolation=way) for plane in (u, v)]
    before = planes[0].copy()
    paster(planes, frame.colours, 60, real_lower_face(tiny_data, 60))
    inside = region(paster, 60, planes[0].shape)
    difference = change(planes[0], before)
    assert difference[inside].mean() < 3
    assert not difference[~inside].any()
