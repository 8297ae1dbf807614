"""Videos of any kind, and pictures that carry a number through the encoder."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLOCK = 90000  # ticks a second of a picture's timestamps
CODE_ROWS = 3
CODE_COLUMNS = 4
CODE_BITS = CODE_ROWS * CODE_COLUMNS


def coded(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """RGB picture that carries a number of 12 bits as black and white cells: it survives H.264."""
    bits = [number >> k & 1 for k in range(CODE_BITS)]
    cells = np.array(bits, np.uint8).reshape(CODE_ROWS, CODE_COLUMNS)
    one_cell = np.ones((height // CODE_ROWS, width // CODE_COLUMNS), np.uint8)
    grey = np.kron(cells * 200 + 27, one_cell)
    return np.repeat(grey[..., None], 3, axis=2)


def number_of(rgb: np.ndarray) -> int:
    """The number that a picture of `coded` carries."""
    height = rgb.shape[0] // CODE_ROWS
    width = rgb.shape[1] // CODE_COLUMNS
    green = rgb[: height * CODE_ROWS, : width * CODE_COLUMNS, 1]
    cells = green.reshape(CODE_ROWS, height, CODE_COLUMNS, width).mean(axis=(1, 3))
    return sum(1 << k for k, cell in enumerate(cells.reshape(-1)) if cell > 127)


@dataclass
class Settings:
    """What a video may differ in.

    times: s of each picture, else at a steady `rate`. gop: pictures from one that stands alone to
    the next. options: of the encoder. tags: colorspace, color_range ... of the stream. sound: mono
    float32 samples, beginning at sound_start, s.
    """

    rate: float | Fraction = 25
    times: Iterable[float | Fraction] | None = None
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    gop: int = 250
    options: dict[str, str] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    sound: np.ndarray | None = None
    sound_rate: int = 48000
    sound_start: float = 0.0
    sound_codec: str = "aac"


def make_video(path: Path, pictures: Iterable[np.ndarray], **settings: object) -> Path:
    """Write RGB pictures, and sound if given, as `Settings` say; return path.

    The ending of `path` chooses the container.
    """
    chosen = Settings(**settings)
    pictures = list(pictures)
    with av.open(str(path), "w") as container:
        packets = []
        if pictures:
            packets += _picture_packets(container, pictures, chosen)
        if chosen.sound is not None:
            packets += _sound_packets(container, chosen)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _picture_packets(
    container: av.container.OutputContainer, pictures: list[np.ndarray], chosen: Settings
) -> list[av.Packet]:
    options = chosen.options or {}
    if chosen.codec == "libx264":
        options = {"crf": "18", "preset": "veryfast", "sc_threshold": "0", **options}
    stream = container.add_stream(chosen.codec, rate=Fraction(chosen.rate), options=options)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = chosen.pix_fmt
    stream.gop_size = chosen.gop
    stream.time_base = Fraction(1, CLOCK)
    stream.codec_context.time_base = Fraction(1, CLOCK)
    stream.codec_context.thread_count = 1
    tags = chosen.tags or {}
    for key, value in tags.items():
        setattr(stream.codec_context, key, value)

    times = chosen.times
    if times is None:
        times = [Fraction(k) / Fraction(chosen.rate) for k in range(len(pictures))]
    packets = []
    for rgb, time in zip(pictures, times, strict=True):
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
            format=chosen.pix_fmt,
            dst_colorspace=tags.get("colorspace"),
            dst_color_range=tags.get("color_range"),
        )
        picture.pts = round(time * CLOCK)
        picture.time_base = Fraction(1, CLOCK)
        packets += stream.encode(picture)
    return packets + stream.encode(None)


def _sound_packets(container: av.container.OutputContainer, chosen: Settings) -> list[av.Packet]:
    stream = container.add_stream(chosen.sound_codec, rate=chosen.sound_rate)
    stream.layout = "mono"
    samples = (chosen.sound[None] * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = chosen.sound_rate
    frame.time_base = Fraction(1, chosen.sound_rate)
    frame.pts = round(chosen.sound_start * chosen.sound_rate)
    return stream.encode(frame) + stream.encode(None)
