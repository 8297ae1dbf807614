"""Several processes that train as one, started by torchrun: who speaks and writes, who waits, how all end together.

Without torchrun there is one process, and nothing here does anything.
"""

import contextlib
import os
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=1)  # with a process that is silent: packing an hour of video takes a good part of it


def _joined():
    return dist.is_available() and dist.is_initialized()


def count():
    return dist.get_world_size() if _joined() else 1


def rank():
    return dist.get_rank() if _joined() else 0


def here():
    """Return (number of this process on this machine, how many there are)."""
    return (int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])) if _joined() else (0, 1)


def launcher():
    """Return how this program was started, for messages: python, or torchrun and with how many processes."""
    if not dist.is_available() or not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        return "python"
    return f"torchrun --nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}"


@contextlib.contextmanager
def joined():
    """Work as one with the other processes that torchrun has started, if any, until the block ends.

    Yields this one's number, 0 for the first: only that is heard meanwhile. If one fails or is ended all end, and
    only the first to notice says why. Raises ConnectionError if it was another.
    """
    if launcher() == "python":
        yield 0
        return
    store, number, processes = next(dist.rendezvous("env://"))  # torchrun keeps it, and outlives us
    gpu = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE, store=store, rank=number,
                            world_size=processes)
    before = signal.signal(signal.SIGTERM, _end)  # so torchrun ends those that are left when one has died
    try:
        with open(os.devnull, "w") as silence, contextlib.redirect_stderr(silence if number else sys.stderr):
            yield number
    except (Exception, KeyboardInterrupt) as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if _said(store):
            raise SystemExit(1) from None
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise ConnectionError("another process of this training ended, or torchrun was told to end") from error
        raise
    signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()


def _end(*_):
    raise RuntimeError("gloo: SIGTERM")


def _said(store):
    """True if another process has said already why all end."""
    try:
        return store.add("ended", 1) > 1
    except RuntimeError:  # torchrun itself is gone
        return False


def total(*values):
    """Return the numbers, each added up over all processes."""
    if not _joined():
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def agreed(value):
    """Return the first process's number in all of them: clocks differ, decisions must not."""
    if not _joined():
        return value
    number = torch.tensor(value, dtype=torch.float64)
    dist.broadcast(number, 0)
    return number.item()


@contextlib.contextmanager
def first_alone():
    """Let the first process go through the block before the others do."""
    if rank():
        total(0)
    yield
    if not rank():
        total(0)


def share(value):
    """Return this process's part of a batch: tensors, in any nesting of tuples and dicts, with their first axis.

    All parts are equally long, for the gradient is the mean over processes: what is missing for that is there twice.
    """
    if not _joined():
        return value
    if isinstance(value, dict):
        return {key: share(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(share, value))
    each = -(-len(value) // count())
    return value[(rank() + count() * torch.arange(each)) % len(value)]


def averaging(module):
    """Return the module such that backward() leaves the mean of all processes' gradients: DistributedDataParallel."""
    if not _joined():
        return module
    return torch.nn.parallel.DistributedDataParallel(module, forward_sync_buffers=False)
