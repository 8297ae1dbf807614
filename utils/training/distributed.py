"""Several processes that train as one, started by torchrun. Without torchrun there is one process,
and nothing here does anything.

Each process draws its own share of every batch (DistributedSampler), the gradients are averaged
(DistributedDataParallel), and the first process writes the files.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

# with a process that is silent: packing an hour of video takes a good part of it
SILENCE_ALLOWED = timedelta(hours=1)


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Work as one with the other processes that torchrun has started, until the block ends.

    Raises ConnectionError if another of them ended.
    """
    if launcher() == "python":
        yield
        return
    has_gpu = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    dist.init_process_group(backend, timeout=SILENCE_ALLOWED)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ConnectionError("another process of this training ended") from error
        raise
    dist.barrier()  # gloo aborts a process that closes while the first still writes and talks
    dist.destroy_process_group()


def launcher() -> str:
    """How this program was started, for messages: python, or torchrun and its processes."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        return "python"
    if os.environ["WORLD_SIZE"] == "1":
        return "python"
    return f"torchrun --nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}"


def world_size() -> int:
    """Number of processes, 1 without torchrun."""
    return dist.get_world_size() if _is_joined() else 1


def rank() -> int:
    """Number of this process, 0 for the first, which writes the files."""
    return dist.get_rank() if _is_joined() else 0


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def all_reduce_sum(*values: float) -> list[float]:
    """The numbers, each summed over all processes."""
    if not _is_joined():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def broadcast(value: float) -> float:
    """The first process's number in all of them: clocks differ, decisions must not."""
    if not _is_joined():
        return value
    number = torch.tensor(value, dtype=torch.float64)
    dist.broadcast(number, 0)
    return number.item()


def wrap_ddp(module: nn.Module) -> nn.Module:
    """The module, such that backward() leaves the mean of all processes' gradients."""
    if not _is_joined():
        return module
    return nn.parallel.DistributedDataParallel(module, forward_sync_buffers=False)


def _is_joined():
    return dist.is_available() and dist.is_initialized()
