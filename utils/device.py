"""Where and how to compute: `auto` is resolved here and nowhere else, and bfloat16 or float32 is chosen here.

TF32 stays as PyTorch has it: convolutions use it; matrix products in float32 are the landmarks' geometry and may not.
"""

import contextlib
import functools
import os
import statistics
import time
from pathlib import Path

import torch
from torch.nn.functional import conv2d

from utils import together
from utils.console import UserError, say

# Of float32's time that bfloat16 may take at most to be chosen: where the CPU has it, and where it is emulated. Far
# from what is measured in either case (0.4-0.8; above 1), so a busy machine does not choose now this, now that.
NATIVE, EMULATED = 1.3, 0.7


def resolve(name):
    """Return the torch.device for auto|cpu|cuda|cuda:N, and say it. UserError if that device is not there.

    Of several processes on a machine each takes a GPU, or its share of the CPU's cores.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, _, number = name.partition(":")
    place, places = together.here()
    if name == "auto":
        kind = "cuda" if gpus else "cpu"
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise UserError(f"--device {name} is unknown; expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and places > 1 and (number or places > gpus):
        raise UserError(f"--device {name} for {places} processes and {gpus} CUDA GPUs; expected a GPU for each: "
                        f"torchrun --nproc_per_node={max(1, gpus)}, with --device auto or cpu")
    if kind == "cuda" and int(number or 0) >= gpus:
        raise UserError(f"--device {name}, but PyTorch {torch.__version__} sees {gpus} CUDA GPUs here; "
                        "run the same command with --device auto")
    device = torch.device(kind, int(number or place)) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
        what = torch.cuda.get_device_name(device)
    else:
        torch.set_num_threads(threads(places))
        what = f"CPU, {torch.get_num_threads()} threads"
    half = "bfloat16" if has_bfloat16(device) else "float32"
    say(f"device: {device} ({what}, {half})" + (f", {together.count()} processes" if together.count() > 1 else ""))
    return device


def threads(places):
    """Return how many threads each of so many processes on this machine is to use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError, ValueError):  # a container's quota, which PyTorch does not see; or "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    if places > 1:  # torchrun has set OMP_NUM_THREADS to 1, whatever the machine
        return max(1, cores // places)
    return min(cores, torch.get_num_threads())


@functools.cache
def has_bfloat16(device):
    """True where bfloat16 is surely faster: where it is emulated it is slower than float32. CPUs are measured."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    seconds = {True: [], False: []}
    for _ in range(6):
        for half in seconds:  # in turns, so that what else the machine does meets both
            seconds[half].append(trial(half))
    half, full = (statistics.median(seconds[half][1:]) for half in (True, False))  # the first one prepares
    limit = NATIVE if torch.cpu._is_avx512_bf16_supported() else EMULATED
    return bool(together.agreed(half < limit * full))


def trial(half):
    """Return the seconds of a convolution as the network has them, forward and backward; weights and random state
    are left alone."""
    with torch.inference_mode(False), torch.enable_grad():  # whoever asks first
        x = torch.ones(2, 48, 42, 84).contiguous(memory_format=torch.channels_last)
        weight = torch.full((48, 48, 3, 3), 0.01, requires_grad=True)
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            conv2d(conv2d(x, weight, padding=1), weight, padding=1).sum().backward()
    return time.perf_counter() - begun


def usual(work, times):
    """Return the seconds of the median of so many calls; one before them is not counted."""
    seconds = []
    for _ in range(1 + times):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def autocast(device):
    """Return the mixed-precision context of a device: bfloat16 where it is faster, else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if has_bfloat16(device) else contextlib.nullcontext()


def to(where, value):
    """Move tensors, in any nesting of tuples and dicts, to a device; to a GPU while it still computes."""
    if isinstance(value, dict):
        return {key: to(where, item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(to(where, item) for item in value)
    return (value.pin_memory() if where.type == "cuda" else value).to(where, non_blocking=True)
