"""Speech + checkpoint + footage -> generated lower faces, of a file or of sound as it comes."""

import numpy as np
import torch

from utils import audio, device


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


def live(model, footage, references, chunks, where, start=0, batch_size=16):
    """Yield (lower face (84, 168, 3) uint8 RGB, its source frame) for each 1/25 s of sound that comes in chunks.

    chunks: 16 kHz mono float32 samples, any size, until the speech ends. start: the source frame to begin with;
    others as for lowers(). The faces are those that inference.py draws of the whole sound.

    Latency: 355 ms (audio.LATENCY_MS), of which 320 are the network's window. Picture i begins with sample 640 i and is
    drawn as soon as a chunk brings sample 640 i + 5679; what else the chunk holds, and the drawing, come on top.
    Memory is that of a few seconds, however long the speech and its chunks are.
    """
    size, done = batch_size * audio.SAMPLES_PER_FRAME, 0
    pieces = (chunk[k:k + size] for chunk in chunks for k in range(0, len(chunk), size))
    for heard in audio.window_stream(pieces):
        order = pingpong(len(heard), footage.frames, start + done)
        yield from zip(lowers(model, footage, references, order, heard.__getitem__, where, batch_size), order.tolist(),
                       strict=True)
        done += len(heard)
