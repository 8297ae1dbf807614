"""The four scripts as a newcomer runs them: real processes, the built-in sample."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from utils import contract, sample
from utils.evaluate.metrics import correlate, lag
from utils.face.tracking import track_face
from utils.media.pixels import read_png
from utils.media.reader import read_frames, read_sound
from utils.storage import read_json, read_meta

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script(run_script):
    """Run a script in a process of its own, require that it ends well; its standard output."""
    def run(name, *arguments, cwd=ROOT):
        done = run_script(name, *arguments, cwd=cwd, separate=True)
        assert done.code == 0, done.err[-3000:]
        return done.out

    return run


@pytest.fixture(scope="module")
def trained(script, tiny_data, tmp_path_factory):
    """A checkpoint trained for an epoch on the tiny clip."""
    folder = tmp_path_factory.mktemp("trained")
    script("train", "--data", tiny_data, "--checkpoints", folder, "--epochs", 1)
    return folder / "best.pth"


@pytest.fixture(scope="module")
def rendered(script, tiny_data, tiny_speech, trained):
    """The path that reapply_faces.py prints after inference.py on the tiny speech."""
    script("inference", tiny_speech, "--data", tiny_data, "--checkpoint", trained)
    return Path(script("reapply_faces", "--data", tiny_data).splitlines()[-1])


def count_frames(video):
    return sum(1 for _ in read_frames(video))


def test_pictures_and_features_are_as_many_as_frames(tiny_data):
    assert read_meta(tiny_data).frames == 150
    for i in (0, 75, 149):
        assert cv2.imread(str(contract.face_path(tiny_data, i))).shape == (168, 168, 3)
        block = np.load(contract.mel_path(tiny_data, i))
        assert block.shape == (4, 80) and block.dtype == np.float32


def test_a_prediction_names_what_it_was_made_from(rendered, tiny_data, tiny_speech, trained):
    pred = Path(tiny_data) / "pred"
    assert read_json(pred / "last.json") == {"speeches": [tiny_speech.stem]}
    made = read_json(pred / tiny_speech.stem / "meta.json")
    assert list(made) == [
        "frames", "scale", "source_frames", "sound", "sound_sha256", "data_id", "checkpoint"
    ]
    assert made["source_frames"] == list(range(50)) and made["frames"] == 50
    assert made["sound"] == str(tiny_speech) and made["data_id"] == read_meta(tiny_data).id
    assert made["checkpoint"]["path"] == str(trained)
    assert set(made["checkpoint"]) == {"path", "epoch"}
    lower_face = read_png(contract.lower_face_path(pred / tiny_speech.stem, 49))
    scale = made["scale"]
    assert scale == read_meta(tiny_data).scale > 1
    assert lower_face.shape == (84 * scale, 168 * scale, 3)


def test_the_video_is_what_was_promised(rendered, tiny_data, tiny_clip, tiny_speech):
    """Name, size, rate, pixel format, sound, length; nothing temporary is left."""
    name = f"{Path(tiny_clip).stem}--{Path(tiny_speech).stem}.mp4"
    assert rendered == Path(tiny_data) / "result" / name
    with av.open(str(rendered)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, video.average_rate) == (512, 512, 25)
        assert video.codec_context.name == "h264" and video.codec_context.pix_fmt == "yuv420p"
        assert sound.codec_context.name == "aac" and sound.rate == 16000
        assert "AI-generated" in container.metadata["comment"]
        assert sum(1 for _ in container.decode(video)) == 50
    result, spoken = (read_sound(path, 16000)[:, 0] for path in (rendered, tiny_speech))
    assert abs(len(result) - len(spoken)) <= 16
    n = min(len(result), len(spoken))
    likeness = np.correlate(result[:n], spoken[:n][800:-800], "valid")
    assert np.argmax(likeness) == pytest.approx(800, abs=16)
    assert not list(rendered.parent.glob("*.tmp"))


def test_only_the_mouth_changes(rendered, tiny_clip):
    """Away from the lower face the result is the source but for the encoding."""
    made, source = (list(read_frames(path, 0, 50)) for path in (rendered, tiny_clip))
    for k in (0, 25, 49):
        difference = np.abs(made[k].rgb().astype(int) - source[k].rgb())
        assert difference[:200].mean() < 2 and difference[:, :100].mean() < 2


@pytest.mark.slow
def test_several_speeches_one_longer_than_the_footage(
    script, tiny_data, trained, tiny_speech, tmp_path
):
    """7 s of speech on 6 s of footage run it forward and back; each speech gets a video."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    sample.write_speech(folder / "long speech.wav", 7, 5)
    (folder / "notes.txt").write_text("no speech")
    script("inference", folder, tiny_speech, "--data", tiny_data, "--checkpoint", trained,
           "--start", 1)
    videos = script("reapply_faces", "--data", tiny_data).splitlines()
    assert [Path(video).name for video in videos] == ["tiny--long speech.mp4", "tiny--tiny.mp4"]
    assert [count_frames(video) for video in videos] == [175, 50]
    order, short = (
        np.array(read_json(Path(tiny_data) / "pred" / name / "meta.json")["source_frames"])
        for name in ("long speech", "tiny")
    )
    turn = order.max()
    assert 125 <= turn < 150 and (short == np.arange(25, 75)).all()
    assert (order == [*range(25, turn), *range(turn, 2 * turn - 175 - 25, -1)]).all()


@pytest.mark.slow
def test_checkpoint_speaks_on_other_footage_of_two_seconds(script, trained, tmp_path):
    """Another video of the person, 2 s long, and a video file as speech: checkpoint and footage
    are independent."""
    other, data = tmp_path / "other.mp4", tmp_path / "data"
    sample.write_clip(other, 2.2, 9)
    script("preprocess", other, "--data", data)
    script("inference", other, "--data", data, "--checkpoint", trained)
    video = script("reapply_faces", "--data", data).splitlines()[-1]
    assert count_frames(video) == 55


@pytest.mark.slow
def test_evaluate_prints_its_table(script, tiny_data, trained, tiny_clip, tiny_speech):
    """Every row of the meter is there, and the figures are correlations."""
    table = script("utils.evaluate", "--data", tiny_data, "--checkpoint", trained,
                   "--against", tiny_clip, "--voices", tiny_speech, tiny_clip)
    report = read_json(trained.parent / "report.json")
    assert list(report) == ["of", "rows", "voices", "meaning"]
    rows = report["rows"]
    assert report["voices"] == {
        path.name: rows[f"voice {path}"] for path in (tiny_speech, tiny_clip)
    }
    for name in ("follows, swapped sound", "follows, own sound", "  frozen mouth", "  mean mouth",
                 "leak", "leak, partial"):
        assert all(abs(rows[name][key]) <= 1 for key in ("opening", "width", "error")), name
    voices = [f"voice {tiny_speech}", f"voice {tiny_clip}"]
    looks = {
        "landmarks": {"px", "eyes"},
        "picture": {"psnr", "ssim"},
        "texture": {"sharpness", "jitter", "seam", "grain", "lips"},
        "silence": {"digital", "lipleak", "noise", "flutter"},
        "own minus swapped": {"opening", "width"},
        **{name: {"opening", "width", "lag", "movement", "pauses"} for name in voices},
    }
    assert rows[voices[0]]["opening"] is None
    assert {name: set(rows[name]) for name in looks} == looks and "closures" in rows
    assert rows["picture"]["psnr"] > 15 and 0 < rows["picture"]["ssim"] < 1
    assert rows["texture"]["sharpness"] > 0
    assert all(f"\n{name} " in table for name in rows)
    assert table.splitlines()[-1] == report["meaning"]
    assert report["meaning"].startswith("The mouth ")
    assert read_png(trained.parent / "report.png").shape[0] > 500
    assert not list(trained.parent.glob("*.tmp"))


@pytest.mark.slow
def test_first_run_of_a_newcomer(script, tmp_path):
    """The README's first command: the mouth of the final video follows the known curve of the
    driving speech."""
    script("utils.sample", cwd=tmp_path)
    script("preprocess", cwd=tmp_path)
    script("train", "--max-minutes", 3, cwd=tmp_path)
    script("inference", cwd=tmp_path)
    video = tmp_path / script("reapply_faces", cwd=tmp_path).splitlines()[-1]
    mouth = track_face(frame.rgb() for frame in read_frames(video)).track.mouth
    known = sample.mouth_curve(sample.make_script(6, sample.SPEECH_SEED))[:len(mouth)]
    opening = mouth[:len(known), 0]
    assert correlate(opening, known[:, 0]) >= 0.8
    assert abs(lag([(opening, known[:, 0])])) <= 1
