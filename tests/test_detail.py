"""Fine detail of kept frames: which are kept, what is lent, and that nothing of the frame pasted into is."""

import cv2
import numpy as np
import pytest

from utils import contract, detail, media, paste, pixels
from utils.console import UserError
from utils.face import CARRIED, lower_box

H, W = contract.FACE_SIZE - contract.LOWER_TOP, contract.FACE_SIZE
SIZE = 512, 512


@pytest.fixture(scope="module")
def clip(tiny_data):
    """meta, track of the tiny clip."""
    meta = contract.read_meta(tiny_data)
    return meta, contract.read_track(tiny_data, meta, CARRIED)


def real_lower(data, i):
    """Return the lower half of aligned face i."""
    return pixels.read_png(contract.face_path(data, i))[contract.LOWER_TOP:]


def test_the_frames_kept_are_calm_valid_closed_and_open_and_apart(clip):
    _, track = clip
    valid = track["valid"].copy()
    valid[:40] = False
    chosen = detail.choose({**track, "valid": valid}, SIZE)
    opening = track["shape"][:, 0]
    assert 4 <= len(chosen) <= 2 * detail.KEPT and (np.diff(chosen) > 0).all() and chosen.min() >= 40
    assert opening[chosen].max() > np.quantile(opening[valid], 0.75)
    assert opening[chosen].min() < np.quantile(opening[valid], 0.25)
    pose = track["pose"][valid]
    assert np.ptp(track["pose"][chosen], axis=0).max() > 0.5 * np.ptp(pose, axis=0).max()


@pytest.mark.parametrize("shift", [(-600, 0), (0, 700)])
def test_a_face_outside_the_frame_lends_nothing(clip, shift):
    _, track = clip
    transform = track["transform"].copy()
    transform[:, :, 2] -= transform[:, :, :2] @ np.float32(shift)
    assert not len(detail.choose({**track, "transform": transform}, SIZE))


def test_what_preprocess_kept_is_the_source_at_full_size(clip, tiny_data, tiny_clip):
    meta, track = clip
    assert meta["detail"] == [int(path.stem) for path in sorted((tiny_data / "detail").iterdir())]
    i = meta["detail"][0]
    top, bottom, left, right = lower_box(track["transform"][i], SIZE)
    source = next(media.read_frames(tiny_clip, i, i + 1)).rgb()[top:bottom, left:right]
    np.testing.assert_array_equal(pixels.read_png(contract.detail_path(tiny_data, i)), source)


def test_a_blurred_lower_face_gets_its_texture_back(clip, tiny_data, tiny_clip):
    """On a source with grain: what is pasted is about as fine as the source, with detail; without it is not."""
    meta, track = clip
    rough = np.random.default_rng(0).normal(0, 12, SIZE).astype(np.float32)
    i, fine = 60, {}
    frame = next(media.read_frames(tiny_clip, i, i + 1))
    soft = cv2.GaussianBlur(real_lower(tiny_data, i), (0, 0), 2)
    lent = detail.Detail(tiny_data, meta, track)
    for k, kept in lent.kept.items():
        top, bottom, left, right = lower_box(track["transform"][k], SIZE)
        kept.fine = kept.fine + rough[top:bottom, left:right]
    for name, given in (("with", lent), ("without", None)):
        planes = frame.planes()
        planes[0] = pixels.to_uint8(planes[0] + rough * 219 / 255)
        paster = paste.Paster(track, given)
        paster(planes, frame.colours, i, soft)
        here = track["transform"][i].astype(np.float64)
        here[1, 2] -= contract.LOWER_TOP
        mask = cv2.warpAffine(paster.mask(i), here, SIZE, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        laplacian = cv2.Laplacian(planes[0].astype(np.float32), cv2.CV_32F)
        fine[name] = laplacian[mask > 0.98].var() / laplacian[mask == 0].var()
    assert fine["without"] < 0.05 and 0.2 < fine["with"] < 1.4


@pytest.mark.parametrize("scale", [0.04, 0.2, 0.36, 0.8, 1.3])
def test_a_map_of_lower_pixels_comes_out_where_it_belongs(scale):
    """Both ways of enlarging: each place gets what lies where the transform says."""
    cos, sin = scale * np.cos(0.1), scale * np.sin(0.1)
    here = np.array([(cos, -sin, 40.3), (sin, cos, 20.6)])
    size = int(90 / scale), int(50 / scale)
    rows, columns = np.mgrid[:H, :W].astype(np.float32)
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    for field, wanted in ((columns, here[0]), (rows, here[1])):
        wanted = wanted[0] * x + wanted[1] * y + wanted[2]
        edge = int(detail.STEP / scale) + 1  # where a smooth map is led on
        inside = np.s_[edge:-edge, edge:-edge]
        for way in (detail.enlarge, detail.smoothly):
            found = way(field, here, size)
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found[inside], wanted[inside], atol=0.05)


def test_an_enlarged_picture_is_as_sharp_as_by_cubic_interpolation():
    here = np.array([(0.36, -0.01, 3), (0.01, 0.36, 2)])
    picture = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 30, (H, W)).astype(np.float32), (0, 0), 0.8)
    cubic = cv2.warpAffine(picture, here, (400, 200), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    assert (detail.enlarge(picture, here, (400, 200)) - cubic)[8:-8, 8:-8].std() < 0.05 * cubic.std()


def test_nothing_is_lent_where_nothing_is_pasted(clip, tiny_data):
    meta, track = clip
    here = track["transform"][60].astype(np.float64)
    here[1, 2] -= contract.LOWER_TOP
    lent, lower, mask = detail.Detail(tiny_data, meta, track), real_lower(tiny_data, 60), np.ones((H, W), np.float32)
    _, everywhere = lent(60, lower, mask, here, SIZE)
    mask[:, :W // 2] = 0
    _, right = lent(60, lower, mask, here, SIZE)
    _, nowhere = lent(60, lower, 0 * mask, here, SIZE)
    assert everywhere.std() > 3 * np.abs(nowhere).max() and not nowhere.any()
    assert 0.2 < (right != 0).sum() / (everywhere != 0).sum() < 0.8
    assert np.abs(right - everywhere)[right != 0].mean() < 0.05 * everywhere.std()  # their grids differ a little


def test_where_the_frame_kept_shows_something_else_nothing_is_lent(clip, tiny_data):
    meta, track = clip
    lent = detail.Detail(tiny_data, meta, track)
    here = track["transform"][60].astype(np.float64)
    here[1, 2] -= contract.LOWER_TOP
    other = np.zeros((H, W, 3), np.uint8)
    other[::16] = 255  # nothing that a face could be moved to
    taken, added = lent(60, other, np.ones((H, W), np.float32), here, SIZE)
    assert np.abs(taken).mean() < 2 and np.abs(added).mean() < 1


def test_detail_does_not_come_from_the_frame_that_is_pasted_into(clip, tiny_data):
    """Nor from a frame less than a second away from it: whose word it says could be read from it."""
    meta, track = clip
    lent = detail.Detail(tiny_data, meta, track)
    for serving in lent.serving:
        used = serving >= 0
        assert used.mean() > 0.5
        assert (np.abs(serving - np.arange(meta["frames"]))[used] >= contract.REFERENCE_GAP).all()


def test_without_kept_frames_the_paste_is_as_without_detail(clip, tiny_data, tiny_clip):
    meta, track = clip
    frame, results = next(media.read_frames(tiny_clip, 60, 61)), []
    for given in (detail.Detail(tiny_data, {**meta, "detail": []}, track), None):
        planes = frame.planes()
        paste.Paster(track, given)(planes, frame.colours, 60, real_lower(tiny_data, 70))
        results.append(planes)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("content", [None, b"", b"no picture", pixels.png(np.zeros((8, 8, 3), np.uint8))])
def test_a_damaged_kept_frame_is_named(clip, tiny_data, tmp_path, content):
    meta, track = clip
    if content is not None:
        (tmp_path / "detail").mkdir()
        contract.detail_path(tmp_path, meta["detail"][0]).write_bytes(content)
    with pytest.raises(UserError, match=f"{meta['detail'][0]:06d}.png is missing or no RGB picture.*preprocess.py"):
        detail.Detail(tmp_path, meta, track)
