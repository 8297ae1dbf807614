"""Fine detail of kept frames: which are kept, what is added, and nothing of the pasted frame is."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from utils import contract, storage
from utils.cli import DataError
from utils.compositing import detail
from utils.compositing.detail import DetailTransfer, choose_detail_frames
from utils.compositing.paste import Paster
from utils.face.geometry import Affine, source_box
from utils.media.pixels import encode_png, read_png, to_uint8
from utils.media.reader import read_frames

H = contract.LOWER_HEIGHT
W = contract.FACE_SIZE
SIZE = (512, 512)  # of the tiny clip's pictures
FRAME = 60
TOO_SMALL = encode_png(np.zeros((8, 8, 3), np.uint8))


@pytest.fixture(scope="module")
def meta(tiny_data):
    """The meta.json of the tiny clip."""
    return storage.read_meta(tiny_data)


@pytest.fixture(scope="module")
def track(tiny_data, meta):
    """The track of the tiny clip."""
    return storage.read_track(tiny_data, meta)


@pytest.fixture
def transfer(tiny_data, meta, track):
    """A DetailTransfer of the tiny clip."""
    return DetailTransfer(tiny_data, meta, track)


@pytest.fixture(scope="module")
def frame(tiny_clip):
    """The frame that is pasted into."""
    return frame_of(tiny_clip, FRAME)


@pytest.fixture(scope="module")
def affine(track):
    """Pixels of that frame -> pixels of the lower half."""
    return Affine(track.transform[FRAME]).to_lower_half()


def frame_of(clip, i):
    return next(read_frames(clip, i, i + 1))


def real_lower_face(data, i):
    return read_png(contract.face_path(data, i))[contract.LOWER_TOP:]


# -- which frames are kept -----------------------------------------------------------------------
def test_the_frames_kept_are_calm_valid_closed_and_open_and_apart(track):
    valid = track.valid.copy()
    valid[:40] = False
    chosen = choose_detail_frames(replace(track, valid=valid), SIZE)
    assert 4 <= len(chosen) <= 2 * detail.MOST_FRAMES
    assert (np.diff(chosen) > 0).all()
    assert chosen.min() >= 40
    opening = track.opening
    assert opening[chosen].max() > np.quantile(opening[valid], 0.75)
    assert opening[chosen].min() < np.quantile(opening[valid], 0.25)
    reach = np.ptp(track.pose[valid], axis=0).max()
    assert np.ptp(track.pose[chosen], axis=0).max() > 0.5 * reach


@pytest.mark.parametrize("shift", [(-600, 0), (0, 700)])
def test_a_face_outside_the_frame_adds_nothing(track, shift):
    transform = track.transform.copy()
    transform[:, :, 2] -= transform[:, :, :2] @ np.float32(shift)
    assert not len(choose_detail_frames(replace(track, transform=transform), SIZE))


def test_what_preprocess_kept_is_the_source_at_full_size(meta, track, tiny_data, tiny_clip):
    kept = sorted((tiny_data / "detail").iterdir())
    assert meta.detail == [int(path.stem) for path in kept]
    i = meta.detail[0]
    box = source_box(Affine(track.transform[i]), SIZE)
    source = frame_of(tiny_clip, i).rgb()[box.slices]
    np.testing.assert_array_equal(read_png(contract.detail_path(tiny_data, i)), source)


@pytest.mark.parametrize("content", [None, b"", b"no picture", TOO_SMALL])
def test_a_damaged_kept_frame_is_named(meta, track, tmp_path, content):
    number = meta.detail[0]
    if content is not None:
        (tmp_path / "detail").mkdir()
        contract.detail_path(tmp_path, number).write_bytes(content)
    wanted = f"{number:06d}.png is missing or no RGB picture.*preprocess.py"
    with pytest.raises(DataError, match=wanted):
        DetailTransfer(tmp_path, meta, track)


# -- what they add -------------------------------------------------------------------------------
def test_a_blurred_lower_face_gets_its_texture_back(transfer, track, tiny_data, frame, affine):
    """On a source with grain: with detail, what is pasted is about as fine as the source."""
    grain = np.random.default_rng(0).normal(0, 12, SIZE).astype(np.float32)
    soft = cv2.GaussianBlur(real_lower_face(tiny_data, FRAME), (0, 0), 2)
    for number, kept in transfer.frames.items():
        box = source_box(Affine(track.transform[number]), SIZE)
        kept.fine = kept.fine + grain[box.slices]

    def fineness(detail_transfer):
        planes = frame.planes()
        planes[0] = to_uint8(planes[0] + grain * 219 / 255)
        paster = Paster(track, detail_transfer)
        paster(planes, frame.colours, FRAME, soft)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        mask = cv2.warpAffine(paster.mask(FRAME), affine.matrix, SIZE, flags=flags)
        laplacian = cv2.Laplacian(planes[0].astype(np.float32), cv2.CV_32F)
        return laplacian[mask > 0.98].var() / laplacian[mask == 0].var()

    assert fineness(None) < 0.05
    assert 0.2 < fineness(transfer) < 1.4


def test_nothing_is_added_where_nothing_is_pasted(transfer, tiny_data, affine):
    lower_face = real_lower_face(tiny_data, FRAME)
    mask = np.ones((H, W), np.float32)
    _, everywhere = transfer(FRAME, lower_face, mask, affine, SIZE)
    mask[:, : W // 2] = 0
    _, right = transfer(FRAME, lower_face, mask, affine, SIZE)
    _, nowhere = transfer(FRAME, lower_face, 0 * mask, affine, SIZE)
    assert everywhere.std() > 3 * np.abs(nowhere).max()
    assert not nowhere.any()
    assert 0.2 < (right != 0).sum() / (everywhere != 0).sum() < 0.8
    difference = np.abs(right - everywhere)[right != 0]
    assert difference.mean() < 0.05 * everywhere.std()  # their grids differ a little


def test_where_the_frame_kept_shows_something_else_nothing_is_added(transfer, affine):
    other = np.zeros((H, W, 3), np.uint8)
    other[::16] = 255  # nothing that a face could be moved to
    removed, added = transfer(FRAME, other, np.ones((H, W), np.float32), affine, SIZE)
    assert np.abs(removed).mean() < 2
    assert np.abs(added).mean() < 1


def test_detail_does_not_come_from_the_frame_that_is_pasted_into(transfer, meta):
    """Nor from a frame less than a second away: whose word it says could be read from it."""
    frames = np.arange(meta.frames)
    for nearest in transfer.nearest:
        used = nearest >= 0
        distance = np.abs(nearest - frames)[used]
        assert used.mean() > 0.5
        assert (distance >= contract.REFERENCE_GAP_FRAMES).all()


def test_without_kept_frames_the_paste_is_as_without_detail(meta, track, tiny_data, frame):
    nothing = DetailTransfer(tiny_data, replace(meta, detail=[]), track)
    results = []
    for detail_transfer in (nothing, None):
        planes = frame.planes()
        paster = Paster(track, detail_transfer)
        paster(planes, frame.colours, FRAME, real_lower_face(tiny_data, 70))
        results.append(planes)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
