"""Pasting: nothing changes but the lower face, softly, and not where no face was found."""

import cv2
import numpy as np
import pytest

from utils import contract, media, paste, pixels
from utils.face import CARRIED, LIPS, align, to_face

H, W = contract.FACE_SIZE - contract.LOWER_TOP, contract.FACE_SIZE
LIMITED = (0.299, 0.114, False)


@pytest.fixture(scope="module")
def track(tiny_data):
    """The track of the tiny clip."""
    return contract.read_track(tiny_data, contract.read_meta(tiny_data), CARRIED)


@pytest.fixture(scope="module")
def frame(tiny_clip):
    """Frame 60 of the tiny clip."""
    return next(media.read_frames(tiny_clip, 60, 61))


def real_lower(data, i):
    """Return the lower half of aligned face i."""
    return cv2.imread(str(contract.face_path(data, i)))[contract.LOWER_TOP:, :, ::-1]


def shifted(track, x, y):
    """Return a track whose faces lie x, y source pixels further right and down."""
    landmarks, transform = track["landmarks"] + np.float32((x, y, 0)), track["transform"].copy()
    transform[:, :, 2] -= transform[:, :, :2] @ np.float32((x, y))
    return {**track, "landmarks": landmarks, "transform": transform}


def region(paster, i, shape):
    """Return where in the source (bool, of `shape`) the blend region of frame i is, and two pixels about it."""
    mask = np.zeros((contract.FACE_SIZE, W), np.float32)
    mask[contract.LOWER_TOP:] = paster.mask(i) > 0
    there = cv2.warpAffine(mask, paster.transform[i].astype(np.float64), shape[::-1],
                           flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return cv2.dilate((there > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


@pytest.mark.parametrize("i", [0, 60, 149])
def test_every_sample_outside_the_region_stays_bit_for_bit(track, tiny_clip, i):
    planes = next(media.read_frames(tiny_clip, i, i + 1)).planes()
    before = [plane.copy() for plane in planes]
    paster = paste.Paster(track)
    paster(planes, LIMITED, i, np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8))
    inside = region(paster, i, planes[0].shape)
    half = inside.reshape(256, 2, 256, 2).any(axis=(1, 3))
    assert inside.mean() < 0.25
    for new, old, where in zip(planes, before, (inside, half, half), strict=True):
        np.testing.assert_array_equal(new[~where], old[~where])
        assert (new[where] != old[where]).mean() > 0.5


def test_the_real_lower_face_pasted_back_changes_little(track, frame, tiny_data):
    planes, before = frame.planes(), frame.planes()
    paster = paste.Paster(track)
    paster(planes, frame.colours, 60, real_lower(tiny_data, 60))
    inside = region(paster, 60, planes[0].shape)
    change = np.abs(planes[0].astype(float) - before[0])[inside]
    assert 0 < change.mean() < 2
    assert np.abs(planes[1].astype(float) - before[1]).mean() < 0.2


def test_a_pasted_mouth_is_the_mouth_that_is_seen(track, tiny_clip, tiny_data):
    """The open mouth of one frame in a frame whose mouth is shut: measured where it was pasted."""
    shut, wide = np.argmin(track["shape"][20:-20, 0]) + 20, np.argmax(track["shape"][:, 0])
    frame = next(media.read_frames(tiny_clip, shut, shut + 1))
    planes, wanted = frame.planes(), real_lower(tiny_data, wide)
    paste.Paster(track)(planes, frame.colours, shut, wanted)
    y, u, v = planes
    rgb = pixels.yuv_to_rgb(y, cv2.resize(u, (512, 512)), cv2.resize(v, (512, 512)), frame.colours)
    seen = align(np.clip(rgb, 0, 255).astype(np.uint8), track["transform"][shut])[contract.LOWER_TOP:].astype(float)
    before = real_lower(tiny_data, shut)
    lips = track["lips"][wide]
    (left, top), (right, bottom) = (lips.min(axis=0) - (0, 84)).astype(int), (lips.max(axis=0) - (0, 84)).astype(int)
    mouth = np.s_[top:bottom, left:right]
    was, now = (np.abs(picture[mouth].astype(float) - wanted[mouth]).mean() for picture in (before, seen))
    assert now < 0.25 * was


def test_the_region_ends_softly_within_the_lower_face_and_holds_the_mouth(track):
    paster = paste.Paster(track)
    for i in range(0, 150, 10):
        mask = paster.mask(i)
        assert mask.shape == (H, W) and mask.min() >= 0 and mask.max() <= 1
        assert not mask[0].any() and not mask[-1].any() and not mask[:, 0].any() and not mask[:, -1].any()
        assert np.abs(np.diff(mask, axis=0)).max() < 0.25 and np.abs(np.diff(mask, axis=1)).max() < 0.25
        x, y = np.round(track["lips"][i] - (0, contract.LOWER_TOP)).astype(int).T
        assert mask[y, x].min() > 0.95 and mask[int(y.mean()), int(x.mean())] == pytest.approx(1, abs=1e-3)


def test_the_region_reaches_the_chin_and_does_not_follow_single_words(track):
    paster = paste.Paster(track)
    chin = to_face(track["landmarks"][:, [CARRIED.index(152)], :2], track["transform"])[:, 0]
    lowest = paster.outline[..., 1].max(axis=1)
    assert (lowest > chin[:, 1]).all() and np.abs(np.diff(lowest)).max() < 1


def test_no_paste_where_no_face_was_found_and_a_fade_about_it(track, frame):
    valid = track["valid"].copy()
    valid[58:63] = False
    paster = paste.Paster({**track, "valid": valid})
    assert not paster.strength[58:63].any() and (paster.strength[:50] == 1).all() and (paster.strength[71:] == 1).all()
    fade = paster.strength[50:59]
    assert (np.diff(fade) <= 0).all() and len(set(fade[(fade > 0) & (fade < 1)].round(3))) >= 2
    assert np.abs(np.diff(paster.strength)).max() < 0.5
    planes, before = frame.planes(), frame.planes()
    paster(planes, frame.colours, 60, np.zeros((H, W, 3), np.uint8))
    for new, old in zip(planes, before, strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_weaker_paste_changes_less(track, frame):
    changes = []
    for strength in (1, 0.5, 0.25):
        paster, planes = paste.Paster(track), frame.planes()
        paster.strength[60] = strength
        paster(planes, frame.colours, 60, np.zeros((H, W, 3), np.uint8))
        changes.append(np.abs(planes[0].astype(float) - frame.planes()[0]).sum())
    np.testing.assert_allclose(changes, np.array([1, 0.5, 0.25]) * changes[0], rtol=0.05)


def test_a_constant_difference_of_light_is_taken_out(track):
    mask = paste.Paster(track).mask(60)
    lower = np.random.default_rng(0).uniform(60, 190, (H, W, 3)).astype(np.float32)
    real = cv2.resize(lower, (W // 2, H // 2), interpolation=cv2.INTER_AREA)
    matched = paste.match_colour(lower + np.float32((12, -9, 5)), real, mask)
    assert np.abs(matched - lower).max() < 0.5
    np.testing.assert_allclose(paste.match_colour(lower, real, mask), lower, atol=1e-3)


def test_another_mouth_does_not_pull_the_colour_of_the_skin(track):
    mask = paste.Paster(track).mask(60)
    lower, real = np.full((H, W, 3), 150, np.float32), np.full((H // 2, W // 2, 3), 150, np.float32)
    x, y = np.round(track["lips"][60].mean(axis=0) - (0, contract.LOWER_TOP)).astype(int)
    lower[y - 6:y + 6, x - 15:x + 15] = 20  # a mouth that is open
    matched = paste.match_colour(lower, real, mask)
    border = (mask > 0.2) & (mask < 0.8)
    assert np.abs(matched - lower)[border].max() < 2
    assert np.abs(matched - lower)[y - 6:y + 6, x - 15:x + 15].mean() < 10


@pytest.mark.parametrize("shift", [(-250, 0), (250, 0), (0, 200), (0, -330), (240, 190), (-241, 0.5), (900, 0),
                                   (0, -900)])
def test_a_face_partly_or_wholly_outside_the_frame_is_no_trouble(track, tiny_clip, shift):
    frame = next(media.read_frames(tiny_clip, 0, 1))
    planes, before = frame.planes(), frame.planes()
    paster = paste.Paster(shifted(track, *shift))
    paster(planes, frame.colours, 0, np.zeros((H, W, 3), np.uint8))
    inside = region(paster, 0, planes[0].shape)
    assert [plane.shape for plane in planes] == [plane.shape for plane in before]
    np.testing.assert_array_equal(planes[0][~inside], before[0][~inside])
    assert np.array_equal(planes[0], before[0]) == (not inside.any())


@pytest.mark.parametrize("scale", [0.35, 2.5])
def test_small_and_large_faces_are_pasted_alike(track, frame, tiny_data, scale):
    """The real lower face in the same picture drawn smaller or larger."""
    size = round(512 * scale) & ~1
    scale = size / 512
    transform = track["transform"].astype(np.float64)
    transform[:, :, 2] += transform[:, :, :2] @ np.full(2, 0.5 / scale - 0.5)
    transform[:, :, :2] /= scale
    landmarks = (track["landmarks"] + 0.5) * scale - 0.5
    paster = paste.Paster({**track, "transform": transform.astype(np.float32), "landmarks": landmarks})
    sizes = [(size, size)] + [(size // 2, size // 2)] * 2
    planes = [cv2.resize(p, s, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
              for p, s in zip(frame.planes(), sizes, strict=True)]
    before = [plane.copy() for plane in planes]
    paster(planes, frame.colours, 60, real_lower(tiny_data, 60))
    inside = region(paster, 60, planes[0].shape)
    change = np.abs(planes[0].astype(float) - before[0])
    assert change[inside].mean() < 3 and not change[~inside].any()


@pytest.mark.parametrize("colours", [LIMITED, (0.2126, 0.0722, False), (0.299, 0.114, True)])
def test_a_grey_lower_face_stays_grey_in_every_matrix(track, frame, colours):
    planes = [np.full(plane.shape, 128, np.uint8) for plane in frame.planes()]
    paste.Paster(track)(planes, colours, 60, np.full((H, W, 3), 140, np.uint8))
    assert np.abs(planes[1].astype(int) - 128).max() <= 1 and np.abs(planes[2].astype(int) - 128).max() <= 1


def test_the_lips_lie_in_the_pasted_part(track):
    lips = to_face(track["landmarks"][:, :len(LIPS), :2], track["transform"])
    assert lips[..., 1].min() > contract.LOWER_TOP + 4
