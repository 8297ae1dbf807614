"""The figures of the meter: each finds what it is there to find."""

import cv2
import numpy as np
import pytest
import torch

from utils import audio, contract, evaluate, figures, media, sample, stage


def walk(rng, frames=75, columns=2):
    """Return a smooth random curve (frames, columns)."""
    return cv2.GaussianBlur(rng.standard_normal((frames, columns)), (1, 0), sigmaX=0.01, sigmaY=2)


@pytest.fixture
def picture():
    """A picture with edges and fine texture."""
    rng = np.random.default_rng(3)
    picture = np.kron(rng.integers(60, 200, (6, 10, 3)), np.ones((10, 10, 1))) + rng.normal(0, 6, (60, 100, 3))
    return picture.clip(0, 255).astype(np.uint8)


def test_a_known_lag_is_found():
    curve = walk(np.random.default_rng(0), 90)[:, 0]
    assert figures.lag([(curve[:-3], curve[3:])] * 2) == 3, "late"
    assert figures.lag([(curve[2:], curve[:-2])]) == -2, "early"
    assert figures.lag([(curve, curve)]) == 0


def test_curves_of_different_lengths_are_compared_while_both_last():
    curve = walk(np.random.default_rng(0))
    assert figures.alike(curve[:50], curve) == pytest.approx([1, 1])
    assert figures.alike(curve, -curve[:50]) == pytest.approx([-1, -1])
    assert figures.correlate(curve[:, 0], np.ones(75)) == 0, "a flat curve follows nothing"


def swapped(rng, leaking, onset, count=40):
    """Return a footage's pieces, and a take that follows one of them and keeps a share `leaking` of another."""
    every = [stage.Speech(75 * k, None, walk(rng) + onset, None) for k in range(count)]
    take = stage.Take("swapped", every[0], every[1], None, 75)
    take.frames = np.arange(75)
    take.shape = 0.8 * every[1].shape + leaking * every[0].shape + 0.5 * onset + 0.3 * walk(rng)
    return every, take


@pytest.mark.parametrize(("leaking", "low", "high"), [(0, -0.1, 0.1), (0.6, 0.5, 1)])
def test_partial_leak_sees_the_old_mouth_but_not_what_all_speech_has_in_common(leaking, low, high):
    rng = np.random.default_rng(5)
    onset = 1.2 * np.sin(np.linspace(0, np.pi, 75))[:, None] * np.ones(2)
    found = []
    for every, take in [swapped(rng, leaking, onset) for _ in range(40)]:
        takes = {"swapped": [take], "own": [take], "real": [], "frozen": [], "mean": []}
        rows = evaluate.sync_rows(every, takes, walk(rng, 3000))
        found.append([[rows[name][key] for key in ("opening", "width")]
                      for name in ("leak", "leak, partial", "  chance", "  chance, partial")])
    leak, partial, chance, partial_chance = np.mean(found, axis=0)
    assert (leak > 0.3).all() and (chance > 0.3).all(), "the plain figure cannot tell the two apart"
    assert (partial > low).all() and (partial < high).all(), partial
    assert (np.abs(partial_chance) < 0.05).all(), partial_chance


def test_what_a_head_turn_does_to_every_mouth_is_no_leak():
    """Both mouths follow the head pose: a leak in the partial figure only if the pose is not known."""
    rng, found = np.random.default_rng(6), {True: [], False: []}
    for _ in range(20):
        every, take = swapped(rng, 0, 0)
        turn = walk(rng)
        take.shape, every[0].shape[:] = take.shape + turn, every[0].shape + turn
        takes = {"swapped": [take], "own": [take], "real": [], "frozen": [], "mean": []}
        for known in found:
            pose = turn if known else np.zeros((75, 2))
            found[known].append(evaluate.sync_rows(every, takes, pose)["leak, partial"]["opening"])
    assert abs(np.mean(found[True])) < 0.1 and np.mean(found[False]) > 0.25


def test_jitter_and_seam_and_sharpness_are_1_for_the_real_thing(picture):
    curve, luma = walk(np.random.default_rng(1))[:, 0], picture[..., 1]
    mask = cv2.GaussianBlur(np.pad(np.ones((20, 40), np.float32), ((20, 20), (30, 30))), (0, 0), 3)
    assert figures.jitter(curve, curve) == figures.seam(luma, luma, mask) == 1
    assert figures.jitter(curve + np.random.default_rng(2).normal(0, 0.2, 75), curve) > 1.5
    assert figures.jitter(0.3 * curve, curve) == pytest.approx(0.3)
    smooth = cv2.GaussianBlur(luma, (0, 0), 8)
    assert figures.seam(np.where(mask > 0.5, 60, smooth), smooth, mask) > 3, "a hard edge is seen"
    assert figures.sharpness(cv2.GaussianBlur(picture, (0, 0), 1)) < 0.6 * figures.sharpness(picture)


def test_ssim_is_that_of_pytorch_msssim(picture):
    oracle = pytest.importorskip("pytorch_msssim")
    for other in (picture, cv2.GaussianBlur(picture, (0, 0), 2), picture[::-1]):
        a, b = (torch.from_numpy(x.copy()).double().permute(2, 0, 1)[None] for x in (picture, other))
        assert figures.ssim(picture, other) == pytest.approx(oracle.ssim(a, b, data_range=255).item(), abs=2e-4)


def test_lips_close_where_the_opening_is_least():
    opening = np.full(40, 0.5)
    opening[20] = 0.05
    assert np.flatnonzero(figures.closes(opening, 0.0, 1.0)).tolist() == [18, 19, 20, 21, 22]
    assert not figures.closes(opening, -1.0, 0.5).any()


def test_pauses_are_the_long_quiet_runs():
    level = np.full(100, -4.0)
    level[20:40], level[70] = -9, -9
    found = figures.pauses(np.repeat(level, 4)[:, None] * np.ones(80))
    assert found[22:38].all() and not found[:17].any() and not found[43:].any()


def test_the_mouth_box_lies_about_the_lips_and_inside_the_lower_half():
    lips = np.array([[(60, 110), (100, 140)], [(62, 112), (98, 150)]], float)
    rows, columns = figures.mouth_box(np.repeat(lips, 50, axis=0))
    assert (rows.start, rows.stop, columns.start, columns.stop) == (20, 72, 54, 106)
    rows, columns = figures.mouth_box(np.array([[(1, 85), (167, 167)]], float))
    assert (rows.start, rows.stop, columns.start, columns.stop) == (0, 84, 0, 168)


def test_pieces_cross_no_cut_and_are_long_enough():
    assert stage.pieces(np.arange(100, 300), [0, 80, 160, 290]) == [(100, 160), (160, 235), (235, 290)]
    assert stage.pieces(np.arange(10), [0]) == []


def test_closures_of_a_mouth_that_follows_and_of_one_that_stays_open(tmp_path):
    pytest.importorskip("hama")
    sample.write_speech(tmp_path / "speech.wav", 6, 3)
    sound = media.read_sound(tmp_path / "speech.wav", contract.SAMPLE_RATE)[:, 0]
    frames = audio.frames_of(sound)
    speech = stage.Speech(0, None, np.full((frames, 2), 0.05), sound)
    take = stage.Take("own", speech, speech, None, frames)
    take.shape = np.full((frames, 2), 0.5)
    row = evaluate.closures([take], 0.0, 1.0)
    assert row["sounds"] and row["real"] == 1 and row["generated"] == row["ratio"] == row["any"] == 0
