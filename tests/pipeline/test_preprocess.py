"""preprocess.py as it is run: options, sound moved, the report, and how a run takes its place."""

import os

import numpy as np
import pytest

import preprocess
from utils import av_sync, sample
from utils.contract import FPS, SAMPLE_RATE
from utils.dataset.clip import Clip
from utils.footage_report import VERDICTS
from utils.media.pixels import read_png
from utils.media.reader import read_frames, read_sound
from utils.media.writer import Quality, SoundTrack, VideoWriter
from utils.storage import read_json, read_meta, read_track

SIZE = (512, 512)
TINY_SECONDS = 6  # of conftest.tiny_clip
TINY_SEED = 11    # of conftest.tiny_clip
FOLDERS = ("face", "reference", "audio", "pred", "pack", "inference.new")
FILES = ("track.npz", "report.png", "meta.json")


def write_video(path, sound, pictures):
    """Write `pictures`, a list of planes, and mono sound at 16 kHz as a video; return its path."""
    track = SoundTrack(iter([sound]), SAMPLE_RATE)
    with VideoWriter(path, SIZE, Quality(23, "ultrafast"), track) as video:
        for planes in pictures:
            video.write(planes)
    return path


def planes_of(path, frames=None):
    """Yield the planes of the frames of a video."""
    for frame in read_frames(path, 0, frames):
        yield frame.planes()


# -- options ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"), [("auto", "auto"), ("off", "off"), ("100", 100), ("-80", -80)]
)
def test_av_offset_is_a_word_or_milliseconds(text, value):
    assert preprocess.parse_args(["--av-offset", text]).av_offset == value


@pytest.mark.parametrize("text", ["on", "1.5", "nan", "5001", "-99999", ""])
def test_other_av_offsets_are_refused(capsys, text):
    with pytest.raises(SystemExit):
        preprocess.parse_args([f"--av-offset={text}"])
    assert "--av-offset" in capsys.readouterr().err


# -- the drawn sample ------------------------------------------------------------------------------
def test_the_face_is_found_in_every_frame(tiny_data):
    meta = read_meta(tiny_data)
    track = read_track(tiny_data, meta)
    assert meta.frames == TINY_SECONDS * FPS
    assert track.valid.all()
    assert read_json(tiny_data / "meta.json")["shots"] == len(track.cuts) == 1


def test_the_mouth_is_measured_when_it_moves(tiny_data):
    """As late as early it resembles the drawn mouth less, and by as much: it has no lag."""
    mouth = read_track(tiny_data, read_meta(tiny_data)).mouth
    drawn = sample.mouth_curve(sample.make_script(TINY_SECONDS, TINY_SEED))
    for found, known in zip(mouth.T, drawn[:len(mouth)].T, strict=True):
        early, now, late = (
            np.corrcoef(found[1 + lag:len(found) - 1 + lag], known[1:-1])[0, 1]
            for lag in (-1, 0, 1))
        assert now > 0.9
        assert abs(early - late) < 0.3 * (2 * now - early - late)  # within 0.15 frames


# -- the offset of the sound -----------------------------------------------------------------------
@pytest.fixture
def late_clip(tiny_clip, tmp_path):
    """The first 2.4 s of the tiny clip with the sound 200 ms late."""
    sound = read_sound(tiny_clip, SAMPLE_RATE)[: SAMPLE_RATE * 12 // 5]
    late = av_sync.shift_sound(sound, -200)
    return write_video(tmp_path / "late.mp4", late, planes_of(tiny_clip, 60))


def test_a_number_is_applied_as_given(late_clip, tiny_data, tmp_path, run_script):
    """The mel is that of the sound before it was late, and meta.json says so."""
    data = tmp_path / "data"
    result = run_script("preprocess", late_clip, "--data", data, "--av-offset", 200)
    assert result.code == 0, result.err
    assert "cannot be known" in result.err
    assert "moved 200 ms earlier" in result.err
    assert read_meta(data).av_offset_ms == 200
    found = read_json(data / "meta.json")["av_offset_found"]
    assert set(found) == {"ms", "confidence"}
    assert found["confidence"] < av_sync.SURE_CONFIDENCE
    mel = Clip(data).mel
    whole = Clip(tiny_data).mel
    assert np.abs(mel[10:210] - whole[10:210]).mean() < 0.2
    assert np.abs(mel[10:210] - whole[30:230]).mean() > 0.5


@pytest.mark.slow
def test_late_sound_of_a_video_is_moved(tmp_path, run_script):
    """20 s of the drawn face with its sound 200 ms late: found, said, moved; off leaves it."""
    clip = tmp_path / "clip.mp4"
    sample.write_clip(clip, 20, 1)
    late = av_sync.shift_sound(read_sound(clip, SAMPLE_RATE), -200)
    video = write_video(tmp_path / "late.mp4", late, planes_of(clip))
    data = tmp_path / "data"
    for choice, applied in (("auto", 200), ("off", 0)):
        result = run_script("preprocess", video, "--data", data, "--av-offset", choice)
        assert "ms late" in result.err
        assert read_meta(data).av_offset_ms == pytest.approx(applied, abs=40 if applied else 0)
        found = read_json(data / "meta.json")["av_offset_found"]
        assert found["ms"] == pytest.approx(200, abs=40)


# -- the report ------------------------------------------------------------------------------------
def test_the_report_is_a_picture_and_in_meta_json(tiny_data):
    picture = read_png(tiny_data / "report.png")
    assert picture.shape[1] == 1100
    assert picture.shape[0] > 600
    quality = read_json(tiny_data / "meta.json")["quality"]
    assert quality["face size"][1] == "good"
    assert quality["length"] == ["6 s", "will hurt"]
    assert {verdict for _, verdict in quality.values()} <= set(VERDICTS)


def test_a_report_is_replaced_with_its_data(tiny_clip, tmp_path, run_script):
    """Frames 30-40 are grey: said on the terminal and in the report, and the old one is gone."""
    pictures = list(planes_of(tiny_clip, 80))
    for planes in pictures[30:40]:
        for plane in planes:
            plane[:] = 128
    sound = read_sound(tiny_clip, SAMPLE_RATE)[: SAMPLE_RATE * 16 // 5]
    path = write_video(tmp_path / "$hidd\\en$ 视频.mp4", sound, pictures)
    data = tmp_path / "data"
    data.mkdir()
    (data / "report.png").write_bytes(b"old")
    result = run_script("preprocess", path, "--data", data)
    assert result.code == 0, result.err
    assert f"quality of {path.name}:" in result.err
    assert "mouth visible" in result.err
    assert "Warning" not in result.err
    assert not result.out
    assert read_json(data / "meta.json")["quality"]["mouth visible"][1] == "usable"
    assert read_png(data / "report.png").shape[0] > 1000


# -- into place ------------------------------------------------------------------------------------
def fill(folder, content):
    """Lay down what data/ may hold, each file with this content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / name / "000000").write_text(content)
    for name in FILES:
        (folder / name).write_text(content)


@pytest.fixture
def finished(tmp_path):
    """(new, data): a finished folder beside old data with predictions and a result."""
    data = tmp_path / "data"
    new = data / "preprocess.new"
    fill(data, "old")
    (data / "result").mkdir()
    (data / "result" / "film.mp4").write_text("old")
    fill(new, "new")
    return new, data


def test_old_data_is_replaced_and_its_predictions_go(finished):
    new, data = finished
    (data / "detail").mkdir()  # of version 1.2
    preprocess.swap_in(new, data)
    kept = {path.name for path in data.iterdir()}
    assert kept == {"face", "reference", "audio", "result", *FILES}
    assert (data / "face" / "000000").read_text() == "new"
    assert (data / "meta.json").read_text() == "new"
    assert (data / "result" / "film.mp4").read_text() == "old"


@pytest.mark.parametrize("call", range(6))
def test_an_interrupted_swap_leaves_no_meta_json(finished, monkeypatch, call):
    new, data = finished
    replace = os.replace
    done = []

    def interrupted(source, target):
        if len(done) == call:
            raise KeyboardInterrupt
        done.append(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preprocess.swap_in(new, data)
    assert not (data / "meta.json").exists()


def test_what_an_interrupted_run_left_is_made_again(late_clip, tmp_path, run_script):
    """A finished meta.json in preprocess.new does not count: everything is made again."""
    data = tmp_path / "data"
    fill(data / "preprocess.new", "left")
    result = run_script("preprocess", late_clip, "--data", data)
    assert result.code == 0, result.err
    assert read_meta(data).frames == 60
    assert not (data / "preprocess.new").exists()
