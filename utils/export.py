"""The trained network as ONNX, for programs without PyTorch, and what such a program must feed it.

Reads   checkpoints/best.pth             from train.py
Writes  checkpoints/easy_human.onnx      LipUNet.forward in float32, any number of pictures at once
        checkpoints/easy_human.json      its inputs and outputs, and how they are made: mel, window,
                                         alignment ...

Before anything is written, onnxruntime draws pictures with it, 1 and 5 at a time, and must differ
from PyTorch by less than 0.001 (of 0..1). Prints the largest difference.

Needs   pip install onnxscript onnxruntime
Run     python -m utils.export [--checkpoint checkpoints/best.pth]
                               [--output checkpoints/easy_human.onnx]
"""

import argparse
import logging
import shlex
import types
import typing
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.unet import LipUNet
from models.warp import RIDGE
from utils import audio, cli, shots, storage
from utils.cli import UserError, say
from utils.contract import (
    CONTRACT,
    FACE_SIZE,
    FPS,
    HOP,
    LOWER_HEIGHT,
    LOWER_TOP,
    MEL_FLOOR,
    MEL_FMAX,
    MEL_FMIN,
    N_FFT,
    N_MELS,
    REFERENCE_GAP_FRAMES,
    ROWS_PER_FRAME,
    SAMPLE_RATE,
    WINDOW_ROWS,
)
from utils.dataset import references
from utils.dataset.clip import Inputs
from utils.face import landmarks
from utils.training import checkpoint

# --------------------------------------------------------------------------------------------------
MAX_DIFFERENCE = 1e-3   # between ONNX and PyTorch, of pictures 0..1 and of normalised landmarks
BATCH_SIZES = (1, 5)    # pictures at a time that are compared
NEWTON_STEPS = 11       # of solve(): each doubles the correct digits; 11 do for any points
POSE_STD = 0.1          # of the examples, eye distances: a head that looks at the camera
POINTS_STD_PX = 3       # of the examples: how far landmarks of a reference lie from the target

OUTPUTS = {
    "lower": "generated lower face, RGB: keep within 0..1, multiply by 255, round",
    "landmarks": "predicted landmarks, normalised: for information"}
INPUTS = {
    "reference": "lower halves of two other frames of the person, RGB 0..255: first mouth closed, "
                 "then open",
    "points": "x, y of the landmarks listed in 'landmarks' in each reference, pixels of its lower "
              "half, (0, 0) being the middle of the top left pixel",
    "mel": "natural log-mel around the frame, time first: 'mel' and 'window'",
    "pose": "turn and nod of the head in the frame to be drawn: 'pose'"}
# --------------------------------------------------------------------------------------------------


# -- what the JSON says ----------------------------------------------------------------------------
def describe(saved: dict, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict:
    """Content of the JSON beside the network. saved: the checkpoint; inputs, outputs: examples."""
    middle = ROWS_PER_FRAME // 2
    closed = references.CLOSED_QUANTILE
    opened = 1 - references.OPEN_QUANTILE
    return {
        "inputs": _shapes(inputs, INPUTS),
        "outputs": _shapes(outputs, OUTPUTS),
        "contract": CONTRACT,
        "trained": {"clip": saved["data"]["clip"], "epoch": saved["epoch"]},
        "mel": f"sound at {SAMPLE_RATE} Hz, mono, -1..1; magnitude (not power) of a centred STFT "
               f"with reflected ends, periodic Hann window of {N_FFT} samples, a row each {HOP}; "
               f"{N_MELS} Slaney bands with Slaney norm (librosa), {MEL_FMIN}-{MEL_FMAX} Hz; "
               f"natural log, magnitudes below {MEL_FLOOR} raised to it; no statistic of the "
               "whole sound",
        "window": f"frame i, at {FPS} a second, hears rows {ROWS_PER_FRAME} i + {middle} - "
                  f"{WINDOW_ROWS} up to, and without, {ROWS_PER_FRAME} i + {middle} + "
                  f"{WINDOW_ROWS}; beyond the sound's ends the edge row is repeated",
        "latency_ms": audio.LATENCY_MS,
        "alignment": "similarity transform, least squares, of the points numbered in "
                     f"contract.template (of MediaPipe's {landmarks.ALL_POINTS} face landmarks), "
                     f"smoothed over {shots.SMOOTHING_FRAMES} frames (Savitzky-Golay, 2nd order), "
                     "to their x, y there times face_size; that picture's rows from "
                     f"{LOWER_TOP} on are the lower half",
        "landmarks": landmarks.WARP_POINTS,
        "pose": f"mean x, y of points {landmarks.BRIDGE} once {landmarks.EYES} are turned, scaled "
                "and moved to (-0.5, 0) and (0.5, 0); smoothed in the same way",
        "references": f"from frames of the same shot, {REFERENCE_GAP_FRAMES} or more away from the "
                      f"one to be drawn: one of the {closed:.0%} with the least opening, one of "
                      f"the {opened:.0%} with the most, each nearest in pose; kept until another "
                      f"is nearer by {references.POSE_HYSTERESIS}, so that the picture is steady. "
                      f"opening: mean distance of the pairs {list(landmarks.LIP_PAIRS)} over that "
                      f"of {landmarks.EYES}"}


def _shapes(tensors, meanings):
    return {
        name: {
            "shape": ["batch", *tensor.shape[1:]],
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "meaning": meanings[name]}
        for name, tensor in tensors.items()}


# -- the network -----------------------------------------------------------------------------------
def import_packages() -> types.ModuleType:
    """The module onnxruntime. UserError if anything that export needs is missing."""
    try:  # only export needs these two, and most people never export
        import onnxruntime
        import onnxscript  # noqa: F401 - PyTorch's exporter misses it only after a while
    except ImportError as error:
        raise UserError(
            f"export needs two more packages ({error}); run: pip install onnxscript onnxruntime"
        ) from error
    return onnxruntime


def example(model: LipUNet, batch: int, seed: int = 0) -> Inputs:
    """Random inputs for `batch` pictures, with landmarks and head poses as faces have them."""
    rng = torch.Generator().manual_seed(seed)
    count = len(landmarks.WARP_POINTS)
    picture = torch.rand(batch, 2, LOWER_HEIGHT, FACE_SIZE, 3, generator=rng)
    mel = torch.randn(batch, 2 * WINDOW_ROWS, N_MELS, generator=rng)
    pose = POSE_STD * torch.randn(batch, 2, generator=rng)
    target_points = model.landmarks_to_pixels(torch.zeros(batch, 2 * count), pose)
    moves = POINTS_STD_PX * torch.randn(batch, 2, count, 2, generator=rng)
    return Inputs(
        reference=(255 * picture).byte(),
        points=target_points[:, None] + moves,
        mel=model.mel_mean + model.mel_std * mel,
        pose=pose)


def solve(matrix: Tensor, right: Tensor, left: bool = True) -> Tensor:
    """Solution matrix^-1 @ right, for models.warp: ONNX has no operator for torch.linalg.solve.

    Newton's iteration for the inverse (Schulz 1933), which needs products only. The matrix
    (B, N, N) is symmetric and its eigenvalues lie between RIDGE and RIDGE + N wherever the points
    are, so the start and the number of steps can be fixed. right: (B, N, K). left: as PyTorch
    calls it, always True here.
    """
    size = matrix.shape[-1]
    identity = torch.eye(size)
    inverse = 2 / (size + 2 * RIDGE) * identity
    for _ in range(NEWTON_STEPS):
        inverse = inverse @ (2 * identity - matrix @ inverse)
    solution = inverse @ right
    return solution + inverse @ (right - matrix @ solution)  # once more, against rounding


def to_onnx(model: LipUNet, inputs: Inputs) -> bytes:
    """Content of an ONNX file of the network, whose batch size is free."""
    named = inputs._asdict()
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names packages that nobody needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                      # PyTorch's warnings about itself
        program = torch.export.export(
            model, (), named, dynamic_shapes={name: {0: batch} for name in named}
        )
        program = program.run_decompositions({torch.ops.aten.linalg_solve.default: solve})
        network = torch.onnx.export(
            program, (), kwargs=named, output_names=list(OUTPUTS), dynamo=True, verbose=False
        )
    return network.model_proto.SerializeToString()  # type: ignore[union-attr]


def largest_difference(model: LipUNet, session: typing.Any) -> float:
    """Largest difference of any output value between PyTorch and an onnxruntime session."""
    differences = []
    for batch in BATCH_SIZES:
        inputs = example(model, batch, seed=batch)
        feed = {name: value.numpy() for name, value in inputs._asdict().items()}
        exported = session.run(list(OUTPUTS), feed)
        for ours, theirs in zip(model(*inputs), exported, strict=True):
            same = ours.shape == theirs.shape
            differences.append(np.abs(ours.numpy() - theirs).max() if same else np.inf)
    return float(np.max(differences))  # and not max(): to numpy a NaN is the largest


# --------------------------------------------------------------------------------------------------
def check_output(output: Path):
    """Raise UserError unless `output` ends in .onnx and its JSON is not that of utils.evaluate."""
    command = "python -m utils.export --output"
    if output.suffix != ".onnx":
        better = shlex.quote(str(output.with_suffix(".onnx")))
        raise UserError(f"--output {output} should end in .onnx; run: {command} {better}")
    if output.stem.lower() == "report":
        better = shlex.quote(str(output.with_stem("easy_human")))
        raise UserError(
            f"--output {output} would write report.json, which is the name of the report of "
            f"utils.evaluate; run: {command} {better}"
        )


@torch.inference_mode()
def main(args: argparse.Namespace):
    """Export, check against PyTorch, write."""
    output = Path(args.output)
    check_output(output)
    onnxruntime = import_packages()

    # 1. the network, and the same as ONNX
    model, saved = checkpoint.load(args.checkpoint)
    say("exporting takes about half a minute")
    inputs = example(model, max(BATCH_SIZES))
    network = to_onnx(model, inputs)

    # 2. does it draw the same?
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    difference = largest_difference(model, session)
    if not difference < MAX_DIFFERENCE:
        raise UserError(
            f"ONNX differs from PyTorch by {difference:.2g}, expected less than {MAX_DIFFERENCE}; "
            "nothing was written. Run: pip install --upgrade onnxscript onnxruntime"
        )
    print(f"largest difference from PyTorch: {difference:.1e}")

    # 3. write; the network last
    output.parent.mkdir(parents=True, exist_ok=True)
    outputs = dict(zip(OUTPUTS, model(*inputs), strict=True))
    description = describe(saved, inputs._asdict(), outputs)
    storage.write_json(output.with_suffix(".json"), description)
    storage.write_atomically(output, network)
    say(f"{output} and {output.with_suffix('.json').name}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = cli.parser(__doc__, "checkpoint")
    parser.add_argument(
        "--output",
        default="checkpoints/easy_human.onnx",
        help="the JSON lies beside it (default: checkpoints/easy_human.onnx)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
