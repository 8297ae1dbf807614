"""Video, sound and picture files, in and out, by PyAV (FFmpeg inside the wheel): only this module knows containers."""

import contextlib
import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from utils.console import UserError
from utils.contract import FPS


# av.logging stays untouched: a Python log callback and FFmpeg's decoding threads can wait for each other forever.

EARLY = 0.25 / FPS          # s: a picture is shown this early at most, so that rounded timestamps change nothing
MOST_PIXELS = 1 << 26       # of a picture file: more can only be meant to fill the memory
REVERSE_BYTES = 256 << 20   # most memory for the pictures that are held while footage runs backwards
# Luma weights (red, blue) of the YUV matrices, by FFmpeg's colour space number; others count as BT.601,
# as FFmpeg's own converter takes them.
LUMA_WEIGHTS = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
FULL_RANGE = 2              # FFmpeg's number for samples that use 0..255 instead of 16..235
LAYOUTS = {1: "mono", 2: "stereo"}
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
PACKET = 0.13               # s: the longest packet of AAC (1024 samples at 8 kHz)
MADE_BY_AI = "This video is AI-generated: the mouth was synthesised with Easy_Human."


@dataclass
class Losses:
    """What could not be decoded: damaged packets, and seconds missing at the end."""
    packets: int = 0
    seconds: float = 0.0


@dataclass
class Frame:
    """One upright source picture at its presentation time. Odd sizes lose their last row or column."""
    picture: av.VideoFrame = field(repr=False)

    @property
    def turns(self):
        return round(self.picture.rotation / 90) % 4

    def rgb(self):
        """Return it as RGB, (H, W, 3) uint8, contiguous."""
        rgb = np.rot90(self.picture.to_ndarray(format="rgb24"), self.turns)
        height, width = rgb.shape[0] & ~1, rgb.shape[1] & ~1
        return np.ascontiguousarray(rgb[:height, :width])

    def planes(self):
        """Return its decoded planes as 8-bit 4:2:0: y (H, W), u and v (H/2, W/2), uint8, own memory."""
        picture = self.picture if self.picture.format.name in ("yuv420p", "yuvj420p") else \
            self.picture.reformat(format="yuv420p")
        planes = []
        for plane in picture.planes:
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:plane.height, :plane.width]
            planes.append(np.rot90(rows, self.turns))
        height, width = planes[0].shape[0] & ~1, planes[0].shape[1] & ~1
        sizes = [(height, width)] + [(height // 2, width // 2)] * 2
        return [plane[:h, :w].copy() for plane, (h, w) in zip(planes, sizes, strict=True)]

    @property
    def colours(self):
        """(red weight, blue weight, full range): what turns its planes into RGB."""
        weights = LUMA_WEIGHTS.get(int(self.picture.colorspace), (0.299, 0.114))
        return (*weights, int(self.picture.color_range) == FULL_RANGE or self.picture.format.name.startswith("yuvj"))


def yuv_to_rgb(y, u, v, colours):
    """(H, W) luma and (H, W) chroma, uint8 or float, to RGB float32 (H, W, 3), nominally 0..255."""
    red, blue, full = colours
    y = y.astype(np.float32) if full else (y.astype(np.float32) - 16) * (255 / 219)
    chroma = 1 if full else 255 / 224
    u, v = (u.astype(np.float32) - 128) * chroma, (v.astype(np.float32) - 128) * chroma
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.stack([r, g, b], axis=-1)


def rgb_to_yuv(rgb, colours):
    """RGB float32 (H, W, 3) to three float32 (H, W) planes: the inverse of yuv_to_rgb."""
    red, blue, full = colours
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    if full:
        return y, u + 128, v + 128
    return y * (219 / 255) + 16, u * (224 / 255) + 128, v * (224 / 255) + 128


def to_uint8(samples):
    """Round samples and cut them to 0..255."""
    return np.clip(np.rint(samples), 0, 255).astype(np.uint8)


# -- reading -----------------------------------------------------------------------------------------
@contextlib.contextmanager
def _open(path):
    """Open a media file; UserError in one line if it is none."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a video or sound file. Check the path and run again")
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected a video or sound file. Name the file and run again")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a video or sound file that FFmpeg can read "
                        f"({getattr(error, 'strerror', None) or error}); "
                        "convert it to mp4 or wav and run again") from error
    with container:
        yield container


def _decode(container, stream, losses):
    """Yield the stream's decoded frames, skipping and counting packets that are damaged."""
    stream.thread_type = "AUTO"
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            losses.packets += 1
            if losses.packets > 10_000:  # nothing but damage: the rest of the file is not worth waiting for
                return


def probe(path):
    """Return what a file says of itself, without decoding it.

    A dict: video (bool), sound (bool), seconds (float, 0 if unknown), frames (int at 25 fps, an estimate for
    progress bars), rate and channels of the sound (or 0). Raises UserError if it is not a media file.
    """
    with _open(path) as container:
        video = container.streams.best("video")
        sound = container.streams.best("audio")
        seconds = 0.0
        if video is not None and video.duration:
            seconds = float(video.duration * video.time_base)
        elif container.duration:
            seconds = container.duration / av.time_base
        return {"video": video is not None, "sound": sound is not None, "seconds": seconds,
                "frames": round(seconds * FPS), "rate": sound.rate if sound else 0,
                "channels": sound.channels if sound else 0}


def read_frames(path, start=0, stop=None, losses=None):
    """Yield the video's frames start..stop-1 at exactly 25 a second, by presentation time, as `Frame`.

    Frame k is the picture that is on display k/25 s after the first one: faster videos lose pictures, slower
    ones repeat some, variable frame rates keep their timing. `stop` None reads to the end; beyond the end the last
    picture is repeated. What was damaged is added to `losses` (Losses). Raises UserError if there is no video in
    the file.
    """
    losses = Losses() if losses is None else losses
    origin = _first_picture_time(path)
    jump = origin + start / FPS if start > 2 * FPS else None
    pictures = _pictures(path, jump, losses)
    first = next(pictures, None)
    if jump is not None and (first is None or first[0] > jump + EARLY):  # no usable index: read from the start
        pictures = _pictures(path, None, losses)
        first = next(pictures, None)
    if first is None:
        return
    k, (_, end, shown) = start, first
    for time, until, picture in pictures:
        while k / FPS + EARLY < time - origin and (stop is None or k < stop):
            yield Frame(shown)
            k += 1
        if stop is not None and k >= stop:
            return
        shown, end = picture, until
    for _ in range(k, round((end - origin) * FPS) if stop is None else stop):  # the last one stays its time
        yield Frame(shown)
    losses.seconds = max(0.0, probe(path)["seconds"] - (end - origin))


def _pictures(path, jump, losses):
    """Yield (time, end time, picture) in seconds, from the key frame before `jump` or from the start."""
    with _open(path) as container:
        stream = container.streams.best("video")
        usual = float(1 / stream.average_rate) if stream.average_rate else 1 / FPS
        if jump is not None:
            with contextlib.suppress(av.error.FFmpegError):
                container.seek(int(jump / stream.time_base), stream=stream)
        for picture in _decode(container, stream, losses):
            if picture.pts is not None:
                time = float(picture.pts * stream.time_base)
                yield time, time + (float((picture.duration or 0) * stream.time_base) or usual), picture


def _first_picture_time(path):
    """Return the presentation time of the first picture in seconds; UserError if there is none."""
    with _open(path) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise UserError(f"{path} has no picture, only sound; expected a video of one person's face. "
                            "Name another file and run again")
        for picture in _decode(container, stream, Losses()):
            if picture.pts is not None:
                return float(picture.pts * stream.time_base)
    raise UserError(f"no picture of {path} can be decoded; expected a video of one person's face. "
                    "Name another file and run again")


def read_order(path, order):
    """Yield the frames whose numbers `order` lists: runs that rise or fall by one, as ping-pong footage does.

    Falling runs are decoded in pieces that fit in REVERSE_BYTES, so memory stays flat however long they are.
    """
    order = np.asarray(order)
    turns = np.flatnonzero(np.diff(order[1:]) != np.diff(order[:-1])) + 2 if len(order) > 2 else []
    for run in np.split(order, turns):
        if len(run) < 2 or run[1] > run[0]:
            yield from read_frames(path, int(run[0]), int(run[-1]) + 1)
            continue
        high, low = int(run[0]), int(run[-1])
        first = next(read_frames(path, high, high + 1))
        piece = max(1, REVERSE_BYTES // max(1, first.picture.width * first.picture.height * 3 // 2))
        while high >= low:
            bottom = max(low, high - piece + 1)
            yield from reversed(list(read_frames(path, bottom, high + 1)))
            high = bottom - 1


def read_sound(path, rate, channels=1, video_start=False):
    """Return the sound as float32 (samples, channels) at `rate` Hz, nominally -1..1; None if the file has none.

    With video_start=True the first sample belongs to the moment of the first picture: a sound that starts
    later is led in by silence, one that starts earlier is cut.
    """
    if not probe(path)["sound"]:
        return None
    started = []
    blocks = list(sound_blocks(path, rate, channels, started))
    samples = np.concatenate(blocks) if blocks else np.zeros((0, channels), np.float32)
    end = round(started[1] * rate) if len(started) > 1 else len(samples)
    if len(samples) - end < PACKET * rate:  # the last packet of AAC is filled up with silence
        samples = samples[:end]
    if video_start and started:
        offset = round((started[0] - _first_picture_time(path)) * rate)
        samples = samples[-offset:] if offset < 0 else np.pad(samples, ((offset, 0), (0, 0)))
    return samples


def sound_blocks(path, rate, channels, started=None):
    """Yield the sound in blocks of float32 (samples, channels) at `rate` Hz.

    The time at which it starts, and its length if the file tells, are appended to the list `started`, in seconds.
    """
    with _open(path) as container:
        stream = container.streams.best("audio")
        known, resampler = None, None

        def resample(sound):
            return (out.to_ndarray().reshape(-1, channels) for out in resampler.resample(sound))

        for k, sound in enumerate(_decode(container, stream, Losses())):
            if k == 0 and started is not None:
                started.append(float((sound.pts or 0) * (sound.time_base or stream.time_base)))
                if stream.duration:
                    started.append(float(stream.duration * stream.time_base))
            kind = sound.format.name, sound.layout.name, sound.sample_rate
            if kind != known:  # broadcasts change from mono to stereo on the way, and a resampler takes one kind
                if resampler is not None:
                    yield from resample(None)
                known, resampler = kind, av.AudioResampler(format="flt", layout=LAYOUTS[channels], rate=rate)
            sound.pts = None  # the resampler counts samples; gaps in the timestamps would confuse it
            yield from resample(sound)
        if resampler is not None:
            yield from resample(None)


# -- writing -----------------------------------------------------------------------------------------
def read_png(path):
    """Return a PNG file as RGB uint8 (H, W, 3), or None if it is missing, damaged or larger than MOST_PIXELS."""
    try:  # not cv2.imread: on Windows it cannot open a path with, say, Chinese characters
        content = np.fromfile(path, np.uint8)
    except OSError:
        return None
    size = content[16:24].view(">u4").astype(np.int64)  # looked at before memory is taken for it
    right = content[:8].tobytes() == b"\x89PNG\r\n\x1a\n" and len(size) == 2 and size.prod() <= MOST_PIXELS
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR) if right else None
    return None if picture is None else picture[:, :, ::-1]


def png(rgb):
    """Return an RGB uint8 picture as the bytes of a PNG file."""
    _, content = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_PNG_COMPRESSION, 1))
    return content.tobytes()


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
            self.audio = self.container.add_stream("aac", rate=rate, bit_rate=96000 * channels)
            self.audio.layout = LAYOUTS[channels]

    def write(self, planes):
        """Add one picture: three uint8 planes y (H, W), u, v (H/2, W/2); and the sound up to its end."""
        packed = np.concatenate([plane.reshape(-1) for plane in planes]).reshape(-1, self.video.width)
        picture = av.VideoFrame.from_ndarray(packed, format="yuv420p")
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
