"""Reading: frames at 25 a second by presentation time, sound that keeps to its timestamps."""

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from utils.audio import has_voice
from utils.cli import UserError
from utils.contract import FPS, SAMPLE_RATE
from utils.media.interlaced import deinterlaced
from utils.media.mixing import mono, silence_damage
from utils.media.pixels import (
    BT_601,
    BT_709,
    FULL_RANGE,
    LUMA_WEIGHTS,
    ColourSpace,
    forget_unknown_tags,
    picture_from_planes,
    planes_of,
)
from utils.media.streams import (
    LAYOUTS,
    Losses,
    file_parts,
    first_frame,
    open_media,
    pick_stream,
    streams_of,
    timed_frames,
)

EARLY_S = 0.25 / FPS       # a picture is shown this early at most, so that rounding changes nothing
GAP_S = 0.03               # sound whose timestamp lies further off its place is moved there
SEEK_FRAMES = 2 * FPS      # up to this frame, reading starts at the beginning
PACKET_S = 0.13            # length of the longest packet of AAC: 1024 samples at 8 kHz
REVERSE_BYTES = 256 << 20  # most memory for the pictures held while footage runs backwards


class Turns(NamedTuple):
    """What stands a picture upright."""

    quarters: int  # quarter turns counterclockwise, after the flip
    flipped: bool  # top and bottom change places first


@dataclass
class Frame:
    """An upright source picture. Odd sizes lose their last row or column."""

    picture: av.VideoFrame  # as it was decoded
    turns: Turns
    pixel_ratio: Fraction  # width over height of a pixel, upright
    was_interlaced: bool

    def _upright(self, plane):
        if self.turns.flipped:
            plane = plane[::-1]
        return np.rot90(plane, self.turns.quarters)

    def rgb(self) -> np.ndarray:
        """RGB (H, W, 3) uint8, contiguous."""
        rgb = self._upright(self.picture.to_ndarray(format="rgb24"))
        height, width, _ = rgb.shape
        return np.ascontiguousarray(rgb[:height & ~1, :width & ~1])

    @property
    def yuv(self) -> av.VideoFrame:
        """The picture as 8-bit 4:2:0, not upright. RGB becomes BT.709 in studio range."""
        picture = self.picture
        if picture.format.name == "yuvj420p":  # which is yuv420p in full range
            return picture
        if self._is_rgb:
            return picture.reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
        return picture.reformat(format="yuv420p")

    @property
    def _is_rgb(self):
        return self.picture.format.is_rgb or self.picture.format.has_palette

    def copied(self) -> av.VideoFrame:
        """Picture with memory of its own, 8-bit 4:2:0, as VideoWriter takes it."""
        return picture_from_planes(self._upright(plane) for plane in planes_of(self.yuv))

    def planes(self) -> list[np.ndarray]:
        """Planes y (H, W), u and v (H/2, W/2), uint8, with memory of their own."""
        return planes_of(self.copied())

    @property
    def colours(self) -> ColourSpace:
        """What turns its planes into RGB, as the picture states it."""
        picture = self.picture
        if self._is_rgb:
            return ColourSpace(*LUMA_WEIGHTS[BT_709], full_range=False)
        weights = LUMA_WEIGHTS.get(picture.colorspace, BT_601)
        is_full = picture.color_range == FULL_RANGE or picture.format.name.startswith("yuvj")
        return ColourSpace(*weights, is_full)


@dataclass
class MediaInfo:
    """What a file says of itself; 0 where it does not say."""

    has_video: bool
    has_sound: bool
    seconds: float
    frames: int       # at 25 a second: an estimate, for progress bars
    sample_rate: int  # Hz
    channels: int
    pixel_ratio: Fraction = Fraction(1)  # width over height of a pixel, not upright
    has_alpha: bool = False  # parts of the picture are transparent
    rate: float = 0.0        # pictures a second
    tracks: int = 0          # of sound


def probe(path: Path) -> MediaInfo:
    """MediaInfo of a file, without decoding it. Raises UserError if it is not a media file."""
    with open_media(path) as container:
        video = pick_stream(container, "video")
        sound = pick_stream(container, "audio")
        duration = container.duration or 0
        if container.format.name.startswith("matroska"):  # its length counts from 0
            duration -= container.start_time or 0
        seconds = duration / av.time_base
        if video and video.duration:
            seconds = float(video.duration * video.time_base)
        return MediaInfo(
            has_video=video is not None,
            has_sound=sound is not None,
            seconds=seconds,
            frames=round(seconds * FPS),
            sample_rate=sound.rate if sound else 0,
            channels=sound.channels if sound else 0,
            pixel_ratio=(video.sample_aspect_ratio if video else None) or Fraction(1),
            has_alpha=bool(video) and _has_alpha(video),
            rate=float((video.average_rate if video else None) or 0),
            tracks=len(streams_of(container, "audio"))
        )


def _has_alpha(stream):
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    if tags.get("alpha_mode") == "1":  # of webm, whose decoder leaves it out
        return True
    return stream.format is not None and any(part.is_alpha for part in stream.format.components)


def _turns_of(picture):
    """Turns of a picture from a decoder of its own, as `first_frame` makes one.

    A picture asked for its side data, and these, hold each other, and that decoder's memory, until
    Python's garbage is collected.
    """
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Turns(0, False)
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    return Turns(round(picture.rotation / 90) % 4, flipped=a * d < b * c)


class _Video:
    """The video of a file, whose first picture has been looked at. UserError if there is none."""

    def __init__(self, path):
        info = probe(path)
        if not info.has_video:
            raise UserError(
                f"{path} has no picture that can be read; expected a video of one person's face. "
                "Name another file and run again"
            )
        first = first_frame(path, "video")
        if first is None:
            raise UserError(
                f"no picture of {path} can be decoded; copy it again or convert it to mp4, and "
                "run again"
            )
        self.path = path
        self.seconds = info.seconds  # as the file states it
        self.origin = first.start
        self.turns = _turns_of(first.frame)
        self.is_interlaced = first.frame.interlaced_frame
        self.pixel_ratio = info.pixel_ratio
        if self.turns.quarters % 2:
            self.pixel_ratio = 1 / self.pixel_ratio
        picture_bytes = first.frame.width * first.frame.height * 3 // 2
        self.most_held = ceil(REVERSE_BYTES / picture_bytes)

    def _pictures(self, moment, losses):
        """Yield the pictures from the last key frame before `moment` (s) on, or all if it is None.

        A video may change its size on the way, and `stream` with it; all have the first size.
        """
        with open_media(self.path) as container:
            stream = pick_stream(container, "video")
            size = (stream.width, stream.height)
            with contextlib.suppress(av.error.FFmpegError):
                if moment is not None:
                    container.seek(int(moment / stream.time_base), stream=stream)
            for timed in deinterlaced(timed_frames(stream, losses)):
                forget_unknown_tags(timed.frame)
                yield timed._replace(frame=timed.frame.reformat(*size))

    def frames(self, first, stop, seek, losses):
        """Yield the frames first..stop-1, but none before the last key frame up to frame `seek`.

        Beyond the end the last picture is repeated; `stop` None ends with the last picture.
        """
        moment = self.origin + seek / FPS
        pictures = self._pictures(moment if seek > SEEK_FRAMES else None, losses)
        shown = next(pictures, None)
        if shown is None or shown.start > moment + EARLY_S:
            pictures = self._pictures(None, losses)  # the file has no usable index
            shown = next(pictures, None)
        if shown is None:
            return
        k = min(seek, max(first, ceil((shown.start - self.origin - EARLY_S) * FPS)))
        following = next(pictures, None)
        while stop is None or k < stop:
            while following and following.start - self.origin <= k / FPS + EARLY_S:
                shown = following
                following = next(pictures, None)
            if following is None:
                seconds = shown.end - self.origin
                losses.seconds = max(0.0, self.seconds - seconds)
                if stop is None and k >= round(seconds * FPS):
                    return
            yield Frame(shown.frame, self.turns, self.pixel_ratio, self.is_interlaced)
            k += 1

    def backwards(self, high, low):
        """Yield the frames from `high` down to `low`, decoded in pieces.

        A piece begins with a key frame and is decoded once; if it takes more than REVERSE_BYTES,
        only its last part is kept, and the rest decoded again: memory stays flat however far
        key frames lie from each other.
        """
        while high >= low:
            held = deque(self.frames(low, high + 1, high, Losses()), self.most_held)
            if not held:
                return
            high -= len(held)
            while held:
                yield held.pop()


def read_frames(
    path: Path, start: int = 0, stop: int | None = None, losses: Losses | None = None
) -> Iterator[Frame]:
    """Yield the frames start..stop-1 of a video at exactly 25 a second, by presentation time.

    Frame k is the picture on display k/25 s after the first one: faster videos lose pictures,
    slower ones repeat some, variable frame rates keep their timing. `stop` None reads to the end;
    beyond the end the last picture is repeated. Damage is added to `losses`. Raises UserError if
    there is no video.
    """
    yield from _Video(path).frames(start, stop, start, losses or Losses())


def read_order(path: Path, order: np.ndarray) -> Iterator[Frame]:
    """Yield the frames numbered in `order` (N,): runs that rise or fall by one, as in ping-pong."""
    video = _Video(path)
    run_starts = np.flatnonzero(np.diff(order, n=2)) + 2
    for run in np.split(order, run_starts):
        first, last = run[[0, -1]].tolist()
        if first > last:
            yield from video.backwards(first, last)
        else:
            yield from video.frames(first, last + 1, first, Losses())


def voice_track(path: Path) -> int | None:
    """Number, from 1, of the first sound track in which a voice is heard, the default one first.

    None if there is only one, or none has a voice.
    """
    with open_media(path) as container:
        streams = streams_of(container, "audio")
        usual = pick_stream(container, "audio")
        numbers = sorted(range(1, len(streams) + 1), key=lambda k: streams[k - 1] is not usual)
    for number in numbers if len(numbers) > 1 else ():
        sound = read_sound(path, SAMPLE_RATE, track=number)
        if sound is not None and has_voice(sound[:, 0]):
            return number
    return None


def sound_blocks(
    path: Path,
    rate: int,
    channels: int,
    losses: Losses | None = None,
    track: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the sound in blocks of float32 (samples, channels) at `rate` Hz, nominally -1..1.

    Holes in its timestamps, such as a damaged packet leaves, are filled with silence, and what
    overlaps is cut. Of files joined to one all are read. Damage is added to `losses`. track: its
    number, else what voice_track() finds.
    """
    losses = losses or Losses()
    track = track or voice_track(path)
    with open_media(path) as container:
        has_video = pick_stream(container, "video") is not None
    for part in [None] if has_video else file_parts(path):
        with open_media(path, part) as container:
            yield from _blocks(pick_stream(container, "audio", track), rate, channels, losses)


def _blocks(stream, rate, channels, losses):
    """Yield the sound of a stream, see sound_blocks."""
    count = 0
    origin = None
    for _, alike in groupby(timed_frames(stream, losses), _sound_kind):
        resampler = av.AudioResampler("flt", LAYOUTS[channels], rate)
        for piece in alike:
            if origin is None:
                origin = piece.start
            missing = round((piece.start - origin) * rate) - count
            piece.frame.pts = None  # the resampler counts samples; gaps would confuse it
            silence_damage(piece.frame, losses)
            block = _samples(resampler.resample(piece.frame), channels)
            if abs(missing) > GAP_S * rate:
                block = _delayed(block, missing)
            count += len(block)
            yield block
        block = _samples(resampler.resample(None), channels)  # what it still holds
        count += len(block)
        yield block


def _sound_kind(piece):
    """What a resampler takes one of; broadcasts change from mono to stereo on the way."""
    return piece.frame.format.name, piece.frame.layout.name, piece.frame.sample_rate


def _samples(frames, channels):
    return _joined((frame.to_ndarray().reshape(-1, channels) for frame in frames), channels)


def _joined(blocks, channels):
    return np.concatenate([np.zeros((0, channels), np.float32), *blocks])


def _delayed(samples, count):
    """Samples led in by `count` of silence; a negative count cuts their beginning."""
    if count < 0:
        return samples[-count:]
    return np.pad(samples, ((count, 0), (0, 0)))


def read_sound(
    path: Path,
    rate: int,
    channels: int = 1,
    video_start: bool = False,
    losses: Losses | None = None,
    track: int | None = None
) -> np.ndarray | None:
    """Sound as float32 (samples, channels) at `rate` Hz, nominally -1..1; None if there is none.

    With `video_start` the first sample belongs to the moment of the first picture: a sound that
    starts later is led in by silence, one that starts earlier is cut. Damage is added to `losses`.
    track: as for sound_blocks.
    """
    losses = losses or Losses()
    losses.track = track = track or voice_track(path)
    with open_media(path) as container:
        stream = pick_stream(container, "audio", track)
        if stream is None:
            return None
        seconds = float((stream.duration or 0) * stream.time_base)
    blocks = sound_blocks(path, rate, 2, losses, track)
    samples = _joined(mono(blocks, rate, losses) if channels == 1 else blocks, channels)
    end = round(seconds * rate)
    if seconds and len(samples) - end < PACKET_S * rate:
        samples = samples[:end]  # the last packet of AAC is filled up with silence
    first = first_frame(path, "audio", track)
    if video_start and first:
        late = first.start - _Video(path).origin
        samples = _delayed(samples, round(late * rate))
    return samples
