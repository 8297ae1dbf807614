"""Any footage in: films of every make through preprocess.py, in process, and what becomes of them.

A drawn face (tests/footage.py) opens its mouth wide twice within 2.4 s, each time with a clap. Whatever the file is
made of, the result must have 60 pictures and as many features, mouth and clap where they belong within one frame, the
face upright and in its colours, and a note about what was changed or lost: no more, no less. What cannot be used is
refused in one line that says what was found, what was expected and what to run.

    what varies        variants
    container          mp4 (also fragmented, sound and picture in any order), mov, mkv, webm (also live), avi, ts, mpg,
                       flv, wmv
    picture            H.264 (8 and 10 bit, 4:2:0 and 4:4:4, B-frames), HEVC and AV1 8 and 10 bit, VP9, MPEG-1,
                       MPEG-2, MPEG-4, MJPEG, ProRes, WMV; 4K; odd sizes; a size that changes on the way
    frames a second    23.976, 24, 25, 29.97, 30, 50, 60, variable
    held how           turned by 90, 180, 270 degrees, mirrored
    time               sound or picture starts later or before 0, edit lists, B-frame delay, holes in the sound, a
                       recorder's clock that drifts, damaged timestamps
    sound              8, 11.025, 16, 44.1, 48, 96 kHz; mono, stereo, 5.1; PCM, u-law, AAC, MP2, MP3, Opus, AC-3,
                       E-AC-3, FLAC, WMA
    tracks             several of each kind, cover picture, timecode
    damage             cut short (mp4, mkv, ts, fragmented mp4), bits flipped (mp4, mkv, ts, flv), sound damaged,
                       index missing or damaged
    what is seen       the face in half the frames, gone for a few, never; another shot in the middle
    no video at all    text, playlist, empty, folder, missing, sound, sound with a cover; no sound, silent; 2 frames;
                       0.5 s
"""

import contextlib
import json
import socket
import sys
import threading

import av
import numpy as np
import pytest

import footage
import preprocess
from conftest import one_line
from footage import EVENTS, claps, face_at, film, wall
from utils import contract, pixels
from utils.console import UserError

FRAMES = 60
EYES = [33, 263]
OPUS, PCM, MP3 = {"codec": "libopus"}, {"codec": "pcm_s16le"}, {"codec": "libmp3lame"}
FAST_VP9, FAST_AV1 = {"deadline": "realtime", "cpu-used": "8"}, {"preset": "12"}
JITTER = np.random.default_rng(3).choice([0.021, 0.033, 0.034, 0.04, 0.067], 90)
VARIABLE = [t for t in np.concatenate([[0], np.cumsum(JITTER)]) if t < footage.SECONDS - 0.02]
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+delay_moov"}  # as OBS records
B_FRAMES = {"preset": "veryfast", "bf": "3", "b-pyramid": "normal"}


def shifted(rate, first, last):
    """A sound whose claps come half a second late: the track that must not be taken."""
    return np.roll(claps(rate, first, last), rate // 2)


def gone(*spans):
    """Return what is seen if the face is out of the picture within these spans of seconds."""
    return lambda time: (wall if any(a <= time < b for a, b in spans) else face_at)(time)


def two_shots(time):
    """Another camera from 1.2 s on: nearer, and before another wall."""
    picture = face_at(time)
    return picture if time < 1.2 else np.ascontiguousarray(picture[40:440, 56:456]) // 2 + 60


# -- whole films: name, ending, arguments of footage.film, what else is expected ----------------------
def whole(name, ending, *said, shown=None, frames=FRAMES, slow=True, **how):
    """Return a row. said: parts of the notes that are to be said. shown: time of the first picture that is."""
    return pytest.param(ending, how, said, how.get("start", 0.0) if shown is None else shown, frames,
                        id=f"{ending} {name}", marks=[pytest.mark.slow] if slow else [])


WHOLE = [
    whole("H.264 25", "mp4", slow=False),
    whole("H.264 23.976", "mp4", rate="24000/1001"),
    whole("H.264 24", "mp4", rate=24),
    whole("H.264 29.97", "mp4", rate="30000/1001"),
    whole("H.264 30", "mp4", rate=30),
    whole("H.264 50", "mp4", rate=50),
    whole("H.264 60, B-frames", "mp4", rate=60, options=B_FRAMES),
    whole("variable rate", "mp4", times=VARIABLE),
    whole("variable rate, sound 0.3 s later", "mkv", times=VARIABLE, sounds=[{"first": 0.3}], slow=False),
    whole("VP9 30, Opus stereo", "webm", rate=30, codec="libvpx-vp9", options=FAST_VP9,
          sounds=[{**OPUS, "layout": "stereo"}], slow=False),
    whole("VP9 60", "mkv", rate=60, codec="libvpx-vp9", options=FAST_VP9),
    whole("VP9 odd size", "webm", "509x511", "row and column", codec="libvpx-vp9", options=FAST_VP9,
          cut=(511, 509), sounds=[OPUS]),
    whole("AV1 24", "webm", rate=24, codec="libsvtav1", options=FAST_AV1, sounds=[OPUS]),
    whole("AV1 50 10 bit", "mp4", rate=50, codec="libsvtav1", pix_fmt="yuv420p10le", options=FAST_AV1),
    whole("HEVC", "mp4", codec="libx265"),
    whole("HEVC 10 bit 30 from a telephone held upright, timecode", "mov", "turned by 90", rate=30, codec="libx265",
          pix_fmt="yuv420p10le", turn=90, metadata={"timecode": "10:00:00:00"}, slow=False,
          sounds=[{"rate": 44100, "layout": "stereo"}]),
    whole("H.264 10 bit", "mkv", pix_fmt="yuv420p10le"),
    whole("H.264 4:4:4, odd width", "mkv", "511x512", "column", pix_fmt="yuv444p", cut=(512, 511)),
    whole("H.264 with B-frames 29.97", "ts", rate="30000/1001", options=B_FRAMES),
    whole("HEVC 50", "ts", rate=50, codec="libx265"),
    whole("MPEG-2 29.97 with B-frames, AC-3 5.1", "ts", rate="30000/1001", codec="mpeg2video", slow=False,
          options={"bf": "2", "b": "4M"}, sounds=[{"codec": "ac3", "layout": "5.1"}]),
    whole("MPEG-1, MP2", "mpg", codec="mpeg1video", options={"b": "4M"}, sounds=[{"codec": "mp2"}]),
    whole("MPEG-2 25, MP2 stereo", "mpg", codec="mpeg2video", options={"b": "4M"},
          sounds=[{"codec": "mp2", "layout": "stereo"}]),
    whole("MPEG-4, PCM 44.1, odd size", "avi", "509x511", "row and column", codec="mpeg4", cut=(511, 509),
          options={"b": "4M"}, sounds=[{**PCM, "rate": 44100}], slow=False),
    whole("MPEG-4 with B-frames", "avi", codec="mpeg4", options={"bf": "2", "b": "4M"}, sounds=[MP3]),
    whole("MJPEG, PCM 11.025", "avi", codec="mjpeg", pix_fmt="yuvj420p", options={"q": "3"},
          sounds=[{**PCM, "rate": 11025}]),
    whole("H.264 with B-frames, MP3", "avi", options=B_FRAMES, sounds=[MP3]),
    whole("ProRes, PCM 24 bit", "mov", codec="prores_ks", pix_fmt="yuv422p10le", sounds=[{"codec": "pcm_s24le"}]),
    whole("H.264 30", "flv", rate=30, sounds=[{"rate": 44100}]),
    whole("WMV, WMA", "wmv", codec="wmv2", options={"b": "4M"}, sounds=[{"codec": "wmav2", "rate": 44100}]),
    whole("4K", "mp4", seen=lambda time: np.pad(face_at(time), ((0, 0), (199, 199), (0, 0)), mode="edge"),
          size=(3840, 2160)),
    whole("turned 90", "mp4", "turned by 90", turn=90),
    whole("turned 180", "mp4", "turned by 180", turn=180),
    whole("turned 270", "mkv", "turned by 270", turn=270),
    whole("turned 90, odd size", "mp4", "turned by 90", "509x511", pix_fmt="yuv444p", turn=90, cut=(509, 511)),
    whole("mirrored", "mp4", "mirrored", matrix=(-1, 0, 0, 1), seen=lambda time: face_at(time)[:, ::-1]),
    whole("upside down", "mp4", "mirrored", matrix=(1, 0, 0, -1), seen=lambda time: face_at(time)[::-1]),
    whole("sound 0.3 s later", "mp4", sounds=[{"first": 0.3}]),
    whole("sound 0.3 s later", "ts", sounds=[{"first": 0.3}]),
    whole("sound 0.4 s before the picture", "mkv", start=0.4, frames=50, sounds=[PCM]),
    whole("sound 0.4 s before the picture", "mp4", start=0.4, frames=50),
    whole("sound 0.4 s before the picture", "ts", start=0.4, frames=50),
    whole("both start at 7 s", "mkv", start=0.2, frames=55, muxer={"output_ts_offset": "7"}),
    whole("both start before 0", "mp4", shown=0.4, frames=50,
          muxer={"output_ts_offset": "-0.4", "avoid_negative_ts": "disabled"}),
    whole("u-law 8", "mov", sounds=[{"codec": "pcm_mulaw", "rate": 8000}]),
    whole("PCM 16", "mkv", sounds=[{**PCM, "rate": 16000}]),
    whole("MP3 11.025 stereo", "mkv", sounds=[{**MP3, "rate": 11025, "layout": "stereo"}]),
    whole("FLAC 96 stereo", "mkv", sounds=[{"codec": "flac", "rate": 96000, "layout": "stereo"}]),
    whole("AAC 44.1 5.1", "mp4", sounds=[{"rate": 44100, "layout": "5.1"}]),
    whole("E-AC-3 5.1", "mp4", sounds=[{"codec": "eac3", "layout": "5.1"}]),
    whole("AAC 8 stereo", "mp4", sounds=[{"rate": 8000, "layout": "stereo"}]),
    whole("the second sound is the default", "mkv",
          sounds=[{"heard": shifted, "disposition": 0}, {"disposition": 1}]),
    whole("two sounds, none the default: the first", "ts", sounds=[{}, {"heard": shifted, "layout": "5.1"}]),
    whole("the second picture is the default", "mkv",
          pictures=[{"seen": wall, "disposition": 0, "rate": 60}, {"disposition": 1}], slow=False),
    whole("a cover picture first", "mp4", cover=True, sounds=[{}]),
    whole("fragmented", "mp4", muxer=FRAGMENTED),
    whole("index first", "mov", muxer={"movflags": "faststart"}),
    whole("live, without a length", "webm", codec="libvpx-vp9", options=FAST_VP9, sounds=[OPUS],
          muxer={"live": "1"}),
    whole("a hole in the sound", "mkv", sounds=[{**PCM, "gap": (0.9, 1.3)}], slow=False),
    whole("a hole in the sound", "mp4", sounds=[{"gap": (0.9, 1.3)}]),
    whole("a recorder that runs fast by 12 %", "mkv", "sound lasts", sounds=[{**PCM, "drift": 0.12}]),
    whole("a recorder that runs slow by 12 %", "mkv", "sound lasts", sounds=[{**PCM, "drift": -0.12}]),
    whole("the face in half the frames", "mp4", "was found in only", seen=gone((0.1, 0.35), (0.9, 1.5), (2.1, 2.4))),
    whole("no face for a few frames", "mkv", seen=gone((1.1, 1.3)), slow=False),
    whole("a picture that changes its size", "ts", shrinks=True),
]


# -- what a run gives --------------------------------------------------------------------------------
def run(video, data):
    """Run preprocess.py on a video in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["preprocess.py", str(video), "--data", str(data)])
        preprocess.main()


class Result:
    """What preprocess.py left in a folder."""

    def __init__(self, data):
        self.meta = json.loads((data / "meta.json").read_text())
        self.track = contract.read_track(data, contract.read_meta(data))
        self.frames = self.meta["frames"]
        self.mel = np.concatenate([np.load(contract.mel_path(data, i)) for i in range(self.frames)])
        self.face = pixels.read_png(contract.face_path(data, 0)).astype(float)
        size, seen = np.array(self.meta["size"]), self.track["landmarks"][self.track["valid"]]
        self.eyes = (np.median(seen[:, EYES, :2], axis=0) - size / 2) / size[1]  # from the middle, in heights
        self.counts = [len(list((data / name).iterdir())) for name in ("face", "audio")]

    def events(self, start):
        """Return [(frame expected, frame of the mouth, frame of the clap), ...] of the events within the film."""
        loud, mouth = np.exp(self.mel).sum(axis=1), self.track["shape"][:, 0]
        found = []
        for event in EVENTS:
            frame = (event - start) * contract.FPS
            if frame < self.frames - 5:
                near = np.arange(max(0, round(frame) - 13), min(self.frames, round(frame) + 14))
                open_ = np.maximum(0, mouth[near] - (mouth[near].max() + mouth[near].min()) / 2)
                rows = np.arange(near[0] * 4, near[-1] * 4 + 4)
                found.append((frame, (near * open_).sum() / open_.sum(), rows[loud[rows].argmax()] / 4))
        return found

    def check(self, start, frames):
        """Check that everything is there and at its time; return the number of events seen."""
        assert self.counts == [self.frames] * 2 and abs(self.frames - frames) <= (0 if start == 0 else 1)
        events = self.events(start)
        for expected, mouth, clap in events:
            assert abs(mouth - clap) < 1 and abs(mouth - expected) < 1 and abs(clap - expected) < 1, events
        return len(events)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The result of the plainest film."""
    folder = tmp_path_factory.mktemp("plain")
    run(film(folder / "plain.mp4"), folder / "data")
    return Result(folder / "data")


def notes(text):
    """Return what was noted about the file and its damage, without progress bars."""
    words = ("damaged", "announces", "sound lasts", "turned", "mirrored", "left out", "face was found")
    return [line for line in text.replace("\r", "\n").splitlines() if any(word in line for word in words)]


@pytest.mark.parametrize(("ending", "how", "said", "start", "frames"), WHOLE)
def test_a_whole_film(ending, how, said, start, frames, tmp_path, plain, capfd):
    video = film(tmp_path / f"film.{ending}", **how)
    run(video, tmp_path / "data")
    result, lines = Result(tmp_path / "data"), notes(capfd.readouterr().err)
    assert result.check(start, frames) == 2
    assert all(any(part in line for line in lines) for part in said) and bool(lines) == bool(said), lines
    np.testing.assert_allclose(result.eyes, plain.eyes, atol=0.02)
    assert np.abs(result.face - plain.face).mean() < 8


def test_another_shot_in_the_middle(tmp_path, plain):
    run(film(tmp_path / "film.mp4", seen=two_shots), tmp_path / "data")
    result = Result(tmp_path / "data")
    assert result.check(0, FRAMES) == 2 and result.track["cuts"].tolist() == [0, 30]


# -- damage: what can be had is had, and what is lost is said -----------------------------------------
LONG = {"seconds": 4.0, "sounds": [{"last": 4.0}]}


def cut_short(share):
    """Return what leaves only the first `share` of a file."""
    return lambda content: content[:round(len(content) * share)]


def flipped(seed, bits=24):
    """Return what flips some bits in the later part of a file."""
    def hurt(content):
        rng, content = np.random.default_rng(seed), bytearray(content)
        for at in rng.integers(len(content) // 4, len(content) * 19 // 20, bits):
            content[at] ^= 1 << rng.integers(8)
        return bytes(content)
    return hurt


def cluster_moved(content):
    """Put the third second of a Matroska file, whose clusters last a second, half a minute later."""
    at = -1
    for _ in range(3):
        at = content.index(b"\x1f\x43\xb6\x75", at + 1)
    at = content.index(b"\xe7\x82", at)  # a timestamp of two bytes, in ms
    return content[:at + 2] + bytes([content[at + 2] | 0x80]) + content[at + 3:]


def damaged(name, ending, hurt, said, least=contract.MIN_FRAMES, slow=True, **how):
    """Return a row. hurt: what changes the file's bytes. least: frames that have to be saved of 100."""
    return pytest.param(ending, how, hurt, said, least, id=f"{ending} {name}", marks=[pytest.mark.slow] if slow else [])


DAMAGED = [
    damaged("cut short", "mkv", cut_short(0.85), "announces", slow=False),
    damaged("cut short", "mp4", cut_short(0.85), "announces", muxer={"movflags": "faststart"}),
    damaged("fragmented, cut short", "mp4", cut_short(0.85), "", muxer=FRAGMENTED),
    damaged("cut short", "ts", cut_short(0.85), ""),
    damaged("a second with wrong timestamps", "mkv", cluster_moved, "the file is damaged", least=100),
    *[damaged(f"bits flipped, {seed}", ending, flipped(seed), "", slow=(ending, seed) != ("ts", 0))
      for ending in ("mp4", "mkv", "ts", "flv") for seed in range(3)],
]


@pytest.mark.parametrize(("ending", "how", "hurt", "said", "least"), DAMAGED)
def test_a_damaged_film(ending, how, hurt, said, least, tmp_path, capfd):
    video = film(tmp_path / f"film.{ending}", **LONG, **how)
    video.write_bytes(hurt(video.read_bytes()))
    run(video, tmp_path / "data")
    result = Result(tmp_path / "data")
    assert least <= result.frames <= 101 and result.check(0, result.frames) == 2
    assert said in " ".join(notes(capfd.readouterr().err))


def test_damaged_sound_is_said_and_the_rest_stays_in_step(tmp_path, capfd):
    video = film(tmp_path / "film.mp4")
    content = bytearray(video.read_bytes())
    with av.open(str(video)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    for at, size in packets[40:55]:  # 0.85 to 1.17 s
        content[at:at + size] = b"\xff" * size
    video.write_bytes(content)
    run(video, tmp_path / "data")
    said = " ".join(notes(capfd.readouterr().err))
    assert Result(tmp_path / "data").check(0, FRAMES) == 2
    assert "the sound is damaged" in said and "the file is damaged" not in said


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_index_gives_a_film_or_one_line(tmp_path, seed):
    video = film(tmp_path / "film.mp4")
    content, rng = bytearray(video.read_bytes()), np.random.default_rng(seed)
    for at in rng.integers(content.index(b"moov") + 8, len(content), 6):
        content[at] ^= 1 << rng.integers(8)
    video.write_bytes(content)
    try:
        run(video, tmp_path / "data")
    except UserError as error:
        assert "\n" not in str(error) and not (tmp_path / "data" / "meta.json").exists()
    else:
        assert Result(tmp_path / "data").counts[0] >= contract.MIN_FRAMES


# -- what cannot be used is refused ------------------------------------------------------------------
def written(content):
    """Return what writes these bytes as film.mp4."""
    def make(folder):
        (folder / "film.mp4").write_bytes(content)
        return folder / "film.mp4"
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


def a_folder(folder):
    (folder / "film.mp4").mkdir()
    return folder / "film.mp4"


NO_VIDEO = "not a video or sound file"
REFUSED = [
    ("missing", lambda folder: folder / "film.mp4", "does not exist"),
    ("text", written(b"a letter\n" * 500), NO_VIDEO),
    ("empty", written(b""), NO_VIDEO),
    ("a folder", a_folder, "is a folder"),
    ("no index", hurt(lambda content: content[:content.index(b"moov") - 4]), "not copied or recorded to its end"),
    ("picture's track damaged", hurt(lambda content: content.replace(b"trak", b"tbak", 1)), "only sound"),
    ("picture's codec damaged", hurt(lambda content: content.replace(b"avc1", b"aqq1")), "no picture"),
    ("pictures damaged", hurt(lambda content: content.replace(b"avcC", b"avcD")), NO_VIDEO),
    ("sound", filmed("wav", pictures=(), sounds=[PCM]), "only sound"),
    ("sound with a cover", filmed(pictures=(), cover=True), "only sound"),
    ("no sound", filmed(sounds=()), "has no sound"),
    ("silent", filmed(sounds=[{"heard": lambda rate, a, b: np.zeros(round((b - a) * rate))}]), "is silent"),
    ("no face", filmed(seen=wall), "a face was found in 0%"),
    ("a face in a third of the frames", filmed(seen=gone((0, 1.6))), "a face was found in 3"),
    ("2 pictures", filmed(times=[0, 0.04], sounds=[{"last": 0.08}]), "only 2 frames (0.08 s)"),
    ("0.5 s", filmed(seconds=0.5, sounds=[{"last": 0.5}]), "only 12 frames (0.48 s)"),
]


@pytest.mark.parametrize(("make", "expected"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_what_cannot_be_used_is_refused_in_one_line(make, expected, tmp_path):
    video = make(tmp_path)
    with pytest.raises(UserError) as error:
        run(video, tmp_path / "data")
    message = one_line(error)
    assert str(video) in message and expected in message and "run" in message.lower()
    assert not (tmp_path / "data" / "meta.json").exists()


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
                                  "ffconcat version 1.0\nfile '{}'\n"], ids=["playlist", "script for FFmpeg"])
@pytest.mark.parametrize("name", ["film.mp4", "film.m3u8"])
def test_a_file_that_names_another_does_not_reach_the_net(text, name, tmp_path):
    reached = []

    def answer(server):
        with contextlib.suppress(OSError), server.accept()[0]:
            reached.append(True)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        (tmp_path / name).write_text(text.format(f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"))
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        with pytest.raises(UserError) as error:
            run(tmp_path / name, tmp_path / "data")
        thread.join()
    assert NO_VIDEO in one_line(error) and not reached
