"""What the tests share: the project on the import path, a tiny clip made once, and a drawer of odd videos."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import sample  # noqa: E402

TINY_SECONDS, TINY_SEED = 6, 11


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """Path of a 6-second clip of the drawn face."""
    path = tmp_path_factory.mktemp("clip") / "tiny.mp4"
    sample.write_clip(path, TINY_SECONDS, TINY_SEED)
    return path


@pytest.fixture(scope="session")
def tiny_speech(tmp_path_factory):
    """Path of 2 seconds of other speech."""
    path = tmp_path_factory.mktemp("speech") / "tiny.wav"
    sample.write_speech(path, 2, TINY_SEED + 1)
    return path


@pytest.fixture(scope="session")
def tiny_data(tiny_clip, tmp_path_factory):
    """Folder that preprocess.py made from tiny_clip. A test that changes it copies it first."""
    import preprocess

    data = tmp_path_factory.mktemp("prepared") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["preprocess.py", str(tiny_clip), "--data", str(data)])
        preprocess.main()
    return data


def one_line(error):
    """Return the message of a caught exception after checking that it is one line that says something."""
    message = str(error.value)
    assert message.strip() and "\n" not in message
    return message


def coded(number, width=64, height=48):
    """Return an RGB picture that carries a number of 12 bits as black and white cells: it survives H.264."""
    bits = np.array([number >> k & 1 for k in range(12)], np.uint8).reshape(3, 4)
    grey = np.kron(bits * 200 + 27, np.ones((height // 3, width // 4), np.uint8))
    return np.repeat(grey[..., None], 3, axis=2)


def number_of(rgb):
    """Return the number that a picture of `coded` carries."""
    height, width = rgb.shape[0] // 3, rgb.shape[1] // 4
    cells = rgb[:height * 3, :width * 4, 1].reshape(3, height, 4, width).mean(axis=(1, 3)).reshape(-1)
    return sum(1 << k for k in range(12) if cells[k] > 127)


def make_video(path, pictures, rate=25, times=None, codec="libx264", pix_fmt="yuv420p", gop=250, options=None,
               tags=None, sound=None, sound_rate=48000, sound_start=0.0, sound_codec="aac"):
    """Write RGB pictures, at `times` in seconds or at a steady rate, with mono float32 sound if given; return path.

    The ending of `path` chooses the container. tags: colorspace, color_range ... of the stream.
    """
    pictures, tags = list(pictures), tags or {}
    base = Fraction(1, 90000)
    times = [Fraction(k) / Fraction(rate) for k in range(len(pictures))] if times is None else times
    with av.open(str(path), "w") as container:
        if pictures:
            if codec == "libx264":
                options = {"crf": "18", "preset": "veryfast", "sc_threshold": "0", **(options or {})}
            video = container.add_stream(codec, rate=Fraction(rate), options=options or {})
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt, video.gop_size, video.codec_context.thread_count = pix_fmt, gop, 1
            video.time_base = video.codec_context.time_base = base
            for key, value in tags.items():
                setattr(video.codec_context, key, value)
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=sound_rate)
            audio.layout = "mono"
        packets = []
        for rgb, time in zip(pictures, times, strict=True):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=tags.get("colorspace"), dst_color_range=tags.get("color_range"))
            picture.pts, picture.time_base = round(time * 90000), base
            packets += video.encode(picture)
        packets += video.encode(None) if pictures else []
        if sound is not None:
            frame = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base = sound_rate, Fraction(1, sound_rate)
            frame.pts = round(sound_start * sound_rate)
            packets += audio.encode(frame) + audio.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path
