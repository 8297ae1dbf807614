"""utils.benchmark: its rows, its JSON, and that it measures what the scripts do."""

import json
import sys

import numpy as np
import pytest
from helpers.videos import make_video

from utils import benchmark, sample
from utils.cli import UserError
from utils.media.reader import read_frames, read_sound

KEYS = {
    "calibration.threads",
    *("calibration.fp32_gflops", "calibration.bf16_gflops"),
    *("preprocess.frames_per_s", "preprocess.360p.frames_per_s", "preprocess.1080p.frames_per_s"),
    *("train.pictures_per_s", "train.data_share", "train.seconds_per_1732_frames"),
    *("train.gflop_per_picture", "train.mfu"),
    *("infer.pictures_per_s", "infer.float32_pictures_per_s"),
    *("infer.gflop_per_picture", "infer.mfu"),
    *("reapply.frames_per_s", "reapply.transcode_frames_per_s", "reapply.over_transcode"),
}
MADE_UP = {
    "preprocess": {"frames_per_s": 50.0},
    "train": {
        "pictures_per_s": 40.0,
        "data_share": 0.1,
        "seconds_per_1732_frames": 43.3,
        "gflop_per_picture": 4.5,
    },
    "infer": {
        "pictures_per_s": 90.0,
        "float32_pictures_per_s": 45.0,
        "gflop_per_picture": 1.0,
    },
    "reapply": {"frames_per_s": 20.0, "transcode_frames_per_s": 30.0, "over_transcode": 1.5},
}


def flat(rows, before=""):
    """Nested rows as {"train.mfu": ...}."""
    found = {}
    for name, value in rows.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found


@pytest.fixture
def few(monkeypatch):
    """Small matrices, one run of each, few steps."""
    small = {
        "RUNS": 1,
        "CALIBRATION_RUNS": 3,
        "MATRIX_SIDE": 256,
        "TRAIN_STEPS": 2,
        "INFER_BATCHES": 1,
    }
    for name, value in small.items():
        monkeypatch.setattr(benchmark, name, value)


@pytest.fixture
def printed(few, monkeypatch, capsys):
    """Run utils.benchmark with rows made up; returns (standard output, standard error)."""
    for name, row in MADE_UP.items():
        monkeypatch.setattr(benchmark, f"time_{name}", lambda *_, row=row: dict(row))
    for owner, name in (
        (benchmark, "write_film"),
        (benchmark, "write_prediction"),
        (sample, "write_clip"),
    ):
        monkeypatch.setattr(owner, name, lambda *_: None)

    def run(*words):
        benchmark.main(benchmark.parse_args(list(words)))
        return capsys.readouterr()

    return run


def test_json_is_all_that_is_printed(printed):
    out, err = printed("--json")
    rows = flat(json.loads(out))
    assert set(rows) == KEYS
    assert "some minutes" in err
    fastest = max(rows["calibration.fp32_gflops"], rows["calibration.bf16_gflops"])
    assert rows["train.mfu"] == pytest.approx(4.5 * 40 / fastest, abs=6e-4)
    assert rows["infer.mfu"] == pytest.approx(90 / fastest, abs=6e-4)


def test_a_table_has_a_line_for_each_figure(printed):
    out, _ = printed()
    assert len(out.splitlines()) == len(KEYS)
    assert "fp32 gflops" in out


def test_the_median_run_counts(monkeypatch):
    monkeypatch.setattr(benchmark.timeit, "repeat", lambda work, number, repeat: [7, 2, 3])
    assert benchmark.median_seconds(print, 3) == 3


def test_operations_of_a_matrix_product_are_counted():
    matrix = benchmark.torch.ones(100, 100)
    assert benchmark.count_gflop(lambda: matrix @ matrix) == pytest.approx(2 * 100**3 / 1e9)


@pytest.mark.slow
def test_training_is_timed(few, tiny_data):
    """Operations count the discriminator and the backward pass."""
    row = benchmark.time_train(tiny_data)
    assert 0 < row["data_share"] < 0.7
    assert 2.2 < row["gflop_per_picture"] < 2.8
    assert row["seconds_per_1732_frames"] == pytest.approx(1732 / row["pictures_per_s"], rel=0.05)


def test_the_network_alone_is_timed(few, tiny_data):
    row = benchmark.time_infer(tiny_data)
    assert row["pictures_per_s"] > 0
    assert row["float32_pictures_per_s"] > 0
    assert 0.65 < row["gflop_per_picture"] < 0.8


def test_a_bare_transcode_has_the_same_pictures(tiny_clip, tmp_path):
    benchmark.transcode(tiny_clip, tmp_path / "bare.mp4", 30)
    film = [frame.planes()[0] for frame in read_frames(tiny_clip, stop=30)]
    bare = [frame.planes()[0] for frame in read_frames(tmp_path / "bare.mp4")]
    assert len(bare) == 30
    assert np.abs(np.subtract(film, bare, dtype=float)).mean() < 1


def test_a_script_is_run_quietly_with_its_words(monkeypatch, capsys):
    def main(args):
        seen.append(args)
        print("path")
        print("note", file=sys.stderr)

    seen = []
    script = {"main": main, "parse_args": tuple}
    monkeypatch.setattr(benchmark, "load_script", lambda name: script)
    benchmark.run_script("preprocess", "film", "--data", 7)
    assert seen == [("film", "--data", "7")]
    assert capsys.readouterr() == ("", "")


def test_films_have_the_length_and_size_they_should(tiny_clip, tmp_path, monkeypatch):
    """Of a square clip; of an upright one the shorter side is the width."""
    monkeypatch.setattr(benchmark, "FILM_S", 2)
    path = tmp_path / "film.mp4"
    benchmark.write_film(tiny_clip, path, 360)
    frames = [frame.planes()[0].shape for frame in read_frames(path)]
    assert frames == [(360, 360)] * 50
    assert len(read_sound(path, 16000)) == pytest.approx(2 * 16000, abs=1600)
    upright = [np.zeros((96, 64, 3), np.uint8)] * 25
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 48000).astype(np.float32)
    make_video(tmp_path / "upright.mp4", upright, sound=sound)
    benchmark.write_film(tmp_path / "upright.mp4", path, 360)
    assert next(read_frames(path)).planes()[0].shape == (540, 360)


def test_a_clip_without_sound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "read_sound", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"has no sound; run: python -m utils\.benchmark"):
        benchmark.write_film("clip", tmp_path / "film.mp4", 360)


@pytest.mark.slow
def test_all_is_timed(few, tmp_path, tiny_clip):
    """The scripts one after the other, as they are run."""
    rows = flat(benchmark.time_all(tiny_clip, tmp_path))
    assert set(rows) == KEYS
    assert not {name: value for name, value in rows.items() if not value > 0}
