"""Drawing in full size: references are moved as the network says, what it paints covers them."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from models.unet import Drawing, LipUNet, warp_each
from models.warp import UNITS_PER_WIDTH
from utils import contract
from utils.cli import DataError
from utils.compositing.large import LargeReferences
from utils.dataset.clip import Clip
from utils.generate import Speaker, generate_lower_faces
from utils.media import pixels
from utils.media.pixels import encode_png, read_png

H = contract.LOWER_HEIGHT
W = contract.FACE_SIZE
KEPT = (3, 9)   # frames of the made-up clip, in full size
SMALL = 5       # one that was not kept
SCALES = pytest.mark.parametrize("scale", [1, 2, 3])


# -- a made-up clip, and drawings of it ------------------------------------------------------------
@pytest.fixture
def references(tmp_path):
    """Call it with a scale for LargeReferences of a made-up clip, which lies in tmp_path."""

    def make(scale):
        rng = np.random.default_rng(scale)
        (tmp_path / "reference").mkdir()
        lower_faces = rng.integers(40, 216, (10, H, W, 3), np.uint8)
        for i in KEPT:
            picture = rng.integers(40, 216, (H * scale, W * scale, 3), np.uint8)
            contract.reference_path(tmp_path, i).write_bytes(encode_png(picture))
            lower_faces[i] = cv2.resize(picture, (W, H), interpolation=cv2.INTER_AREA)
        meta = SimpleNamespace(scale=scale, references=list(KEPT))
        return LargeReferences(SimpleNamespace(data=tmp_path, meta=meta, lower_faces=lower_faces))

    return make


def drawing(references, frames, weights, moved_px=(0, 0), painted=0.0):
    """A Drawing of one moment. weights (3,) or (3, H, W): of the two references and of what is
    painted. moved_px: where all is fetched, px of the network. painted: 0..1, or (H, W).
    """
    pictures = torch.from_numpy(references.clip.lower_faces[list(frames)]).movedim(-1, 1) / 255
    displacement = torch.tensor(moved_px) * (UNITS_PER_WIDTH / W)
    displacement = displacement[:, None, None].expand(1, 2, 2, H, W)
    warped = warp_each(pictures[None], displacement)                         # (1, 2, 3, H, W)
    weights = torch.as_tensor(weights, dtype=torch.float32)
    weights = weights.reshape(1, 3, *weights.shape[1:] or (1, 1)).expand(1, 3, H, W)
    picture = (warped * weights[:, :2, None]).sum(dim=1) + weights[:, 2:] * painted
    return Drawing(picture, displacement, weights, warped)


def enlarged(references, frames, *how, **more):
    """What becomes of such a drawing."""
    made = drawing(references, frames, *how, **more)
    [picture] = references.enlarge(made, np.array([frames]))
    assert picture.dtype == np.uint8
    return picture


def full_size(references, i):
    return read_png(contract.reference_path(references.clip.data, i))


def difference(a, b):
    return np.abs(a.astype(float) - b)


# -- what is moved ---------------------------------------------------------------------------------
@SCALES
@pytest.mark.parametrize("role", [0, 1])
def test_a_reference_that_stays_where_it_is_comes_out_as_it_is(references, scale, role):
    made = references(scale)
    picture = enlarged(made, KEPT, (1 - role, role, 0))
    assert picture.shape == (H * scale, W * scale, 3)
    assert difference(picture, full_size(made, KEPT[role])).max() <= 1


@SCALES
@pytest.mark.parametrize("moved", [(4, 0), (0, 3), (-5, 2)])
def test_a_reference_is_moved_by_as_many_pixels_of_its_own(references, scale, moved):
    made = references(scale)
    picture = enlarged(made, KEPT, (1, 0, 0), moved_px=moved)
    x, y = np.array(moved) * -scale
    back = np.roll(picture, (-y, -x), axis=(0, 1))
    inside = np.s_[6 * scale:-6 * scale, 6 * scale:-6 * scale]
    assert difference(back, full_size(made, KEPT[0]))[inside].max() <= 2


def test_beyond_the_edge_the_edge_is_repeated(references):
    made = references(2)
    picture = enlarged(made, KEPT, (1, 0, 0), moved_px=(20, 0))
    edge = full_size(made, KEPT[0])[:, -1:]
    assert difference(picture[:, -30:], edge).max() <= 1


def test_two_references_are_mixed_by_their_shares(references):
    made = references(2)
    closed, opened = (full_size(made, i).astype(float) for i in KEPT)
    picture = enlarged(made, KEPT, (0.25, 0.75, 0))
    assert difference(picture, 0.25 * closed + 0.75 * opened).max() <= 1.5


def test_each_moment_of_a_batch_has_its_own_references(references):
    made = references(2)
    pairs = [(KEPT[0], KEPT[1]), (KEPT[1], KEPT[0])]
    drawings = [drawing(made, pair, (1, 0, 0)) for pair in pairs]
    both = Drawing(*map(torch.cat, zip(*drawings, strict=True)))
    pictures = made.enlarge(both, np.array(pairs))
    for picture, i in zip(pictures, KEPT, strict=True):
        assert difference(picture, full_size(made, i)).max() <= 1


def test_a_frame_that_was_not_kept_is_enlarged(references):
    made = references(3)
    picture = enlarged(made, (SMALL, KEPT[0]), (1, 0, 0))
    seen = made.clip.lower_faces[SMALL]
    wanted = cv2.resize(seen, made.size, interpolation=cv2.INTER_CUBIC)
    assert difference(picture, wanted).max() <= 1


# -- what is painted -------------------------------------------------------------------------------
def test_what_is_painted_covers_what_is_below(references):
    """A painted rectangle is even: nothing of the reference shines through, and around it nothing
    is changed.
    """
    made = references(2)
    weights = torch.zeros(3, H, W)
    weights[0] = 1
    weights[:, 30:60, 50:110] = torch.tensor((0.1, 0, 0.9))[:, None, None]
    picture = enlarged(made, KEPT, weights, painted=0.02)
    inside = picture[70:110, 110:210].astype(float)
    assert inside.mean() < 30
    assert inside.std() < 0.15 * full_size(made, KEPT[0])[70:110, 110:210].std()
    away = np.s_[:40, :]
    assert difference(picture, full_size(made, KEPT[0]))[away].max() <= 1


def test_where_all_is_painted_no_reference_is_needed(references):
    made = references(2)
    picture = enlarged(made, KEPT, (0, 0, 1), painted=0.6)
    assert difference(picture, 0.6 * 255).max() <= 1


def test_another_light_is_put_on_top_and_leaves_the_texture(references):
    made = references(2)
    reference = full_size(made, KEPT[0])
    brighter = drawing(made, KEPT, (1, 0, 0))
    brighter = brighter._replace(picture=brighter.picture + 10 / 255)
    [picture] = made.enlarge(brighter, np.array([KEPT]))
    assert picture.mean() - reference.mean() == pytest.approx(10, abs=1)
    assert picture.std() > 0.85 * reference.std()


# -- the files -------------------------------------------------------------------------------------
TOO_SMALL = encode_png(np.zeros((H, W, 3), np.uint8))


@pytest.mark.parametrize("content", [None, b"", b"no picture", TOO_SMALL])
def test_a_damaged_reference_is_named(references, content):
    made = references(2)
    path = contract.reference_path(made.clip.data, KEPT[1])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    wanted = "000009.png is missing or no RGB picture of 336x168.*preprocess.py"
    with pytest.raises(DataError, match=wanted):
        enlarged(made, KEPT, (1, 0, 0))


def test_a_reference_is_read_once(references, monkeypatch):
    made = references(2)
    read = []
    monkeypatch.setattr(pixels, "read_png", lambda path: read.append(path) or read_png(path))
    for _ in range(3):
        enlarged(made, KEPT, (1, 0, 0))
    assert [path.stem for path in read] == ["000003", "000009"]


# -- a speaker -------------------------------------------------------------------------------------
ORDER = np.arange(0, 150, 25)


@pytest.fixture
def speakers(tiny_data, tmp_path):
    """Call it with a scale for two Speakers with a network that only moves and mixes: one that
    draws in the network's size, and one in full size, of the same references.
    """
    torch.manual_seed(0)
    model = LipUNet(channels=(8, 8, 8, 8), audio_width=32).eval()
    with torch.no_grad():
        model.to_weights.bias[8:] = -20  # paint nothing

    def make(scale):
        clip = Clip(tiny_data)
        model.landmark_pose_fit[2] = torch.from_numpy(clip.points.mean(axis=0).reshape(-1))
        (tmp_path / "reference").mkdir()
        for i in clip.meta.references:
            kept = read_png(contract.reference_path(tiny_data, i))
            kept = cv2.resize(kept, (W * scale, H * scale), interpolation=cv2.INTER_AREA)
            contract.reference_path(tmp_path, i).write_bytes(encode_png(kept))
        clip.meta = replace(clip.meta, scale=scale)
        clip.data = tmp_path
        chosen = clip.kept_references()
        plain = Speaker(model, clip, chosen, torch.device("cpu"))
        return plain, replace(plain, large=LargeReferences(clip))

    return make


def faces_of(speaker):
    windows = speaker.clip.mel_windows[ORDER]
    return list(generate_lower_faces(speaker, ORDER, windows, batch_size=4))


def fineness(picture):
    return cv2.Laplacian(picture, cv2.CV_32F).std()


@SCALES
def test_full_size_is_the_same_drawing(speakers, scale):
    """Shrunk it is the drawing of the network."""
    plain, full = speakers(scale)
    pairs = list(zip(faces_of(plain), faces_of(full), strict=True))
    assert len(pairs) == len(ORDER)
    for small, picture in pairs:
        assert picture.shape == (H * scale, W * scale, 3)
        again = cv2.resize(picture, (W, H), interpolation=cv2.INTER_AREA)
        assert difference(again, small).mean() < 1
        assert difference(again, small).max() < 40


def test_full_size_is_sharper_than_what_is_enlarged(speakers):
    plain, full = speakers(2)
    for small, picture in zip(faces_of(plain), faces_of(full), strict=True):
        softer = cv2.resize(small, (2 * W, 2 * H), interpolation=cv2.INTER_CUBIC)
        assert fineness(picture) > 1.2 * fineness(softer)


def test_nothing_of_the_frame_that_is_drawn_enters(speakers):
    """Nor of one less than a second away: whose word it says could be read from it."""
    _, full = speakers(2)
    used = []
    picture = full.large.picture
    full.large.picture = lambda i: used.append(i) or picture(i)
    faces_of(full)
    pairs = np.reshape(used, (len(ORDER), 2))
    assert np.array_equal(pairs, full.references[ORDER])
    assert np.abs(pairs - ORDER[:, None]).min() >= contract.REFERENCE_GAP_FRAMES
    assert set(used) <= set(full.clip.meta.references)
