"""The quality report: footage that is bad in one way is told so in that line, and good footage is not."""

import sys

import cv2
import numpy as np
import pytest

import preprocess
from utils import audio, contract, face, media, pixels, quality, sample, sync

RATE = contract.SAMPLE_RATE
IN_STEP = sync.Offset(10.0, 0.95, 0)


def aligned(change=lambda face: face, scale=0.4):
    """Return the Looks of 100 s of the drawn face, `change`d; scale: face pixels per source pixel."""
    looks = quality.Looks()
    place = cv2.getRotationMatrix2D((256, 256), 0, 0.4) + np.array([[0, 0, -172], [0, 0, -172]])
    for k in range(4):
        looks.add(change(face.align(sample.draw(k / 3, k / 3, k), place)), scale)
    looks.rows *= 625
    return looks


@pytest.fixture(scope="module")
def good():
    """Everything about 100 s of good footage: a dict of what quality.findings takes."""
    said = sample.script(10, 3)
    sound = np.tile(sample.speak(said, 3)[:10 * RATE], 10)
    track = {"valid": np.ones(2500, bool), "pose": np.full((2500, 2), 0.05, np.float32),
             "transform": np.tile(np.float32([[0.4, 0, 0], [0, 0.4, 0]]), (2500, 1, 1))}
    return {"track": track, "looks": aligned(), "mel": audio.log_mel(sound, 2500), "sound": sound, "offset": IN_STEP}


def heard(sound):
    """Return the entries of `good` for another sound of 100 s."""
    return {"sound": sound.astype(np.float32), "mel": audio.log_mel(sound.astype(np.float32), 2500)}


def tracked(good, **changed):
    return {"track": {**good["track"], **changed}}


def first(share):
    """Return (2500,) bool: True in the first `share`."""
    return np.arange(2500) < share * 2500


def blurred(sigma):
    return lambda picture: cv2.GaussianBlur(picture, (0, 0), sigma)


def lit(gain):
    return lambda picture: np.clip(picture * gain, 0, 255).astype(np.uint8)


def louder(sound, gain):
    return np.clip(sound / np.abs(sound).max() * gain, -1, 1)


def noisy(sound, level):
    return sound + level * np.random.default_rng(0).standard_normal(len(sound))


def spoken_share(good, share):
    """Return the good sound with all but the first `share` of each 10 s as quiet as a pause."""
    quiet = np.arange(len(good["sound"])) % (10 * RATE) > share * 10 * RATE
    return np.where(quiet, 1e-4 * np.random.default_rng(1).standard_normal(len(quiet)), good["sound"])


def short(good, frames):
    looks = quality.Looks()
    looks.rows = good["looks"].rows[:frames]
    return {"track": {key: value[:frames] for key, value in good["track"].items()}, "looks": looks}


SPOILT = [  # (line, verdict, what changes of good footage)
    ("length", "usable", lambda g: short(g, 1000)),
    ("length", "will hurt", lambda g: short(g, 400)),
    ("length", "will hurt", lambda g: tracked(g, valid=first(0.1))),
    ("usable frames", "usable", lambda g: tracked(g, valid=first(0.9))),
    ("usable frames", "will hurt", lambda g: tracked(g, valid=~first(0.3))),
    ("usable frames", "will hurt", lambda g: tracked(g, pose=np.where(first(0.3)[:, None], -0.4, 0.05))),
    ("face size", "usable", lambda g: tracked(g, transform=g["track"]["transform"] * 3.5)),
    ("face size", "will hurt", lambda g: tracked(g, transform=g["track"]["transform"] * 7)),
    ("sharpness", "usable", lambda g: {"looks": aligned(blurred(1.6))}),
    ("sharpness", "will hurt", lambda g: {"looks": aligned(blurred(3))}),
    ("exposure", "usable", lambda g: {"looks": aligned(lit(0.33))}),
    ("exposure", "will hurt", lambda g: {"looks": aligned(lit(0.1))}),
    ("exposure", "will hurt", lambda g: {"looks": aligned(lit(1.8))}),
    ("head turn", "usable", lambda g: tracked(g, pose=np.where(first(0.1)[:, None], -0.22, 0.05))),
    ("head turn", "will hurt", lambda g: tracked(g, pose=np.where(first(0.1)[:, None], 0.35, 0.05))),
    ("mouth visible", "usable", lambda g: tracked(g, valid=~first(0.1))),
    ("mouth visible", "will hurt", lambda g: tracked(g, valid=first(0.6))),
    ("speech", "usable", lambda g: heard(spoken_share(g, 0.45))),
    ("speech", "will hurt", lambda g: heard(spoken_share(g, 0.2))),
    ("noise", "usable", lambda g: heard(noisy(g["sound"], 0.003))),
    ("noise", "will hurt", lambda g: heard(noisy(g["sound"], 0.1))),
    ("overdriven", "usable", lambda g: heard(louder(g["sound"], 5))),
    ("overdriven", "will hurt", lambda g: heard(louder(g["sound"], 20))),
    ("sound offset", "usable", lambda g: {"offset": sync.Offset(300.0, 0.3, 0)}),
    ("sound offset", "will hurt", lambda g: {"offset": sync.Offset(300.0, 0.95, 0)}),
    ("sound offset", "good", lambda g: {"offset": sync.Offset(300.0, 0.95, 300)}),
    ("sound offset", "will hurt", lambda g: {"offset": sync.Offset(0.0, 0.95, 100)}),
]


def test_good_footage_is_good(good):
    rows = quality.findings(**good)
    assert [row for row in rows if row.verdict != "good" or row.advice] == []
    assert {row.name for row in rows} == {name for name, _, _ in SPOILT}


@pytest.mark.parametrize(("name", "verdict", "change"), SPOILT,
                         ids=[f"{name}, {verdict} {k}" for k, (name, verdict, _) in enumerate(SPOILT)])
def test_what_is_bad_is_told(good, name, verdict, change):
    row = {row.name: row for row in quality.findings(**{**good, **change(good)})}[name]
    assert row.verdict == verdict, row
    assert bool(row.advice) == (verdict != "good")


def test_enlarged_faces_are_judged_by_the_pixels_they_came_from(good):
    """A small sharp face is as sharp as a large one: only its size is told."""
    def small(picture):
        return cv2.resize(cv2.resize(picture, (84, 84), interpolation=cv2.INTER_AREA), (168, 168),
                          interpolation=cv2.INTER_CUBIC)

    def sharpness(looks):
        return np.median(looks.curves()[0])

    enlarged, as_is = aligned(small, 2.0), aligned(small, 1.0)
    assert sharpness(enlarged) > 3 * sharpness(as_is)
    assert sharpness(enlarged) > 0.7 * sharpness(good["looks"])


def test_digital_silence_is_no_noise_floor(good):
    """Padding between joined pieces does not make a noisy recording good."""
    sound = noisy(good["sound"], 0.1)
    padded = np.where(np.arange(len(sound)) % RATE < RATE // 5, 0, sound)
    assert quality.noise_distance(padded) == pytest.approx(quality.noise_distance(sound), abs=3)
    assert quality.noise_distance(np.zeros(RATE)) == 0


def test_worst_frames_are_the_worst_and_apart(good):
    """A blurred, a white, a turned, a missing and a covered frame are each found, none twice within a second."""
    looks, track = quality.Looks(), {key: value.copy() for key, value in good["track"].items()}
    looks.rows = list(good["looks"].rows)
    looks.rows[700] = looks.rows[705] = (0.001, 0.5, 0.0)
    looks.rows[900] = (0.08, 0.99, 0.8)
    track["pose"][1100, 0], track["valid"][[1300, 1500]], covered = -0.5, False, np.arange(2500) == 1500
    worst = quality.worst_frames(track, looks, covered)
    firsts = {kind: frames[0][0] for kind, frames in worst.items()}
    assert list(firsts.values()) == [700, 900, 1100, 1300]
    assert worst["frames without the mouth"] == [(1300, "no face"), (1500, "covered")]
    for frames in worst.values():
        numbers = sorted(i for i, _ in frames)
        assert len(numbers) <= quality.SHOWN and (np.diff(numbers) >= contract.FPS).all()
    assert "frames without the mouth" not in quality.worst_frames(good["track"], good["looks"], np.zeros(2500, bool))


def test_table_is_short_and_says_what_to_do(good):
    rows = quality.findings(**{**good, **SPOILT[1][2](good)})
    lines = quality.table("clip.mp4", rows).splitlines()
    assert lines[0] == "quality of clip.mp4:" and len(lines) == 12 and max(map(len, lines)) <= 110
    assert lines[1].split()[:4] == ["length", "16", "s", "will"] and "film 2-5 minutes" in lines[1]


# -- in the chain ------------------------------------------------------------------------------------
def test_preprocess_writes_and_says_it(tiny_data):
    """report.png is a picture, and meta.json has each line."""
    picture = pixels.read_png(tiny_data / "report.png")
    assert picture.shape[1] == 1100 and picture.shape[0] > 600
    meta = contract.read_meta(tiny_data)
    assert meta["quality"]["face size"][1] == "good" and meta["quality"]["length"] == ["6 s", "will hurt"]
    assert {verdict for _, verdict in meta["quality"].values()} <= set(quality.COLOURS)


def test_a_report_is_replaced_with_its_data(tiny_clip, tmp_path, monkeypatch, capsys):
    """Frames 30-40 are grey: told on the terminal, in the report, and the old report is gone."""
    path, data = tmp_path / "$hidd\\en$ 视频.mp4", tmp_path / "data"
    sound = media.read_sound(tiny_clip, RATE)[:RATE * 16 // 5]
    with media.VideoWriter(path, 512, 512, 23, "ultrafast", iter([sound]), RATE) as video:
        for i, frame in enumerate(media.read_frames(tiny_clip, 0, 80)):
            planes = frame.planes()
            video.write([np.full_like(plane, 128) for plane in planes] if 30 <= i < 40 else planes)
    data.mkdir()
    (data / "report.png").write_bytes(b"old")
    monkeypatch.setattr(sys, "argv", ["preprocess.py", str(path), "--data", str(data)])
    preprocess.main()
    said = capsys.readouterr()
    assert f"quality of {path.name}:" in said.err and "mouth visible" in said.err
    assert "Warning" not in said.err and not said.out
    assert contract.read_meta(data)["quality"]["mouth visible"][1] == "usable"
    assert pixels.read_png(data / "report.png").shape[0] > 1000
