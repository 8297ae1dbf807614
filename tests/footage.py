"""Films for the ingest tests: a drawn face that opens its mouth twice, each time with a clap, in any shape of file."""

import functools
from fractions import Fraction

import av
import cv2
import numpy as np
from av.stream import Disposition

from utils import sample

EVENTS = (0.6, 1.8)   # s: the mouth is widest open, and a clap is heard
SECONDS = 2.4
HALF = 0.2            # s from closed to widest
LEVELS = 24           # mouths that are drawn
BASE = Fraction(1, 90000)
STEADY = ("mpeg1video", "mpeg2video", "mpeg4")  # codecs whose clock is their frame rate


def opening(time):
    """Return how far the mouth is open at `time`, 0..1."""
    away = min(abs(time - event) for event in EVENTS) / HALF
    return 0.5 + 0.5 * np.cos(np.pi * away) if away < 1 else 0.0


@functools.cache
def mouth(level):
    """Return the drawn face with its mouth open by level / LEVELS."""
    return sample.draw(level / LEVELS, 0.45, 0.0)


def face_at(time):
    """Return the picture (512, 512, 3) uint8 of a moment."""
    return mouth(round(opening(time) * LEVELS))


def wall(time):
    """Return a picture without a face."""
    return np.full((512, 512, 3), (150, 164, 172), np.uint8)


def claps(rate, first=0.0, last=SECONDS):
    """Return the sound from `first` to `last` s: float32 mono, two claps of 8 ms over a faint noise."""
    sound = np.random.default_rng(5).normal(0, 1e-3, round((last - first) * rate)).astype(np.float32)
    length = round(0.008 * rate)
    for event in EVENTS:
        at = round((event - first) * rate) - length // 2
        if 0 <= at < len(sound) - length:
            sound[at:at + length] += 0.7 * np.hanning(length) * np.sin(np.arange(length) * 2 * np.pi * 1500 / rate)
    return sound


def sound_packets(container, codec="aac", rate=48000, layout="mono", heard=claps, first=0.0, last=SECONDS,
                  gap=None, disposition=None, drift=0.0):
    """Add a sound track to a container and return its packets.

    heard: a function like claps. first: the time of its first sample. gap: (from, to) s that were never recorded.
    drift: share by which the recorder's clock runs fast against the timestamps.
    """
    stream = container.add_stream(codec, rate=rate, layout=layout)
    if disposition is not None:
        stream.disposition = disposition
    if codec == "wmav2":
        stream.codec_context.bit_rate = 128000
    channels = stream.codec_context.channels
    sound = heard(rate, first, last)
    if drift:
        sound = np.interp(np.arange(0, len(sound), 1 / (1 + drift)), np.arange(len(sound)), sound)
    sound = np.pad((sound * 32767).astype(np.int16)[:, None], ((0, 0), (0, channels - 1)))
    if channels > 1:  # a clap in the middle: the front centre of 5.1, both sides of stereo
        sound = np.roll(sound, 2, axis=1) if channels > 2 else np.repeat(sound[:, :1], 2, axis=1)
    packets, step = [], stream.codec_context.frame_size or 1024
    for at in range(0, len(sound), step):
        time = first + at / rate / (1 + drift)
        if gap and gap[0] <= time < gap[1]:
            continue
        block = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[at:at + step]).reshape(1, -1), format="s16",
                                           layout=layout)
        block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), round(time * rate)
        packets += stream.encode(block)
    return packets + stream.encode(None)


def picture_packets(container, rate=25, times=None, start=0.0, codec="libx264", pix_fmt="yuv420p", seen=face_at,
                    cut=None, size=None, turn=None, matrix=None, options=None, disposition=None, shrinks=False,
                    seconds=SECONDS):
    """Add a picture track to a container and return its packets.

    times: moments of the pictures, else at a steady `rate` from `start` on. cut: (height, width) that is kept.
    size: (width, height) that the picture is scaled to. turn: degrees clockwise that a player has to turn it by;
    the picture is laid down accordingly. matrix: (a, b, c, d) of a display matrix, laid down by the caller.
    shrinks: the second half has half the width and height, as calls over a bad line have.
    """
    if times is None:
        times = [start + float(k / Fraction(rate)) for k in range(round((seconds - start) * float(Fraction(rate))))]
    if codec in ("libx264", "libx265"):
        options = {"preset": "ultrafast", "crf": "20", **(options or {})}
    pictures = [seen(time) for time in times]
    pictures = [picture[:cut[0], :cut[1]] if cut else picture for picture in pictures]
    pictures = [cv2.resize(picture, size) if size else picture for picture in pictures]
    if turn:
        pictures = [np.rot90(picture, turn // 90) for picture in pictures]
    stream = container.add_stream(codec, rate=Fraction(rate), options=options or {})
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt, stream.codec_context.gop_size, stream.codec_context.thread_count = pix_fmt, 25, 1
    base = 1 / Fraction(rate) if codec in STEADY or container.format.name == "avi" else BASE
    stream.codec_context.time_base = base
    if disposition is not None:
        stream.disposition = disposition
    if turn or matrix:
        a, b, c, d = matrix or {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[turn]
        stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
    half = len(pictures) // 2 if shrinks else len(pictures)
    packets = encoded(stream.codec_context, pictures[:half], times)
    if shrinks:
        smaller = av.CodecContext.create(codec, "w")
        smaller.height, smaller.width = (side // 2 for side in pictures[0].shape[:2])
        smaller.pix_fmt, smaller.time_base, smaller.options = pix_fmt, base, options
        packets += encoded(smaller, [picture[::2, ::2] for picture in pictures[half:]], times[half:])
    for packet in packets:
        packet.stream = stream
    return packets


def encoded(encoder, pictures, times):
    """Return the packets that an encoder makes of RGB pictures."""
    packets = []
    for picture, time in zip(pictures, times, strict=False):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format=encoder.pix_fmt)
        frame.pts, frame.time_base = round(time / encoder.time_base), encoder.time_base
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def cover_packets(container):
    """Add a cover picture, as players show beside a song, and return its packet."""
    stream = container.add_stream("mjpeg", rate=1)
    stream.height, stream.width, stream.pix_fmt = 512, 512, "yuvj420p"
    stream.disposition = Disposition.attached_pic
    return stream.encode(av.VideoFrame.from_ndarray(wall(0), format="rgb24")) + stream.encode(None)


def film(path, sounds=({},), pictures=({},), cover=False, muxer=None, metadata=None, **only):
    """Write a film with these picture and sound tracks (arguments of picture_packets, sound_packets); return path.

    only: arguments of the one picture track. The ending of `path` chooses the container, muxer are its options.
    """
    with av.open(str(path), "w", options=muxer or {}) as container:
        container.metadata.update(metadata or {})
        packets = cover_packets(container) if cover else []
        for track in ([only] if only else pictures):
            packets += picture_packets(container, **track)
        for track in sounds:
            packets += sound_packets(container, **track)
        for packet in sorted(packets, key=lambda p: (p.dts or 0) * p.time_base):
            container.mux(packet)
    return path
