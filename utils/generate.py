"""Speech + checkpoint + footage -> generated lower faces, of a file or of sound as it comes."""

import numpy as np
import torch

from utils import audio, device
from utils.contract import FPS
from utils.face import shot_bounds

SHORT = FPS // 2            # frames

def turns(track):
    """Return (low, high): the frames at which footage that runs forward and back turns, in its first and last second.

    A turn throws the head back the way it came, so it is where the face moves least. A shot that was cut to less than
    SHORT before is not turned in: it would only flash up.
    """
    valid, points = track["valid"], track["landmarks"][..., :2]
    step = np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(axis=1)  # (N - 1,) source pixels
    motion = np.pad(step, (1, 0), mode="edge") + np.pad(step, (0, 1), mode="edge")
    (first, last), i = shot_bounds(track["cuts"], len(valid)).T, np.arange(len(valid))
    near = min(FPS, len(valid) // 4)
    low, high = (np.where(valid & (since >= SHORT), motion, np.inf) for since in (last - 1 - i, i - first))
    return int(low[:near].argmin()), len(valid) - near + int(high[-near:].argmin())


def pingpong(count, frames, start=0, low=0, high=None):
    """Return `count` source frame numbers that rise from `start` on and, if there are too few, turn at `high`, then
    at `low`, and so on: always by one, and neither end twice in a row."""
    if start + count <= frames:
        return start + np.arange(count)
    return walk(np.arange(count), start, low, frames - 1 if high is None else high)


def walk(steps, start, low, high):
    """Return where footage is after so many steps (N,) from `start` that turns at `high`, at `low`, and so on."""
    there, length = abs(high - start), max(1, high - low)
    back = (steps - there) % (2 * length)
    return np.where(steps < there, start + np.sign(high - start) * steps, low + np.abs(length - back))


@torch.inference_mode()
def lowers(model, footage, references, order, hear, where, batch_size=16):
    """Yield a lower face (84, 168, 3) uint8 RGB for each source frame in `order`, saying what is heard.

    hear: takes moments, numbers into `order`, and returns their mel windows (B, 64, 80). references: of
    footage.references(). where: the device that the model is on.
    """
    for first in range(0, len(order), batch_size):
        moments = np.arange(first, min(first + batch_size, len(order)))
        inputs = device.to(where, footage.inputs(order[moments], hear(moments), references))
        with device.autocast(where):
            pictures, _ = model(**inputs)
        yield from (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def live(model, footage, references, chunks, where, start=0, batch_size=16):
    """Yield (lower face (84, 168, 3) uint8 RGB, its source frame) for each 1/25 s of sound that comes in chunks.

    chunks: 16 kHz mono float32 samples, any size, until the speech ends. start: the source frame to begin with;
    others as for lowers(). The faces are those that inference.py draws of the whole sound on the same frames; nobody
    knows how long it will be, so the footage always turns where turns() says.

    Latency: 355 ms (audio.LATENCY_MS), of which 320 are the network's window. Picture i begins with sample 640 i and is
    drawn as soon as a chunk brings sample 640 i + 5679; what else the chunk holds, and the drawing, come on top.
    Memory is that of a few seconds, however long the speech and its chunks are.
    """
    size, done, ends = batch_size * audio.SAMPLES_PER_FRAME, 0, turns(footage.track)
    pieces = (chunk[k:k + size] for chunk in chunks for k in range(0, len(chunk), size))
    for heard in audio.window_stream(pieces):
        order = walk(done + np.arange(len(heard)), start, *ends)
        yield from zip(lowers(model, footage, references, order, heard.__getitem__, where, batch_size), order.tolist(),
                       strict=True)
        done += len(heard)
