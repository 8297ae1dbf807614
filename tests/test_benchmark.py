"""utils.benchmark: its rows, its JSON, and that its memory row measures the scripts."""

import json
import sys

import pytest

from utils import benchmark, media, sample
from utils.console import UserError


@pytest.fixture
def printed(monkeypatch, capsys):
    """Run utils.benchmark in process with small matrices; return (standard output, standard error)."""
    monkeypatch.setattr(benchmark, "SIDE", 64)
    monkeypatch.setattr(benchmark, "COPIED", 1 << 16)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["benchmark", *words])
        benchmark.main()
        return capsys.readouterr()
    return run


def test_json_is_all_that_is_printed(printed):
    out, err = printed("--json")
    rows = json.loads(out)["machine"]
    assert set(rows) == {"threads", "float32_gflop_per_s", "bfloat16_gflop_per_s", "copy_gb_per_s"}
    assert all(value >= 0 for value in rows.values()) and "--memory" in err


def test_a_table_has_a_line_for_each_figure(printed):
    out, _ = printed()
    assert len(out.splitlines()) == 4 and "copy gb per s" in out


def test_films_have_the_length_and_size_they_should(tiny_clip, tmp_path):
    """Longer than the clip, so that it begins anew."""
    benchmark.write_film(tiny_clip, tmp_path / "film.mp4", 7)
    frames = [frame.planes()[0].shape for frame in media.read_frames(tmp_path / "film.mp4")]
    assert frames == [(1080, 1920)] * 175
    assert len(media.read_sound(tmp_path / "film.mp4", 16000)) == pytest.approx(7 * 16000, abs=1600)


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


def test_a_clip_without_sound_is_refused(tmp_path, printed, monkeypatch):
    monkeypatch.setattr(media, "read_sound", lambda *_, **__: None)
    monkeypatch.setattr(sample, "write_clip", lambda *_: None)
    with pytest.raises(UserError, match="has no sound"):
        printed("--memory", "--data", str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_film(tmp_path, tiny_clip):
    """10 s against 40 s: reapply_faces.py, whose needs are bounded, takes hardly more."""
    rows = benchmark.memory(tiny_clip, tmp_path, (10, 40))
    assert set(rows) == {"preprocess.py", "reapply_faces.py"} and not list(tmp_path.iterdir())
    assert rows["reapply_faces.py"]["ratio"]["anonymous"] < 1.2
