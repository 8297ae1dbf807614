"""Where and how to compute: `auto` is resolved here and nowhere else, and bfloat16 or float32 is
chosen here.

TF32 stays as PyTorch has it: convolutions use it. Matrix products in float32 are the landmarks'
geometry and may not.
"""

import contextlib
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from utils.cli import UserError, say
from utils.training import distributed

# -- edit this ------------------------------------------------------------------------------------
BFLOAT16: bool | None = None  # None: where the hardware has it. True or False overrides: a CPU that
                              # only emulates bfloat16 computes more slowly with it than without
# -------------------------------------------------------------------------------------------------
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
Network = TypeVar("Network", bound=nn.Module)


def resolve(name: str) -> torch.device:
    """The device for auto|cpu|cuda|cuda:N, which is also said.

    Of several processes on a machine each takes a GPU, or its share of the CPU's cores. Raises
    UserError if the device is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, _, number = name.partition(":")
    if name == "auto":
        kind = "cuda" if gpus else "cpu"
    known = kind == "cuda" and (number.isdigit() or name in ("auto", "cuda"))
    if not known and (kind != "cpu" or number):
        raise UserError(f"--device {name} is unknown; expected auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        device = _resolve_gpu(name, number, gpus)
        hardware = torch.cuda.get_device_name(device)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(threads(distributed.local_world_size()))
        hardware = f"CPU, {torch.get_num_threads()} threads"
    precision = "bfloat16" if has_bfloat16(device) else "float32"
    line = f"device: {device} ({hardware}, {precision})"
    if distributed.world_size() > 1:
        line += f", {distributed.world_size()} processes"
    say(line)
    return device


def _resolve_gpu(name, number, gpus):
    processes = distributed.local_world_size()
    if processes > 1 and (number or processes > gpus):
        raise UserError(
            f"--device {name} for {processes} processes and {gpus} CUDA GPUs; expected a GPU for "
            f"each: torchrun --nproc_per_node={max(1, gpus)}, with --device auto or cpu")
    if int(number or 0) >= gpus:
        raise UserError(
            f"--device {name}, but PyTorch {torch.__version__} sees {gpus} CUDA GPUs here; "
            "run the same command with --device auto")
    device = torch.device("cuda", int(number or os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def threads(processes: int) -> int:
    """Threads for each of some processes on this machine."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    # a container's quota, which PyTorch does not see; it may also read "max"
    with contextlib.suppress(OSError, ValueError):
        quota, period = CPU_QUOTA.read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    if processes > 1:  # torchrun has set OMP_NUM_THREADS to 1, whatever the machine
        return max(1, cores // processes)
    return min(cores, torch.get_num_threads())


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16: where the hardware has it, it is faster."""
    if BFLOAT16 is not None:
        return BFLOAT16
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(distributed.broadcast(native))


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Mixed-precision context of a device: bfloat16 where the hardware has it, else nothing."""
    if has_bfloat16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def to_channels_last(network: Network, device: torch.device) -> Network:
    """The network on the device, in the memory layout in which convolutions are fastest."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors, in any nesting of tuples and dicts, on a device; what is no tensor as it is."""
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        moved = [to_device(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
    if not torch.is_tensor(value):
        return value
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)
