"""Streams of media files: opened, decoded past damage, each frame with its time.

av.logging stays untouched: a Python log callback and FFmpeg's decoding threads can wait for each
other forever.
"""

import contextlib
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.stream import Disposition

from utils.cli import UserError
from utils.contract import FPS

JUMP_S = 10               # a timestamp this far beyond the one before and the file is damaged
DAMAGED_PACKETS = 10_000  # after more of them the rest of a file is not worth waiting for
LAYOUTS = {1: "mono", 2: "stereo"}
EXPECTED = "expected a video or sound file. Check the path and run again"

# How a file begins that services and browsers send in pieces, each a file of its own: wav, aiff,
# flac, ogg, m4a, webm. FFmpeg reads the first piece only.
BEGINNINGS = [
    rb"RIFF....WAVE",
    rb"FORM....AIF[FC]",
    rb"fLaC[\x00\x80]\x00\x00\x22",
    rb"OggS\x00\x02.{20}\x01",
    rb"\x00\x00\x00.ftyp",
    rb"\x1a\x45\xdf\xa3.{1,8}\x42\x86\x81\x01",
]


@dataclass
class Losses:
    """What could not be used of a file; whoever reads it adds to it."""

    packets: int = 0      # damaged, or with a time that cannot be
    seconds: float = 0.0  # missing at the end
    samples: int = 0      # of sound that are no numbers
    opposed: float = 0.0  # s of sound whose two channels cancel each other
    track: int | None = None  # number of the sound track that is taken, of several

    def sound_notes(self) -> list[str]:
        """What to say of the sound."""
        notes = []
        if self.packets:
            notes.append(f"note: the sound is damaged: {self.packets} packets could not be used, "
                         "silence stands in their place")
        if self.samples:
            notes.append("note: the sound is damaged: samples that are no numbers were silenced "
                         f"({self.samples})")
        if self.opposed:
            notes.append("note: the two channels of the sound cancel each other for "
                         f"{self.opposed:.1f} s (opposite phase); one of them is taken there")
        if self.track:
            notes.append(f"note: of several sound tracks number {self.track} is taken, the first "
                         "in which a voice is heard, or the one asked for (preprocess.py: "
                         "--track N)")
        return notes


class Timed(NamedTuple):
    """A decoded picture or piece of sound, and when it begins and ends, in seconds."""

    start: float
    end: float
    frame: Any  # av.VideoFrame or av.AudioFrame


@contextlib.contextmanager
def open_media(path: Path, part: slice | None = None) -> Iterator[InputContainer]:
    """Open a media file, or the bytes of a part of it, until the block ends.

    Raises UserError if it is none.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; {EXPECTED}")
    if not path.exists():
        raise UserError(f"{path} does not exist; {EXPECTED}")
    try:
        url = str(path.absolute())
        if part:
            url = f"subfile,,start,{part.start},end,{part.stop},,:{url}"
        container = av.open(url)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} is not a video or sound file that FFmpeg can read ({reason}), or it was not "
            "copied or recorded to its end; copy it again, or convert it to mp4 or wav, and run "
            "again"
        ) from error
    with container:
        yield container


def streams_of(container: InputContainer, kind: str) -> list[Any]:
    """Streams of a kind ("video" or "audio") that can be decoded, no cover picture."""
    return [
        stream for stream in getattr(container.streams, kind)
        if stream.codec_context and not stream.disposition & Disposition.attached_pic
    ]


def pick_stream(container: InputContainer, kind: str, number: int | None = None) -> Any:
    """Stream of that number, from 1; without one the default of that kind, else the first, or None.
    """
    streams = streams_of(container, kind)
    if number:
        return streams[number - 1]
    for stream in streams:
        if stream.disposition & Disposition.default:
            return stream
    return streams[0] if streams else None


def file_parts(path: Path) -> list[slice | None]:
    """The files of which a file was joined, as slices of its bytes; [None] if it is one only."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for beginning in BEGINNINGS:
            if re.match(beginning, content, re.DOTALL):
                starts = [found.start() for found in re.finditer(beginning, content, re.DOTALL)]
                if len(starts) > 1:
                    return [slice(*span) for span in pairwise([*starts, len(content)])]
    return [None]


def timed_frames(stream: Any, losses: Losses) -> Iterator[Timed]:
    """Yield the decoded frames of a stream with their times, which only rise.

    A frame whose timestamp is damaged is left out and counted: it claims a later time than its
    successor, or a time far beyond the end of the file.
    """
    container = stream.container
    file_end = ((container.start_time or 0) + (container.duration or inf)) / av.time_base
    before = None
    for timed in _with_times(stream, losses):
        if before is None:
            before = timed
        elif before.start > timed.start:
            losses.packets += 1
            before = timed
        elif timed.start > max(before.end, file_end) + JUMP_S:
            losses.packets += 1
        else:
            yield before
            before = timed
    if before:
        yield before


def _with_times(stream, losses):
    """Yield each decoded frame as Timed; without a timestamp it begins where the last one ended."""
    is_avi = stream.container.format.name == "avi"  # which states the times of decoding only
    lag = None  # of AVI's decoding time behind the presentation time of the first picture
    end = 0.0
    for frame in _decode(stream, losses):
        if is_avi and lag is None and None not in (frame.pts, frame.dts):
            lag = frame.dts - frame.pts
        timestamp = frame.pts if lag is None else frame.dts
        start = end if timestamp is None else float((timestamp - (lag or 0)) * stream.time_base)
        if frame.duration:
            duration = frame.duration * stream.time_base
        elif stream.type == "audio":
            duration = frame.samples / frame.sample_rate
        else:
            duration = 1 / (stream.average_rate or FPS)
        end = start + float(duration)
        yield Timed(start, end, frame)


def _decode(stream, losses):
    """Yield the decoded frames; packets that are damaged are skipped and counted."""
    stream.thread_type = "AUTO"
    packets = stream.container.demux(stream)
    while losses.packets <= DAMAGED_PACKETS:
        try:
            yield from next(packets).decode()
        except (StopIteration, av.error.EOFError):
            return
        except av.error.FFmpegError:
            losses.packets += 1


def first_frame(path: Path, kind: str, number: int | None = None) -> Timed | None:
    """First frame of the stream that pick_stream takes; None if none can be decoded."""
    with open_media(path) as container:
        return next(timed_frames(pick_stream(container, kind, number), Losses()), None)
