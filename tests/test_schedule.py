"""When training ends: the forecast, the early end with the rate brought down, and the choice of bfloat16."""

import itertools
import re
import sys
import time

import pytest
import torch

import train
from test_together import simplify
from utils import device, together
from utils.console import UserError
from utils.schedule import Schedule, stalled

RATES = (1e-3, 3e-6)


@pytest.mark.parametrize(("figures", "patience", "expected"), [
    ([5, 4, 3, 2], 2, False), ([5, 4, 4, 4], 2, True), ([5, 4, 6, 4], 3, False), ([5, 3, 4, 4], 2, True),
    ([5, 3, 4, 2.9], 2, False), ([5, 5], 2, False), ([], 1, False), ([3, 4], 1, True)])
def test_it_stalls_when_nothing_lower_has_come_for_so_many_epochs(figures, patience, expected):
    assert stalled([{"held_out": figure} for figure in figures], patience) is expected


def test_the_forecast_is_made_of_the_first_usual_steps():
    """Two slow steps at the start do not count; 100 steps of 0.2 s and 4 s besides are 24 s."""
    plan = Schedule(60, 100, 0, RATES, 10, look=4.0)
    lines = []
    for seconds in [9.0, 3.0] + [0.2] * 20:
        plan.advance(seconds)
        lines.append(plan.forecast())
    assert [line for line in lines if line] == ["about 24 s an epoch on this machine; 60 epochs = 24.0 min"]
    assert plan.left() == pytest.approx(24 * (1 - 22 / 6000), rel=1e-3)


def test_the_forecast_knows_what_is_done_and_the_minutes_allowed():
    plan = Schedule(60, 100, 3000, RATES, 10, time.monotonic(), 5, look=4.0)
    for _ in range(10):
        plan.advance(0.2)
    assert plan.forecast() == \
        "about 24 s an epoch on this machine; 30 epochs = 12.0 min, cut to 5 min by --max-minutes"
    assert plan.left() == pytest.approx(5, abs=0.05)


def test_an_end_brought_nearer_brings_the_rate_down():
    plan, rates = Schedule(30, 10, 0, RATES, 1), []
    while not plan.over():
        if plan.step == 100:
            plan.epochs = 13
        rates.append(plan.rate())
        plan.advance(0.1)
    assert len(rates) == 130 and rates[99] > 7e-4 and rates[-1] < 4e-6
    assert all(a >= b for a, b in itertools.pairwise(rates))


def test_training_ends_early_with_the_rate_down(tiny_data, tmp_path, monkeypatch, capsys):
    """Once nothing gets better it says so and ends after the cooldown; a later --resume --epochs goes on."""
    simplify(monkeypatch.setattr)
    figures = itertools.chain([9.0, 5.0, 4.0], itertools.repeat(4.5))  # the first one is of the look before it begins
    monkeypatch.setattr(train.Learner, "step", lambda *_: (0.05, 1.0))
    monkeypatch.setattr(train.report, "log", lambda *_: None)
    monkeypatch.setattr(train, "validate", lambda *_: (next(figures), 0.5))
    monkeypatch.setattr(train, "PATIENCE", 2 * 3)
    monkeypatch.setattr(train, "COOLDOWN", 2 * 4)

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["train.py", "--data", str(tiny_data), "--checkpoints", str(tmp_path),
                                          "--device", "cpu", "--batch-size", "44", *options])
        train.main()
        saved = torch.load(tmp_path / "last.pth", weights_only=True)
        return capsys.readouterr().err, saved["history"], saved["settings"]["epochs"]

    err, history, epochs = run()
    assert len(history) == epochs == 2 + 3 + 4 and history[-1]["lr"] < 2 * train.FINAL_LR < history[4]["lr"]
    assert len(re.findall(r"no lower for 3 epochs: .* the last epoch is 9$", err, re.M)) == 1
    with pytest.raises(UserError, match="9 epochs already"):
        run("--resume")
    _, history, epochs = run("--resume", "--epochs", "12")
    assert len(history) == epochs == 12


@pytest.mark.parametrize(("native", "half", "chosen"), [
    (True, 0.4, True), (True, 0.95, True), (True, 2.0, False), (False, 0.4, True), (False, 0.95, False),
    (False, 30.0, False)])
def test_bfloat16_is_taken_where_it_is_faster(monkeypatch, native, half, chosen, full=1.0):
    """Also when measurements are disturbed, as by another program: two runs of a training choose the same."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    noise = itertools.cycle([0.0, 0.0, 50.0, 0.0, 0.0])
    monkeypatch.setattr(device, "trial", lambda is_half: (half if is_half else full) + next(noise))
    assert device.has_bfloat16.__wrapped__(torch.device("cpu")) is chosen


def test_the_measurement_changes_no_random_state_and_is_short():
    torch.manual_seed(3)
    before, begun = torch.get_rng_state(), time.process_time()
    device.has_bfloat16.__wrapped__(torch.device("cpu"))
    assert torch.equal(before, torch.get_rng_state()) and time.process_time() - begun < 3


@pytest.mark.parametrize(("places", "quota", "expected"), [
    (1, None, 4), (1, "200000 100000", 2), (1, "max 100000", 4), (2, None, 4), (3, None, 2), (2, "300000 100000", 1),
    (16, None, 1)])
def test_threads_fit_the_cores(monkeypatch, places, quota, expected):
    """Of 8 cores; PyTorch itself would take 4."""
    def read(_):
        if quota is None:
            raise FileNotFoundError
        return quota

    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(device.torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(device.Path, "read_text", read)
    assert device.threads(places) == expected


@pytest.mark.parametrize(("name", "message"), [("cuda:1", "cuda:1 for 2 processes"), ("cuda", "1 CUDA GPUs"),
                                               ("auto", "a GPU for each")])
def test_two_processes_do_not_share_a_gpu(monkeypatch, name, message):
    monkeypatch.setattr(together, "here", lambda: (1, 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=message):
        device.resolve(name)
