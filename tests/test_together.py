"""Several processes as one: torchrun with two on the CPU."""

import functools
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import train
from conftest import ROOT
from models.unet import LipUNet
from utils import checkpoint, device, together

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
SMALL = {"channels": (16, 16, 16, 16), "audio_width": 16, "dropout": 0.0}
SCRIPT = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import train
from utils import console, together
from test_together import simplify
simplify(setattr)
CHANGE
console.run(train.main, f"; go on with: {{together.launcher()}} train.py --resume")
"""


def simplify(change):
    """Leave nothing to chance in a training, and little to compute; the discriminator begins in its second step."""
    change(train, "LipUNet", functools.partial(LipUNet, **SMALL))
    change(train, "DISCRIMINATOR_FROM", 1)
    change(train, "WARMUP_STEPS", 1)
    change(train.evaluate, "brief", lambda *_: "not measured")
    change(train.report, "PREVIEWS", 1)
    change(device, "has_bfloat16", lambda _: False)


@pytest.fixture
def pair(tiny_data, tmp_path):
    """Start train.py, simplified and with a change, in two processes; return the process and its folder."""
    started = []

    def start(*options, change=""):
        script, folder = tmp_path / "script.py", tmp_path / "pair"
        script.write_text(SCRIPT.replace("CHANGE", change))
        command = [*TORCHRUN, script, "--data", tiny_data, "--checkpoints", folder, "--device", "cpu", *options]
        started.append(subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, "OMP_NUM_THREADS": "1"}))
        return started[-1], folder
    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def said(err, pattern):
    """Return the lines that hold a pattern, whatever progress bars overwrote."""
    return [line for line in re.split(r"[\r\n]+", err) if re.search(pattern, line)]


@pytest.mark.slow
def test_two_processes_are_as_good_as_one(pair, tiny_data, tmp_path, monkeypatch):
    """Same figures, weights and files for the same batches; every message once. Adam makes much of little: rounding
    alone moves the discriminator's weights by 4e-5, gradients that are not averaged by more than 1e-3."""
    options = "--epochs", "2", "--batch-size", "30"
    process, folder = pair(*options)
    torch.set_num_threads(1)
    simplify(monkeypatch.setattr)
    alone = tmp_path / "alone"
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", str(tiny_data), "--checkpoints", str(alone), "--device",
                                      "cpu", *options])
    train.main()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-2000:]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in alone.iterdir())
    one, two = (torch.load(place / "last.pth", weights_only=True) for place in (alone, folder))
    for a, b in zip(one["history"], two["history"], strict=True):
        for key in ("train", "held_out", "heard", "lr"):
            assert a[key] == pytest.approx(b[key], rel=2e-5), key
    for part, apart in (("model", 1e-5), ("discriminator", 3e-4)):
        for name, tensor in one["learner"][part].items():
            assert (tensor - two["learner"][part][name]).abs().mean() < apart, name
    for pattern in ("device: cpu .*2 processes", "frames to train on", "epoch +1/2 ", "epoch +2 ", "lowest held-out"):
        assert len(said(err, pattern)) == 1, (pattern, err)
    assert "Warning" not in err.replace("OMP_NUM_THREADS", "")


@pytest.mark.parametrize("shape", [(8,), (7, 2), (1, 3)])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_are_equal_and_leave_nothing_out(monkeypatch, shape, processes):
    whole = torch.arange(int(np.prod(shape))).reshape(shape)
    monkeypatch.setattr(together, "_joined", lambda: processes > 1)
    monkeypatch.setattr(together, "count", lambda: processes)
    shares = []
    for number in range(processes):
        monkeypatch.setattr(together, "rank", lambda number=number: number)
        shares.append(together.share(({"a": whole}, whole)))
        assert torch.equal(shares[-1][0]["a"], shares[-1][1])
    shares = [share for _, share in shares]
    assert len({len(share) for share in shares}) == 1
    assert set(torch.cat(shares).flatten().tolist()) == set(whole.flatten().tolist())


def resumes(folder, tiny_data, monkeypatch):
    """One process goes on with what several left."""
    done = checkpoint.load(folder / "last.pth")[1]["epoch"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", str(tiny_data), "--checkpoints", str(folder), "--device",
                                      "cpu", "--resume", "--epochs", str(done + 1)])
    simplify(monkeypatch.setattr)
    train.main()
    return checkpoint.load(folder / "last.pth")[1]["epoch"] == done + 1 and not list(folder.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_ends_all_in_one_line(pair, tiny_data, tmp_path, monkeypatch, number):
    """Either is killed a while into training: the other says so, nothing runs on, and the training goes on later."""
    note = f'open(os.path.join({str(tmp_path)!r}, os.environ["LOCAL_RANK"]), "w").write(str(os.getpid()))'
    process, folder = pair("--epochs", "10000", change=note)
    deadline, saved = time.monotonic() + 120, folder / "last.pth"
    while not (saved.exists() and checkpoint.load(saved)[1]["epoch"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    numbers = [int((tmp_path / str(k)).read_text()) for k in (0, 1)]
    os.kill(numbers[number], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode
    assert len(said(err, "another process of this training ended.*torchrun --nproc_per_node=2 .*--resume")) == 1, err
    assert not [pid for pid in numbers if os.path.exists(f"/proc/{pid}")]
    assert resumes(folder, tiny_data, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "options", "message", "code"), [
    ("", ("--max-minutes", "0.2", "--epochs", "10000"), "lowest held-out", 0),
    ("train.stalled = lambda *_: True\ntrain.PATIENCE = train.COOLDOWN = 1", (), "the last epoch is 4$", 0),
    ("", ("--data", "missing"), "error: .*python preprocess.py", 1),
    ("if os.environ['RANK'] == '1': train.picture_loss = lambda *_: 1 / 0 * 1", ("--epochs", "2"),
     "ZeroDivisionError", 1),
    ("train.landmark_loss = lambda predicted, _: predicted.mean() * float('nan')", (), "error: the loss is", 1),
    ("def full(*_): raise OSError(28, 'No space left')\ntrain.report.log = full", (), "error: No space left", 1)])
def test_all_end_together(pair, change, options, message, code):
    """Time is up, nothing is gained any more, or one or all meet an error: it is said once."""
    process, _ = pair("--batch-size", "44", *options, change=change)
    _, err = process.communicate(timeout=120)
    assert (process.returncode != 0) == code and len(said(err, message)) == 1, err
    assert not said(err, "another process of this training")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_told_to_end_ends_all(pair, tiny_data, monkeypatch, how):
    """Ctrl-C, or a machine shut down: one line, and the training goes on later."""
    process, folder = pair("--epochs", "10000")
    deadline, saved = time.monotonic() + 120, folder / "last.pth"
    while not (saved.exists() and checkpoint.load(saved)[1]["epoch"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode
    assert len(said(err, "nothing finished was lost.*torchrun --nproc_per_node=2 .*--resume")) == 1, err
    assert resumes(folder, tiny_data, monkeypatch)
