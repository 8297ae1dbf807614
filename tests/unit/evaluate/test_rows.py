"""The rows: a leak is seen, and what all speech has in common, or a head turn does, is none."""

import cv2
import numpy as np
import pytest

from utils.evaluate.rendering import Rendering, Utterance
from utils.evaluate.rows import OpeningRange, follow_rows, leak_rows, silence_row

FRAMES = 75


def smooth_curves(rng, frames=FRAMES):
    """Smooth random curves (frames, 2)."""
    noise = rng.standard_normal((frames, 2))
    return cv2.GaussianBlur(noise, (1, 0), sigmaX=0.01, sigmaY=2)


def rendering(shown, driving, mouth):
    """A rendering with nothing but a mouth."""
    return Rendering(shown, driving, np.arange(len(mouth)), mouth, lips=np.zeros((0, 40, 2)))


def swapped(rng, leaking, onset, count=40):
    """A clip's utterances, and a rendering that follows one and keeps a share of another."""
    every = [
        Utterance(FRAMES * k, None, smooth_curves(rng) + onset, None) for k in range(count)
    ]
    shown, driving = every[:2]
    noise = 0.3 * smooth_curves(rng)
    mouth = 0.8 * driving.mouth + leaking * shown.mouth + 0.5 * onset + noise
    return every, rendering(shown, driving, mouth)


@pytest.mark.parametrize(("leaking", "low", "high"), [(0, -0.1, 0.1), (0.6, 0.5, 1)])
def test_partial_leak_sees_the_old_mouth_but_not_what_all_speech_has_in_common(leaking, low, high):
    rng = np.random.default_rng(5)
    onset = 1.2 * np.sin(np.linspace(0, np.pi, FRAMES))[:, None] * np.ones(2)
    found = []
    for _ in range(40):
        every, made = swapped(rng, leaking, onset)
        rows = leak_rows(every, {"swapped": [made]}, smooth_curves(rng, 3000))
        names = ("leak", "leak, partial", "  chance", "  chance, partial")
        found.append([(rows[name]["opening"], rows[name]["width"]) for name in names])
    leak, partial, chance, partial_chance = np.mean(found, axis=0)
    assert (leak > 0.3).all() and (chance > 0.3).all(), "the plain figure cannot tell them apart"
    assert (partial > low).all() and (partial < high).all(), partial
    assert (np.abs(partial_chance) < 0.05).all(), partial_chance


def test_what_a_head_turn_does_to_every_mouth_is_no_leak():
    """Both mouths follow the head pose: a partial leak only if the pose is not known."""
    rng = np.random.default_rng(6)
    found = {True: [], False: []}
    for _ in range(20):
        every, made = swapped(rng, 0, 0)
        turn = smooth_curves(rng)
        made.mouth += turn
        made.shown.mouth += turn
        for known in found:
            pose = turn if known else np.zeros((FRAMES, 2))
            rows = leak_rows(every, {"swapped": [made]}, pose)
            found[known].append(rows["leak, partial"]["opening"])
    assert abs(np.mean(found[True])) < 0.1
    assert np.mean(found[False]) > 0.25


def test_what_is_seen_of_an_unmoved_mouth_is_no_leak():
    """Cheeks that move with the old mouth show in the frozen rendering of the same picture too."""
    rng = np.random.default_rng(8)
    found = {True: [], False: []}
    for _ in range(20):
        every, made = swapped(rng, 0.5, 0)
        for known in found:
            still = made.shown.mouth if known else smooth_curves(rng)
            frozen = rendering(made.shown, made.driving, 0.5 * still)
            renderings = {"swapped": [made], "frozen": [frozen]}
            rows = leak_rows(every, renderings, np.zeros((FRAMES, 2)))
            found[known].append(rows["leak, partial"]["opening"])
    assert abs(np.mean(found[True])) < 0.1
    assert np.mean(found[False]) > 0.4


def test_following_has_a_lag_and_an_error_over_the_pieces():
    rng = np.random.default_rng(7)
    every = [Utterance(FRAMES * k, None, smooth_curves(rng), None) for k in range(3)]
    late = [rendering(every[0], one, np.roll(one.mouth, 2, axis=0)) for one in every[1:]]
    frozen = [rendering(every[0], every[1], np.ones((FRAMES, 2)))]
    rows = follow_rows({"swapped": late, "frozen": frozen})
    assert list(rows) == ["follows, swapped sound", "  frozen mouth"]
    assert rows["follows, swapped sound"]["lag"] == 2
    assert 0 < rows["follows, swapped sound"]["error"] < 0.5
    assert rows["  frozen mouth"] == {"opening": 0, "width": 0, "error": 0}


def test_silence_counts_from_the_persons_closed_mouth_to_the_open_one():
    person = OpeningRange(0.1, 0.5)
    closed = rendering(None, None, np.full((10, 2), 0.1))
    half_open = rendering(None, None, np.full((30, 2), 0.3))
    row = silence_row({"silence": [closed, half_open]}, person)
    assert row["digital"] == pytest.approx(0.75 * 0.5)
    row = silence_row({"silence": [closed], "noise": [half_open]}, person)
    assert row["digital"] == 0
    assert row["noise"] == pytest.approx(0.5)
    assert row["flutter"] == pytest.approx(0)


def test_lipleak_is_the_share_of_silent_frames_with_an_opening_above_a_quarter_of_the_width():
    mouth = np.array([(0.1, 0.5), (0.2, 0.5), (0.2, 0.9), (0.3, 0.5)])
    silent = [rendering(None, None, mouth), rendering(None, None, np.zeros((4, 2)))]
    loud = [rendering(None, None, np.ones((4, 2)))]
    row = silence_row({"silence": silent, "noise": loud}, OpeningRange(0.1, 0.5))
    assert row["lipleak"] == 2 / 8


def test_own_minus_swapped_is_what_the_mouth_gains_from_its_own_picture():
    rng = np.random.default_rng(9)
    every = [Utterance(FRAMES * k, None, smooth_curves(rng), None) for k in range(2)]
    own = [rendering(one, one, one.mouth) for one in every]
    noisy = [rendering(every[0], every[1], every[1].mouth + smooth_curves(rng))]
    rows = follow_rows({"swapped": noisy, "own": own})
    swapped = rows["follows, swapped sound"]
    assert rows["own minus swapped"] == {
        "opening": pytest.approx(1 - swapped["opening"]),
        "width": pytest.approx(1 - swapped["width"]),
    }
    assert rows["own minus swapped"]["opening"] > 0.1
    assert "own minus swapped" not in follow_rows({"own": own})
