"""Several processes as one: torchrun with two on the CPU."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from models.discriminator import Discriminator
from models.unet import LipUNet
from utils.training import checkpoint, state
from utils.training.base import save_base

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
SCRIPT = f"""
import faulthandler, os, sys
faulthandler.enable()  # a process that aborts says where
sys.path.insert(0, {str(ROOT)!r})
import train
from models import losses
from models.unet import LipUNet
from utils import cli
from utils.training import distributed, state

def small():
    return LipUNet(channels=(16, 16, 16, 16), audio_width=16, dropout=0.0)

state.LipUNet = small
train.HEARING_STEPS = 4
train.meter.brief = lambda *_: "not measured"
train.write_preview = lambda *_: None
CHANGE
cli.run(train.main, train.parse_args(), "; go on with: " + distributed.launcher() + " train.py")
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def start(tiny_data, tmp_path):
    """Start train.py with a small network, and with a change, in two processes."""
    started = []

    def call(*options, change=""):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.replace("CHANGE", change))
        command = [
            *TORCHRUN, script, "--data", tiny_data, "--checkpoints", tmp_path / "pair",
            "--device", "cpu", *options]
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"})
        started.append(process)
        return process
    yield call
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def said(err, pattern):
    """The lines that hold a pattern, whatever progress bars overwrote."""
    return [line for line in re.split(r"[\r\n]+", err) if re.search(pattern, line)]


def wait_for_an_epoch(path):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.with_name("best.pth").exists() and checkpoint.load(path)[1]["epoch"]:
            return
        time.sleep(0.1)


def resumes(path, tiny_data, monkeypatch, run_script):
    """Whether one process goes on with what several left."""
    def small():
        return LipUNet(channels=(16, 16, 16, 16), audio_width=16, dropout=0.0)

    monkeypatch.setattr(state, "LipUNet", small)
    monkeypatch.setattr(train.meter, "brief", lambda *_: "not measured")
    done = checkpoint.load(path)[1]["epoch"]
    result = run_script(
        "train", "--data", tiny_data, "--checkpoints", path.parent, "--device", "cpu",
        "--resume", "--epochs", done + 1)
    assert result.code == 0, result.err
    return checkpoint.load(path)[1]["epoch"] == done + 1 and not list(path.parent.glob("*.tmp"))


def test_two_processes_train_as_one(start, tiny_data, tmp_path, run_script):
    """The loss falls, all is written and said once, and the batches are those of one process."""
    note = f"""
rank = os.environ["RANK"]
draw = train.LipDataset.__getitems__
def noted(self, indices):
    if self.train:
        print(*indices, file=open({str(tmp_path)!r} + "/rank" + rank, "a"))
    return draw(self, indices)
train.LipDataset.__getitems__ = noted
"""
    process = start("--epochs", 4, "--batch-size", 8, change=note)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    saved = torch.load(tmp_path / "pair" / "last.pth", weights_only=True)
    losses = [row["train_loss"] for row in saved["history"]]
    assert losses[-1] < losses[0]
    assert saved["scheduler"]["step"] == 4 * 11
    once = (
        "device: cpu .*2 processes", "frames to train on", "epoch +1/4 ", "epoch +4 ",
        "lowest held-out")
    for pattern in once:
        assert len(said(err, pattern)) == 1, (pattern, err)
    drawn = []
    for rank in (0, 1):
        lines = (tmp_path / f"rank{rank}").read_text().splitlines()
        drawn.append([set(map(int, line.split())) for line in lines])
    assert len(drawn[0]) == len(drawn[1]) == 4 * 11
    for mine, others in zip(*drawn, strict=True):
        assert len(mine) == len(others) == 4
        assert not mine & others
    first_epoch = set().union(*drawn[0][:11], *drawn[1][:11])
    assert first_epoch == set(range(88))


def test_hearing_ends_early_in_all_of_them_by_the_first_ones_held_out_part(start, tmp_path):
    """That of the first rises, that of the other falls: 3 looks after the first, 3 steps more."""
    path = tmp_path / "base.pth"
    network = LipUNet(channels=(16, 16, 16, 16), audio_width=16, dropout=0.0)
    save_base(path, network, Discriminator(), torch.randn(20, 16, 192), "a test")
    note = f"""
from pathlib import Path
from utils.training import steps
train.BASE = Path({str(path)!r})
rank = int(os.environ["RANK"])
looks = []
def look(*_):
    looks.append(rank)
    return len(looks) * (1 - 2 * rank)
draw = train.LipDataset.draw_sounds
def noted(*arguments):
    print("heard", file=open({str(tmp_path)!r} + "/rank" + str(rank), "a"))
    return draw(*arguments)
train.held_out_hearing = look
steps.held_out_hearing = lambda *_: 0.5
train.LipDataset.draw_sounds = noted
train.HEARING_STEPS = 30
train.HEARING_CHECK_STEPS = train.HEARING_PATIENCE_STEPS = train.HEARING_COOLDOWN_STEPS = 1
"""
    process = start("--epochs", 3, change=note)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    for rank in (0, 1):
        assert (tmp_path / f"rank{rank}").read_text().count("heard") == 6
    assert checkpoint.load(tmp_path / "pair" / "last.pth")[1]["scheduler"]["heard"] == 30


def test_gradients_are_averaged(start, tmp_path):
    """After some steps on different pictures both processes have the same weights."""
    note = f"""
train_epoch = train.train_epoch
def noted(state, *arguments):
    train_epoch(state, *arguments)
    import torch
    torch.save((state.model.state_dict(), state.discriminator.state_dict()),
               {str(tmp_path)!r} + "/weights" + os.environ["RANK"])
train.train_epoch = noted
"""
    process = start("--epochs", 1, change=note)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    ours, theirs = (torch.load(tmp_path / f"weights{rank}") for rank in (0, 1))
    for a, b in zip(ours, theirs, strict=True):
        for name in a:
            if not name.endswith(("._u", "._v")):  # the power iterations of spectral_norm
                assert torch.allclose(a[name], b[name], atol=1e-6), name


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all(start, tiny_data, tmp_path, monkeypatch, rank, run_script):
    """Either is killed a while into training: nothing runs on, and the training goes on later."""
    note = f'open({str(tmp_path)!r} + "/" + os.environ["RANK"], "w").write(str(os.getpid()))'
    process = start("--epochs", "10000", change=note)
    last = tmp_path / "pair" / "last.pth"
    wait_for_an_epoch(last)
    numbers = [int((tmp_path / str(k)).read_text()) for k in (0, 1)]
    os.kill(numbers[rank], signal.SIGKILL)
    process.communicate(timeout=90)
    assert process.returncode
    assert not [number for number in numbers if os.path.exists(f"/proc/{number}")]
    assert resumes(last, tiny_data, monkeypatch, run_script)


@pytest.mark.parametrize(("change", "options", "message", "fails"), [
    ("", ("--max-minutes", "0.2", "--epochs", "10000"), "lowest held-out", False),
    ("train.PATIENCE_STEPS = train.COOLDOWN_STEPS = 1\n"
     "from utils.training import schedule\nschedule.has_stalled = lambda *_: True",
     (), "the last epoch is 4$", False),
    ("", ("--data", "missing"), "error: .*python preprocess.py", True),
    ("losses.landmark_loss = lambda predicted, _: predicted.mean() * float('nan')",
     (), "error: the loss", True),
    ("def full(*_): raise OSError(28, 'No space left')\ntrain.write_log = full",
     (), "error: No space left", True),
])
def test_all_end_together(start, change, options, message, fails):
    """Time is up, nothing is gained any more, or one or all meet an error: it is said once."""
    process = start("--batch-size", "44", *options, change=change)
    _, err = process.communicate(timeout=120)
    assert (process.returncode != 0) == fails
    assert len(said(err, message)) == 1, err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_told_to_end_ends_all(start, tiny_data, tmp_path, monkeypatch, how, run_script):
    """Ctrl-C, or a machine that is shut down: the training goes on later."""
    process = start("--epochs", "10000")
    last = tmp_path / "pair" / "last.pth"
    wait_for_an_epoch(last)
    process.send_signal(how)
    process.communicate(timeout=90)
    assert process.returncode
    assert resumes(last, tiny_data, monkeypatch, run_script)
