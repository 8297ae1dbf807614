"""Speech + checkpoint + footage -> generated lower faces: shared by inference.py and utils.evaluate."""

import numpy as np
import torch

from utils.contract import FPS
from utils.device import autocast
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
    high = frames - 1 if high is None else high
    there = np.arange(start, high, 1 if start < high else -1)
    round_trip = np.concatenate([np.arange(high, low, -1), np.arange(low, high)])
    return np.concatenate([there, np.resize(round_trip, max(0, count - len(there)))])[:count]


@torch.inference_mode()
def lowers(model, footage, references, order, hear, where, batch_size=16):
    """Yield a lower face (84, 168, 3) uint8 RGB for each source frame in `order`, saying what is heard.

    hear: takes moments, numbers into `order`, and returns their mel windows (B, 64, 80). references: of
    footage.references(). where: the device that the model is on.
    """
    for first in range(0, len(order), batch_size):
        moments = np.arange(first, min(first + batch_size, len(order)))
        inputs = footage.inputs(order[moments], hear(moments), references)
        inputs = {key: value.to(where) for key, value in inputs.items()}
        with autocast(where):
            pictures, _ = model(**inputs)
        yield from (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
