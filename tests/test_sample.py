"""The built-in sample: a face that is found, a mouth that does what the sound says, the same on every machine."""

import numpy as np
import pytest

from conftest import TINY_SECONDS, TINY_SEED
from utils import contract, sample


def test_the_face_is_found_in_every_frame(tiny_data):
    meta = contract.read_meta(tiny_data)
    track = contract.read_track(tiny_data, meta)
    assert meta["frames"] == TINY_SECONDS * 25 and track["valid"].all() and meta["shots"] == 1


def test_the_measured_opening_follows_the_drawn_one_without_lag(tiny_data):
    opening = contract.read_track(tiny_data, contract.read_meta(tiny_data))["shape"][:, 0]
    drawn = sample.mouth_curve(sample.script(TINY_SECONDS, TINY_SEED))[:, 0]
    lags = range(-4, 5)
    scores = [np.corrcoef(opening[5:-5], np.roll(drawn, lag)[5:-5])[0, 1] for lag in lags]
    assert scores[lags.index(0)] >= 0.9 and np.argmax(scores) == lags.index(0)


def test_lips_close_on_m_b_and_p():
    said = sample.script(20, sample.CLIP_SEED)
    curve = sample.mouth_curve(said)[:, 0]
    ends = np.cumsum([seconds for _, seconds in said])
    closed = [curve[int((end - seconds / 2) * 25)] for (sound, seconds), end in zip(said, ends, strict=True)
              if sound in "mbp"]
    vowels = [curve[int((end - seconds / 2) * 25)] for (sound, seconds), end in zip(said, ends, strict=True)
              if sound in "aeo"]
    assert len(closed) > 5 and max(closed) < 0.35 and np.median(closed) < 0.15 and min(vowels) > max(closed)


def test_the_script_has_vowels_pauses_and_closed_lips():
    sounds = [sound for sound, _ in sample.script(20, sample.CLIP_SEED)]
    assert len(set(sounds) & set("aeiou")) >= 3 and set("mbp") <= set(sounds) and sounds.count("_") > 5


def test_the_mouth_is_shut_in_a_pause_and_stays_within_its_range():
    said = [("_", 0.5), ("a", 0.3), ("_", 0.5)]
    curve = sample.mouth_curve(said)
    assert curve.min() >= 0 and curve.max() <= 1
    assert curve[:8, 0].max() < 0.01 and curve[-8:, 0].max() < 0.01 and curve[:, 0].max() > 0.9


def test_the_same_seed_gives_the_same_sound_and_another_seed_another():
    said = sample.script(3, 5)
    assert said == sample.script(3, 5)
    assert sample.speak(said, 5).tobytes() == sample.speak(said, 5).tobytes()
    assert sample.script(20, sample.CLIP_SEED) != sample.script(20, sample.SPEECH_SEED)


def test_the_sound_lasts_as_long_as_the_picture():
    said = sample.script(4, 3)
    assert abs(len(sample.speak(said, 3)) / sample.RATE - len(sample.mouth_curve(said)) / 25) < 0.04


def test_pauses_are_quiet_and_vowels_loud():
    sound = sample.speak([("_", 0.5), ("a", 0.5), ("_", 0.5)], 1)
    loud = [np.sqrt(np.mean(sound[first:first + 4000] ** 2)) for first in (0, 10000, 20000)]
    assert loud[1] > 30 * loud[0] and loud[1] > 30 * loud[2] and np.abs(sound).max() <= 1


@pytest.mark.parametrize("sounds", ["_", "_a_", "_s_", "_mi_p"])
def test_a_script_without_voice_or_without_breath_is_spoken_too(sounds):
    sound = sample.speak([(name, 0.3) for name in sounds], 1)
    assert np.isfinite(sound).all() and np.abs(sound).max() <= 1
    assert (np.abs(sound).max() > 0.02) == (sounds != "_")


def test_the_speech_file_is_16_khz_mono(tiny_speech):
    import soundfile

    about = soundfile.info(tiny_speech)
    assert (about.samplerate, about.channels) == (16000, 1) and abs(about.duration - 2) < 0.05
