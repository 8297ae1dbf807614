"""Any footage in: films of every make through preprocess.py, and what becomes of them.

A drawn face (helpers/films.py) opens its mouth wide twice within 2.4 s, each time with a clap.
Whatever the file is made of, the result must have 60 pictures and as many features, mouth and clap
where they belong within one frame, the face upright and in its colours, and a note about what was
changed or lost: no more, no less. What cannot be used is refused in one line that says what was
found, what was expected and what to run.

    what varies        variants
    container          mp4 (also fragmented, sound and picture in any order), mov, mkv, webm (also
                       live), avi, ts, mpg, flv, wmv
    picture            H.264 (8 and 10 bit, 4:2:0 and 4:4:4, B-frames), HEVC and AV1 8 and 10 bit,
                       VP9, MPEG-1, MPEG-2, MPEG-4, MJPEG, ProRes, WMV; 4K; odd sizes; a size that
                       changes on the way
    frames a second    23.976, 24, 25, 29.97, 30, 50, 60, variable
    colours            RGB, transparent, HDR, tags that mean nothing
    orientation        turned by 90, 180, 270 degrees, mirrored; pixels that are not square
    time               sound or picture starts later or before 0, edit lists, B-frame delay, holes
                       in the sound, a recorder's clock that drifts, damaged timestamps
    sound              8, 11.025, 16, 44.1, 48, 96 kHz; mono, stereo, 5.1; PCM, u-law, AAC, MP2,
                       MP3, Opus, AC-3, E-AC-3, FLAC, WMA; channels in opposite phase, samples
                       that are no numbers
    tracks             several of each kind, cover picture, timecode
    damage             cut short (mp4, mkv, ts, fragmented mp4), bits flipped (mp4, mkv, ts, flv),
                       sound damaged, index missing or damaged
    what is seen       the face in half the frames, gone for a few, never; another shot in the
                       middle
    no video at all    text, playlist, empty, folder, missing, sound, sound with a cover; no sound,
                       silent; 2 frames; 0.5 s
"""

import contextlib
import os
import socket
import struct
import threading
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from helpers import films
from helpers.films import EVENTS_S, Picture, Sound, claps, face_at, film, wall
from helpers.messages import error_line

import inference
from utils import sample
from utils.contract import FPS, MIN_FRAMES, ROWS_PER_FRAME, SAMPLE_RATE, face_path, mel_path
from utils.media.pixels import read_png
from utils.storage import read_json, read_meta, read_track

FRAMES = 60  # of a whole film
MOUTH = slice(0, 40)  # columns of the landmarks that move

VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}
AV1 = {"codec": "libsvtav1", "options": {"preset": "12"}}
MPEG1 = {"codec": "mpeg1video", "options": {"b": "4M"}}
MPEG2 = {"codec": "mpeg2video", "options": {"b": "4M"}}
MPEG4 = {"codec": "mpeg4", "options": {"b": "4M"}}
WITH_B_FRAMES = {"bf": "2", "b": "4M"}
B_PYRAMID = {"preset": "veryfast", "bf": "3", "b-pyramid": "normal"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+delay_moov"}  # as OBS records

OPUS = Sound(codec="libopus")
MP3 = Sound(codec="libmp3lame")
PCM = Sound(codec="pcm_s16le")

JITTER_S = np.random.default_rng(3).choice([0.021, 0.033, 0.034, 0.04, 0.067], 90)
VARIABLE = [time for time in (0, *np.cumsum(JITTER_S)) if time < films.SECONDS - 0.02]


# -- what is seen and heard ------------------------------------------------------------------------
def shifted(rate, first, last):
    """A sound whose claps come half a second late: the track that must not be taken."""
    return np.roll(claps(rate, first, last), rate // 2)


def silence(rate, first, last):
    return np.zeros(round((last - first) * rate))


def gone(*spans):
    """What is seen if the face is out of the picture within these spans of seconds."""
    def seen(time):
        away = any(first <= time < last for first, last in spans)
        return wall(time) if away else face_at(time)
    return seen


def two_shots(time):
    """Another camera from 1.2 s on: nearer, and before another wall."""
    picture = face_at(time)
    if time < 1.2:
        return picture
    return np.ascontiguousarray(picture[40:440, 56:456]) // 2 + 60


def widescreen(time):
    """The face in the middle of 16:9."""
    return np.pad(face_at(time), ((0, 0), (199, 199), (0, 0)), mode="edge")


def in_mirror(time):
    return face_at(time)[:, ::-1]


def upside_down(time):
    return face_at(time)[::-1]


# -- whole films -----------------------------------------------------------------------------------
def whole(name, ending, *said, shown=None, frames=FRAMES, slow=True, **how):
    """A row: arguments `how` of films.film, and what else is expected.

    said: parts of the notes that are to be said. shown: time of the first picture that is.
    """
    start = how.get("start", 0.0) if shown is None else shown
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(ending, how, said, start, frames, id=f"{ending} {name}", marks=marks)


SEVERAL_RATES = [
    whole("H.264 25", "mp4", slow=False),
    whole("H.264 23.976", "mp4", rate="24000/1001"),
    whole("H.264 24", "mp4", rate=24),
    whole("H.264 29.97", "mp4", rate="30000/1001"),
    whole("H.264 30", "mp4", rate=30),
    whole("H.264 50", "mp4", rate=50),
    whole("H.264 60, B-frames", "mp4", rate=60, options=B_PYRAMID),
    whole("variable rate", "mp4", times=VARIABLE),
    whole(
        "variable rate, sound 0.3 s later", "mkv",
        times=VARIABLE, sounds=[Sound(first=0.3)], slow=False,
    ),
]
SEVERAL_CODECS = [
    whole(
        "VP9 30, Opus stereo", "webm",
        rate=30, **VP9, sounds=[Sound(codec="libopus", layout="stereo")], slow=False,
    ),
    whole("VP9 60", "mkv", rate=60, **VP9),
    whole(
        "VP9 odd size", "webm", "509x511", "row and column", **VP9, cut=(511, 509), sounds=[OPUS],
    ),
    whole("AV1 24", "webm", rate=24, **AV1, sounds=[OPUS]),
    whole("AV1 50 10 bit", "mp4", "10 bits", rate=50, **AV1, pix_fmt="yuv420p10le"),
    whole("HEVC", "mp4", codec="libx265"),
    whole(
        "HEVC 10 bit 30 from a telephone held upright, timecode", "mov", "turned by 90", "10 bits",
        rate=30, codec="libx265", pix_fmt="yuv420p10le", turn=90,
        metadata={"timecode": "10:00:00:00"}, sounds=[Sound(rate=44100, layout="stereo")],
        slow=False,
    ),
    whole("H.264 10 bit", "mkv", "10 bits", pix_fmt="yuv420p10le"),
    whole("H.264 RGB", "mkv", codec="libx264rgb", pix_fmt="rgb24", slow=False),
    whole(
        "H.264 4:4:4, odd width", "mkv", "511x512", "column", pix_fmt="yuv444p", cut=(512, 511),
    ),
    whole("H.264 with B-frames 29.97", "ts", rate="30000/1001", options=B_PYRAMID),
    whole("HEVC 50", "ts", rate=50, codec="libx265"),
    whole(
        "MPEG-2 29.97 with B-frames, AC-3 5.1", "ts",
        rate="30000/1001", codec="mpeg2video", options=WITH_B_FRAMES,
        sounds=[Sound(codec="ac3", layout="5.1")], slow=False,
    ),
    whole("MPEG-1, MP2", "mpg", **MPEG1, sounds=[Sound(codec="mp2")]),
    whole("MPEG-2 25, MP2 stereo", "mpg", **MPEG2, sounds=[Sound(codec="mp2", layout="stereo")]),
    whole(
        "MPEG-4, PCM 44.1, odd size", "avi", "509x511", "row and column",
        **MPEG4, cut=(511, 509), sounds=[Sound(codec="pcm_s16le", rate=44100)], slow=False,
    ),
    whole("MPEG-4 with B-frames", "avi", codec="mpeg4", options=WITH_B_FRAMES, sounds=[MP3]),
    whole(
        "MJPEG, PCM 11.025", "avi",
        codec="mjpeg", pix_fmt="yuvj420p", options={"q": "3"},
        sounds=[Sound(codec="pcm_s16le", rate=11025)],
    ),
    whole("H.264 with B-frames, MP3", "avi", options=B_PYRAMID, sounds=[MP3]),
    whole(
        "ProRes, PCM 24 bit", "mov", "10 bits",
        codec="prores_ks", pix_fmt="yuv422p10le", sounds=[Sound(codec="pcm_s24le")],
    ),
    whole(
        "ProRes, transparent", "mov", "12 bits", "transparent",
        codec="prores_ks", pix_fmt="yuva444p10le",
    ),
    whole("VP9, transparent", "webm", "transparent", **VP9, pix_fmt="yuva420p", sounds=[OPUS]),
    whole("H.264 30", "flv", rate=30, sounds=[Sound(rate=44100)]),
    whole(
        "WMV, WMA", "wmv",
        codec="wmv2", options={"b": "4M"}, sounds=[Sound(codec="wmav2", rate=44100)],
    ),
]
SEVERAL_SHAPES = [
    whole("4K", "mp4", seen=widescreen, size=(3840, 2160)),
    whole("turned 90", "mp4", "turned by 90", turn=90),
    whole("pixels of 64:45", "mp4", pixel_ratio=Fraction(64, 45)),
    whole("turned 180", "mp4", "turned by 180", turn=180),
    whole("turned 270", "mkv", "turned by 270", turn=270),
    whole(
        "turned 90, odd size", "mp4", "turned by 90", "509x511",
        pix_fmt="yuv444p", turn=90, cut=(509, 511),
    ),
    whole("mirrored", "mp4", "mirrored", matrix=(-1, 0, 0, 1), seen=in_mirror),
    whole("upside down", "mp4", "mirrored", matrix=(1, 0, 0, -1), seen=upside_down),
    whole("a picture that changes its size", "ts", shrinks=True),
]
SEVERAL_TIMES = [
    whole("sound 0.3 s later", "mp4", sounds=[Sound(first=0.3)]),
    whole("sound 0.3 s later", "ts", sounds=[Sound(first=0.3)]),
    whole("sound 0.4 s before the picture", "mkv", start=0.4, frames=50, sounds=[PCM]),
    whole("sound 0.4 s before the picture", "mp4", start=0.4, frames=50),
    whole("sound 0.4 s before the picture", "ts", start=0.4, frames=50),
    whole("both start at 7 s", "mkv", start=0.2, frames=55, muxer={"output_ts_offset": "7"}),
    whole(
        "both start before 0", "mp4",
        shown=0.4, frames=50,
        muxer={"output_ts_offset": "-0.4", "avoid_negative_ts": "disabled"},
    ),
    whole("a hole in the sound", "mkv", slow=False,
          sounds=[Sound(codec="pcm_s16le", gap=(0.9, 1.3))]),
    whole("a hole in the sound", "mp4", sounds=[Sound(gap=(0.9, 1.3))]),
    whole("a recorder that runs fast by 12 %", "mkv", "sound lasts",
          sounds=[Sound(codec="pcm_s16le", drift=0.12)]),
    whole("a recorder that runs slow by 12 %", "mkv", "sound lasts",
          sounds=[Sound(codec="pcm_s16le", drift=-0.12)]),
]
SEVERAL_SOUNDS = [
    whole("u-law 8", "mov", sounds=[Sound(codec="pcm_mulaw", rate=8000)]),
    whole("PCM 16", "mkv", sounds=[Sound(codec="pcm_s16le", rate=16000)]),
    whole("MP3 11.025 stereo", "mkv",
          sounds=[Sound(codec="libmp3lame", rate=11025, layout="stereo")]),
    whole("FLAC 96 stereo", "mkv", sounds=[Sound(codec="flac", rate=96000, layout="stereo")]),
    whole("AAC 44.1 5.1", "mp4", sounds=[Sound(rate=44100, layout="5.1")]),
    whole("E-AC-3 5.1", "mp4", sounds=[Sound(codec="eac3", layout="5.1")]),
    whole(
        "PCM in opposite phase", "mov", "cancel each other", slow=False,
        sounds=[Sound(codec="pcm_s16le", layout="stereo", opposed=True)],
    ),
    whole(
        "AAC in opposite phase", "mp4", "cancel each other",
        sounds=[Sound(layout="stereo", opposed=True)],
    ),
    whole("AAC 8 stereo", "mp4", sounds=[Sound(rate=8000, layout="stereo")]),
]
SEVERAL_TRACKS = [
    whole(
        "the second sound is the default", "mkv",
        sounds=[Sound(heard=shifted, disposition=0), Sound(disposition=1)],
    ),
    whole(
        "two sounds, none the default: the first", "ts",
        sounds=[Sound(), Sound(heard=shifted, layout="5.1")],
    ),
    whole(
        "the second picture is the default", "mkv",
        pictures=[Picture(seen=wall, disposition=0, rate=60), Picture(disposition=1)], slow=False,
    ),
    whole("a cover picture first", "mp4", cover=True),
    whole("fragmented", "mp4", muxer=FRAGMENTED),
    whole("index first", "mov", muxer={"movflags": "faststart"}),
    whole("live, without a length", "webm", **VP9, sounds=[OPUS], muxer={"live": "1"}),
]
SEVERAL_FACES = [
    whole(
        "the face in half the frames", "mp4", "was found in only",
        seen=gone((0.1, 0.35), (0.9, 1.5), (2.1, 2.4)),
    ),
    whole("no face for a few frames", "mkv", seen=gone((1.1, 1.3)), slow=False),
]
WHOLE = [
    *SEVERAL_RATES, *SEVERAL_CODECS, *SEVERAL_SHAPES, *SEVERAL_TIMES, *SEVERAL_SOUNDS,
    *SEVERAL_TRACKS, *SEVERAL_FACES,
]


# -- what a run gives ------------------------------------------------------------------------------
class Prepared:
    """What preprocess.py left in a folder."""

    def __init__(self, data):
        self.meta = read_meta(data)
        self.track = read_track(data, self.meta)
        self.frames = self.meta.frames
        self.mel = np.concatenate([np.load(mel_path(data, i)) for i in range(self.frames)])
        self.face = read_png(face_path(data, 0)).astype(float)
        self.files = [len(list((data / name).iterdir())) for name in ("face", "audio")]

    @property
    def outline(self):
        """Landmarks beside the mouth, from the middle of the picture, in its heights."""
        seen = self.track.landmarks[self.track.valid]
        still = np.delete(np.median(seen, axis=0), MOUTH, axis=0)
        width, height = self.meta.size
        return (still - (width / 2, height / 2)) / height

    def events(self, start):
        """[(frame expected, frame of the mouth, frame of the clap), ...] within the film."""
        found = []
        for event in EVENTS_S:
            expected = (event - start) * FPS
            if expected < self.frames - 5:
                first = max(0, round(expected) - 13)
                last = min(self.frames, round(expected) + 14)
                mouth = self.mouth_frame(first, last)
                clap = self.clap_frame(first, last)
                found.append((expected, mouth, clap))
        return found

    def mouth_frame(self, first, last):
        """Centre of gravity of the frames whose mouth is more than half open."""
        opening = self.track.opening[first:last]
        above = np.maximum(0, opening - (opening.max() + opening.min()) / 2)
        return (np.arange(first, last) * above).sum() / above.sum()

    def clap_frame(self, first, last):
        """Frame of the loudest mel row, to a quarter of a frame."""
        rows = slice(first * ROWS_PER_FRAME, last * ROWS_PER_FRAME)
        loudness = np.exp(self.mel[rows]).sum(axis=1)
        return first + loudness.argmax() / ROWS_PER_FRAME

    def check(self, start, frames):
        """Check that everything is there and at its time; return the number of events seen."""
        assert self.files == [self.frames, self.frames]
        assert abs(self.frames - frames) <= (0 if start == 0 else 1)
        events = self.events(start)
        for expected, mouth, clap in events:
            assert abs(mouth - clap) < 1, events
            assert abs(mouth - expected) < 1, events
            assert abs(clap - expected) < 1, events
        return len(events)


@pytest.fixture(scope="session")
def prepare(run_script):
    """Call it to prepare a film: prepare(video, data) -> (Prepared, the notes about the film)."""
    def run(video, data):
        result = run_script("preprocess", video, "--data", data)
        assert result.code == 0, result.err
        return Prepared(data), notes(result.err)
    return run


def notes(text):
    """What was noted about the file and its damage, without progress bars."""
    words = (
        "damaged", "announces", "sound lasts", "turned", "mirrored", "left out", "face was found",
        "bits of each", "transparent", "cancel each other",
    )
    return [line for line in text.splitlines() if any(word in line for word in words)]


@pytest.fixture(scope="module")
def plain(prepare, tmp_path_factory):
    """The plainest film, prepared."""
    folder = tmp_path_factory.mktemp("plain")
    return prepare(film(folder / "plain.mp4"), folder / "data")[0]


@pytest.mark.parametrize(("ending", "how", "said", "start", "frames"), WHOLE)
def test_a_whole_film(ending, how, said, start, frames, tmp_path, plain, prepare):
    video = film(tmp_path / f"film.{ending}", **how)
    prepared, lines = prepare(video, tmp_path / "data")
    assert prepared.check(start, frames) == 2
    for part in said:
        assert any(part in line for line in lines), lines
    assert bool(lines) == bool(said), lines
    np.testing.assert_allclose(prepared.outline, plain.outline, atol=0.02)
    assert np.abs(prepared.face - plain.face).mean() < 8


@pytest.mark.parametrize("name", [b"00001.MTS", b"caf\xe9 \xb2\xe2", "题".encode() * 80 + b".m2ts"])
def test_the_only_video_in_input_is_found_whatever_its_name(tmp_path, run_script, name):
    """Also a name that is no UTF-8, and none of the hidden files that macOS puts beside it."""
    folder = tmp_path / "input"
    folder.mkdir()
    try:
        video = film(folder / "film.ts").rename(folder / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system takes no such names")
    (folder / f"._{video.name[:60]}").write_bytes(b"\x00\x05\x16\x07" + bytes(200))
    (folder / "notes.txt").write_text("a letter")
    film(folder / "speech.webm", pictures=(), sounds=[OPUS])
    result = run_script("preprocess", cwd=tmp_path)
    assert result.code == 0, result.err
    assert read_meta(tmp_path / "data").source.path == str(video)


def test_another_shot_in_the_middle(tmp_path, prepare):
    prepared, _ = prepare(film(tmp_path / "film.mp4", seen=two_shots), tmp_path / "data")
    assert prepared.check(0, FRAMES) == 2
    assert prepared.track.cuts.tolist() == [0, 30]


# -- what teaches the wrong thing: shown, but never trained on; the verdict says so ----------------
VOICE = sample.synthesise(sample.make_script(8, 3), 3)[SAMPLE_RATE:]


def voice(rate, first, last):
    """Speech all the time."""
    moments = np.arange(first, last, 1 / rate) * SAMPLE_RATE
    return np.interp(moments, np.arange(len(VOICE)), VOICE)


def muted(*span):
    """Claps with a second of digital silence."""
    def heard(rate, first, last):
        moments = np.arange(first, last, 1 / rate)
        sound = claps(rate, first, last)[:len(moments)]
        return np.where((moments >= span[0]) & (moments < span[1]), 0, sound)
    return heard


def photo(time):
    """One picture, held by an unsteady hand."""
    shift = np.round(4 * np.sin((7 * time, 9 * time))).astype(int)
    return np.roll(films.mouth(0), shift, axis=(0, 1))


def hung(time):
    """A call that hangs from 1 s on, after a pause."""
    return face_at(min(time, 1.0))


def repeated(rate):
    """Fewer pictures a second, each stored until the next one comes."""
    return lambda time: face_at(int(time * rate + 1e-6) / rate)


def fields(time):
    """Two moments in one picture, row by row."""
    picture = face_at(time).copy()
    picture[1::2] = np.roll(face_at(time + 0.02), 6, axis=1)[1::2]
    return picture


def another_face(time):
    """Somebody else in the second half: with a longer face and other colours."""
    if time < 1.2:
        return face_at(time)
    return np.ascontiguousarray(cv2.resize(face_at(time)[80:460], (512, 512))[..., ::-1])


def nearer(time):
    """The same person from 1.2 s on in another camera, in half the light."""
    picture = face_at(time)
    return picture if time < 1.2 else np.ascontiguousarray(picture[20:500, 16:496]) // 2


def chin_below(time):
    return np.ascontiguousarray(face_at(time)[:384])


def mouth_below(time):
    """The lower lip leaves the picture in the second half."""
    return np.roll(face_at(time), 0 if time < 1.2 else 155, axis=0)


SPOKEN = [Sound(heard=voice)]
INTERLACED = {"x264-params": "tff=1"}
WILL_HURT = "will hurt"


def teaching(name, usable, expected, *said, slow=False, **how):
    """A row: of 60 frames so many are usable; verdicts by row; parts of the notes."""
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(how, usable, expected, said, id=name, marks=marks)


@pytest.mark.parametrize(("how", "usable", "expected", "said"), [
    teaching("nothing is wrong", 60, {}),
    teaching("sound ends half-way", 30, {"sound covers": ("50% of the time", WILL_HURT)},
             "no sound was recorded in 30 frames (1.2-2.4 s)", sounds=[Sound(last=1.2)]),
    teaching("sound starts late", 30, {"sound covers": (None, WILL_HURT)},
             "no sound was recorded in", slow=True,
             sounds=[Sound(first=1.2)]),
    teaching("sound is muted", 35, {"sound covers": (None, WILL_HURT)},
             "no sound was recorded in",
             sounds=[Sound(heard=muted(0.86, 1.9), codec="pcm_s16le")], ending="mkv", slow=True),
    teaching("a short hole in the sound", 60, {}, sounds=[Sound(gap=(0.9, 1.3), codec="pcm_s16le")],
             ending="mkv"),
    teaching("a photo", 60, {"mouth moves": ("in 0% of the speech", WILL_HURT)},
             seen=photo, sounds=SPOKEN),
    teaching("a call that hangs", 24, {"mouth moves": (None, WILL_HURT)},
             "the picture stands still in", slow=True,
             seen=hung, sounds=SPOKEN),
    teaching("12 pictures a second", 60, {"frame rate": (None, WILL_HURT)},
             "the video has 12 pictures a second; the result will have 25", rate=12, slow=True),
    teaching("12 pictures a second, stored as 25", 60, {"frame rate": (None, WILL_HURT)},
             seen=repeated(12)),
    teaching("16 pictures a second, stored as 30", 60, {"frame rate": (None, WILL_HURT)},
             "has 30 pictures", seen=repeated(16), rate=30, slow=True),
    teaching("24 pictures a second", 60, {}, "has 24 pictures", rate=24, slow=True),
    teaching("29.97 pictures a second", 60, {}, "has 29.97 pictures", rate="30000/1001", slow=True),
    teaching("two people in turn", 60, {}, "at 1.2-2.4 s the face has other", seen=another_face),
    teaching("another camera", 60, {}, seen=nearer, slow=True),
    teaching("interlaced", 60, {}, "interlaced", seen=fields, options=INTERLACED),
    teaching("the chin below the edge", 0, {"face inside the picture": ("0% of the frames",
                                                                        WILL_HURT)},
             "beyond the picture's edge in 60 frames", seen=chin_below),
    teaching("the lip below the edge for a while", 30,
             {"face inside the picture": ("50% of the frames", WILL_HURT)},
             "beyond the picture's edge in 30 frames (1.2-2.4 s)", seen=mouth_below, slow=True),
])
def test_what_teaches_the_wrong_thing_is_said_and_not_trained_on(
    how, usable, expected, said, tmp_path, run_script
):
    how = dict(how)
    video = tmp_path / f"film.{how.pop('ending', 'mp4')}"
    film(video, how.pop("sounds", [Sound()]), [Picture(**how)])
    result = run_script("preprocess", video, "--data", tmp_path / "data")
    assert result.code == 0, result.err
    meta = read_json(tmp_path / "data" / "meta.json")
    track = read_track(tmp_path / "data", read_meta(tmp_path / "data"))
    assert meta["usable"] == track.usable.sum() == pytest.approx(usable, abs=4 * (usable < 60))
    for name in ("sound covers", "mouth moves", "frame rate", "face inside the picture"):
        found, verdict = meta["quality"][name]
        wanted, wanted_verdict = expected.get(name, (None, "good"))
        assert verdict == wanted_verdict, (name, found)
        assert wanted in (None, found)
    words = ("never trained on", "result will have", "has other proportions", "interlaced")
    lines = [line for line in result.err.splitlines() if any(word in line for word in words)]
    assert len(lines) == len(said), lines
    for part in said:
        assert any(part in line for line in lines), lines


def test_a_mouth_that_never_moves_is_refused_by_train(tmp_path, run_script):
    video = film(tmp_path / "film.mp4", sounds=SPOKEN, pictures=[Picture(seen=photo)])
    data = tmp_path / "data"
    assert run_script("preprocess", video, "--data", data).code == 0
    line = error_line(run_script("train", "--data", data, "--checkpoints", tmp_path / "net"))
    assert "the mouth never moves while speech is heard (in 0% of the speech)" in line
    assert "run: python preprocess.py ANOTHER_VIDEO" in line


# -- the sound is elsewhere, the footage in pieces -------------------------------------------------
@pytest.mark.slow
def test_the_sound_track_with_a_voice_is_taken(tmp_path, prepare, run_script):
    """The first is silent and the default one, the second only hums; another can be asked for."""
    def hum(rate, first, last):
        return 0.1 * np.sin(np.arange(first, last, 1 / rate) * 2 * np.pi * 100)

    tracks = [Sound(heard=silence, disposition=1), Sound(heard=hum), Sound(), Sound(heard=shifted)]
    video = film(tmp_path / "film.mkv", sounds=tracks)
    result = run_script("preprocess", video, "--data", tmp_path / "data")
    assert "of several sound tracks number 3 is taken" in result.err
    assert Prepared(tmp_path / "data").check(0, FRAMES) == 2
    result = run_script("preprocess", video, "--data", tmp_path / "data", "--track", 4)
    assert "number 4 is taken" in result.err
    prepared = Prepared(tmp_path / "data")
    assert prepared.meta.track == 4
    assert prepared.clap_frame(15, 45) == pytest.approx((EVENTS_S[0] + 0.5) * FPS, abs=1)
    line = error_line(run_script("preprocess", video, "--data", tmp_path / "data", "--track", 5))
    assert "has 4 sound tracks" in line and "--track N with a lower N" in line


@pytest.mark.parametrize(("lead_s", "side"), [(3.2, "after"), (-0.4, "before")])
def test_sound_that_was_recorded_apart_is_put_in_step(tmp_path, run_script, lead_s, side):
    """By what the camera heard; the recorder was switched on earlier, or later."""
    def lapel(rate, first, last):
        heard = claps(rate, -lead_s, 5)
        return heard + np.random.default_rng(8).normal(0, 2e-3, len(heard))

    video = film(tmp_path / "film.mp4")
    recorded = film(tmp_path / "lapel.wav", [Sound(heard=lapel, codec="pcm_s16le")], pictures=())
    result = run_script("preprocess", video, "--data", tmp_path / "data", "--sound", recorded)
    assert result.code == 0, result.err
    assert f"by what the camera heard, the video begins {abs(lead_s):.1f}" in result.err
    assert f" s {side} the sound" in result.err
    prepared = Prepared(tmp_path / "data")
    assert prepared.meta.av_offset_ms == pytest.approx(1000 * lead_s, abs=40)
    assert prepared.meta.sound.path == str(recorded)
    assert [abs(mouth - clap) < 1 for _, mouth, clap in prepared.events(0)] == [True, True]


def test_footage_without_sound_and_too_short_to_tell_is_left_as_it_is(tmp_path, run_script):
    video = film(tmp_path / "film.mp4", sounds=())
    recorded = film(tmp_path / "apart.wav", [PCM], pictures=())
    result = run_script("preprocess", video, "--data", tmp_path / "data", "--sound", recorded)
    assert result.code == 0, result.err
    assert "by the mouth" in result.err and "that is not sure" in result.err
    assert Prepared(tmp_path / "data").check(0, FRAMES) == 2


@pytest.mark.slow
def test_several_takes_are_learned_from_and_one_is_rendered(tmp_path, run_script):
    """The second is rendered; the first is of another size, and has its own sound."""
    other = film(tmp_path / "other.mp4", size=(400, 400))
    shown = film(tmp_path / "shown.mkv", seconds=2.0, sounds=[Sound(first=0.3, last=2.0)])
    result = run_script("preprocess", other, shown, "--take", 2, "--data", tmp_path / "data")
    assert result.code == 0, result.err
    prepared = Prepared(tmp_path / "data")
    meta = prepared.meta
    assert (prepared.frames, meta.shown_frames, meta.size) == (110, 50, (512, 512))
    assert prepared.track.cuts.tolist() == [0, 50]
    assert prepared.meta.source.path == str(shown)
    assert max(prepared.meta.references) < 50
    for first, events in ((0, EVENTS_S), (50, EVENTS_S)):
        for event in events:
            at = first + round(event * FPS)
            near = (at - 5, min(at + 6, prepared.frames))
            assert prepared.mouth_frame(*near) == pytest.approx(first + event * FPS, abs=1)
            assert prepared.clap_frame(*near) == pytest.approx(first + event * FPS, abs=1)
    meta = read_json(tmp_path / "data" / "meta.json")
    assert [take["path"] for take in meta["other_takes"]] == [str(other)]
    assert "quality of shown.mkv, other.mp4:" in result.err


@pytest.mark.parametrize(("options", "expected"), [
    (["--take", 3], "--take 3 was asked for, but 2 videos were named"),
    (["--sound", "a.wav"], "--sound is for one video"),
])
def test_what_cannot_be_done_with_several_takes_is_said(tmp_path, run_script, options, expected):
    videos = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    assert expected in error_line(run_script("preprocess", *videos, *options))


class Speaker:
    """Stands for a trained network: it draws nothing."""

    clip = None
    large = None


def test_a_speech_begins_where_the_face_is_first_seen(tmp_path, run_script, monkeypatch):
    """A title and an end card are not spoken on, unless --start says so, which is counted."""
    card = gone((0, 0.8), (2.2, 2.4))
    data = tmp_path / "data"
    result = run_script("preprocess", film(tmp_path / "film.mp4", seen=card), "--data", data)
    assert result.code == 0, result.err
    speech = film(tmp_path / "speech.wav", [Sound(codec="pcm_s16le")], pictures=())
    saved = {"data": {"id": read_meta(data).id}, "epoch": 1}
    grey = np.full((84, 168, 3), 90, np.uint8)
    monkeypatch.setattr(inference, "load_speaker", lambda *_, **__: (Speaker(), saved))
    monkeypatch.setattr(inference, "voice_gain", lambda *_: 1)
    monkeypatch.setattr(
        inference, "generate_lower_faces", lambda _, order, *rest: [grey] * len(order)
    )
    for options, first, said in (([], 20, False), (["--start", 0.4], 10, True)):
        result = run_script("inference", speech, "--data", data, *options)
        assert result.code == 0, result.err
        order = read_json(data / "pred" / "speech" / "meta.json")["source_frames"]
        assert order[0] == first and max(order) < 55
        assert ("s of speech fall on frames in which no mouth is seen" in result.err) == said
    assert "note: 0.4 s of speech" in result.err


# -- damage: what can be had is had, and what is lost is said --------------------------------------
LONG = {"pictures": [Picture(seconds=4.0)], "sounds": [Sound(last=4.0)]}


def cut_short(content):
    """Only the first 85 % of a file."""
    return content[:round(len(content) * 0.85)]


def flipped(seed, bits=24):
    """Return what flips some bits in the later part of a file."""
    def hurt(content):
        rng = np.random.default_rng(seed)
        content = bytearray(content)
        for at in rng.integers(len(content) // 4, len(content) * 19 // 20, bits):
            content[at] ^= 1 << rng.integers(8)
        return bytes(content)
    return hurt


def cluster_moved(content):
    """Put the third second of a Matroska file half a minute later: a cluster lasts a second."""
    at = -1
    for _ in range(3):
        at = content.index(b"\x1f\x43\xb6\x75", at + 1)
    at = content.index(b"\xe7\x82", at) + 2  # a timestamp of two bytes, in ms
    return content[:at] + bytes([content[at] | 0x80]) + content[at + 1:]


def damaged(name, ending, hurt, said="", least=MIN_FRAMES, slow=True, muxer=None):
    """A row. hurt: what changes the file's bytes. least: frames that have to be saved of 100."""
    marks = [pytest.mark.slow] if slow else []
    row = (ending, muxer, hurt, said, least)
    return pytest.param(*row, id=f"{ending} {name}", marks=marks)


DAMAGED = [
    damaged("cut short", "mkv", cut_short, "announces", slow=False),
    damaged("cut short", "mp4", cut_short, "announces", muxer={"movflags": "faststart"}),
    damaged("fragmented, cut short", "mp4", cut_short, muxer=FRAGMENTED),
    damaged("cut short", "ts", cut_short),
    damaged(
        "a second with wrong timestamps", "mkv", cluster_moved, "the file is damaged", least=100,
    ),
    damaged("bits flipped, 0", "ts", flipped(0), slow=False),
    *[damaged(f"bits flipped, {seed}", "ts", flipped(seed)) for seed in (1, 2)],
    *[damaged(f"bits flipped, {seed}", "mp4", flipped(seed)) for seed in range(3)],
    *[damaged(f"bits flipped, {seed}", "mkv", flipped(seed)) for seed in range(3)],
    *[damaged(f"bits flipped, {seed}", "flv", flipped(seed)) for seed in range(3)],
]


@pytest.mark.parametrize(("ending", "muxer", "hurt", "said", "least"), DAMAGED)
def test_a_damaged_film(ending, muxer, hurt, said, least, tmp_path, prepare):
    video = film(tmp_path / f"film.{ending}", muxer=muxer, **LONG)
    video.write_bytes(hurt(video.read_bytes()))
    prepared, lines = prepare(video, tmp_path / "data")
    assert least <= prepared.frames <= 101
    assert prepared.check(0, prepared.frames) == 2
    assert said in " ".join(lines)


def test_damaged_sound_is_said_and_the_rest_keeps_its_time(tmp_path, prepare):
    video = film(tmp_path / "film.mp4")
    content = bytearray(video.read_bytes())
    with av.open(str(video)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    for packet in packets[40:55]:  # 0.85 to 1.17 s
        content[packet.pos:packet.pos + packet.size] = b"\xff" * packet.size
    video.write_bytes(content)
    prepared, lines = prepare(video, tmp_path / "data")
    assert prepared.check(0, FRAMES) == 2
    said = " ".join(lines)
    assert "the sound is damaged" in said
    assert "the file is damaged" not in said


def test_samples_that_are_no_numbers_are_counted_and_silence(tmp_path, prepare):
    video = film(tmp_path / "film.mov", sounds=[Sound(codec="pcm_f32le")])
    content = bytearray(video.read_bytes())
    with av.open(str(video)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    for packet in packets[:3]:
        content[packet.pos:packet.pos + 4] = struct.pack("<f", np.nan)
    video.write_bytes(content)
    prepared, lines = prepare(video, tmp_path / "data")
    assert prepared.check(0, FRAMES) == 2
    assert np.isfinite(prepared.mel).all()
    assert "no numbers were silenced (3)" in " ".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_index_gives_a_film_or_one_line(tmp_path, run_script, seed):
    video = film(tmp_path / "film.mp4")
    content = bytearray(video.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(content.index(b"moov") + 8, len(content), 6):
        content[at] ^= 1 << rng.integers(8)
    video.write_bytes(content)
    data = tmp_path / "data"
    result = run_script("preprocess", video, "--data", data)
    if result.code == 0:
        assert Prepared(data).frames >= MIN_FRAMES
    else:
        assert error_line(result)
        assert not (data / "meta.json").exists()


# -- what cannot be used is refused ----------------------------------------------------------------
def written(content):
    """Return what writes these bytes as film.mp4."""
    def make(folder):
        path = folder / "film.mp4"
        path.write_bytes(content)
        return path
    return make


def filmed(ending="mp4", **how):
    """Return what makes a film."""
    return lambda folder: film(folder / f"film.{ending}", **how)


def hurt(change):
    """Return what makes an mp4 and changes its bytes."""
    def make(folder):
        video = film(folder / "film.mp4")
        video.write_bytes(change(video.read_bytes()))
        return video
    return make


def without_index(content):
    return content[:content.index(b"moov") - 4]


def renamed(old, new, most=-1):
    """Return what renames boxes of an mp4."""
    return lambda content: content.replace(old, new, most)


def a_folder(folder):
    path = folder / "film.mp4"
    path.mkdir()
    return path


NO_VIDEO = "not a video or sound file"
REFUSED = [
    ("missing", lambda folder: folder / "film.mp4", "does not exist"),
    ("text", written(b"a letter\n" * 500), NO_VIDEO),
    ("empty", written(b""), NO_VIDEO),
    ("a folder", a_folder, "is a folder"),
    ("no index", hurt(without_index), "not copied or recorded to its end"),
    ("picture's track damaged", hurt(renamed(b"trak", b"tbak", 1)), "only sound"),
    ("picture's codec damaged", hurt(renamed(b"avc1", b"aqq1")), "no picture"),
    ("pictures damaged", hurt(renamed(b"avcC", b"avcD")), NO_VIDEO),
    ("sound", filmed("wav", pictures=(), sounds=[PCM]), "only sound"),
    ("sound with a cover", filmed(pictures=(), cover=True), "only sound"),
    ("no sound", filmed(sounds=()), "has no sound"),
    ("silent", filmed(sounds=[Sound(heard=silence)]), "is silent"),
    ("no face", filmed(seen=wall), "a face was found in 0%"),
    ("a face in a third of the frames", filmed(seen=gone((0, 1.6))), "a face was found in 3"),
    ("2 pictures", filmed(times=[0, 0.04], sounds=[Sound(last=0.08)]), "only 2 frames (0.08 s)"),
    ("0.5 s", filmed(seconds=0.5, sounds=[Sound(last=0.5)]), "only 12 frames (0.48 s)"),
]


@pytest.mark.parametrize(
    ("make", "expected"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_what_cannot_be_used_is_refused_in_one_line(make, expected, tmp_path, run_script):
    video = make(tmp_path)
    data = tmp_path / "data"
    line = error_line(run_script("preprocess", video, "--data", data))
    assert str(video) in line
    assert expected in line
    assert "run" in line.lower()
    assert not (data / "meta.json").exists()


REFERRING = {
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "script for FFmpeg": "ffconcat version 1.0\nfile '{}'\n",
}


@pytest.mark.parametrize("text", REFERRING.values(), ids=REFERRING)
@pytest.mark.parametrize("name", ["film.mp4", "film.m3u8"])
def test_a_file_that_names_another_does_not_reach_the_net(text, name, tmp_path, run_script):
    reached = []

    def answer(server):
        with contextlib.suppress(OSError), server.accept()[0]:
            reached.append(True)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        port = server.getsockname()[1]
        (tmp_path / name).write_text(text.format(f"http://127.0.0.1:{port}/a.ts"))
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        result = run_script("preprocess", tmp_path / name, "--data", tmp_path / "data")
        thread.join()
    assert NO_VIDEO in error_line(result)
    assert not reached
