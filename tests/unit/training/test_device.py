"""The device, its precision and threads."""

from typing import NamedTuple

import pytest
import torch

from utils.cli import UserError
from utils.training import device, distributed

CPU = torch.device("cpu")


class Pair(NamedTuple):
    a: torch.Tensor
    b: slice


@pytest.mark.parametrize(("avx512", "amx", "constant", "chosen"), [
    (True, False, None, True),
    (False, True, None, True),
    (False, False, None, False),
    (True, True, False, False),
    (False, False, True, True),
])
def test_bfloat16_is_taken_where_the_hardware_has_it_unless_the_constant_says_otherwise(
        monkeypatch, avx512, amx, constant, chosen):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(device, "BFLOAT16", constant)
    assert device.has_bfloat16(CPU) is chosen
    with device.autocast(CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert (product.dtype == torch.bfloat16) is chosen


@pytest.mark.parametrize(("processes", "quota", "expected"), [
    (1, None, 4),
    (1, "200000 100000", 2),
    (1, "max 100000", 4),
    (2, None, 4),
    (3, None, 2),
    (2, "300000 100000", 1),
    (16, None, 1),
])
def test_threads_fit_the_cores(monkeypatch, tmp_path, processes, quota, expected):
    """Of 8 cores; PyTorch itself would take 4."""
    path = tmp_path / "cpu.max"
    if quota is not None:
        path.write_text(quota)
    monkeypatch.setattr(device, "CPU_QUOTA", path)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert device.threads(processes) == expected


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:x", "cuda:", "", "cuda:-1"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(UserError, match="is unknown; expected auto, cpu, cuda or cuda:N"):
        device.resolve(name)


@pytest.mark.parametrize(("name", "message"), [
    ("cuda:1", "cuda:1 for 2 processes"),
    ("cuda", "1 CUDA GPUs"),
    ("auto", "a GPU for each"),
])
def test_two_processes_do_not_share_a_gpu(monkeypatch, name, message):
    monkeypatch.setattr(distributed, "local_world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=message):
        device.resolve(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"sees 0 CUDA GPUs here.*--device auto"):
        device.resolve("cuda")


def test_nested_tensors_move_and_the_rest_stays():
    nested = {"x": (torch.ones(2), Pair(torch.zeros(3), slice(4)))}
    moved = device.to_device(nested, CPU)
    assert torch.equal(moved["x"][0], torch.ones(2))
    assert moved["x"][1] == (moved["x"][1].a, slice(4))
    assert isinstance(moved["x"][1], Pair)
