"""The meter as a whole: its plan, the sound it compares with, its sentence, its table."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch

from utils.contract import SAMPLE_RATE
from utils.dataset.clip import Clip
from utils.evaluate import meter
from utils.evaluate.__main__ import table_line, voices_by_name
from utils.evaluate.rendering import utterances
from utils.generate import Speaker
from utils.media.reader import read_sound
from utils.storage import identify_source, read_json, write_json


@pytest.fixture
def speaker(tiny_data):
    clip = Clip(tiny_data)
    return Speaker(None, clip, clip.references(), torch.device("cpu"))


def test_the_plan_has_each_pair_swapped_and_the_controls_of_each_piece_once(speaker):
    clip = speaker.clip
    sound = np.zeros(640 * clip.frames, np.float32)
    spans = [(0, 40), (40, 70), (70, 100)]
    shown = utterances(spans, clip.mel_windows, clip.track.mouth, sound)
    pairs = meter.choose_pairs(shown, shown, 24)
    assert len(pairs) == 6 and all(one is not other for one, other in pairs)
    assert len(meter.choose_pairs(shown, shown, 4)) == 4

    jobs = meter.plan(speaker, np.arange(100), pairs)
    kinds = [job.kind for job in jobs]
    expected = {"swapped": 6, "own": 3, "real": 3, "frozen": 3, "mean": 3, "silence": 3, "noise": 3}
    assert {kind: kinds.count(kind) for kind in set(kinds)} == expected
    for job in jobs:
        assert job.count <= len(job.shown)
        if job.kind in ("swapped", "own"):
            assert job.mel_windows is job.driving.mel_windows
        if job.kind == "real":
            first = job.driving.first
            real = clip.lower_faces[first:first + job.count]
            assert np.array_equal(job.lower_faces, real)
        if job.kind == "frozen":
            reference = clip.lower_faces[speaker.references[job.shown.first, 0]]
            assert all(np.array_equal(face, reference) for face in job.lower_faces)
        if job.kind in ("silence", "noise"):
            windows = job.mel_windows[np.arange(job.count)]
            assert (windows.max() == windows.min()) == (job.kind == "silence")
            assert windows.max() < -5 and windows.min() >= np.float32(np.log(1e-5))


class Stop(Exception):
    """Ends a function where a test has seen enough."""


def test_pieces_are_compared_with_the_sound_that_training_heard(tiny_data, tmp_path, monkeypatch):
    """The real sound of a piece is moved as meta.json says."""
    ignored = shutil.ignore_patterns("pred", "result")
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=ignored)
    meta = read_json(data / "meta.json")
    write_json(data / "meta.json", {**meta, "av_offset_ms": 120})
    sounds = []

    def stop(spans, mel_windows, mouth, sound):
        sounds.append(sound)
        raise Stop

    monkeypatch.setattr(meter, "utterances", stop)
    clip = Clip(data)
    with pytest.raises(Stop):
        meter.real_speech(clip, np.arange(100, 150))
    whole = read_sound(meta["source"]["path"], SAMPLE_RATE, video_start=True)[:, 0]
    assert np.array_equal(sounds[0][:50000], whole[1920:51920])


def test_sound_that_was_recorded_apart_is_read_where_training_had_it(
    tiny_data, tiny_speech, tmp_path, monkeypatch
):
    """Moved by seconds, of the track asked for; frames that are not usable are in no piece."""
    ignored = shutil.ignore_patterns("pred", "result")
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=ignored)
    meta = read_json(data / "meta.json")
    sound = asdict(identify_source(tiny_speech))
    moved = {**meta, "av_offset_ms": -3000, "sound": sound, "track": 1}
    write_json(data / "meta.json", moved)
    clip = Clip(data)
    clip.track.usable = np.arange(150) >= 60
    shown, others = meter.real_speech(clip, np.arange(40, 150))
    assert min(one.first for one in shown + others) == 60
    samples = read_sound(tiny_speech, SAMPLE_RATE)[:, 0]
    [second] = [one for one in others if one.first <= 75 < one.first + len(one)]
    begin = (75 - second.first) * 640
    some = min(len(samples), len(second.sound) - begin)
    assert np.array_equal(second.sound[begin:begin + some], samples[:some])


def test_a_clip_too_short_to_swap_is_said_in_the_line_at_the_end_of_training(tiny_data):
    line = meter.brief(Clip(tiny_data), None, None)
    assert line.startswith("not measured: ") and "no two held-out pieces" in line


ROWS = {
    "follows, swapped sound": {"opening": 0.85, "width": 0.6, "error": 0.02, "lag": 0},
    "leak, partial": {"opening": 0.05, "width": 0.0, "error": 0.02},
    "  chance, partial": {"opening": 0.0, "width": 0.0, "error": 0.01},
    "texture": {"sharpness": 0.9},
    "silence": {"digital": 0.1},
}


@pytest.mark.parametrize(("row", "changes", "words"), [
    ("silence", {}, "The mouth follows the sound; the old mouth does not show through; "
                    "it is as sharp as the real one and closes in silence."),
    ("follows, swapped sound", {"opening": 0.7}, "follows somewhat the sound"),
    ("follows, swapped sound", {"opening": 0.5}, "does not yet follow the sound"),
    ("follows, swapped sound", {"lag": 2}, "the sound, 2 frames late;"),
    ("follows, swapped sound", {"lag": -1}, "the sound, 1 frames early;"),
    ("leak, partial", {"width": 0.2}, "the old mouth shows through"),
    ("texture", {"sharpness": 0.5}, "softer than"),
    ("texture", {"sharpness": 1.5}, "grainier than"),
    ("silence", {"digital": 0.3}, "stays open in silence"),
])
def test_the_sentence_says_what_the_figures_mean(row, changes, words):
    assert words in meter.sentence({**ROWS, row: {**ROWS[row], **changes}})


def test_a_line_of_the_table_shows_figures_counts_and_gaps():
    line = table_line("voice x", {"movement": 0.5, "pauses": None, "sounds": 3})
    assert line.split() == ["voice", "x", "movement", "0.50", "pauses", "-", "sounds", "3"]
    assert line.startswith("voice x".ljust(24)) and line == line.rstrip()
    assert table_line("closures", None).split("closures")[1].split() == [
        "skipped:", "pip", "install", "hama"
    ]


def test_voices_of_one_file_name_are_told_apart_by_their_paths():
    paths = ["a/one.mp4", "a/two.wav", "b/one.mp4", "a/two.wav"]
    rows = {f"voice {path}": {"opening": k} for k, path in enumerate(paths[:3])}
    assert voices_by_name(paths, rows) == {
        "one.mp4": {"opening": 0},
        "two.wav": {"opening": 1},
        "b/one.mp4": {"opening": 2},
    }
