"""Files from strangers: whatever is wrong with one, the end is a one-line error, or success.

Each video or sound is a right one, changed at random (helpers/mutate.py), and read as the scripts
read it. Of our own folder data/, each kind of file is damaged: the line names it and its maker.
"""

import shutil
from itertools import islice

import numpy as np
import pytest
from helpers import mutate
from helpers.messages import error_line
from helpers.videos import make_video

from utils.cli import UserError
from utils.contract import SAMPLE_RATE, lower_face_path
from utils.media.pixels import encode_png
from utils.media.reader import probe, read_frames, read_sound, sound_blocks
from utils.storage import identify_source, read_meta, source_path, write_json

CHANGES = 12        # of each file
MORE_CHANGES = 300  # with -m slow
MOST_FRAMES = 500   # of a damaged film that are looked at
counts = pytest.mark.parametrize(
    "count", [CHANGES, pytest.param(MORE_CHANGES, marks=pytest.mark.slow)]
)


# -- video and sound -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def films(tmp_path_factory, tiny_speech):
    """Folder with a wav file and small films in four containers."""
    folder = tmp_path_factory.mktemp("films")
    noise = np.random.default_rng(0)
    pictures = noise.integers(0, 256, (15, 48, 64, 3), np.uint8)
    sound = noise.uniform(-0.3, 0.3, 24000).astype(np.float32)
    shutil.copy(tiny_speech, folder / "film.wav")
    for ending in ("mp4", "mkv", "ts", "avi"):
        codec = "mp3" if ending == "avi" else "aac"
        make_video(folder / f"film.{ending}", pictures, sound=sound, sound_codec=codec)
    return folder


def read_media(path):
    """Read a film or sound as the scripts do; at most 20 seconds of it."""
    info = probe(path)
    assert info.frames >= 0
    if info.has_video:
        for frame in islice(read_frames(path), MOST_FRAMES):
            frame.planes()
            frame.rgb()
    if info.has_sound:
        read_sound(path, SAMPLE_RATE, video_start=info.has_video)
        for _ in islice(sound_blocks(path, 48000, 2), MOST_FRAMES):
            pass


def refused(path):
    """True if reading a file ends in a UserError, which must be one line for a terminal."""
    try:
        read_media(path)
    except UserError as error:
        message = str(error)
        assert message.isprintable()
        assert "run" in message
        return True
    return False


@counts
@pytest.mark.parametrize("name", ["film.wav", "film.mp4", "film.mkv", "film.ts", "film.avi"])
def test_a_damaged_film_is_read_or_refused_in_one_line(films, tmp_path, name, count):
    path = tmp_path / name
    right = (films / name).read_bytes()
    for k, rng in enumerate(mutate.generators(name, count)):
        path.write_bytes(mutate.bytes_of(right, rng))
        try:
            refused(path)
        except Exception as error:
            shutil.copy(path, path.with_name(f"failed-{name}"))
            raise AssertionError(f"change {k} of {name}") from error
    path.write_bytes(right)
    assert not refused(path)


# -- our own data folder ---------------------------------------------------------------------------
@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the prepared folder with a prediction of three frames in it, to be damaged."""
    leave_out = shutil.ignore_patterns("pred", "result", "pack")
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=leave_out)
    meta = read_meta(data)
    sound = identify_source(source_path(meta))
    folder = data / "pred" / "speech"
    folder.mkdir(parents=True)
    prediction = {
        "frames": 3,
        "scale": 1,
        "source_frames": [4, 3, 2],
        "sound": sound.path,
        "sound_sha256": sound.sha256,
        "data_id": meta.id,
        "checkpoint": {"path": "x", "epoch": 1},
    }
    write_json(folder / "meta.json", prediction)
    write_json(data / "pred" / "last.json", {"speeches": ["speech"]})
    for j in range(3):
        lower_face_path(folder, j).write_bytes(encode_png(np.full((84, 168, 3), 90, np.uint8)))
    return data


OURS = {
    "meta.json": "preprocess",
    "track.npz": "preprocess",
    "pred/last.json": "inference",
    "pred/speech/meta.json": "inference",
    "pred/speech/000001.png": "inference",
}


@pytest.mark.parametrize(("name", "remedy"), OURS.items())
@pytest.mark.parametrize("content", [b"", b"a letter", b"{}", b"\x80\x02\0"], ids=repr)
def test_a_damaged_file_is_named_with_what_makes_it(data, run_script, name, remedy, content):
    (data / name).write_bytes(content)
    line = error_line(run_script("reapply_faces", "--data", data))
    assert str(data / name) in line
    assert f"python {remedy}.py" in line


@pytest.mark.parametrize("name", ["face/000007.png", "audio/000007.npy"])
@pytest.mark.parametrize("content", [b"", b"a letter", b"half"], ids=repr)
def test_a_damaged_picture_or_feature_is_named(data, run_script, name, content):
    path = data / name
    if content == b"half":
        content = path.read_bytes()[:path.stat().st_size // 2]
    path.write_bytes(content)
    checkpoints = data.parent / "checkpoints"
    line = error_line(run_script("train", "--data", data, "--checkpoints", checkpoints))
    assert str(path) in line
    assert "python preprocess.py" in line


@pytest.mark.parametrize(
    "name",
    [
        "..", ".", "", "/", "../pred/speech", "/etc", "speech/", "speech/../speech", "\0",
        "n" * 300, 5, None, ["speech"],
    ],
)
def test_a_prediction_lies_inside_its_folder(data, run_script, name):
    """last.json may only name a folder in pred/."""
    for names in ([name], ["speech", name], []):
        write_json(data / "pred" / "last.json", {"speeches": names})
        line = error_line(run_script("reapply_faces", "--data", data))
        assert str(data / "pred") in line
