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
    orientation        turned by 90, 180, 270 degrees, mirrored
    time               sound or picture starts later or before 0, edit lists, B-frame delay, holes
                       in the sound, a recorder's clock that drifts, damaged timestamps
    sound              8, 11.025, 16, 44.1, 48, 96 kHz; mono, stereo, 5.1; PCM, u-law, AAC, MP2,
                       MP3, Opus, AC-3, E-AC-3, FLAC, WMA
    tracks             several of each kind, cover picture, timecode
    damage             cut short (mp4, mkv, ts, fragmented mp4), bits flipped (mp4, mkv, ts, flv),
                       sound damaged, index missing or damaged
    what is seen       the face in half the frames, gone for a few, never; another shot in the
                       middle
    no video at all    text, playlist, empty, folder, missing, sound, sound with a cover; no sound,
                       silent; 2 frames; 0.5 s
"""

import contextlib
import socket
import threading

import av
import numpy as np
import pytest
from helpers import films
from helpers.films import EVENTS_S, Picture, Sound, claps, face_at, film, wall
from helpers.messages import error_line

from utils.contract import FPS, MIN_FRAMES, ROWS_PER_FRAME, face_path, mel_path
from utils.media.pixels import read_png
from utils.storage import read_meta, read_track

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
    whole("AV1 50 10 bit", "mp4", rate=50, **AV1, pix_fmt="yuv420p10le"),
    whole("HEVC", "mp4", codec="libx265"),
    whole(
        "HEVC 10 bit 30 from a telephone held upright, timecode", "mov", "turned by 90",
        rate=30, codec="libx265", pix_fmt="yuv420p10le", turn=90,
        metadata={"timecode": "10:00:00:00"}, sounds=[Sound(rate=44100, layout="stereo")],
        slow=False,
    ),
    whole("H.264 10 bit", "mkv", pix_fmt="yuv420p10le"),
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
        "ProRes, PCM 24 bit", "mov",
        codec="prores_ks", pix_fmt="yuv422p10le", sounds=[Sound(codec="pcm_s24le")],
    ),
    whole("H.264 30", "flv", rate=30, sounds=[Sound(rate=44100)]),
    whole(
        "WMV, WMA", "wmv",
        codec="wmv2", options={"b": "4M"}, sounds=[Sound(codec="wmav2", rate=44100)],
    ),
]
SEVERAL_SHAPES = [
    whole("4K", "mp4", seen=widescreen, size=(3840, 2160)),
    whole("turned 90", "mp4", "turned by 90", turn=90),
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


def test_another_shot_in_the_middle(tmp_path, prepare):
    prepared, _ = prepare(film(tmp_path / "film.mp4", seen=two_shots), tmp_path / "data")
    assert prepared.check(0, FRAMES) == 2
    assert prepared.track.cuts.tolist() == [0, 30]


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
