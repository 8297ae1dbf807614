"""Lips that close at p, b and m, and voices."""

import cv2
import numpy as np
import pytest
import soundfile
from helpers.videos import coded, make_video

from utils import sample
from utils.audio import MelWindows, count_frames
from utils.cli import UserError
from utils.contract import SAMPLE_RATE
from utils.evaluate import metrics, speech
from utils.evaluate.rendering import Rendering, Utterance
from utils.evaluate.rows import OpeningRange
from utils.media.reader import read_sound
from utils.storage import read_meta, read_track

# -- lips that close -------------------------------------------------------------------------------

def test_closures_of_a_mouth_that_follows_and_of_one_that_stays_open(tmp_path):
    pytest.importorskip("hama")
    sample.write_speech(tmp_path / "speech.wav", 6, 3)
    sound = read_sound(tmp_path / "speech.wav", SAMPLE_RATE)[:, 0]
    frames = count_frames(sound)
    real = Utterance(0, None, np.full((frames, 2), 0.05), sound)
    made = Rendering(real, real, np.arange(frames), np.full((frames, 2), 0.5), lips=None)
    row = speech.closures([made], OpeningRange(0.0, 1.0))
    assert row["sounds"] and row["real"] == 1
    assert row["generated"] == row["ratio"] == row["any"] == 0


def test_closures_are_left_out_without_the_recogniser(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hama", None)
    assert speech.closures([], OpeningRange(0.0, 1.0)) is None


# -- voices ----------------------------------------------------------------------------------------
def smooth_curves(rng, frames):
    """Smooth random curves (frames, 2)."""
    return cv2.GaussianBlur(rng.standard_normal((frames, 2)), (1, 0), sigmaX=0.01, sigmaY=2)


def voice_of(mouth, mel=None):
    """A voice with this mouth; its mel counts its rows unless given."""
    if mel is None:
        mel = np.arange(4 * len(mouth), dtype=np.float32)[:, None] * np.ones((1, 80))
    return Utterance(0, MelWindows(mel), mouth, np.zeros(640 * len(mouth), np.float32))


def spoken(voice, lengths, mouth):
    """Renderings of a voice on pieces of these lengths in turn, in which it has another mouth."""
    shown = [Utterance(100 * k, None, np.zeros((length, 2)), None) for k, length in
             enumerate(lengths)]
    made = []
    for job in speech.voice_jobs("voice", voice, shown):
        first = job.driving.first
        frames = np.arange(job.count)
        piece = mouth[first:first + job.count]
        made.append(Rendering(job.shown, job.driving, frames, piece, lips=None))
    return made


def row_of(made, voice):
    """The row of one voice, of a person whose opening goes from 0 to 1."""
    own = np.linspace(0, 1, 100)
    return speech.voice_rows({"x": made}, {"x": voice}, OpeningRange(0.0, 1.0), own)["x"]


def test_a_voice_is_spoken_on_the_pieces_in_turn_until_it_ends():
    pieces = [Utterance(k, None, np.zeros((length, 2)), None) for k, length in ((0, 30), (40, 20))]
    voice = voice_of(np.arange(65)[:, None] * np.ones(2))
    jobs = speech.voice_jobs("voice x", voice, pieces)
    assert [job.count for job in jobs] == [30, 20, 15]
    assert [job.shown for job in jobs] == [pieces[0], pieces[1], pieces[0]]
    assert [job.driving.first for job in jobs] == [0, 30, 50]
    assert [job.driving.mouth[0, 0] for job in jobs] == [0, 30, 50]
    middles = [float(job.mel_windows[[0]][0, 31:33].mean()) for job in jobs]
    assert middles == [4 * first + 1.5 for first in (0, 30, 50)]


def test_a_voice_is_cut_and_one_without_sound_is_named(tmp_path, tiny_speech, monkeypatch):
    assert len(speech.read_voice(tiny_speech)) == 50
    monkeypatch.setattr(speech, "VOICE_FRAMES", 30)
    voice = speech.read_voice(tiny_speech)
    assert len(voice) == 30 and len(voice.mel_windows.mel) == 120 and len(voice.sound) == 19200
    assert np.isnan(voice.mouth).all()
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(0), SAMPLE_RATE)
    with pytest.raises(UserError, match="has no sound"):
        speech.read_voice(silent)


def test_the_mouth_of_a_voice_is_the_one_that_its_video_shows(tiny_clip, tiny_data, monkeypatch):
    monkeypatch.setattr(speech, "VOICE_FRAMES", 60)
    voice = speech.read_voice(tiny_clip)
    real = read_track(tiny_data, read_meta(tiny_data)).mouth[:60]
    assert voice.mouth.shape == (60, 2)
    assert np.abs(voice.mouth - real).max() < 0.05
    assert metrics.correlate_mouths(voice.mouth, real)[0] > 0.98


def test_a_video_without_a_face_is_a_voice_in_step_with_its_picture(tmp_path, tiny_speech):
    """Its sound begins 200 ms after its first picture."""
    sound = read_sound(tiny_speech, SAMPLE_RATE)[:, 0]
    path = make_video(
        tmp_path / "voice.mkv",
        [coded(k) for k in range(20)],
        sound=sound,
        sound_rate=SAMPLE_RATE,
        sound_start=0.2,
        sound_codec="pcm_s16le",
    )
    voice = speech.read_voice(path)
    assert np.isnan(voice.mouth).all() and len(voice) == 55
    assert not voice.sound[:3150].any()
    np.testing.assert_allclose(voice.sound[3200:4200], sound[:1000], atol=1e-3)


def test_the_mouth_is_compared_with_the_voices_own_where_that_is_seen():
    rng = np.random.default_rng(0)
    real = smooth_curves(rng, 130)
    generated = real * (1, -1)
    late = np.roll(generated, 2, axis=0)
    real[10:20] = np.nan
    generated[10:20] = 9
    late[10:20] = 9
    voice = voice_of(real)
    row = row_of(spoken(voice, (60, 50), generated), voice)
    assert row["opening"] == pytest.approx(1) and row["width"] == pytest.approx(-1)
    assert row["lag"] == 0
    assert row_of(spoken(voice, (60, 50), late), voice)["lag"] == 2


def test_pieces_are_one_speech_however_short_they_are():
    """Of a person with little footage they are shorter than what can be judged by itself."""
    real = smooth_curves(np.random.default_rng(1), 60)
    generated = real * (1, -1)
    generated[20:35] += 5  # this piece is shown on a picture with another mouth at rest
    generated[20:35] -= real[20:35].mean(axis=0) - real[:20].mean(axis=0)
    voice = voice_of(real)
    row = row_of(spoken(voice, (20, 15), generated), voice)
    assert row["opening"] == pytest.approx(1) and row["width"] == pytest.approx(-1)
    assert row["lag"] == 0
    brief = voice_of(real[:24])
    assert row_of(spoken(brief, (20, 15), generated), brief)["opening"] is None


def test_without_a_face_a_voice_has_only_movement_and_pauses():
    voice = voice_of(np.full((60, 2), np.nan))
    row = row_of(spoken(voice, (60,), smooth_curves(np.random.default_rng(2), 60)), voice)
    assert (row["opening"], row["width"], row["lag"]) == (None, None, None)
    assert row["movement"] > 0 and "pauses" in row


def test_the_mean_is_of_the_voices_with_a_face_if_there_are_several():
    rng = np.random.default_rng(3)
    real = smooth_curves(rng, 60)
    voices = {"a": voice_of(real), "b": voice_of(-real), "c": voice_of(np.full((60, 2), np.nan))}
    made = {name: spoken(voice, (60,), real) for name, voice in voices.items()}
    own = np.linspace(0, 1, 100)
    rows = speech.voice_rows(made, voices, OpeningRange(0.0, 1.0), own)
    assert list(rows) == ["a", "b", "c", "voices, mean"]
    mean = rows["voices, mean"]
    assert mean == {"opening": pytest.approx(0), "width": pytest.approx(0), "files": 2}
    del voices["b"]
    assert "voices, mean" not in speech.voice_rows(made, voices, OpeningRange(0.0, 1.0), own)


def test_movement_is_that_of_the_opening_beside_the_persons_own():
    """Also where the renderings come by the picture they show, not in the order of speech."""
    rng = np.random.default_rng(0)
    own = rng.normal(0.3, 0.1, 500)
    mouth = 0.5 * (own[:100, None] - 0.3) * np.ones(2) + 0.3
    mouth[:40] += 0.1
    mel = np.full((400, 80), -4.0)
    mel[:160] = -10  # a pause of 40 frames
    voice = voice_of(np.full((100, 2), np.nan), mel)
    made = spoken(voice, (50, 50), mouth)[::-1]
    row = speech.voice_rows({"x": made}, {"x": voice}, OpeningRange(0.3, 0.5), own)["x"]
    assert row["movement"] == pytest.approx(mouth[:, 0].std() / own.std())
    assert row["pauses"] == pytest.approx(((mouth[:40, 0] - 0.3) / 0.2).mean(), abs=0.05)
