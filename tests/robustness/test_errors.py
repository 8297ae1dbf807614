"""Missing and wrong input: one line that names the next command, exit code 1, nothing lost."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.messages import error_line

import inference
import reapply_faces
from inference import find_speeches
from reapply_faces import result_name
from utils import storage
from utils.cli import PredictionError, UserError
from utils.contract import FACE_SIZE, LOWER_HEIGHT, VERSION, lower_face_path
from utils.media.pixels import encode_png
from utils.media.reader import read_frames, read_sound
from utils.media.writer import Quality, SoundTrack, VideoWriter

ROOT = Path(__file__).resolve().parent.parent.parent
ROUGH = Quality(23, "ultrafast")
RATE = 16000  # Hz of every sound here


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder, in which the test runs as users do."""
    for name in ("input", "data", "checkpoints"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(project, run_script):
    """Run a script that must fail in one error line, which holds each of `expected`."""

    def check(name, arguments, *expected):
        result = run_script(name, *arguments)
        line = error_line(result)
        assert result.out == ""
        for part in expected:
            assert part in line

    return check


def write_grey(path, seconds, sound=True):
    """Write a video without a face; sound: noise, silence (None) or no track at all (False)."""
    samples = np.zeros((round(RATE * seconds), 1), np.float32)
    if sound:
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, samples.shape)
        samples = noise.astype(np.float32)
    track = None if sound is False else SoundTrack(iter([samples]), RATE)
    half = np.full((32, 32), 128, np.uint8)
    with VideoWriter(path, (64, 64), ROUGH, track) as video:
        for _ in range(round(25 * seconds)):
            video.write([np.full((64, 64), 90, np.uint8), half, half])
    return path


# -- preprocess.py ---------------------------------------------------------------------------------
def test_an_empty_input_folder_says_what_to_put_there(refused):
    expected = ("no video in input/", "python preprocess.py", "python -m utils.sample")
    refused("preprocess", [], *expected)


def test_with_two_videos_or_sounds_the_line_has_the_command_for_each(
    project, refused, tiny_data, tiny_speech
):
    for name in ("a.mp4", "b c.mov", "a.wav", "b.mp3"):
        (project / "input" / name).write_bytes(b"")
    video_commands = ("preprocess.py input/a.mp4", "preprocess.py 'input/b c.mov'")
    refused("preprocess", [], *video_commands)
    sound_commands = ("inference.py input/a.wav", "inference.py input/b.mp3")
    refused("inference", ["--data", tiny_data], *sound_commands)


EMPTY = [
    ("preprocess", [""], "video"),
    ("preprocess", ["--data", ""], "data"),
    ("preprocess", ["--data="], "data"),
    ("train", ["--checkpoints", ""], "checkpoints"),
    ("train", ["--device", ""], "device"),
    ("inference", ["--checkpoint", ""], "checkpoint"),
    ("inference", ["a.wav", ""], "audio"),
    ("reapply_faces", ["--sound", ""], "sound"),
    ("reapply_faces", ["--output", ""], "output"),
    ("utils.evaluate", ["--voices", "a.wav", ""], "voices"),
    ("utils.evaluate", ["--against", ""], "against"),
]


@pytest.mark.parametrize(("script", "arguments", "what"), EMPTY)
def test_an_empty_value_is_named(project, refused, tiny_clip, script, arguments, what):
    """As an unset variable of a shell gives it: no folder or file is meant by it."""
    shutil.copy(tiny_clip, project / "input")
    refused(script, arguments, f"an empty {what} was given", "run again")
    assert [path.name for path in project.iterdir() if path.name == "face"] == []


WRONG_VIDEOS = {
    "missing": "does not exist",
    "text": "not a video",
    "empty": "not a video",
    "folder": "is a folder",
    "sound": "no picture",
    "no face": "a face was found in 0%",
    "no sound": "no sound",
    "silent": "silent",
    "short": "1.00 s",
}


def write_wrong_video(video, kind, speech):
    """Write what is no video of a face."""
    if kind == "text":
        video.write_text("hello\n" * 100)
    elif kind == "empty":
        video.write_bytes(b"")
    elif kind == "folder":
        video.mkdir()
    elif kind == "sound":
        shutil.copy(speech, video)
    elif kind == "silent":
        write_grey(video, 3, sound=None)
    elif kind == "short":
        write_grey(video, 1)
    elif kind != "missing":
        write_grey(video, 3, sound=kind != "no sound")


@pytest.mark.parametrize("kind", WRONG_VIDEOS)
def test_a_wrong_video_is_refused_before_anything_old_is_touched(
    project, refused, tiny_speech, kind
):
    old = project / "data" / "meta.json"
    old.write_text("{}")
    video = project / "input" / "clip.mp4"
    write_wrong_video(video, kind, tiny_speech)
    refused("preprocess", [video], WRONG_VIDEOS[kind])
    assert old.read_text() == "{}"


def test_folders_of_others_are_not_replaced(project, refused, tiny_clip):
    mine = project / "anna" / "audio" / "song.wav"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    arguments = [tiny_clip, "--data", project / "anna"]
    refused("preprocess", arguments, "anna/audio", "ANOTHER_FOLDER")
    assert mine.read_bytes() == b"mine"


HOLDER = """
import sys
from utils import cli
with cli.write_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_on_one_folder_is_refused(project, refused, tiny_data, tiny_clip):
    data = shutil.copytree(tiny_data, project / "copy")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    refused("preprocess", [tiny_clip, "--data", data], "another run is writing")
    holder.communicate("")


@pytest.mark.slow
def test_a_sound_of_another_length_is_fitted_and_said(project, tiny_clip, run_script):
    """A sound that ends before the picture is padded, and the counts stay equal."""
    frames = list(read_frames(tiny_clip, 0, 60))
    samples = read_sound(tiny_clip, RATE)[:RATE]
    video = project / "input" / "clip.mp4"
    with VideoWriter(video, (512, 512), ROUGH, SoundTrack(iter([samples]), RATE)) as out:
        for frame in frames:
            out.write(frame.planes())
    result = run_script("preprocess", separate=True)
    assert result.code == 0, result.err
    assert "padded with silence" in result.err
    assert len(list((project / "data" / "face").iterdir())) == 60
    assert len(list((project / "data" / "audio").iterdir())) == 60
    assert np.load(project / "data" / "audio" / "000055.npy").max() < -8


# -- steps out of order ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["train", "inference", "reapply_faces"])
def test_without_prepared_data_every_later_step_names_preprocess(
    project, refused, tiny_speech, name
):
    shutil.copy(tiny_speech, project / "input" / "speech.wav")
    refused(name, [], "data holds no prepared clip", "run: python preprocess.py VIDEO")


def test_a_step_that_comes_too_early_names_the_one_before_it(
    project, refused, tiny_data, tiny_speech
):
    outputs = shutil.ignore_patterns("pred", "result")
    data = shutil.copytree(tiny_data, project / "my copy", ignore=outputs)
    folder = ["--data", data]
    command = f"run: python train.py --data '{data}'"
    refused("inference", [tiny_speech, *folder], "best.pth", command)
    refused("train", [*folder, "--resume"], "last.pth does not exist", command)
    command = f"run: python inference.py AUDIO --data '{data}'"
    refused("reapply_faces", folder, "no generated faces", command)


def test_data_of_other_constants_is_prepared_again(project, refused, tiny_data):
    data = shutil.copytree(tiny_data, project / "copy")
    meta = storage.read_json(data / "meta.json")
    meta["contract"]["hop"] = 200
    storage.write_json(data / "meta.json", meta)
    for name in ("train", "reapply_faces"):
        refused(name, ["--data", data], "hop = 200", "python preprocess.py")


def test_data_of_the_first_version_is_prepared_again(project, refused, tiny_data):
    data = shutil.copytree(tiny_data, project / "copy")
    meta = storage.read_json(data / "meta.json")
    del meta["contract"]["version"]
    storage.write_json(data / "meta.json", meta)
    message = f"was made with version = 1, but utils/contract.py has {VERSION}"
    refused("train", ["--data", data], message, "run: python preprocess.py VIDEO")


@pytest.mark.parametrize(
    ("device", "message"), [("cuda", "CUDA GPUs"), ("cuda:99", "CUDA GPUs"), ("gpu", "unknown")]
)
def test_a_device_that_is_not_there_is_refused(refused, tiny_data, device, message):
    if device == "cuda":
        device = f"cuda:{torch.cuda.device_count()}"
    refused("train", ["--data", tiny_data, "--device", device], message, "auto")


# -- inference.py ----------------------------------------------------------------------------------
def test_speeches_of_one_name_are_refused_before_anything_is_drawn(
    project, refused, tiny_data, tiny_speech
):
    """Also where only the ending or capital letters tell them from each other."""
    for name in ("a.wav", "A.WAV", "a.mp3", "last.json.wav"):
        folder = project / name[:1]
        folder.mkdir(exist_ok=True)
        shutil.copy(tiny_speech, folder / name)
    clashes = [
        ("a/a.wav", "A/A.WAV"),
        ("a/a.wav", "a/a.mp3"),
        ("a",),
        ("a/a.wav", "a/a.wav"),
        ("l",),
    ]
    for names in clashes:
        arguments = [*names, "--data", tiny_data]
        refused("inference", arguments, "would both be called", "rename one")
    missing = ["a/a.wav", "none.wav", "--data", tiny_data]
    refused("inference", missing, "none.wav does not exist")
    empty = ["checkpoints", "--data", tiny_data]
    refused("inference", empty, "no sound files in checkpoints", "inference.py")


def test_a_video_in_input_is_speech_if_there_is_no_sound_but_the_footage_never_is(
    project, tiny_clip, tiny_speech
):
    folder = project / "input"
    footage = {"clip.mp4", "recorder.wav"}
    shutil.copy(tiny_clip, folder / "clip.mp4")
    shutil.copy(tiny_speech, folder / "recorder.wav")
    with pytest.raises(UserError, match="no sound in input/"):
        find_speeches([], footage)
    shutil.copy(tiny_clip, folder / "talk.MTS")
    for given in ([], ["input"]):
        assert find_speeches(given, footage) == {"talk": Path("input/talk.MTS")}
    shutil.copy(tiny_speech, folder / "speech.aiff")
    for given in ([], ["input"]):
        assert find_speeches(given, footage) == {"speech": Path("input/speech.aiff")}


@pytest.mark.parametrize("second", ["6", "-1", "nan", "1e9"])
def test_a_start_beyond_the_footage_is_refused(refused, tiny_data, tiny_speech, second):
    arguments = [tiny_speech, "--data", tiny_data, f"--start={second}"]
    refused("inference", arguments, "lasts 6.00 s")


@pytest.mark.parametrize("strength", ["3", "-0.1", "2.01", "nan", "inf"])
def test_a_strength_that_no_mouth_has_is_refused(refused, tiny_data, tiny_speech, strength):
    arguments = [tiny_speech, "--data", tiny_data, f"--strength={strength}"]
    refused("inference", arguments, f"--strength {strength}", "expected 0 to 2")


@pytest.mark.parametrize("scale", ["2", "0", "1.0", "x"])
def test_only_the_networks_own_scale_can_be_asked_for(capsys, scale):
    with pytest.raises(SystemExit):
        inference.parse_args([f"--scale={scale}"])
    assert "--scale" in capsys.readouterr().err
    assert inference.parse_args(["--scale", "1"]).scale == 1
    assert inference.parse_args([]).scale is None


def test_speech_that_is_none_is_refused(project, refused, tiny_data):
    """Text, and a video without sound, instead of speech."""
    (project / "speech.wav").write_text("hello")
    arguments = ["speech.wav", "--data", tiny_data]
    refused("inference", arguments, "not a video or sound file")
    mute = write_grey(project / "mute.mp4", 3, sound=False)
    refused("inference", [mute, "--data", tiny_data], "no sound", "python inference.py")


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(48000, 2, "PCM_24"), (8000, 1, "PCM_16")]
)
def test_wav_of_any_kind_is_speech(tmp_path, rate, channels, subtype):
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.zeros((rate * 2, channels)), rate, subtype=subtype)
    assert len(read_sound(path, RATE)) == pytest.approx(2 * RATE, abs=200)


# -- reapply_faces.py ------------------------------------------------------------------------------
@pytest.fixture
def predicted(project, tiny_data, tiny_speech):
    """Copy the prepared clip and lay down a prediction of one frame, with changes in its meta."""
    source = storage.identify_source(tiny_speech)
    meta = {
        "frames": 1,
        "scale": 1,
        "source_frames": [0],
        "sound": source.path,
        "sound_sha256": source.sha256,
        "data_id": storage.read_meta(tiny_data).id,
    }

    def make(**changes):
        outputs = shutil.ignore_patterns("pred", "result")
        data = shutil.copytree(tiny_data, project / "copy", ignore=outputs)
        folder = data / "pred" / "speech"
        folder.mkdir(parents=True)
        storage.write_json(folder / "meta.json", {**meta, **changes})
        storage.write_json(data / "pred" / "last.json", {"speeches": ["speech"]})
        return data

    return make


@pytest.fixture
def rendered(predicted, run_script, tiny_clip):
    """Call it to render a frame with a clip and a speech of these names, without endings."""

    def make(clip, speech, *arguments, **how):
        data = predicted()
        video = data / f"{clip}.mp4"
        shutil.copy(tiny_clip, video)
        meta = storage.read_json(data / "meta.json")
        meta["source"] = vars(storage.identify_source(video))
        storage.write_json(data / "meta.json", meta)
        folder = data / "pred" / "speech"
        grey = np.full((LOWER_HEIGHT, FACE_SIZE, 3), 90, np.uint8)
        lower_face_path(folder, 0).write_bytes(encode_png(grey))
        folder.rename(data / "pred" / speech)
        storage.write_json(data / "pred" / "last.json", {"speeches": [speech]})
        result = run_script("reapply_faces", "--data", data, *arguments, **how)
        assert result.code == 0, result.err
        return result, data / "result"

    return make


@pytest.mark.parametrize(
    ("clip", "speech", "arguments"),
    [(83, 83, ["--preview", "1"]), (83, 2, []), (2, 83, []), (30, 60, ["--preview", "1"])],
)
def test_long_names_are_shortened(rendered, clip, speech, arguments):
    """A Chinese title of 83 letters takes 249 of the 255 bytes that a name may have."""
    _, folder = rendered("题" * clip, "声" * speech, *arguments)
    [path] = folder.glob("*.mp4")
    assert len(path.name.encode()) <= 255
    assert path.name.startswith("题" * min(clip, 30))
    assert path.name.split("--")[1].startswith("声" * min(speech, 30))


def test_names_that_are_shortened_stay_apart():
    names = {result_name(f"{'题' * 80}{k}", f"{'声' * 80}{j}") for k in (1, 2) for j in (1, 2)}
    assert len(names) == 4
    assert result_name("clip", "speech") == "clip--speech"


def test_names_that_are_not_utf8_work(rendered):
    name = os.fsdecode(b"caf\xe9 \xb2\xe2")
    try:
        result, folder = rendered(name, name)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert (folder / f"{name}--{name}.mp4").is_file()
    assert result.out.strip() == str(folder / f"{name}--{name}.mp4")


def test_a_console_that_does_not_know_the_letters_is_no_error(rendered, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result, folder = rendered("题", "声", separate=True)
    assert (folder / "题--声.mp4").is_file()
    assert r"\u9898--\u58f0.mp4" in result.out


def test_a_result_open_in_a_player_is_kept_under_another_name(rendered, monkeypatch):
    replace = os.replace

    def refuse(source, target):
        if str(target).endswith(".mp4"):
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    result, folder = rendered("clip", "speech")
    assert result.out.strip() == str(folder / "clip--speech-2.mp4")
    assert [path.name for path in folder.glob("*.mp4")] == ["clip--speech-2.mp4"]
    assert "could not be replaced (Permission denied; is it open in a player?)" in result.err


def test_predictions_of_other_data_are_stale(refused, predicted):
    data = predicted(data_id="other")
    command = f"run: python inference.py AUDIO --data {data}"
    refused("reapply_faces", ["--data", data], "made from other data", command)


def test_a_changed_speech_file_is_stale(refused, predicted):
    """New sound under the old name would be heard over the old mouth."""
    data = predicted(sound_sha256="0")
    refused("reapply_faces", ["--data", data], "has changed", "python inference.py")


def test_a_speech_that_moved_with_the_project_is_found(project, predicted, tiny_speech):
    data = predicted(sound="C:\\speeches\\tiny.wav")
    meta = storage.read_meta(data)
    with pytest.raises(PredictionError, match="is gone"):
        reapply_faces.read_predictions(data, meta)
    shutil.copy(tiny_speech, project / "input")
    [prediction] = reapply_faces.read_predictions(data, meta)
    assert prediction.sound.samefile(project / "input" / "tiny.wav")


def test_inputs_are_not_overwritten(refused, predicted, tiny_clip, tiny_speech):
    data = predicted()
    for path, what in ((tiny_speech, "the speech"), (tiny_clip, "the source video")):
        refused("reapply_faces", ["--data", data, "--output", path], what)


def test_another_sound_has_the_length_of_the_speech(project, refused, predicted, tiny_speech):
    data = predicted()

    def refuse(sound, *expected):
        refused("reapply_faces", ["--data", data, "--sound", sound], *expected)

    refuse(tiny_speech, "lasts 2.00 s", "0.04 s")
    (project / "text").write_text("hello")
    refuse("text", "not a video or sound file")
    refuse(write_grey(project / "mute.mp4", 1, sound=False), "lasts 0.00 s")


def test_output_and_sound_are_for_one_speech(refused, predicted):
    data = predicted()
    shutil.copytree(data / "pred" / "speech", data / "pred" / "again")
    storage.write_json(data / "pred" / "last.json", {"speeches": ["speech", "again"]})
    for option in ("--output", "--sound"):
        arguments = ["--data", data, option, "x.mp4"]
        refused("reapply_faces", arguments, "made 2", "python inference.py AUDIO")


@pytest.mark.parametrize(
    "names", [[], [".."], ["."], [""], ["../pred/speech"], ["/etc"], ["speech/"], [5], [None]]
)
def test_a_prediction_lies_inside_its_folder(refused, predicted, names):
    data = predicted()
    storage.write_json(data / "pred" / "last.json", {"speeches": names})
    refused("reapply_faces", ["--data", data], "python inference.py AUDIO")


@pytest.mark.parametrize("order", [[], [0, 150], [-1], [0.5], ["x"], None, [[0]]])
def test_a_prediction_is_of_frames_that_there_are(refused, predicted, order):
    data = predicted(source_frames=order)
    refused("reapply_faces", ["--data", data], "meta.json", "python inference.py AUDIO")


@pytest.mark.parametrize("scale", [0, 5, -1, 2.0, True, "2", None, [1]])
def test_a_prediction_has_a_scale_that_there_is(refused, predicted, scale):
    data = predicted(scale=scale)
    refused("reapply_faces", ["--data", data], "meta.json", "'scale'", "inference.py AUDIO")


def test_a_prediction_has_the_scale_that_it_names(refused, predicted):
    data = predicted(scale=2)
    plain = np.full((LOWER_HEIGHT, FACE_SIZE, 3), 90, np.uint8)
    lower_face_path(data / "pred" / "speech", 0).write_bytes(encode_png(plain))
    expected = "000000.png is missing or no RGB picture of 336x168"
    refused("reapply_faces", ["--data", data], expected, "python inference.py AUDIO")
