"""Where to compute: `auto` is resolved here and nowhere else."""

import contextlib

import torch

from utils.console import UserError, say


def resolve(name):
    """Return the torch.device for auto|cpu|cuda|cuda:N, and say it. UserError if that device is not there."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, _, number = name.partition(":")
    if name == "auto":
        kind = "cuda" if gpus else "cpu"
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise UserError(f"--device {name} is unknown; expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= gpus:
        raise UserError(f"--device {name}, but PyTorch {torch.__version__} sees {gpus} CUDA GPUs here; "
                        "run the same command with --device auto")
    device = torch.device(kind, int(number or 0)) if kind == "cuda" else torch.device("cpu")
    half = "bfloat16" if has_bfloat16(device) else "float32"
    what = torch.cuda.get_device_name(device) if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    say(f"device: {device} ({what}, {half})")
    return device


def has_bfloat16(device):
    """True where bfloat16 is computed natively; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def autocast(device):
    """Return the mixed-precision context of a device: bfloat16 where it is native, else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if has_bfloat16(device) else contextlib.nullcontext()


def to(where, value):
    """Move tensors, in any nesting of tuples and dicts, to a device."""
    if isinstance(value, dict):
        return {key: to(where, item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(to(where, item) for item in value)
    return value.to(where)
