"""Speech + checkpoint + footage -> generated lower faces: shared by inference.py and utils.evaluate."""

import numpy as np
import torch

from utils import device


def pingpong(count, frames, start=0):
    """Return `count` source frame numbers that run forward and back over 0..frames-1, turning without a jump."""
    period = np.concatenate([np.arange(frames), np.arange(frames - 2, 0, -1)])
    return period[(start + np.arange(count)) % len(period)]


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
