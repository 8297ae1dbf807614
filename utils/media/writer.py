"""Writing: mp4 with H.264 and AAC, at 25 frames a second."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
import numpy as np

from utils.cli import say
from utils.contract import FPS
from utils.media.pixels import picture_from_planes
from utils.media.reader import Frame
from utils.media.streams import LAYOUTS

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
AAC_BITS_PER_CHANNEL = 96000  # a second; the encoder's "fast" coder is the better one above 64000
MADE_BY_AI = "This video is AI-generated: the mouth was synthesised with Easy_Human."


@dataclass
class Quality:
    """Setting of the H.264 encoder."""

    crf: int     # constant rate factor: 0 (lossless) to 51 (worst)
    preset: str  # "ultrafast" to "veryslow": slower makes smaller files


@dataclass
class SoundTrack:
    """Sound to be written: blocks of float32 (samples, channels), nominally -1..1, as they come."""

    blocks: Iterator[np.ndarray]
    rate: int          # Hz, one of AAC_RATES
    channels: int = 1  # or 2


class VideoWriter:
    """Context manager that writes an mp4: H.264 yuv420p, AAC if there is sound, index first.

    size: (width, height) of the pictures, even numbers. like: a source picture whose colour
    description and shape of pixels the video takes over. comment: what the file says of itself. The
    file has a temporary name until the block ends well; if it does not, an earlier file of that
    name stays as it was. If that one cannot be replaced, `path` becomes another name, and this is
    said. Raises OSError that names the file if it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        quality: Quality,
        sound: SoundTrack | None = None,
        like: Frame | None = None,
        comment: str = MADE_BY_AI
    ):
        self.path = path
        self.temporary = path.with_name(path.name + ".tmp")
        self.sound = sound  # None as soon as all of it is written
        self.frames = 0
        self.samples = 0
        self.container = av.open(
            f"file:{self.temporary}", "w", "mp4", options={"movflags": "+faststart"}
        )
        self.container.metadata["comment"] = comment
        self.video = self.container.add_stream(
            "libx264",
            rate=FPS,
            pix_fmt="yuv420p",
            options={"crf": str(quality.crf), "preset": quality.preset}
        )
        self.video.width, self.video.height = size
        if like is not None:
            picture = like.yuv
            self.video.colorspace = picture.colorspace
            self.video.color_range = picture.color_range
            self.video.color_primaries = picture.color_primaries
            self.video.color_trc = picture.color_trc
            self.video.codec_context.sample_aspect_ratio = like.pixel_ratio
        if sound is not None:
            self.audio = self.container.add_stream(
                "aac",
                rate=sound.rate,
                layout=LAYOUTS[sound.channels],
                bit_rate=AAC_BITS_PER_CHANNEL * sound.channels,
                options={"aac_coder": "fast"}
            )

    def write(self, picture: av.VideoFrame | Iterable[np.ndarray]):
        """Add a picture, or its planes y (H, W), u, v (H/2, W/2) uint8, and the sound it lasts."""
        if not isinstance(picture, av.VideoFrame):
            picture = picture_from_planes(picture)
        picture.pts = self.frames
        picture.time_base = Fraction(1, FPS)
        self._encode(self.video, picture)
        self.frames += 1
        self._write_sound(self.frames)

    def _write_sound(self, frames):
        """Add blocks until the sound lasts as long as that many frames, or all of it is written."""
        while self.sound is not None and self.samples * FPS < frames * self.sound.rate:
            block = next(self.sound.blocks, None)
            if block is None:
                self._encode(self.audio, None)
                self.sound = None
            elif len(block):
                planar = np.ascontiguousarray(block.T)
                frame = av.AudioFrame.from_ndarray(planar, "fltp", LAYOUTS[self.sound.channels])
                frame.sample_rate = self.sound.rate
                frame.pts = self.samples
                self._encode(self.audio, frame)
                self.samples += len(block)

    def _encode(self, stream, frame):
        """Write a frame, or what the encoder still holds if it is None."""
        with self._naming_file():
            self.container.mux(stream.encode(frame))

    @contextlib.contextmanager
    def _naming_file(self):
        """Turn FFmpeg's errors, as that of a full disk, into an OSError that names the file."""
        try:
            yield
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _put_in_place(self):
        """Give the file its name, or a free one while a player holds the file of that name open."""
        try:
            self.temporary.replace(self.path)
        except OSError as error:
            names = (self.path.with_stem(f"{self.path.stem}-{k}") for k in count(2))
            path = next(path for path in names if not path.exists())
            self.temporary.rename(path)
            say(f"note: {self.path} could not be replaced ({error.strerror}; is it open in a "
                f"player?); the new video is {path}")
            self.path = path

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self._write_sound(np.inf)
                self._encode(self.video, None)
                with self._naming_file():
                    self.container.close()
                self._put_in_place()
            else:
                with contextlib.suppress(av.error.FFmpegError):  # the error before is what counts
                    self.container.close()
        finally:
            self.temporary.unlink(missing_ok=True)
