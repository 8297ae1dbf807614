"""Stereo to mono, also where the channels cancel each other; samples that are no numbers."""

from collections.abc import Iterable, Iterator

import av
import numpy as np

from utils.media.streams import Losses

LOUDEST = 1e5  # of 1: a sample beyond it is damage, as one that is no number

# Power of the mix over that of the louder channel. With less, 12 dB, the channels cancel each
# other, and then go on to do so with less than STILL_OPPOSED: 1/4 is one channel alone.
OPPOSED = 10 ** -1.2
STILL_OPPOSED = 3 * OPPOSED

MONO = np.float32(0.5 ** 0.5)  # what FFmpeg takes of either channel of stereo
FLOATS = {"flt": np.float32, "fltp": np.float32, "dbl": np.float64, "dblp": np.float64}


def silence_damage(frame: av.AudioFrame, losses: Losses):
    """Put silence in the place of samples that are no numbers, and count them."""
    dtype = FLOATS.get(frame.format.name)
    for plane in frame.planes if dtype else ():
        samples = np.frombuffer(memoryview(plane), dtype)
        wrong = ~(np.abs(samples) < LOUDEST)
        samples[wrong] = 0
        losses.samples += int(wrong.sum())


def mono(blocks: Iterable[np.ndarray], rate: int, losses: Losses) -> Iterator[np.ndarray]:
    """Yield stereo blocks (n, 2) as mono (m, 1), a second at a time.

    Where the channels cancel each other, one of them is taken, always the same: a change would be
    heard as a click.
    """
    channel = None
    for piece in _seconds(blocks, rate):
        mixed = piece.sum(axis=1) * MONO
        powers = np.square(piece).sum(axis=0)
        least = OPPOSED if channel is None else STILL_OPPOSED
        if np.square(mixed).sum() < 2 * least * powers.max():
            channel = powers.argmax() if channel is None else channel
            mixed = piece[:, channel] * (2 * MONO)  # as loud as if the other had its phase
            losses.opposed += len(piece) / rate
        yield mixed[:, None]


def _seconds(blocks, rate):
    """Yield blocks joined to at least a second each, but the last."""
    held = [np.zeros((0, 2), np.float32)]
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= rate:
            yield np.concatenate(held)
            held = held[:1]
    yield np.concatenate(held)
