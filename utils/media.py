"""Video and sound files, in and out, by PyAV (FFmpeg inside the wheel): only this module knows containers."""

import contextlib
import os
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from utils.console import UserError
from utils.contract import FPS
from utils.pixels import drawn, planes_of

# av.logging stays untouched: a Python log callback and FFmpeg's decoding threads can wait for each other forever.

EARLY = 0.25 / FPS          # s: a picture is shown this early at most, so that rounded timestamps change nothing
GAP = 0.03                  # s: sound that its timestamps put this much later has a hole before it
JUMP = 10                   # s: a timestamp this far beyond the one before and the end of the file is damaged
REVERSE_BYTES = 256 << 20   # most memory for the pictures that are held while footage runs backwards
# Luma weights (red, blue) by FFmpeg's colour space number; others count as BT.601, as FFmpeg's converter takes them.
LUMA_WEIGHTS = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
FULL_RANGE = 2              # FFmpeg's number for samples that use 0..255 instead of 16..235
LAYOUTS = {1: "mono", 2: "stereo"}
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
PACKET = 0.13               # s: the longest packet of AAC (1024 samples at 8 kHz)
MADE_BY_AI = "This video is AI-generated: the mouth was synthesised with Easy_Human."


@dataclass
class Losses:
    """What could not be used: packets that are damaged or have no time, and seconds missing at the end."""
    packets: int = 0
    seconds: float = 0.0


@dataclass
class Frame:
    """One upright source picture at its presentation time. Odd sizes lose their last row or column.

    turns: see _turns_of.
    """
    picture: av.VideoFrame = field(repr=False)
    turns: tuple

    def _upright(self, plane):
        turns, flipped = self.turns
        return np.rot90(plane[::-1] if flipped else plane, turns)

    def rgb(self):
        """Return it as RGB, (H, W, 3) uint8, contiguous."""
        rgb = self._upright(self.picture.to_ndarray(format="rgb24"))
        height, width = rgb.shape[0] & ~1, rgb.shape[1] & ~1
        return np.ascontiguousarray(rgb[:height, :width])

    def copied(self):
        """Return it as a picture of its own, 8-bit 4:2:0, as VideoWriter takes it."""
        picture = self.picture if self.picture.format.name in ("yuv420p", "yuvj420p") else \
            self.picture.reformat(format="yuv420p")
        return drawn(self._upright(plane) for plane in planes_of(picture))

    def planes(self):
        """Return its decoded planes as planes_of() does, own memory."""
        return planes_of(self.copied())

    @property
    def colours(self):
        """(red weight, blue weight, full range): what turns its planes into RGB."""
        weights = LUMA_WEIGHTS.get(int(self.picture.colorspace), (0.299, 0.114))
        return (*weights, int(self.picture.color_range) == FULL_RANGE or self.picture.format.name.startswith("yuvj"))


# -- reading -----------------------------------------------------------------------------------------
@contextlib.contextmanager
def _open(path):
    """Open a media file; UserError in one line if it is none."""
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise UserError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; "
                        "expected a video or sound file. Check the path and run again")
    try:
        container = av.open(str(path.absolute()))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a video or sound file that FFmpeg can read "
                        f"({getattr(error, 'strerror', None) or error}), or it was not copied or recorded to its end; "
                        "copy it anew, or convert it to mp4 or wav, and run again") from error
    with container:
        yield container


def _stream(container, kind):
    """Return the default stream of a kind ("video", "audio"), else the first, or None; a cover is no video."""
    streams = [stream for stream in getattr(container.streams, kind)
               if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic]
    return max(streams, key=lambda stream: bool(stream.disposition & Disposition.default), default=None)


def _decode(container, stream, losses):
    """Yield the stream's decoded frames, skipping and counting packets that are damaged."""
    stream.thread_type = "AUTO"
    packets = container.demux(stream)
    while losses.packets <= 10_000:  # nothing but damage: the rest of the file is not worth waiting for
        try:
            yield from next(packets).decode()
        except (StopIteration, av.error.EOFError):
            return
        except av.error.FFmpegError:
            losses.packets += 1


def _timed(container, stream, losses):
    """Yield (start, end, frame), in seconds, of each picture or piece of sound that can be decoded.

    One that claims a later time than its successor, or than can be, has a damaged timestamp and is left out.
    """
    before, end, lag = None, 0.0, None
    last = ((container.start_time or 0) + container.duration) / av.time_base if container.duration else np.inf
    usual = float(1 / stream.average_rate) if stream.type == "video" and stream.average_rate else 1 / FPS
    for frame in _decode(container, stream, losses):
        start = end if frame.pts is None else float(frame.pts * stream.time_base)
        if lag is None and container.format.name == "avi" and None not in (frame.pts, frame.dts):
            lag = frame.dts - frame.pts
        if lag is not None:  # AVI tells the order of decoding only; at the end, not even that
            start = end if frame.dts is None else float((frame.dts - lag) * stream.time_base)
        if stream.type == "audio":
            usual = frame.samples / frame.sample_rate
        end = start + (float((frame.duration or 0) * stream.time_base) or usual)
        if before and (before[0] > start or start > max(before[1], last) + JUMP):
            losses.packets += 1
            before = before if before[0] <= start else (start, end, frame)
            continue
        if before:
            yield before
        before = start, end, frame
    if before:
        yield before


def probe(path):
    """Return what a file says of itself, without decoding it.

    A dict: video (bool), sound (bool), seconds (float, 0 if unknown), frames (int at 25 fps, an estimate for
    progress bars), rate and channels of the sound (or 0). Raises UserError if it is not a media file.
    """
    with _open(path) as container:
        video, sound = _stream(container, "video"), _stream(container, "audio")
        from_zero = container.format.name.startswith("matroska")  # whose length counts from 0, not from its start
        seconds = ((container.duration or 0) - (container.start_time or 0) * from_zero) / av.time_base
        if video is not None and video.duration:
            seconds = float(video.duration * video.time_base)
        return {"video": video is not None, "sound": sound is not None, "seconds": seconds,
                "frames": round(seconds * FPS), "rate": sound.rate if sound else 0,
                "channels": sound.channels if sound else 0}


def read_frames(path, start=0, stop=None, losses=None):
    """Yield the video's frames start..stop-1 at exactly 25 a second, by presentation time, as `Frame`.

    Frame k is the picture that is on display k/25 s after the first one: faster videos lose pictures, slower
    ones repeat some, variable frame rates keep their timing. `stop` None reads to the end; beyond the end the last
    picture is repeated. What was damaged is added to `losses` (Losses). Raises UserError if there is no video.
    """
    for k, frame in _numbered(path, _beginning(path), start, stop, Losses() if losses is None else losses):
        if k >= start:
            yield frame


def _numbered(path, beginning, start, stop, losses):
    """Yield (k, Frame) from the key frame at or before frame `start` to stop-1. beginning: see _beginning."""
    origin, turns = beginning
    jump = origin + start / FPS if start > 2 * FPS else None
    pictures = _pictures(path, jump, losses)
    first = next(pictures, None)
    if jump is not None and (first is None or first[0] > jump + EARLY):  # no usable index: read from the start
        pictures = _pictures(path, None, losses)
        first = next(pictures, None)
    if first is None:
        return
    time, end, shown = first
    k = min(start, max(0, ceil((time - origin - EARLY) * FPS)))
    for time, until, picture in pictures:
        while k / FPS + EARLY < time - origin and (stop is None or k < stop):
            yield k, Frame(shown, turns)
            k += 1
        if stop is not None and k >= stop:
            return
        shown, end = picture, until
    for k in range(k, round((end - origin) * FPS) if stop is None else stop):  # noqa: B020 the last one stays its time
        yield k, Frame(shown, turns)
    losses.seconds = max(0.0, probe(path)["seconds"] - (end - origin))


def _turns_of(picture):
    """Return how many quarter turns counterclockwise stand a picture upright, and whether it is flipped first. Asked
    of a decoder of its own: it and its side data hold each other, and that decoder's memory, until garbage goes."""
    matrix = picture.side_data.get(SideData.DISPLAYMATRIX)
    a, b, _, c, d = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(matrix, np.int32)[:5].tolist()
    return round(picture.rotation / 90) % 4, a * d < b * c


def _pictures(path, jump, losses):
    """Yield (time, end time, picture) in seconds, from the key frame before `jump` or from the start.

    A video may change its size on the way; these have that of the first picture.
    """
    with _open(path) as container:
        stream = _stream(container, "video")
        size = stream.width, stream.height
        with contextlib.suppress(av.error.FFmpegError):
            if jump is not None:
                container.seek(int(jump / stream.time_base), stream=stream)
        for time, end, picture in _timed(container, stream, losses):
            if (picture.width, picture.height) != size:
                picture = picture.reformat(*size)
            yield time, end, picture


def _beginning(path):
    """Return (when the first picture is shown, in seconds, _turns_of it); UserError if there is none."""
    with _open(path) as container:
        stream = _stream(container, "video")
        if stream is None:
            raise UserError(f"{path} has no picture that can be read; expected a video of one person's face. "
                            "Name another file and run again")
        for time, _, picture in _timed(container, stream, Losses()):
            return time, _turns_of(picture)
    raise UserError(f"no picture of {path} can be decoded; copy it anew or convert it to mp4, and run again")


def read_order(path, order):
    """Yield the frames whose numbers `order` lists: runs that rise or fall by one, as ping-pong footage does."""
    order = np.asarray(order)
    turns = np.flatnonzero(np.diff(order[1:]) != np.diff(order[:-1])) + 2 if len(order) > 2 else []
    beginning = _beginning(path)
    for run in np.split(order, turns):
        first, last = int(run[0]), int(run[-1])
        if first > last:
            yield from _backwards(path, beginning, first, last)
        else:
            yield from (frame for k, frame in _numbered(path, beginning, first, last + 1, Losses()) if k >= first)


def _backwards(path, beginning, high, low):
    """Yield the frames from `high` down to `low`, decoded in pieces.

    A piece is all from a key frame on, decoded once, or the last part of that if it takes more than REVERSE_BYTES:
    memory stays flat however far apart key frames are.
    """
    while high >= low:
        held = deque()
        for k, frame in _numbered(path, beginning, high, high + 1, Losses()):
            if len(held) * frame.picture.width * frame.picture.height * 3 // 2 >= REVERSE_BYTES:
                held.popleft()
            if k >= low:
                held.append(frame)
        if not held:
            return
        high -= len(held)
        while held:
            yield held.pop()


def read_sound(path, rate, channels=1, video_start=False, losses=None):
    """Return the sound as float32 (samples, channels) at `rate` Hz, nominally -1..1; None if the file has none.

    With video_start=True the first sample belongs to the moment of the first picture: a sound that starts
    later is led in by silence, one that starts earlier is cut. What was damaged is added to `losses` (Losses).
    """
    if not probe(path)["sound"]:
        return None
    started = []
    blocks = list(sound_blocks(path, rate, channels, started, losses))
    samples = np.concatenate([np.zeros((0, channels), np.float32), *blocks])
    end = round(started[1] * rate) if len(started) > 1 else len(samples)
    if len(samples) - end < PACKET * rate:  # the last packet of AAC is filled up with silence
        samples = samples[:end]
    if video_start and started:
        offset = round((started[0] - _beginning(path)[0]) * rate)
        samples = samples[-offset:] if offset < 0 else np.pad(samples, ((offset, 0), (0, 0)))
    return samples


def sound_blocks(path, rate, channels, started=None, losses=None):
    """Yield the sound in blocks of float32 (samples, channels) at `rate` Hz, in step with its timestamps.

    Holes, such as a damaged packet leaves, are filled with silence, and what overlaps is cut. The time at which it
    starts, and its length if the file tells, are appended to the list `started`, in seconds.
    """
    with _open(path) as container:
        stream = _stream(container, "audio")
        known, resampler, sent, started = None, None, 0, [] if started is None else started

        def resample(sound):
            return [out.to_ndarray().reshape(-1, channels) for out in resampler.resample(sound)]

        for time, _, sound in _timed(container, stream, Losses() if losses is None else losses):
            if not started:
                started += [time] + ([float(stream.duration * stream.time_base)] if stream.duration else [])
            blocks, kind = [], (sound.format.name, sound.layout.name, sound.sample_rate)
            if kind != known:  # broadcasts change from mono to stereo on the way, and a resampler takes one kind
                blocks = resample(None) if resampler else []
                known, resampler = kind, av.AudioResampler(format="flt", layout=LAYOUTS[channels], rate=rate)
            missing = round((time - started[0]) * rate) - sent
            sound.pts = None  # the resampler counts samples; gaps in the timestamps would confuse it
            blocks = np.concatenate([np.zeros((0, channels), np.float32), *blocks, *resample(sound)])
            if abs(missing) > GAP * rate:
                blocks = np.pad(blocks, ((max(0, missing), 0), (0, 0)))[max(0, -missing):]
            sent += len(blocks)
            yield blocks
        if resampler:
            yield from resample(None)


# -- writing -----------------------------------------------------------------------------------------
class VideoWriter:
    """Writes an mp4 (H.264 yuv420p, AAC, faststart): to a temporary name, renamed when the block ends well.

    Used as a context manager; `write` takes one picture. sound: blocks of float32 (samples, channels) at `rate`
    Hz as `sound_blocks` yields them, or None. like: a decoded picture whose colour description is taken over.
    """

    def __init__(self, path, width, height, crf, preset, sound=None, rate=48000, channels=1, like=None,
                 comment=MADE_BY_AI):
        self.path = Path(path)
        self.temporary = self.path.with_name(self.path.name + ".tmp")
        self.like, self.sound, self.rate, self.sent, self.count = like, sound, rate, 0, 0
        self.container = av.open(f"file:{self.temporary}", "w", format="mp4", options={"movflags": "+faststart"})
        self.container.metadata["comment"] = comment
        self.video = self.container.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": preset})
        self.video.width, self.video.height, self.video.pix_fmt = width, height, "yuv420p"
        self.video.time_base = Fraction(1, FPS)
        if like is not None:
            context = self.video.codec_context
            context.colorspace, context.color_range = like.colorspace, like.color_range
            context.color_primaries, context.color_trc = like.color_primaries, like.color_trc
        if sound is not None:
            self.audio = self.container.add_stream("aac", rate=rate, bit_rate=96000 * channels,
                                                   options={"aac_coder": "fast"})  # FFmpeg: better above 64 kbit/s
            self.audio.layout = LAYOUTS[channels]

    def write(self, picture):
        """Add one picture, or its three uint8 planes y (H, W), u, v (H/2, W/2); and the sound up to its end."""
        picture = picture if isinstance(picture, av.VideoFrame) else drawn(picture)
        if self.like is not None:
            picture.colorspace, picture.color_range = self.like.colorspace, self.like.color_range
        picture.pts, picture.time_base = self.count, Fraction(1, FPS)
        self._mux(self.video, picture)
        self.count += 1
        self._send_sound(self.count * self.rate / FPS)

    def _send_sound(self, end):
        while self.sound is not None and self.sent < end:
            block = next(self.sound, None)
            if block is None:
                self.sound = None
                self._mux(self.audio, None)
                return
            if not len(block):
                continue
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block.T), format="fltp",
                                               layout=self.audio.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.sent, Fraction(1, self.rate)
            self._mux(self.audio, frame)
            self.sent += len(block)

    def _mux(self, stream, frame):
        with self._naming():
            self.container.mux(stream.encode(frame))

    @contextlib.contextmanager
    def _naming(self):
        """Turn FFmpeg's errors, as that of a full disk, into an OSError that names the file."""
        try:
            yield
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        try:
            if kind is None:
                self._send_sound(np.inf)
                self._mux(self.video, None)
                with self._naming():
                    self.container.close()
                os.replace(self.temporary, self.path)
            else:
                with contextlib.suppress(av.error.FFmpegError):  # what went wrong before is what counts
                    self.container.close()
        finally:
            self.temporary.unlink(missing_ok=True)
