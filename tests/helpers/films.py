"""Films: a drawn face that opens its mouth twice, each time with a clap, in any shape of file."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.stream import Disposition

from utils import sample

EVENTS_S = (0.6, 1.8)  # the mouth is widest open, and a clap is heard
SECONDS = 2.4
HALF_S = 0.2           # from closed to widest
LEVELS = 24            # mouths that are drawn
SIDE_PX = 512
CLAP_S = 0.008
CLAP_HZ = 1500
FRONT_CENTRE = 2       # channel of 5.1
CLOCK = Fraction(1, 90000)
STEADY = ("mpeg1video", "mpeg2video", "mpeg4")  # codecs whose clock is their frame rate

# Display matrix (a, b, c, d) that asks a player to turn a picture clockwise, by degrees.
MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


# -- what is seen and heard ------------------------------------------------------------------------
def opening(time: float) -> float:
    """How far the mouth is open at a moment, 0..1."""
    distance = min(abs(time - event) for event in EVENTS_S) / HALF_S
    return 0.5 + 0.5 * np.cos(np.pi * distance) if distance < 1 else 0.0


@functools.cache
def mouth(level: int) -> np.ndarray:
    """The drawn face with its mouth open by level / LEVELS."""
    return sample.draw_face(level / LEVELS, 0.45, 0.0)


def face_at(time: float) -> np.ndarray:
    """The picture (512, 512, 3) uint8 of a moment."""
    return mouth(round(opening(time) * LEVELS))


def wall(time: float) -> np.ndarray:
    """A picture without a face."""
    return np.full((SIDE_PX, SIDE_PX, 3), (150, 164, 172), np.uint8)


def claps(rate: int, first: float = 0.0, last: float = SECONDS) -> np.ndarray:
    """The sound from `first` to `last` s: float32 mono, two claps over a faint noise."""
    noise = np.random.default_rng(5).normal(0, 1e-3, round((last - first) * rate))
    sound = noise.astype(np.float32)
    length = round(CLAP_S * rate)
    clap = np.hanning(length) * np.sin(np.arange(length) * 2 * np.pi * CLAP_HZ / rate)
    for event in EVENTS_S:
        at = round((event - first) * rate) - length // 2
        if 0 <= at < len(sound) - length:
            sound[at:at + length] += 0.7 * clap
    return sound


# -- tracks ----------------------------------------------------------------------------------------
@dataclass
class Sound:
    """A sound track. Times in seconds."""

    codec: str = "aac"
    rate: int = 48000
    layout: str = "mono"
    heard: Callable[[int, float, float], np.ndarray] = claps
    first: float = 0.0  # time of the first sample
    last: float = SECONDS
    gap: tuple[float, float] | None = None  # that was never recorded
    disposition: int | None = None
    drift: float = 0.0  # share by which the recorder's clock runs fast against the timestamps
    opposed: bool = False  # the right channel of stereo is the left one with opposite phase


@dataclass
class Picture:
    """A picture track."""

    rate: int | str = 25
    times: Iterable[float] | None = None  # s of each picture, else at a steady rate
    start: float = 0.0  # s
    seconds: float = SECONDS  # at which the last picture ends
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)  # of the encoder
    disposition: int | None = None
    seen: Callable[[float], np.ndarray] = face_at
    cut: tuple[int, int] | None = None   # (height, width) that is kept
    size: tuple[int, int] | None = None  # (width, height) that it is scaled to
    turn: int = 0  # degrees clockwise that a player has to turn it by; it is laid down accordingly
    pixel_ratio: Fraction | None = None  # width over height of a pixel
    matrix: tuple[int, int, int, int] | None = None  # display matrix: `seen` is laid down already
    shrinks: bool = False  # the second half has half the size, as calls over a bad line have


SOUND = Sound()
PICTURE = Picture()


def film(
    path: Path,
    sounds: Iterable[Sound] = (SOUND,),
    pictures: Iterable[Picture] = (PICTURE,),
    cover: bool = False,
    muxer: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    **only: object,
) -> Path:
    """Write a film of these tracks and return its path, whose ending chooses the container.

    cover: with a picture as players show beside a song. muxer: options of the container.
    only: settings of a single picture track.
    """
    with av.open(str(path), "w", options=muxer or {}) as container:
        container.metadata.update(metadata or {})
        packets = _cover_packets(container) if cover else []
        for picture in [Picture(**only)] if only else pictures:
            packets += _picture_packets(container, picture)
        for sound in sounds:
            packets += _sound_packets(container, sound)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            container.mux(packet)
    return path


def _cover_packets(container: OutputContainer) -> list[av.Packet]:
    stream = container.add_stream("mjpeg", rate=1)
    stream.height, stream.width = (SIDE_PX, SIDE_PX)
    stream.pix_fmt = "yuvj420p"
    stream.disposition = Disposition.attached_pic
    picture = av.VideoFrame.from_ndarray(wall(0), format="rgb24")
    return stream.encode(picture) + stream.encode(None)


def _picture_packets(container: OutputContainer, track: Picture) -> list[av.Packet]:
    rate = Fraction(track.rate)
    options = dict(track.options)
    if track.codec in ("libx264", "libx265"):
        options = {"preset": "ultrafast", "crf": "20", **options}
    stream = container.add_stream(track.codec, rate=rate, options=options)
    times = _moments(track, rate)
    pictures = [_laid_down(track.seen(time), track) for time in times]
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = track.pix_fmt
    stream.codec_context.gop_size = 25
    stream.codec_context.thread_count = 1
    steady = track.codec in STEADY or container.format.name == "avi"
    stream.codec_context.time_base = 1 / rate if steady else CLOCK
    if track.pixel_ratio:
        stream.codec_context.sample_aspect_ratio = track.pixel_ratio
    if track.disposition is not None:
        stream.disposition = track.disposition
    if track.turn or track.matrix:
        a, b, c, d = track.matrix or MATRICES[track.turn]
        stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
    half = len(pictures) // 2 if track.shrinks else len(pictures)
    packets = _encoded(stream.codec_context, pictures[:half], times[:half])
    if track.shrinks:
        smaller = _half_as_large(stream.codec_context, options)
        halved = [picture[::2, ::2] for picture in pictures[half:]]
        packets += _encoded(smaller, halved, times[half:])
    for packet in packets:
        packet.stream = stream
    return packets


def _moments(track: Picture, rate: Fraction) -> list[float]:
    if track.times is not None:
        return list(track.times)
    count = round((track.seconds - track.start) * float(rate))
    return [track.start + float(k / rate) for k in range(count)]


def _laid_down(picture: np.ndarray, track: Picture) -> np.ndarray:
    if track.cut:
        height, width = track.cut
        picture = picture[:height, :width]
    if track.size:
        picture = cv2.resize(picture, track.size)
    return np.rot90(picture, track.turn // 90)


def _half_as_large(encoder: av.VideoCodecContext, options: dict[str, str]) -> av.VideoCodecContext:
    smaller = av.CodecContext.create(encoder.name, "w")
    smaller.height = encoder.height // 2
    smaller.width = encoder.width // 2
    smaller.pix_fmt = encoder.pix_fmt
    smaller.time_base = encoder.time_base
    smaller.options = options
    return smaller


def _encoded(
    encoder: av.VideoCodecContext, pictures: list[np.ndarray], times: list[float]
) -> list[av.Packet]:
    packets = []
    for picture, time in zip(pictures, times, strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format=encoder.pix_fmt)
        frame.pts = round(time / encoder.time_base)
        frame.time_base = encoder.time_base
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def _sound_packets(container: OutputContainer, track: Sound) -> list[av.Packet]:
    stream = container.add_stream(track.codec, rate=track.rate, layout=track.layout)
    if track.disposition is not None:
        stream.disposition = track.disposition
    if track.codec == "wmav2":
        stream.codec_context.bit_rate = 128000
    samples = _recorded(track, stream.codec_context.channels)
    packets = []
    step = stream.codec_context.frame_size or 1024
    for at in range(0, len(samples), step):
        time = track.first + at / track.rate / (1 + track.drift)
        if track.gap and track.gap[0] <= time < track.gap[1]:
            continue
        packed = np.ascontiguousarray(samples[at:at + step]).reshape(1, -1)
        block = av.AudioFrame.from_ndarray(packed, format="s16", layout=track.layout)
        block.sample_rate = track.rate
        block.time_base = Fraction(1, track.rate)
        block.pts = round(time * track.rate)
        packets += stream.encode(block)
    return packets + stream.encode(None)


def _recorded(track: Sound, channels: int) -> np.ndarray:
    """Samples (n, channels) int16: claps in the middle, 5.1's front centre or both of stereo."""
    sound = track.heard(track.rate, track.first, track.last)
    if track.drift:
        moments = np.arange(0, len(sound), 1 / (1 + track.drift))
        sound = np.interp(moments, np.arange(len(sound)), sound)
    mono = (sound * 32767).astype(np.int16)
    samples = np.zeros((len(mono), channels), np.int16)
    if channels > 2:
        samples[:, FRONT_CENTRE] = mono
    else:
        samples[:] = mono[:, None]
    if track.opposed:
        samples[:, 1] *= -1
    return samples
