"""The four scripts as a newcomer runs them: real processes, the built-in sample."""

import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from utils import contract, media, pixels, sample, tracking
from utils.dataset import Footage
from utils.evaluate import brief
from utils.figures import correlate, lag

ROOT = Path(__file__).parent.parent


def script(name, *arguments, cwd=ROOT):
    """Run a script, require that it ends well, and return its standard output."""
    command = [sys.executable, *name.split(), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    """A checkpoint trained for two epochs on the tiny clip."""
    folder = tmp_path_factory.mktemp("trained")
    script("train.py", "--data", tiny_data, "--checkpoints", folder, "--epochs", 2)
    return folder / "best.pth"


@pytest.fixture(scope="module")
def rendered(tiny_data, tiny_speech, trained):
    """The path that reapply_faces.py prints after inference.py on the tiny speech."""
    script("inference.py", tiny_speech, "--data", tiny_data, "--checkpoint", trained)
    return Path(script("reapply_faces.py", "--data", tiny_data).splitlines()[-1])


def test_pictures_and_features_are_as_many_as_frames(tiny_data):
    meta = contract.read_meta(tiny_data)
    assert meta["frames"] == 150
    for i in (0, 75, 149):
        assert cv2.imread(str(contract.face_path(tiny_data, i))).shape == (168, 168, 3)
        block = np.load(contract.mel_path(tiny_data, i))
        assert block.shape == (4, 80) and block.dtype == np.float32


def test_the_video_is_what_was_promised(rendered, tiny_data, tiny_clip, tiny_speech):
    """Name, size, rate, pixel format, sound, length; nothing temporary is left."""
    assert rendered == Path(tiny_data) / "result" / f"{Path(tiny_clip).stem}--{Path(tiny_speech).stem}.mp4"
    with av.open(str(rendered)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, video.average_rate) == (512, 512, 25)
        assert video.codec_context.name == "h264" and video.codec_context.pix_fmt == "yuv420p"
        assert sound.codec_context.name == "aac" and sound.rate == 16000
        assert "AI-generated" in container.metadata["comment"]
        assert sum(1 for _ in container.decode(video)) == 50
    heard, spoken = (media.read_sound(path, 16000)[:, 0] for path in (rendered, tiny_speech))
    assert abs(len(heard) - len(spoken)) <= 16
    n = min(len(heard), len(spoken))
    assert np.argmax(np.correlate(heard[:n], spoken[:n][800:-800], "valid")) == pytest.approx(800, abs=16)
    assert not list(rendered.parent.glob("*.tmp"))


def test_only_the_mouth_changes(rendered, tiny_clip):
    """Away from the lower face the result is the source but for the encoding."""
    made, source = (list(media.read_frames(path, 0, 50)) for path in (rendered, tiny_clip))
    for k in (0, 25, 49):
        difference = np.abs(made[k].rgb().astype(int) - source[k].rgb())
        assert difference[:200].mean() < 2 and difference[:, :100].mean() < 2


@pytest.mark.slow
def test_several_speeches_one_longer_than_the_footage(tiny_data, trained, tiny_speech, tmp_path):
    """7 s of speech on 6 s of footage run it forward and back; each speech of the folder and the file gets a video."""
    (tmp_path / "a folder").mkdir()
    sample.write_speech(tmp_path / "a folder" / "long speech.wav", 7, 5)
    (tmp_path / "a folder" / "notes.txt").write_text("no speech")
    script("inference.py", tmp_path / "a folder", tiny_speech, "--data", tiny_data, "--checkpoint", trained,
           "--start", 1)
    videos = script("reapply_faces.py", "--data", tiny_data).splitlines()
    assert [Path(video).name for video in videos] == ["tiny--long speech.mp4", "tiny--tiny.mp4"]
    assert [sum(1 for _ in media.read_frames(video)) for video in videos] == [175, 50]
    order, short = (np.array(contract.read_json(Path(tiny_data) / "pred" / name / "meta.json", "")["source_frames"])
                    for name in ("long speech", "tiny"))
    turn = order.max()
    assert 125 <= turn < 150 and (short == np.arange(25, 75)).all()
    assert (order == [*range(25, turn), *range(turn, 2 * turn - 175 - 25, -1)]).all()


@pytest.mark.slow
def test_checkpoint_speaks_on_other_footage_of_two_seconds(trained, tiny_speech, tmp_path):
    """Another video of the person, 2 s long, and a video file as speech: checkpoint and footage are independent."""
    sample.write_clip(tmp_path / "other.mp4", 2.2, 9)
    script("preprocess.py", tmp_path / "other.mp4", "--data", tmp_path / "data")
    script("inference.py", tmp_path / "other.mp4", "--data", tmp_path / "data", "--checkpoint", trained)
    video = script("reapply_faces.py", "--data", tmp_path / "data").splitlines()[-1]
    assert sum(1 for _ in media.read_frames(video)) == 55


@pytest.mark.slow
def test_evaluate_prints_its_table(tiny_data, trained, tiny_clip, tiny_speech):
    """Every row of the meter is there, and the figures are correlations."""
    table = script("-m utils.evaluate", "--data", tiny_data, "--checkpoint", trained, "--against", tiny_clip,
                   "--voices", tiny_speech)
    rows = contract.read_json(trained.parent / "report.json", "")["rows"]
    for name in ("follows, swapped sound", "follows, own sound", "  frozen mouth", "  mean mouth", "leak",
                 "leak, partial"):
        assert all(abs(rows[name][key]) <= 1 for key in ("opening", "width")), name
    looks = {"landmarks": {"px", "eyes"}, "picture": {"psnr", "ssim"},
             "texture": {"sharpness", "jitter", "seam", "grain"}, "silence": {"digital", "noise", "flutter"},
             f"voice {tiny_speech}": {"movement", "pauses"}}
    assert {name: set(rows[name]) for name in looks} == looks and "closures" in rows
    assert rows["picture"]["psnr"] > 15 and 0 < rows["picture"]["ssim"] < 1 and rows["texture"]["sharpness"] > 0
    assert all(f"\n{name} " in table for name in rows) and table.splitlines()[-1].startswith("The mouth ")
    assert pixels.read_png(trained.parent / "report.png").shape[0] > 500
    assert not list(trained.parent.glob("*.tmp"))
    assert "no two held-out pieces" in brief(Footage(tiny_data), None, None), "6 s are too short to swap"


@pytest.mark.slow
def test_first_run_of_a_newcomer(tmp_path):
    """The README's first command: the mouth of the final video follows the known curve of the driving speech."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("preprocess.py", "train.py", "inference.py", "reapply_faces.py", "models", "utils"):
        (copy / name).symlink_to(ROOT / name)
    script("-m utils.sample", cwd=copy)
    script("preprocess.py", cwd=copy)
    script("train.py", "--max-minutes", 5, cwd=copy)
    script("inference.py", cwd=copy)
    video = copy / script("reapply_faces.py", cwd=copy).splitlines()[-1]
    shape = tracking.track(frame.rgb() for frame in media.read_frames(video))["shape"]
    known = sample.mouth_curve(sample.script(6, sample.SPEECH_SEED))[:len(shape)]
    assert correlate(shape[:len(known), 0], known[:, 0]) >= 0.8
    assert abs(lag([(shape[:len(known), 0], known[:, 0])])) <= 1
