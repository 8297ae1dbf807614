"""The trained network as ONNX, for programs without PyTorch, and what such a program must feed it.

Reads   checkpoints/best.pth             from train.py
Writes  checkpoints/easy_human.onnx      LipUNet.forward in float32, any number of pictures at a time
        checkpoints/easy_human.json      its inputs and outputs, and how they are made: mel, window, alignment ...

Before anything is written, onnxruntime draws noise and face-like pictures with it, 1 and 5 at a time, and must differ
from PyTorch by less than 0.001 (of 0..1). Prints the largest difference, and the speed of both on this machine.

Needs   pip install onnxscript onnxruntime
Run     python -m utils.export [--checkpoint checkpoints/best.pth] [--output checkpoints/easy_human.onnx]
"""

import logging
import shlex
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from models.unet import RIDGE
from utils import audio, checkpoint, console, face
from utils.console import UserError, say
from utils.contract import (CONTRACT, FACE_SIZE, FPS, HOP, LOWER_TOP, MEL_FLOOR, MEL_FMAX, MEL_FMIN, N_FFT, N_MELS,
                            REFERENCE_GAP, ROWS_PER_FRAME, SAMPLE_RATE, WINDOW_ROWS, write_json, write_whole)
from utils.device import usual

# ------------------------------------------------------------------------------------------------------
MOST_APART = 1e-3       # between ONNX and PyTorch, of pictures 0..1 and of normalised landmarks
SIZES = 1, 5            # pictures at a time that are compared
TIMES = 7               # drawings of which the median speed is told
STEPS = 11              # of solve(): each doubles the digits; so many do for whatever points
OUTPUTS = {"lower": "generated lower face, RGB: keep within 0..1, multiply by 255, round",
           "landmarks": "predicted landmarks, normalised: for information"}
INPUTS = {
    "reference": "lower halves of two other frames of the person, RGB 0..255: first mouth closed, then open",
    "points": "x, y of the landmarks listed in 'landmarks' in each reference, pixels of its lower half, (0, 0) being "
              "the middle of the top left pixel",
    "mel": "natural log-mel around the frame, time first: 'mel' and 'window'",
    "pose": "turn and nod of the head in the frame to be drawn: 'pose'",
}
# ------------------------------------------------------------------------------------------------------


def description(saved, inputs, outputs):
    """Return what the JSON beside the network holds; inputs, outputs: example tensors by name."""
    def like(tensors, meanings):
        return {name: {"shape": ["batch", *tensor.shape[1:]], "dtype": str(tensor.dtype).removeprefix("torch."),
                       "meaning": meanings[name]} for name, tensor in tensors.items()}

    middle, eyes = ROWS_PER_FRAME // 2, list(face.EYES)
    return {
        "inputs": like(inputs, INPUTS), "outputs": like(outputs, OUTPUTS),
        "contract": CONTRACT, "trained": {"clip": saved["data"]["clip"], "epoch": saved["epoch"]},
        "mel": f"sound at {SAMPLE_RATE} Hz, mono, -1..1; magnitude (not power) of a centred STFT with reflected ends, "
               f"periodic Hann window of {N_FFT} samples, a row each {HOP}; {N_MELS} Slaney bands with Slaney norm "
               f"(librosa), {MEL_FMIN}-{MEL_FMAX} Hz; natural log, magnitudes below {MEL_FLOOR} raised to it; no "
               "statistic of the whole sound",
        "window": f"frame i, at {FPS} a second, hears rows {ROWS_PER_FRAME} i + {middle} - {WINDOW_ROWS} up to, and "
                  f"without, {ROWS_PER_FRAME} i + {middle} + {WINDOW_ROWS}; beyond the sound's ends the edge row is "
                  "repeated",
        "latency_ms": audio.LATENCY_MS,
        "alignment": "similarity transform, least squares, of the points numbered in contract.template (of MediaPipe's "
                     f"478 face landmarks), smoothed over {face.SMOOTHING} frames (Savitzky-Golay, 2nd order), to "
                     f"their x, y there times face_size; that picture's rows from {LOWER_TOP} on are the lower half",
        "landmarks": face.CARRIED,
        "pose": f"mean x, y of points {list(face.BRIDGE)} once {eyes} are turned, scaled and moved to (-0.5, 0) and "
                "(0.5, 0); smoothed in the same way",
        "references": f"from frames of the same shot, {REFERENCE_GAP} or more away from the one to be drawn: one of "
                      f"the {face.CLOSED:.0%} with the least opening, one of the {1 - face.OPEN:.0%} with the "
                      f"most, each nearest in pose; kept until another is nearer by {face.STEADINESS}, so that the "
                      f"picture is steady. opening: mean distance of the pairs {list(face.LIP_PAIRS)} over that of "
                      f"{eyes}",
    }


def packages():
    """Return onnxruntime after checking that all that export needs is there; UserError otherwise."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - PyTorch's exporter looks for it only when it has worked for a while
    except ImportError as error:
        raise UserError(f"export needs two more packages ({error}); run: pip install onnxscript onnxruntime") from error
    return onnxruntime


def example(model, size, noise, seed=0):
    """Return inputs by name for `size` pictures: noise from pixel to pixel, or else as smooth as faces and speech."""
    draw, step = torch.Generator().manual_seed(seed), 1 if noise else 4
    height, width, bands = FACE_SIZE - LOWER_TOP, FACE_SIZE, N_MELS
    picture = torch.rand(2 * size, 3, height // step, width // step, generator=draw)
    picture = F.interpolate(picture, (height, width), mode="bilinear").permute(0, 2, 3, 1)
    rows = torch.randn(size, bands, 2 * WINDOW_ROWS // step, generator=draw)
    rows = F.interpolate(rows, 2 * WINDOW_ROWS, mode="linear").transpose(1, 2)
    pose = 0.1 * torch.randn(size, 2, generator=draw)
    points = model.place(torch.zeros(size, 2 * len(face.CARRIED)), pose)[:, None]
    return {"reference": (picture * 255).byte().unflatten(0, (size, 2)),
            "points": points + 3 * torch.randn(size, 2, len(face.CARRIED), 2, generator=draw),
            "mel": model.mel_mean + model.mel_std * rows, "pose": pose}


def solve(matrix, right, left=True):
    """Return matrix^-1 @ right, for models.unet.carry(): ONNX has no operator for that.

    Newton's iteration (Schulz 1933): only products. The matrix (B, N, N) is symmetric, its eigenvalues lie between
    RIDGE and RIDGE + N whatever the points are, so the start and the number of steps need no look at it.
    """
    count = matrix.shape[-1]
    one = torch.eye(count)
    inverse = 2 / (count + 2 * RIDGE) * one
    for _ in range(STEPS):
        inverse = inverse @ (2 * one - matrix @ inverse)
    found = inverse @ right
    return found + inverse @ (right - matrix @ found)  # once more, for what rounding left


def to_onnx(model, inputs):
    """Return the network as the bytes of an ONNX file whose batch size is free."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it would tell of packages that nobody needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                      # PyTorch's about itself
        batch = torch.export.Dim("batch")
        program = torch.export.export(model, (), inputs, dynamic_shapes={name: {0: batch} for name in inputs})
        program = program.run_decompositions({torch.ops.aten.linalg_solve.default: solve})
        program = torch.onnx.export(program, (), kwargs=inputs, output_names=list(OUTPUTS), dynamo=True, verbose=False)
    return program.model_proto.SerializeToString()


def apart(model, session):
    """Return the largest difference of any output value between PyTorch and the ONNX session."""
    found = []
    for size in SIZES:
        for noise in (True, False):
            inputs = example(model, size, noise, seed=size)
            drawn = session.run(list(OUTPUTS), {name: value.numpy() for name, value in inputs.items()})
            for ours, theirs in zip(model(**inputs), drawn, strict=True):
                found.append(np.abs(ours.numpy() - theirs).max() if ours.shape == theirs.shape else np.inf)
    return float(np.max(found))  # and not max(): a NaN is the largest


def compare_speed(model, session):
    """Print how fast PyTorch and onnxruntime draw, in turn."""
    model = model.to(memory_format=torch.channels_last)
    for size in SIZES:
        inputs = example(model, size, noise=False)
        fed = {name: value.numpy() for name, value in inputs.items()}
        ours, theirs = (size / usual(draw, TIMES) for draw in (partial(model, **inputs),
                                                               partial(session.run, None, fed)))
        print(f"{size} at a time, float32, {torch.get_num_threads()} threads: PyTorch {ours:.1f} pictures/s, "
              f"onnxruntime {theirs:.1f}")


@torch.inference_mode()
def main():
    args = parse_args()
    output = Path(args.output)
    if output.suffix != ".onnx":
        raise UserError(f"--output {output} should end in .onnx; run: python -m utils.export --output "
                        f"{shlex.quote(str(output.with_suffix('.onnx')))}")
    onnxruntime = packages()

    # 1. the network, and the same as ONNX
    model, saved = checkpoint.load(args.checkpoint)
    say("exporting takes about half a minute")
    inputs = example(model, max(SIZES), noise=False)
    network = to_onnx(model, inputs)

    # 2. does it draw the same?
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    difference = apart(model, session)
    if not difference < MOST_APART:
        raise UserError(f"ONNX differs from PyTorch by {difference:.2g}, expected less than {MOST_APART}; nothing was "
                        "written. Run: pip install --upgrade onnxscript onnxruntime")
    print(f"largest difference from PyTorch: {difference:.1e}")
    compare_speed(model, session)

    # 3. write; the network last
    output.parent.mkdir(parents=True, exist_ok=True)
    outputs = dict(zip(OUTPUTS, model(**inputs), strict=True))
    write_json(output.with_suffix(".json"), description(saved, inputs, outputs))
    write_whole(output, network)
    say(f"{output} and {output.with_suffix('.json').name}")


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("--checkpoint", default="checkpoints/best.pth",
                        help="from train.py (default: checkpoints/best.pth)")
    parser.add_argument("--output", default="checkpoints/easy_human.onnx",
                        help="the JSON lies beside it (default: checkpoints/easy_human.onnx)")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
