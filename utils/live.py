"""Lower faces of sound that comes as it is spoken."""

from collections.abc import Iterable, Iterator

import numpy as np

from utils.audio import SAMPLES_PER_FRAME, window_stream
from utils.generate import Speaker, generate_lower_faces, position_after, seen_span, turning_points


def generate_live(
    speaker: Speaker,
    chunks: Iterable[np.ndarray],
    start: int | None = None,
    batch_size: int = 16
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (lower face (84, 168, 3) uint8 RGB, its source frame) for each 1/25 s of sound.

    chunks: 16 kHz mono float32 samples, any number at a time, until the speech ends. start: the
    source frame to begin with, by default the first that shows the face. The faces are those that
    inference.py --scale 1 draws of the whole sound on the same frames (or, of a speaker with large
    references, without that option), but for what only the whole can tell: very quiet speech is not
    made louder here, and a voice that moves the mouth little is not helped. The footage always
    turns at its turning points, for nobody knows how long the speech will be.

    Latency: 355 ms (audio.LATENCY_MS); the network's window makes up 320 of them. Picture i begins
    with sample 640 i and is drawn as soon as a chunk brings sample 640 i + 5679. The rest of the
    chunk, and the drawing, come on top. Memory: that of a few seconds, however long speech and
    chunks are.
    """
    clip = speaker.clip
    low, high = turning_points(clip.track, clip.meta.shown_frames)
    if start is None:
        start, _ = seen_span(clip.track)
    spoken = 0  # pictures so far
    for windows in window_stream(_pieces(chunks, batch_size * SAMPLES_PER_FRAME)):
        order = position_after(spoken + np.arange(len(windows)), start, low, high)
        lower_faces = generate_lower_faces(speaker, order, windows, batch_size)
        yield from zip(lower_faces, order.tolist(), strict=True)
        spoken += len(windows)


def _pieces(chunks, samples):
    """Yield the same sound in chunks that are no longer than `samples`."""
    for chunk in chunks:
        for first in range(0, len(chunk), samples):
            yield chunk[first : first + samples]
