"""utils.benchmark: its rows, its JSON, and that it measures what the scripts do."""

import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from utils import benchmark, media, sample, speed
from utils.console import UserError

KEYS = {
    "calibration.threads", "calibration.fp32_gflops", "calibration.bf16_gflops", "calibration.memcpy_gb_per_s",
    "preprocess.frames_per_s", "preprocess.360p.frames_per_s", "preprocess.1080p.frames_per_s",
    "train.pictures_per_s", "train.gflop_per_picture", "train.peak_anonymous_mb", "train.mfu",
    "infer.pictures_per_s", "infer.gflop_per_picture", "infer.mfu", "reapply.over_transcode",
    "live.latency_ms"}


@pytest.fixture
def printed(monkeypatch, capsys):
    """Run utils.benchmark in process with small matrices and rows made up; return (standard output, standard error)."""
    made_up = {"preprocess": {"frames_per_s": 50.0}, "train": {"pictures_per_s": 40.0, "gflop_per_picture": 4.5},
               "infer": {"pictures_per_s": 90.0, "gflop_per_picture": 1.0}, "reapply": {"over_transcode": 1.5},
               "live": {"latency_ms": 370}}
    for name, row in made_up.items():
        monkeypatch.setattr(speed, name, lambda *_, row=row: dict(row))
    for name, value in {"SIDE": 64, "COPIED": 1 << 16, "write_film": lambda *_: None,
                        "write_prediction": lambda *_: None,
                        "alone": lambda work, *given: (work(*given), {"anonymous": 500})}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(sample, "write_clip", lambda *_: None)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["benchmark", *words])
        benchmark.main()
        return capsys.readouterr()
    return run


def flat(rows, before=""):
    """Return nested rows as {"train.mfu": ...}."""
    return {name: found for key, value in rows.items() for name, found in
            (flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}).items()}


def test_json_is_all_that_is_printed(printed):
    out, err = printed("--json")
    rows = flat(json.loads(out))
    assert set(rows) == KEYS and "--memory" in err
    best = max(rows["calibration.fp32_gflops"], rows["calibration.bf16_gflops"])
    assert rows["train.mfu"] == pytest.approx(4.5 * 40 / best, abs=6e-4)
    assert rows["infer.mfu"] == pytest.approx(90 / best, abs=6e-4)


def test_a_table_has_a_line_for_each_figure(printed):
    out, _ = printed()
    assert len(out.splitlines()) == len(KEYS) and "memcpy gb per s" in out


def test_a_clock_books_each_second_once(monkeypatch):
    """A part within a part, a generator, and what is in neither; afterwards everything is as it was."""
    now = [0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    def take(seconds):
        now[0] += seconds

    def read_frames():
        for _ in range(3):
            take(1)
            yield "frame"

    tool = SimpleNamespace(read_frames=read_frames, inner=lambda: take(10),
                           outer=lambda: (take(60), tool.inner(), take(40)))
    before, clock = vars(tool).copy(), speed.Clock("rest")
    with clock.watching(("decode", tool, "read_frames"), ("in", tool, "inner"), ("out", tool, "outer")):
        take(600)
        for _ in tool.read_frames():
            tool.outer()
        take(400)
    assert clock.seconds == {"decode": 3, "in": 30, "out": 300, "rest": 1000} and clock.total == 1333
    assert vars(tool) == before


def test_the_median_run_is_one_that_was():
    clocks = [SimpleNamespace(total=total) for total in (3, 1, 2)]
    assert speed.median(clocks) is clocks[2]


@pytest.mark.slow
def test_training_is_timed_to_the_last_part(tiny_data):
    """Shares of time sum to 1, the backward pass takes the most, and operations count discriminator and sounds."""
    row = speed.train(tiny_data, 1, 2)
    shares = {key: value for key, value in row.items() if key.endswith("_share")}
    assert set(shares) == {"data_share", "forward_share", "backward_share", "optimizer_share"}
    assert sum(shares.values()) == pytest.approx(1, abs=3e-4) and min(shares.values()) > 0
    assert max(shares, key=shares.get) == "backward_share" and 2.7 < row["gflop_per_picture"] < 3.2
    assert row["seconds_per_1732_frames"] == pytest.approx(1732 / row["pictures_per_s"], rel=0.05)


def test_the_network_alone_is_timed(tiny_data):
    row = speed.infer(tiny_data, 1, 1)
    assert row["pictures_per_s"] > 0 < row["float32_pictures_per_s"] and 0.65 < row["gflop_per_picture"] < 0.8


def test_a_bare_transcode_has_the_same_pictures(tiny_clip, tmp_path):
    speed.transcode(tiny_clip, tmp_path / "bare.mp4", 30, 18, "veryfast")
    film, bare = (np.stack([frame.planes()[0] for frame in media.read_frames(path)]).astype(float)
                  for path in (tiny_clip, tmp_path / "bare.mp4"))
    assert len(bare) == 30 and np.abs(film[:30] - bare).mean() < 1


def test_a_script_is_run_quietly_with_its_words(capsys):
    def main():
        words.extend(sys.argv[1:])
        print("path")
        print("note", file=sys.stderr)

    words = []
    speed.start(main, "film", "--data", 7)
    assert words == ["film", "--data", "7"] and capsys.readouterr() == ("", "")


def test_films_have_the_length_and_size_they_should(tiny_clip, tmp_path, monkeypatch):
    """Longer than the clip, so that it begins anew; upright if the clip is."""
    benchmark.write_film(tiny_clip, tmp_path / "film.mp4", 7)
    frames = [frame.planes()[0].shape for frame in media.read_frames(tmp_path / "film.mp4")]
    assert frames == [(1080, 1920)] * 175
    assert len(media.read_sound(tmp_path / "film.mp4", 16000)) == pytest.approx(7 * 16000, abs=1600)
    upright = [np.zeros((96, 64), np.uint8)] + 2 * [np.zeros((48, 32), np.uint8)]
    monkeypatch.setattr(media, "read_frames", lambda _: iter([SimpleNamespace(planes=lambda: upright)]))
    benchmark.write_film(tiny_clip, tmp_path / "upright.mp4", 0.2, 360)
    assert (media.av.open(str(tmp_path / "upright.mp4")).streams.video[0].width) == 360


def test_peak_sees_what_a_process_takes(tmp_path):
    """200 MB that are written to for a moment, and nothing of what is only reserved."""
    script = tmp_path / "script.py"
    script.write_text("import time, mmap\nwide = mmap.mmap(-1, 2 << 30)\nblock = b'x' * (200 << 20)\ntime.sleep(0.3)\n")
    found = benchmark.peak(script)
    assert 200 < found["anonymous"] < 300 and found["anonymous"] <= found["resident"] < 400


def test_a_script_that_fails_is_named(tmp_path):
    (tmp_path / "script.py").write_text("raise SystemExit(3)")
    with pytest.raises(UserError, match=r"script\.py ended with 3.*run"):
        benchmark.peak(tmp_path / "script.py")


def test_a_system_without_proc_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "Path", lambda *_: tmp_path / "missing")
    with pytest.raises(UserError, match="only be measured on Linux"):
        benchmark.memory("clip", tmp_path)


def hold(megabytes):
    """Take that much memory for a moment; return the number of the process that did."""
    block = b"x" * (megabytes << 20)
    time.sleep(0.3)
    return os.getpid() if block else None


def test_a_function_is_watched_in_a_process_of_its_own():
    number, peaks = benchmark.alone(hold, 200)
    assert number != os.getpid() and 200 < peaks["anonymous"] < 500


def test_a_clip_without_sound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "read_sound", lambda *_, **__: None)
    with pytest.raises(UserError, match="has no sound"):
        benchmark.write_film("clip", tmp_path / "film.mp4", 1)


@pytest.mark.slow
def test_all_is_timed(tmp_path, tiny_clip):
    """The chain as it is run; the parts of preprocess.py add up to its time."""
    rows = benchmark.speeds(tiny_clip, tmp_path, 6, 1, 1)
    assert set(flat(rows)) >= KEYS and all(value > 0 for value in flat(rows).values())
    for lines in ("360p", "1080p"):
        row = rows["preprocess"][lines]
        parts = {key: value for key, value in row.items() if key.endswith("_ms")}
        assert set(parts) == {"decode_ms", "landmarks_ms", "align_ms", "write_ms", "rest_ms"}
        assert sum(parts.values()) == pytest.approx(1000 / row["frames_per_s"], rel=0.05)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_film(tmp_path, tiny_clip, monkeypatch):
    """10 s against 40 s: reapply_faces.py, whose needs are bounded, takes hardly more; nor does train.py."""
    monkeypatch.setattr(benchmark, "TRAIN_MINUTES", 0.3)
    rows = benchmark.memory(tiny_clip, tmp_path, (10, 40), (10, 40))
    assert set(rows) == {"preprocess.py", "reapply_faces.py", "train.py"} and not list(tmp_path.iterdir())
    assert rows["reapply_faces.py"]["ratio"]["anonymous"] < 1.2 > rows["train.py"]["ratio"]["anonymous"]
