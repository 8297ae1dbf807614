"""The input rule, the references, the split and the packed pictures."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from utils import audio, contract, face
from utils.console import UserError
import utils.dataset as dataset_module
from utils.dataset import GUARD, Footage, LipDataset, noise_floor, split, vary
from utils.face import closed_and_open
from utils.generate import pingpong, turns


@pytest.fixture
def footage(tiny_data):
    return Footage(tiny_data)


@pytest.fixture
def copy(tiny_data, tmp_path):
    """A copy of the prepared clip that a test may damage."""
    return shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("pack", ".lock"))


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_training_and_inference_feed_bit_equal_tensors(footage):
    """The held-out batches of training are the inputs that inference makes when it hears the clip's own sound."""
    references = footage.references()
    hear = footage.mel
    batches = LipDataset(footage, train=False).batches(8)
    for (inputs, lower, _, _), first in zip(batches, range(0, 10**6, 8), strict=False):
        frames = split(footage.frames)[1][first:first + 8]
        assert equal(inputs, footage.inputs(frames, audio.windows(hear, frames), references))
        assert torch.equal(lower, torch.from_numpy(footage.lower[frames]))


def test_no_pixel_of_the_current_lower_half_is_fed(footage, copy):
    """Another lower half in frame i's picture leaves frame i's input bit-equal - and changes others' references."""
    references = footage.references()
    i = int(references[5, 0])
    path = contract.face_path(copy, i)
    picture = cv2.imread(str(path))
    picture[contract.LOWER_TOP:] = np.random.default_rng(0).integers(0, 256, (84, 168, 3))
    cv2.imwrite(str(path), picture)
    changed = Footage(copy)
    assert not np.array_equal(changed.lower[i], footage.lower[i])
    windows = footage.windows(np.array([i]))
    assert equal(changed.inputs([i], windows, changed.references()), footage.inputs([i], windows, references))
    windows = footage.windows(np.array([5]))
    assert not equal(changed.inputs([5], windows, changed.references()), footage.inputs([5], windows, references))


@pytest.mark.parametrize("random", [False, True])
def test_references_are_a_second_away_and_of_the_same_shot(footage, random):
    """Closed-mouth and open-mouth references, none within one second; across a cut only for lack of them."""
    footage.track["cuts"] = np.array([0, 70])
    rng = np.random.default_rng(0) if random else None
    chosen = footage.references(rng=rng)
    frames = np.arange(footage.frames)
    assert (np.abs(chosen - frames[:, None]) >= contract.REFERENCE_GAP).all()
    same = (chosen < 70) == (frames < 70)[:, None]
    for i, role in zip(*np.nonzero(~same), strict=True):
        of_shot = np.arange(70) if i < 70 else np.arange(70, footage.frames)
        fitting = closed_and_open(footage.opening, of_shot)[role]
        assert (np.abs(fitting - i) < contract.REFERENCE_GAP).all()
    assert same.mean() > 0.5
    opening = footage.opening[chosen].mean(axis=0)
    assert opening[1] > opening[0] + 0.05


def test_references_do_not_depend_on_the_mouth_of_their_frame(footage):
    """The choice for frame i is by head pose: another mouth in i, while i serves no one, leaves its input as it was."""
    before = footage.references()
    lonely = np.setdiff1d(np.arange(footage.frames), before)
    windows = footage.windows(lonely)
    inputs = footage.inputs(lonely, windows, before)
    for moved in (footage.track["lips"], footage.track["landmarks"], footage.points):
        moved[lonely] += 7
    assert np.array_equal(footage.references(), before)
    assert equal(footage.inputs(lonely, windows, before), inputs)


def test_training_draws_references_near_in_head_pose(footage, monkeypatch):
    """The nearest of a few random ones: nearer than any random one, and another each time."""
    def apart(drawn):
        monkeypatch.setattr(dataset_module, "DRAWN", drawn)
        chosen = footage.references(rng=np.random.default_rng(0))
        assert not np.array_equal(chosen, footage.references(rng=np.random.default_rng(1)))
        return np.linalg.norm(footage.pose[chosen[:, 0]] - footage.pose, axis=1).mean()
    assert apart(5) < 0.75 * apart(1)


def test_landmarks_are_normalised_without_head_pose(footage):
    """Pose and normalised landmarks give the points back; a pose that trembles with the mouth opens no mouth."""
    footage.pose = footage.pose + 0.1 * footage.opening[:, None] * (1, 0)
    dataset = LipDataset(footage, train=True)
    known = np.column_stack([footage.pose, np.ones(footage.frames)])
    back = known @ dataset.usual.numpy() + dataset.landmarks * dataset.spread.item()
    assert np.allclose(back.reshape(footage.points.shape), footage.points, atol=1e-2)
    part = dataset.landmarks[dataset.trained]
    assert part.std() == pytest.approx(1, rel=1e-3)
    turn = 0.01 * dataset.usual[0].numpy().reshape(-1, 2)  # what a pose does that would belong to an opening of 0.1
    upper, lower = (face.CARRIED.index(point) for point in face.LIP_PAIRS[0])
    assert abs(turn[lower, 1] - turn[upper, 1]) < 0.2 * 0.1 * contract.EYE_DISTANCE


def test_two_seconds_of_footage_are_enough(footage):
    """In 50 frames every frame has a reference a second away; in 40 the middle has none, and that is said."""
    for count, enough in ((50, True), (40, False)):
        footage.frames, footage.track["cuts"] = count, np.array([0])
        footage.track["valid"] = np.ones(count, bool)
        if enough:
            assert (np.abs(footage.references() - np.arange(count)[:, None]) >= 25).all()
        else:
            with pytest.raises(UserError, match="preprocess.py"):
                footage.references()


def test_steady_references_change_seldom(footage):
    """A reference stays while it serves nearly as well, so that the picture does not flicker."""
    changes = (np.diff(footage.references(), axis=0) != 0).any(axis=1).sum()
    assert changes <= footage.frames / 10


def test_split_is_a_contiguous_end_with_a_gap():
    """The held-out part is the end of the clip, and a guard gap separates it from training."""
    for frames in (150, 500, 3000, 90_000):
        trained, held = split(frames)
        assert held[-1] == frames - 1 and trained[0] == 0
        assert held[0] - trained[-1] == GUARD + 1
        assert np.array_equal(held, np.arange(held[0], frames))
        assert len(held) / frames == pytest.approx(0.1, abs=0.01) or frames < 500


def test_training_sees_nothing_of_the_held_out_part(footage):
    """Neither pictures, references nor sound of a training batch come from the held-out part."""
    dataset = LipDataset(footage, train=True)
    held = split(footage.frames)[1]
    lower = np.array(footage.lower)
    lower[held] = 0  # a held-out picture would show as black
    footage.lower = lower
    footage.mel[held[0] * 4:] = np.nan  # and held-out sound as nan
    rng = np.random.default_rng(0)
    for inputs, lower, _, _ in dataset.batches(8, rng):
        assert inputs["reference"].float().mean(dim=(2, 3, 4)).min() > 1
        assert lower.float().mean(dim=(1, 2, 3)).min() > 1
        assert torch.isfinite(inputs["mel"]).all()


def test_an_epoch_shows_every_training_frame_once(footage):
    """But for those that hear silence, an epoch is a permutation; the same random state gives the same epoch."""
    dataset = LipDataset(footage, train=True)
    dataset.SILENCE = 0
    seen = torch.cat([lips for _, _, lips, _ in dataset.batches(8, np.random.default_rng(3))]).numpy()
    assert np.array_equal(np.sort(seen, axis=0), np.sort(dataset.landmarks[dataset.frames], axis=0))
    again = torch.cat([lips for _, _, lips, _ in dataset.batches(8, np.random.default_rng(3))]).numpy()
    assert np.array_equal(seen, again)


def test_silence_is_shown_a_closed_mouth(footage):
    """Samples that hear only a noise floor are shown a frame whose mouth is closed."""
    dataset = LipDataset(footage, train=True)
    dataset.SILENCE = 1
    windows, lips = dataset.sounds(64, np.random.default_rng(0))
    assert windows.max() < -3.5
    rest = dataset.landmarks[dataset.rest]
    assert all((rest == row).all(axis=1).any() for row in lips.numpy())
    assert footage.opening[dataset.rest].max() <= np.quantile(footage.opening, 0.3)


def test_sound_changes_keep_the_speech(footage):
    """Varied windows still correlate with the recorded ones, and never fall below the floor of the mel."""
    frames = np.arange(30, 90)
    windows = footage.windows(frames)
    changed = vary(windows, np.random.default_rng(0), LipDataset)
    assert changed.shape == windows.shape and np.isfinite(changed).all()
    both = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(windows, changed, strict=True)]
    assert 0.6 < np.median(both) < 0.9999
    floor = noise_floor((100, 64, 80), np.random.default_rng(0), -9, -8)
    level = floor.mean(axis=(1, 2))
    assert level.min() > -10.5 and level.max() < -6.5


def test_pack_is_made_anew_when_a_file_is_replaced(copy):
    """The files are the contract: a picture or feature replaced by hand is what training sees."""
    Footage(copy)
    picture = np.full((168, 168, 3), 77, np.uint8)
    cv2.imwrite(str(contract.face_path(copy, 3)), picture)
    block = np.full((4, 80), -3.0, np.float32)
    np.save(contract.mel_path(copy, 3), block)
    footage = Footage(copy)
    assert (footage.lower[3] == 77).all()
    assert np.array_equal(footage.mel[12:16], block)
    assert len(list((copy / "pack").glob("lower-*"))) == 1


@pytest.mark.parametrize("damage", ["missing", "truncated png", "small png", "text npy", "nan npy", "wide npy"])
def test_a_damaged_file_is_named(copy, damage):
    """A malformed picture or feature gives its name and the command that mends it."""
    face, mel = contract.face_path(copy, 2), contract.mel_path(copy, 2)
    if damage == "truncated png":
        face.write_bytes(face.read_bytes()[:40])
    elif damage == "small png":
        cv2.imwrite(str(face), np.zeros((20, 20, 3), np.uint8))
    elif damage == "text npy":
        mel.write_text("hello")
    elif damage == "nan npy":
        np.save(mel, np.full((4, 80), np.nan, np.float32))
    elif damage == "wide npy":
        np.save(mel, np.zeros((4, 81), np.float32))
    else:
        face.rename(face.with_name("999999.png"))
    with pytest.raises(UserError) as error:
        Footage(copy)
    assert "000002" in str(error.value) and "preprocess.py" in str(error.value) and "\n" not in str(error.value)


def test_pingpong_turns_without_a_jump():
    """Source frames run forward and back, by one each time, neither end twice in a row."""
    assert pingpong(9, 4).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert (np.abs(np.diff(pingpong(1000, 37))) == 1).all()
    assert pingpong(3, 10).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("start", "begins"), [(0, [0, 1]), (30, [30, 31]), (96, [96, 95]), (99, [99, 98])])
def test_footage_of_any_start_moves_on_for_an_hour(start, begins):
    """It stands still in no pause, however long, and turns at the two places only; short speech needs no turn."""
    order = pingpong(90_000, 100, start, 4, 93)
    assert order[:2].tolist() == begins and (np.abs(np.diff(order)) == 1).all()
    later = order[100:]
    assert (later.min(), later.max()) == (4, 93)
    assert set(later[1:-1][np.diff(later)[1:] != np.diff(later)[:-1]]) == {4, 93}
    assert pingpong(100 - start, 100, start, 4, 93).tolist() == list(range(start, 100))


def moving(speeds, cuts=(0,), missing=()):
    """Return a track of 200 frames whose face moves by 1 px a frame, by speeds[i] to frame i."""
    step = np.ones(200)
    step[list(speeds)] = list(speeds.values())
    points = np.cumsum(step)[:, None, None] * np.ones((1, 3, 3))
    return {"landmarks": points, "valid": ~np.isin(np.arange(200), missing), "cuts": np.array(cuts)}


@pytest.mark.parametrize(("track", "expected"), [
    (moving({10: 0.1, 11: 0.1, 190: 0.2, 191: 0.2}), (10, 190)),              # where it is calm
    (moving({30: 0, 31: 0, 150: 0, 151: 0, 20: 0.5, 180: 0.5}), (19, 179)),   # but near the ends
    (moving({5: 0, 6: 0, 18: 0.5, 192: 0, 193: 0, 182: 0.5}, (0, 15, 185)), (17, 181)),  # a shot may not flash up
    (moving({5: 0.6, 6: 0.6, 18: 0.5, 195: 0.6, 196: 0.6, 182: 0.5}, missing=(5, 195)), (17, 181)),  # nor no face
])
def test_footage_turns_where_the_face_is_calm(track, expected):
    assert turns(track) == expected


def test_a_turn_is_no_jump(tiny_data):
    """The step there is below the footage's 99th percentile, and the references are those of the way there."""
    footage = Footage(tiny_data)
    low, high = turns(footage.track)
    order = pingpong(1000, footage.frames, 0, low, high)
    assert low < 25 and high >= 125
    points = footage.track["landmarks"][..., :2]
    step = np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(axis=1)
    assert max(step[low], step[high - 1]) <= np.quantile(step, 0.99)
    changed = (np.diff(footage.references()[order], axis=0) != 0).any(axis=1)
    turning = np.flatnonzero(np.diff(order)[1:] != np.diff(order)[:-1])
    assert len(turning) > 5 and (changed[turning] == changed[turning + 1]).all()
