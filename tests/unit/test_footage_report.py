"""The quality report: footage that is bad in one way has it said in that line; good has nothing."""

import dataclasses

import cv2
import numpy as np
import pytest

from utils import audio, footage_report, sample
from utils.av_sync import Offset, Synchronised
from utils.contract import FACE_SIZE, FPS, SAMPLE_RATE, face_path
from utils.face.geometry import Affine, align
from utils.media.pixels import encode_png, read_png
from utils.storage import Track
from utils.usable_frames import Flaws

FRAMES = 2500  # 100 s
SCRIPT = sample.make_script(10, 3)


def statistics_of(change=lambda face: face, scale=0.4):
    """FaceStatistics of 100 s of the drawn face, `change`d; scale: face pixels per source pixel."""
    statistics = footage_report.FaceStatistics()
    to_face = Affine([[0.4, 0, -18.4], [0, 0.4, -18.4]])
    for k in range(4):
        face = align(sample.draw_face(k / 3, k / 3, k), to_face)
        statistics.add(change(face), scale)
    statistics.rows *= FRAMES // 4
    return statistics


def good_track():
    """Track of 100 s in which the face looks at the camera."""
    unused = np.empty((FRAMES, 0))
    return Track(
        transform=np.tile(np.float32([[0.4, 0, 0], [0, 0.4, 0]]), (FRAMES, 1, 1)),
        landmarks=unused,
        valid=np.ones(FRAMES, bool),
        cuts=np.array([0]),
        lips=unused,
        pose=np.full((FRAMES, 2), 0.05, np.float32),
        mouth=np.tile(0.2 * sample.mouth_curve(SCRIPT)[:250], (10, 1)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def good():
    """All about 100 s of good footage: a dict of what footage_report.findings takes."""
    sound = np.tile(sample.synthesise(SCRIPT, 3)[: 10 * SAMPLE_RATE], 10)
    return {
        "track": good_track(),
        "statistics": statistics_of(),
        "flaws": Flaws(*np.zeros((3, FRAMES), bool)),
        **with_sound(sound),
    }


def with_sound(sound):
    """The entry of `good` for another sound of 100 s."""
    sound = sound.astype(np.float32)
    offset = Offset(late_ms=10.0, confidence=0.95, applied_ms=0)
    return {"synchronised": Synchronised(sound, audio.log_mel(sound, FRAMES), offset)}


def with_offset(good, *offset):
    return {"synchronised": good["synchronised"]._replace(offset=Offset(*offset))}


def with_track(good, **changed):
    return {"track": dataclasses.replace(good["track"], **changed)}


def with_flaws(good, **changed):
    """Flaws of some frames, which are not usable then."""
    flaws = good["flaws"]._replace(**changed)
    return {"flaws": flaws, **with_track(good, usable=~np.any(flaws, axis=0))}


def still_from(good, share):
    """A mouth that does not move from there on."""
    mouth = np.where(first(share)[:, None], good["track"].mouth, 0.1)
    return with_track(good, mouth=mouth)


def with_rate(rate):
    """Fewer pictures a second: the others are repetitions."""
    statistics = statistics_of()
    shown = (np.arange(FRAMES) * rate / FPS + 1e-6).astype(int)
    new = np.diff(shown, prepend=-1) > 0
    statistics.rows = [
        row._replace(change=2.0 * new[k]) for k, row in enumerate(statistics.rows)
    ]
    return {"statistics": statistics}


def with_turn(good, share, turn):
    """A head that is turned in the first `share` of the frames."""
    pose = np.where(first(share)[:, None], turn, 0.05)
    return with_track(good, pose=pose)


def first(share):
    """Return (2500,) bool: True in the first `share`."""
    return np.arange(FRAMES) < share * FRAMES


def larger_faces(good, times):
    return with_track(good, transform=good["track"].transform * times)


def blurred(sigma):
    return {"statistics": statistics_of(lambda face: cv2.GaussianBlur(face, (0, 0), sigma))}


def lit(gain):
    def change(face):
        return np.clip(face * gain, 0, 255).astype(np.uint8)

    return {"statistics": statistics_of(change)}


def sound_of(good):
    return good["synchronised"].sound


def louder(good, gain):
    sound = sound_of(good)
    return with_sound(np.clip(sound / np.abs(sound).max() * gain, -1, 1))


def noisy(sound, level):
    return sound + level * np.random.default_rng(0).standard_normal(len(sound))


def spoken_share(good, share):
    """The good sound with all but the first `share` of each 10 s as quiet as a pause."""
    sound = sound_of(good)
    quiet = np.arange(len(sound)) % (10 * SAMPLE_RATE) > share * 10 * SAMPLE_RATE
    noise = 1e-4 * np.random.default_rng(1).standard_normal(len(sound))
    return with_sound(np.where(quiet, noise, sound))


def short(good, frames):
    """Only the first frames, and all of the sound, but for its mel."""
    statistics = footage_report.FaceStatistics()
    statistics.rows = good["statistics"].rows[:frames]
    arrays = {name: values[:frames] for name, values in vars(good["track"]).items()}
    flaws = Flaws(*(flaw[:frames] for flaw in good["flaws"]))
    sound, mel, offset = good["synchronised"]
    synchronised = Synchronised(sound, mel[: 4 * frames], offset)
    return {
        "track": Track(**arrays),
        "statistics": statistics,
        "flaws": flaws,
        "synchronised": synchronised,
    }


SPOILT = [  # line, verdict, what changes of good footage
    ("length", "usable", lambda g: short(g, 1000)),
    ("length", "will hurt", lambda g: short(g, 200)),
    ("length", "will hurt", lambda g: with_flaws(g, unrecorded=~first(0.05))),
    ("usable frames", "usable", lambda g: with_flaws(g, frozen=~first(0.9))),
    ("usable frames", "will hurt", lambda g: with_track(g, usable=~first(0.3))),
    ("usable frames", "will hurt", lambda g: with_turn(g, 0.3, -0.4)),
    ("face size", "usable", lambda g: larger_faces(g, 3.5)),
    ("face size", "will hurt", lambda g: larger_faces(g, 7)),
    ("sharpness", "usable", lambda g: blurred(1.6)),
    ("sharpness", "will hurt", lambda g: blurred(3)),
    ("exposure", "usable", lambda g: lit(0.33)),
    ("exposure", "will hurt", lambda g: lit(0.1)),
    ("exposure", "will hurt", lambda g: lit(1.8)),
    ("head turn", "usable", lambda g: with_turn(g, 0.1, -0.22)),
    ("head turn", "will hurt", lambda g: with_turn(g, 0.1, 0.35)),
    ("mouth visible", "usable", lambda g: with_track(g, valid=~first(0.1))),
    ("mouth visible", "will hurt", lambda g: with_track(g, valid=first(0.6))),
    ("usable frames", "will hurt", lambda g: with_flaws(g, frozen=first(0.3))),
    ("face inside the picture", "usable", lambda g: with_flaws(g, cut_off=first(0.1))),
    ("face inside the picture", "will hurt", lambda g: with_flaws(g, cut_off=first(0.3))),
    ("frame rate", "good", lambda g: with_rate(24)),
    ("frame rate", "usable", lambda g: with_rate(20.5)),
    ("frame rate", "will hurt", lambda g: with_rate(15)),
    ("sound covers", "usable", lambda g: with_flaws(g, unrecorded=first(0.1))),
    ("sound covers", "will hurt", lambda g: with_flaws(g, unrecorded=first(0.3))),
    ("mouth moves", "usable", lambda g: still_from(g, 0.82)),
    ("mouth moves", "will hurt", lambda g: still_from(g, 0.7)),
    ("speech", "usable", lambda g: spoken_share(g, 0.45)),
    ("speech", "will hurt", lambda g: spoken_share(g, 0.2)),
    ("noise", "usable", lambda g: with_sound(noisy(sound_of(g), 0.003))),
    ("noise", "will hurt", lambda g: with_sound(noisy(sound_of(g), 0.1))),
    ("overdriven", "usable", lambda g: louder(g, 5)),
    ("overdriven", "will hurt", lambda g: louder(g, 20)),
    ("sound offset", "usable", lambda g: with_offset(g, 300.0, 0.3, 0)),
    ("sound offset", "will hurt", lambda g: with_offset(g, 300.0, 0.95, 0)),
    ("sound offset", "good", lambda g: with_offset(g, 300.0, 0.95, 300)),
    ("sound offset", "will hurt", lambda g: with_offset(g, 0.0, 0.95, 100)),
]
NAMES = [f"{name}, {verdict} {k}" for k, (name, verdict, _) in enumerate(SPOILT)]


# -- findings --------------------------------------------------------------------------------------
def test_good_footage_is_good(good):
    rows = footage_report.findings(**good)
    assert [row for row in rows if row.verdict != "good" or row.advice] == []
    assert {row.name for row in rows} == {name for name, _, _ in SPOILT}


@pytest.mark.parametrize(("name", "verdict", "change"), SPOILT, ids=NAMES)
def test_what_is_bad_is_said(good, name, verdict, change):
    rows = footage_report.findings(**{**good, **change(good)})
    row = {row.name: row for row in rows}[name]
    assert row.verdict == verdict, row
    assert bool(row.advice) == (verdict != "good")


def test_enlarged_faces_are_judged_by_the_pixels_they_came_from(good):
    """A small sharp face is as sharp as a large one: only its size is criticised."""

    def enlarge(face):
        small = cv2.resize(face, (84, 84), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (168, 168), interpolation=cv2.INTER_CUBIC)

    def sharpness(statistics):
        return np.median(statistics.curves()[0])

    enlarged = sharpness(statistics_of(enlarge, scale=2.0))
    assert enlarged > 3 * sharpness(statistics_of(enlarge, scale=1.0))
    assert enlarged > 0.7 * sharpness(good["statistics"])


def test_digital_silence_is_no_noise_floor(good):
    """Padding between joined pieces does not make a noisy recording good."""
    sound = noisy(sound_of(good), 0.1)
    padding = np.arange(len(sound)) % SAMPLE_RATE < SAMPLE_RATE // 5
    padded = footage_report.noise_distance(np.where(padding, 0, sound))
    assert padded == pytest.approx(footage_report.noise_distance(sound), abs=3)
    assert footage_report.noise_distance(np.zeros(SAMPLE_RATE)) == 0


# -- the worst frames ------------------------------------------------------------------------------
@pytest.fixture
def worst(good):
    """Worst frames of good footage with one blurred, white, turned, missing and covered frame."""
    track = dataclasses.replace(
        good["track"], pose=good["track"].pose.copy(), valid=good["track"].valid.copy()
    )
    statistics = footage_report.FaceStatistics()
    statistics.rows = list(good["statistics"].rows)
    statistics.rows[700] = footage_report.FaceNumbers(0.001, 0.5, 0.0)
    statistics.rows[705] = statistics.rows[700]
    statistics.rows[900] = footage_report.FaceNumbers(0.08, 0.99, 0.8)
    track.pose[1100, 0] = -0.5
    track.valid[[1300, 1500]] = False
    covered = np.arange(FRAMES) == 1500
    return footage_report.worst_frames(track, statistics, covered)


def test_worst_frames_are_the_worst(worst):
    firsts = {kind: frames[0][0] for kind, frames in worst.items()}
    assert list(firsts.values()) == [700, 900, 1100, 1300]
    assert worst["frames without the mouth"] == [(1300, "no face"), (1500, "covered")]


def test_worst_frames_are_few_and_a_second_apart(worst):
    for frames in worst.values():
        numbers = sorted(i for i, _ in frames)
        assert len(numbers) <= footage_report.SHOWN_FRAMES
        assert (np.diff(numbers) >= FPS).all()


def test_a_kind_without_frames_is_left_out(good):
    nothing = np.zeros(FRAMES, bool)
    worst = footage_report.worst_frames(good["track"], good["statistics"], nothing)
    assert "frames without the mouth" not in worst


# -- the report ------------------------------------------------------------------------------------
def test_table_is_short_and_says_what_to_do(good):
    rows = footage_report.findings(**{**good, **short(good, 200)})
    lines = footage_report.table("clip.mp4", rows).splitlines()
    assert lines[0] == "quality of clip.mp4:"
    assert len(lines) == 16
    assert max(map(len, lines)) <= 119
    assert lines[1].split()[:4] == ["length", "8", "s", "will"]
    assert "film 2-5 minutes" in lines[1]


def test_the_picture_shows_the_lines_and_the_worst_frames(good, tmp_path):
    """Whatever the video is called; a strip of two frames makes it higher."""
    rows = footage_report.findings(**good)
    (tmp_path / "face").mkdir()
    for i in (3, 40):
        grey = np.full((FACE_SIZE, FACE_SIZE, 3), 100 + i, np.uint8)
        face_path(tmp_path, i).write_bytes(encode_png(grey))
    heights = []
    for worst in ({}, {"least sharp frames": [(3, "12% of the usual"), (40, "90% of the usual")]}):
        footage_report.draw(tmp_path, "$hidd\\en$ 视频.mp4", rows, worst)
        page = read_png(tmp_path / "report.png")
        assert page.shape[1] == 1100
        heights.append(page.shape[0])
    assert heights[1] - heights[0] == pytest.approx(195, abs=1)
    strip = page[heights[0] :]
    assert (strip == 103).all(axis=-1).sum() > 10_000
    assert (strip == 140).all(axis=-1).sum() > 10_000
