"""The built-in sample: a mouth that does what the sound says, the same on every machine."""

import numpy as np
import pytest
import soundfile

from utils import sample
from utils.contract import FPS, SAMPLE_RATE


def pronounced(sounds, seconds=0.3):
    """Script of these sounds, one after the other."""
    return [(name, seconds) for name in sounds]


# -- what is said ----------------------------------------------------------------------------------
def test_the_script_has_vowels_pauses_and_closed_lips():
    sounds = [sound for sound, _ in sample.make_script(20, sample.CLIP_SEED)]
    assert len(set(sounds) & set("aeiou")) >= 3
    assert set("mbp") <= set(sounds)
    assert sounds.count("_") > 5


@pytest.mark.parametrize("seconds", [0.3, 1, 2.2, 20])
def test_the_script_lasts_about_as_long_as_asked(seconds):
    script = sample.make_script(seconds, 3)
    assert sum(length for _, length in script) == pytest.approx(seconds, abs=1)


def test_the_same_seed_gives_the_same_sound_and_another_seed_another():
    script = sample.make_script(3, 5)
    assert script == sample.make_script(3, 5)
    assert np.array_equal(sample.synthesise(script, 5), sample.synthesise(script, 5))
    clip = sample.make_script(20, sample.CLIP_SEED)
    assert clip != sample.make_script(20, sample.SPEECH_SEED)


# -- the mouth -------------------------------------------------------------------------------------
def test_lips_close_on_m_b_and_p():
    script = sample.make_script(20, sample.CLIP_SEED)
    opening = sample.mouth_curve(script)[:, 0]
    ends = np.cumsum([seconds for _, seconds in script])
    middles = [end - seconds / 2 for (_, seconds), end in zip(script, ends, strict=True)]
    shown = [
        (sound, opening[int(middle * FPS)])
        for (sound, _), middle in zip(script, middles, strict=True)
        if sound != "_"
    ]
    closed = [value for sound, value in shown if sound in "mbp"]
    vowels = [value for sound, value in shown if sound in "aeo"]
    assert len(closed) > 5
    assert max(closed) < 0.35
    assert np.median(closed) < 0.15
    assert min(vowels) > max(closed)


def test_the_mouth_is_shut_in_a_pause_and_stays_within_its_range():
    curve = sample.mouth_curve([("_", 0.5), ("a", 0.3), ("_", 0.5)])
    opening = curve[:, 0]
    assert curve.min() >= 0
    assert curve.max() <= 1
    assert opening[:8].max() < 0.01
    assert opening[-8:].max() < 0.01
    assert opening.max() > 0.9


# -- the voice -------------------------------------------------------------------------------------
def test_the_sound_lasts_as_long_as_the_picture():
    script = sample.make_script(4, 3)
    sound = len(sample.synthesise(script, 3)) / SAMPLE_RATE
    picture = len(sample.mouth_curve(script)) / FPS
    assert sound == pytest.approx(picture, abs=0.04)


def test_pauses_are_quiet_and_vowels_loud():
    sound = sample.synthesise(pronounced("_a_", 0.5), 1)
    levels = [np.sqrt(np.mean(sound[first : first + 4000] ** 2)) for first in (0, 10000, 20000)]
    assert levels[1] > 30 * levels[0]
    assert levels[1] > 30 * levels[2]
    assert np.abs(sound).max() <= 1


@pytest.mark.parametrize("sounds", ["_", "_a_", "_s_", "_mi_p"])
def test_a_script_without_voice_or_without_breath_is_spoken_too(sounds):
    sound = sample.synthesise(pronounced(sounds), 1)
    assert np.isfinite(sound).all()
    peak = np.abs(sound).max()
    assert peak <= 1
    assert (peak > 0.02) == (sounds != "_")


# -- the face --------------------------------------------------------------------------------------
def test_the_mouth_opens_and_nothing_above_it_moves():
    shut = sample.draw_face(0.0, 0.5, 1.0).astype(int)
    wide = sample.draw_face(1.0, 0.5, 1.0).astype(int)
    change = np.abs(wide - shut)
    assert shut.shape == (512, 512, 3)
    assert change[320:400, 200:312].mean() > 20
    assert change[:260, 170:340].max() == 0


@pytest.mark.parametrize(("moment", "seen"), [(1.0, True), (2.75, False)])
def test_a_blink_hides_the_pupils(moment, seen):
    eye = sample.draw_face(0.0, 0.5, moment)[198:225, 195:230]
    assert (eye.min() < 30) == seen


def test_the_speech_file_is_16_khz_mono(tiny_speech):
    about = soundfile.info(tiny_speech)
    assert (about.samplerate, about.channels) == (16000, 1)
    assert about.duration == pytest.approx(2, abs=0.05)


def test_a_run_writes_both_files_and_names_the_next_command(run_script, tmp_path):
    options = ("--seconds", 1, "--speech-seconds", 1.5)
    result = run_script("utils.sample", *options, cwd=tmp_path)
    assert result.code == 0, result.err
    assert result.err.rstrip().endswith("next: python preprocess.py")
    files = sorted(path.name for path in (tmp_path / "input").iterdir())
    assert files == ["sample.mp4", "sample_speech.wav"]
