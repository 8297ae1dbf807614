"""Streams of media files: opened, decoded past damage, each frame with its time.

av.logging stays untouched: a Python log callback and FFmpeg's decoding threads can wait for each
other forever.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass
class Losses:
    """What could not be used of a file; whoever reads it adds to it."""

    packets: int = 0      # damaged, or with a time that cannot be
    seconds: float = 0.0  # missing at the end


class Timed(NamedTuple):
    """A decoded picture or piece of sound, and when it begins and ends, in seconds."""

    start: float
    end: float
    frame: Any  # av.VideoFrame or av.AudioFrame


@contextlib.contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a media file until the block ends. Raises UserError if it is none."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; {EXPECTED}")
    if not path.exists():
        raise UserError(f"{path} does not exist; {EXPECTED}")
    try:
        container = av.open(path.absolute())
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} is not a video or sound file that FFmpeg can read ({reason}), or it was not "
            "copied or recorded to its end; copy it again, or convert it to mp4 or wav, and run "
            "again"
        ) from error
    with container:
        yield container


def pick_stream(container: InputContainer, kind: str) -> Any:
    """Default stream of a kind ("video" or "audio"), else the first, or None; no cover picture."""
    streams = [
        stream for stream in getattr(container.streams, kind)
        if stream.codec_context and not stream.disposition & Disposition.attached_pic
    ]
    for stream in streams:
        if stream.disposition & Disposition.default:
            return stream
    return streams[0] if streams else None


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


def first_frame(path: Path, kind: str) -> Timed | None:
    """First frame of the file's stream of a kind; None if none can be decoded."""
    with open_media(path) as container:
        return next(timed_frames(pick_stream(container, kind), Losses()), None)
