"""Missing and wrong input: one line that names the next command, exit code non-zero, nothing lost."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from utils import contract, media

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder, in which the test runs as users do."""
    for name in ("input", "data", "checkpoints"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(project, monkeypatch, capfd):
    """Run a script that must fail with one error line; check that it holds each of `expected`."""
    def check(command, *expected):
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / command[0]), run_name="__main__")
        output, errors = capfd.readouterr()
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert stopped.value.code == 1 and output == ""
        assert len(lines) == 1 and "Traceback" not in errors, errors
        for part in expected:
            assert part in lines[0], lines[0]
    return check


def grey_video(path, seconds, sound=True):
    """Write a video without a face."""
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (round(16000 * seconds), 1)).astype(np.float32)
    planes = [np.full((64, 64), 90, np.uint8), *[np.full((32, 32), 128, np.uint8)] * 2]
    with media.VideoWriter(path, 64, 64, 23, "ultrafast", iter([samples]) if sound else None, 16000) as video:
        for _ in range(round(25 * seconds)):
            video.write(planes)
    return path


def test_empty_input(refused):
    refused(["preprocess.py"], "no video in input/", "python preprocess.py", "python -m utils.sample")


def test_two_videos_or_sounds_and_no_name(project, refused, tiny_data, tiny_speech):
    """The error prints the command with each file's name."""
    for name in ("a.mp4", "b c.mov", "a.wav", "b.mp3"):
        (project / "input" / name).write_bytes(b"")
    refused(["preprocess.py"], "python preprocess.py input/a.mp4", "python preprocess.py 'input/b c.mov'")
    refused(["inference.py"], "python inference.py input/a.wav", "python inference.py input/b.mp3")


@pytest.mark.parametrize("kind", [
    "missing", "text", "empty", "folder", "sound", "no face", "no sound", "silent", "short"])
def test_what_is_no_video_of_a_face(project, refused, tiny_clip, tiny_speech, kind):
    """Each kind of wrong video is refused before anything old is touched."""
    old = project / "data" / "meta.json"
    old.write_text("{}")
    video = project / "input" / "clip.mp4"
    expected = {"missing": "does not exist", "text": "not a video", "empty": "not a video", "folder": "is a folder",
                "sound": "no picture", "no face": "a face was found in 0%", "no sound": "no sound",
                "silent": "silent", "short": "1.00 s"}[kind]
    if kind == "text":
        video.write_text("hello\n" * 100)
    elif kind == "empty":
        video.write_bytes(b"")
    elif kind == "folder":
        video.mkdir()
    elif kind == "sound":
        shutil.copy(tiny_speech, video)
    elif kind == "silent":
        with media.VideoWriter(video, 64, 64, 23, "ultrafast", iter([np.zeros((48000, 1), np.float32)]), 16000) as out:
            for _ in range(75):
                out.write([np.full((64, 64), 90, np.uint8), *[np.full((32, 32), 128, np.uint8)] * 2])
    elif kind != "missing":
        grey_video(video, 1 if kind == "short" else 3, sound=kind != "no sound")
    refused(["preprocess.py", str(video)], expected)
    assert old.read_text() == "{}"


@pytest.mark.parametrize("script", ["train.py", "inference.py", "reapply_faces.py"])
def test_steps_before_preprocess(project, refused, tiny_speech, script):
    """Without prepared data every later step names preprocess.py."""
    shutil.copy(tiny_speech, project / "input" / "speech.wav")
    refused([script], "data holds no prepared clip", "python preprocess.py")


def test_steps_out_of_order(project, refused, tiny_data, tiny_speech):
    """No checkpoint names train.py, no prediction names inference.py, --resume without a training says so."""
    refused(["inference.py", str(tiny_speech), "--data", str(tiny_data)], "best.pth", "python train.py")
    data = shutil.copytree(tiny_data, project / "copy", ignore=shutil.ignore_patterns("pred", "result"))
    refused(["reapply_faces.py", "--data", str(data)], "no generated faces", "python inference.py")
    refused(["train.py", "--data", str(data), "--resume"], "last.pth does not exist", "python train.py")


def predicted(tiny_data, copy, speech, **meta):
    """Copy the prepared clip and lay down a prediction of one frame in it, with `meta` in its meta.json."""
    data = shutil.copytree(tiny_data, copy, ignore=shutil.ignore_patterns("pred", "result"))
    folder = data / "pred" / "speech"
    folder.mkdir(parents=True)
    contract.write_json(folder / "meta.json", {"frames": 1, "source_frames": [0], "sound": str(speech), **meta})
    contract.write_json(data / "pred" / "last.json", {"speeches": ["speech"]})
    return data


def test_predictions_of_other_data_are_stale(project, refused, tiny_data, tiny_speech):
    data = predicted(tiny_data, project / "copy", tiny_speech, data_id="other")
    refused(["reapply_faces.py", "--data", str(data)], "made from other data", "python inference.py")


def test_a_changed_speech_file_is_stale(project, refused, tiny_data, tiny_speech):
    """New sound under the old name would be heard over the old mouth."""
    data = predicted(tiny_data, project / "copy", tiny_speech, sound_sha256="0",
                     data_id=contract.read_meta(tiny_data)["id"])
    refused(["reapply_faces.py", "--data", str(data)], "has changed", "python inference.py")


def test_folders_of_others_are_not_replaced(project, refused, tiny_clip):
    """A folder that holds the user's own audio/ is refused as --data, and nothing in it is touched."""
    mine = project / "anna" / "audio" / "song.wav"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    refused(["preprocess.py", str(tiny_clip), "--data", str(project / "anna")], "anna/audio", "ANOTHER_FOLDER")
    assert mine.read_bytes() == b"mine"


def test_inputs_are_not_overwritten(project, refused, tiny_data, tiny_speech):
    """--output may name neither the source video nor the speech."""
    speech, meta = contract.source_identity(tiny_speech), contract.read_meta(tiny_data)
    data = predicted(tiny_data, project / "copy", speech["path"], sound_sha256=speech["sha256"], data_id=meta["id"])
    for path, what in ((speech["path"], "the speech"), (meta["source"]["path"], "the source video")):
        refused(["reapply_faces.py", "--data", str(data), "--output", path], what)


def test_output_and_sound_are_for_one_speech(project, refused, tiny_data, tiny_speech):
    speech, meta = contract.source_identity(tiny_speech), contract.read_meta(tiny_data)
    data = predicted(tiny_data, project / "copy", speech["path"], sound_sha256=speech["sha256"], data_id=meta["id"])
    refused(["reapply_faces.py", "--data", str(data), "--sound", str(tiny_speech)], "lasts 2.00 s", "0.04 s")
    (project / "text").write_text("hello")
    refused(["reapply_faces.py", "--data", str(data), "--sound", "text"], "not a video or sound file")
    refused(["reapply_faces.py", "--data", str(data), "--sound", str(grey_video(project / "mute.mp4", 1, False))],
            "lasts 0.00 s")
    shutil.copytree(data / "pred" / "speech", data / "pred" / "again")
    contract.write_json(data / "pred" / "last.json", {"speeches": ["speech", "again"]})
    for option in ("--output", "--sound"):
        refused(["reapply_faces.py", "--data", str(data), option, "x.mp4"], "made 2", "python inference.py AUDIO")


def test_speeches_of_one_name_are_refused(project, refused, tiny_data, tiny_speech):
    """Before anything is drawn: also where only the ending or capital letters tell them apart."""
    for name in ("a.wav", "A.WAV", "a.mp3", "last.json.wav"):
        (project / name[:1]).mkdir(exist_ok=True)
        shutil.copy(tiny_speech, project / name[:1] / name)
    for names in (("a/a.wav", "A/A.WAV"), ("a/a.wav", "a/a.mp3"), ("a",), ("a/a.wav", "a/a.wav"), ("l",)):
        refused(["inference.py", *names, "--data", str(tiny_data)], "would both be called", "rename one")
    refused(["inference.py", "a/a.wav", "none.wav", "--data", str(tiny_data)], "none.wav does not exist")
    refused(["inference.py", "checkpoints", "--data", str(tiny_data)], "no sound files in checkpoints", "inference.py")


@pytest.mark.parametrize("second", ["6", "-1", "nan", "1e9"])
def test_a_start_beyond_the_footage(refused, tiny_data, tiny_speech, second):
    refused(["inference.py", str(tiny_speech), "--data", str(tiny_data), f"--start={second}"], "lasts 6.00 s")


def test_data_from_other_constants(project, refused, tiny_data):
    data = shutil.copytree(tiny_data, project / "copy")
    meta = contract.read_json(data / "meta.json", "")
    meta["contract"]["hop"] = 200
    contract.write_json(data / "meta.json", meta)
    for script in ("train.py", "reapply_faces.py"):
        refused([script, "--data", str(data)], "hop = 200", "python preprocess.py")


def test_speech_that_is_none(project, refused, tiny_data):
    """Text, and a video without sound, instead of speech."""
    (project / "speech.wav").write_text("hello")
    refused(["inference.py", "speech.wav", "--data", str(tiny_data)], "not a video or sound file")
    mute = grey_video(project / "mute.mp4", 3, sound=False)
    refused(["inference.py", str(mute), "--data", str(tiny_data)], "no sound", "python inference.py")


@pytest.mark.parametrize(("device", "message"), [("cuda", "CUDA GPUs"), ("cuda:99", "CUDA GPUs"), ("gpu", "unknown")])
def test_devices_that_are_not_there(refused, tiny_data, device, message):
    if device == "cuda":
        device = f"cuda:{torch.cuda.device_count()}"
    refused(["train.py", "--data", str(tiny_data), "--device", device], message, "auto")


def test_a_second_run_on_one_folder_is_refused(project, refused, tiny_data):
    """While one run holds a folder, another that would write it says so and changes nothing."""
    data = shutil.copytree(tiny_data, project / "copy")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; from utils import console\n"
         "with console.writing(sys.argv[1]): print('held', flush=True); sys.stdin.read()", str(data)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    source = contract.read_meta(data)["source"]["path"]
    refused(["preprocess.py", source, "--data", str(data)], "another run is writing")
    holder.communicate("")


def test_sound_of_another_length_is_fitted_and_said(project, tiny_clip):
    """A sound 1 s shorter than the picture is padded, and the counts stay equal."""
    source = list(media.read_frames(tiny_clip, 0, 60))
    samples = media.read_sound(tiny_clip, 16000)[:16000]
    video = project / "input" / "clip.mp4"
    with media.VideoWriter(video, 512, 512, 23, "ultrafast", iter([samples]), 16000) as out:
        for frame in source:
            out.write(frame.planes())
    done = subprocess.run([sys.executable, ROOT / "preprocess.py"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "padded with silence" in done.stderr
    assert len(list((project / "data" / "face").iterdir())) == len(list((project / "data" / "audio").iterdir())) == 60
    assert np.load(project / "data" / "audio" / "000055.npy").max() < -8


def test_wav_of_any_kind_is_speech(tmp_path):
    """Stereo 48 kHz and mono 8 kHz, 16 and 24 bit: read at 16 kHz with their length."""
    for rate, channels, subtype in ((48000, 2, "PCM_24"), (8000, 1, "PCM_16")):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, np.zeros((rate * 2, channels)), rate, subtype=subtype)
        assert len(media.read_sound(path, 16000)) == pytest.approx(32000, abs=200)
