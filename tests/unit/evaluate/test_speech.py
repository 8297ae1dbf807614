"""Lips that close at p, b and m, and voices."""

import numpy as np
import pytest

from utils import sample
from utils.audio import count_frames
from utils.cli import UserError
from utils.contract import SAMPLE_RATE
from utils.evaluate import speech
from utils.evaluate.rendering import Rendering, Utterance
from utils.evaluate.rows import OpeningRange
from utils.media.reader import read_sound


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


def test_a_voice_is_spoken_on_the_pieces_in_turn_until_it_ends():
    pieces = [Utterance(k, None, np.zeros((length, 2)), None) for k, length in ((0, 30), (40, 20))]
    mel = np.arange(4 * 65, dtype=np.float32)[:, None] * np.ones((1, 80))
    jobs = speech.voice_jobs("voice x", mel, pieces)
    assert [job.count for job in jobs] == [30, 20, 15]
    assert [job.shown for job in jobs] == [pieces[0], pieces[1], pieces[0]]
    middles = [float(job.mel_windows[[0]][0, 31:33].mean()) for job in jobs]
    assert middles == [4 * first + 1.5 for first in (0, 30, 50)]


def test_a_voice_is_cut_and_one_without_sound_is_named(tmp_path, tiny_speech, tiny_clip):
    assert len(speech.read_voice(tiny_speech)) == 4 * 50
    assert len(speech.read_voice(tiny_clip)) <= 4 * speech.VOICE_FRAMES
    silent = tmp_path / "silent.wav"
    silent.write_bytes(
        b"RIFF" + (36).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
        + (1).to_bytes(2, "little") * 2 + (16000).to_bytes(4, "little")
        + (32000).to_bytes(4, "little") + (2).to_bytes(2, "little") + (16).to_bytes(2, "little")
        + b"data" + (0).to_bytes(4, "little")
    )
    with pytest.raises(UserError, match="has no sound"):
        speech.read_voice(silent)


def test_movement_is_that_of_the_opening_beside_the_persons_own():
    rng = np.random.default_rng(0)
    own = rng.normal(0.3, 0.1, 500)
    mouth = 0.5 * (own[:100, None] - 0.3) * np.ones(2) + 0.3
    made = Rendering(None, None, np.arange(100), mouth, lips=None)
    mel = np.full((400, 80), -4.0)
    mel[:160] = -10  # a pause of 40 frames
    row = speech.voice_row([made], mel, OpeningRange(0.3, 0.5), own)
    assert row["movement"] == pytest.approx(0.5 * own[:100].std() / own.std())
    assert row["pauses"] == pytest.approx(((mouth[:40, 0] - 0.3) / 0.2).mean(), abs=0.05)
