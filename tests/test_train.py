"""Training: falls, resumes to the same result, ends in time, survives interruption."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from models.unet import LipUNet
from utils import checkpoint
from utils.console import UserError
from utils.dataset import Footage, LipDataset, where_the_mouth_is
from utils.schedule import Schedule

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tiny_data, tmp_path, monkeypatch):
    """Call train.main() in process with the tiny clip and a fresh checkpoints folder."""
    torch.set_num_threads(2)

    def call(*arguments, folder="checkpoints"):
        monkeypatch.setattr(train, "START", time.monotonic())
        monkeypatch.setattr(sys, "argv", ["train.py", "--data", str(tiny_data), "--device", "cpu",
                                          "--checkpoints", str(tmp_path / folder), *map(str, arguments)])
        train.main()
        return tmp_path / folder
    return call


@pytest.fixture(scope="module")
def one_epoch(tiny_data, tmp_path_factory):
    """A checkpoints folder after one epoch. A test that changes it copies it first."""
    folder = tmp_path_factory.mktemp("one") / "checkpoints"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", "--data", str(tiny_data), "--device", "cpu", "--epochs", "1",
                                    "--checkpoints", str(folder)])
        train.main()
    return folder


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def test_loss_falls_and_everything_is_written(run):
    """Four epochs bring the training loss down; both checkpoints, preview, plot and log are there."""
    folder = run("--epochs", 4)
    model, saved = checkpoint.load(folder / "best.pth")
    history = torch.load(folder / "last.pth", weights_only=True)["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["train"] < 0.8 * history[0]["train"]
    chosen = [row["held_out"] for row in history if row["epoch"] == saved["epoch"]][0]
    assert chosen <= (1 + train.TOLERANCE) * min(row["held_out"] for row in history)
    assert not model.training
    assert {"preview.png", "loss.png", "log.csv", "best.pth", "last.pth"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*.tmp"))
    assert len((folder / "log.csv").read_text().splitlines()) == 5


def flat(state):
    """Yield the tensors and numbers in nested dicts and lists."""
    for value in state.values() if isinstance(state, dict) else state:
        if isinstance(value, (dict, list, tuple)):
            yield from flat(value)
        else:
            yield value


@pytest.mark.slow
def test_resumed_training_equals_uninterrupted(run, monkeypatch):
    """Interrupted after epoch 1 in the middle of epoch 2, then resumed: bit-equal weights, optimizers and history."""
    monkeypatch.setattr(train, "DISCRIMINATOR_FROM", 3)
    whole = run("--epochs", 3, folder="whole")
    step, numbers = train.Learner.step, []

    def interrupted(self, batch, sounds, number, rate):
        numbers.append(number)
        if len(numbers) == 20:
            raise KeyboardInterrupt
        return step(self, batch, sounds, number, rate)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.Learner, "step", interrupted)
        run("--epochs", 3, folder="parts")
    parts = run("--epochs", 3, "--resume", folder="parts")
    a, b = (torch.load(folder / "last.pth", weights_only=True) for folder in (whole, parts))
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
    learnt = [list(flat(content["learner"])) for content in (a, b)]
    assert len(learnt[0]) == len(learnt[1]) > 200
    assert all(torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in zip(*learnt, strict=True))
    for rows in (a["history"], b["history"]):
        for row in rows:
            del row["seconds"], row["pictures_per_s"]
    assert a["history"] == b["history"] and a["best"] == b["best"] and a["scheduler"] == b["scheduler"]


@pytest.mark.slow
def test_max_minutes_ends_in_time_with_the_rate_down(run):
    """With 20 seconds it stops within 20 seconds, learning rate at its end, checkpoint saved."""
    begun = time.monotonic()
    folder = run("--epochs", 10_000, "--max-minutes", 1 / 3)
    assert time.monotonic() - begun < 23
    history = torch.load(folder / "last.pth", weights_only=True)["history"]
    assert history[-1]["lr"] < 3 * train.FINAL_LR
    assert len(history) >= 1


def test_learning_rate_warms_up_peaks_and_ends_low():
    schedule = Schedule(10, 1000, 0, (1e-3, train.FINAL_LR), train.WARMUP_STEPS)
    rates = []
    while not schedule.over():
        rates.append(schedule.rate())
        schedule.advance(0.1)
    assert len(rates) == 10_000
    assert rates[0] <= 1e-5
    assert max(rates) == pytest.approx(1e-3, rel=0.01)
    assert rates[-1] == pytest.approx(train.FINAL_LR, rel=0.1)
    assert np.argmax(rates) < 0.05 * len(rates)


def test_a_new_training_keeps_the_old_one(run, capsys, one_epoch, tmp_path):
    """Without --resume older checkpoints are moved to *.old.pth, and that is said."""
    folder = Path(shutil.copytree(one_epoch, tmp_path / "checkpoints"))
    old = weights(folder / "last.pth")
    run("--epochs", 1, "--lr", 1e-4)
    assert "last.old.pth" in capsys.readouterr().err
    kept = weights(folder / "last.old.pth")
    assert all(torch.equal(old[key], kept[key]) for key in old)


def test_a_loss_that_is_not_finite_stops_and_names_the_step(run, monkeypatch, tmp_path):
    """The step is named with the next command, and the checkpoints are from before it."""
    monkeypatch.setattr(train, "landmark_loss", lambda predicted, real: predicted.mean() * math.nan)
    with pytest.raises(UserError, match=r"nan.* at epoch 1, step 0.*--resume --lr"):
        run("--epochs", 1)
    model, saved = checkpoint.load(tmp_path / "checkpoints" / "last.pth")
    assert saved["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.slow
def test_resume_keeps_the_settings_it_is_not_given(run):
    """Batch size, rate and epochs go on as they were; a new batch size keeps the place in the schedule."""
    folder = run("--epochs", 3, "--batch-size", 4, "--lr", 2e-4, "--max-minutes", 0.02)
    first = torch.load(folder / "last.pth", weights_only=True)
    assert first["epoch"] == 1
    run("--resume")
    done = torch.load(folder / "last.pth", weights_only=True)
    assert done["settings"] == first["settings"] == {"batch_size": 4, "lr": 2e-4, "epochs": 3, "seed": train.SEED}
    assert done["epoch"] == 3


@pytest.mark.parametrize("damage", ["empty", "discriminator"])
def test_resume_refuses_what_holds_no_training(run, one_epoch, tmp_path, damage):
    """A best.pth put in place of last.pth, or damaged weights, are refused in one line."""
    folder = Path(shutil.copytree(one_epoch, tmp_path / "checkpoints"))
    saved = torch.load(folder / "last.pth", weights_only=True)
    if damage == "empty":
        saved["learner"] = {}
    else:
        saved["learner"]["discriminator"]["verdict.bias"] = torch.zeros(5)
    checkpoint.save(folder / "last.pth", saved)
    with pytest.raises(UserError, match=r"last\.pth holds no training to go on with.*python train.py"):
        run("--epochs", 2, "--resume")


def test_a_short_clip_trains_for_more_epochs_unless_told(run, monkeypatch):
    """The tiny clip has 88 frames to train on: 11 steps of 8 pictures an epoch."""
    monkeypatch.setattr(train, "LEAST_STEPS", 55)
    monkeypatch.setattr(train, "EPOCHS", 1)
    for options, epochs in (((), 5), (("--epochs", 2), 2), (("--batch-size", 100), 63)):
        folder = run(*options, "--max-minutes", 0.01, folder=f"{epochs}")
        assert torch.load(folder / "last.pth", weights_only=True)["settings"]["epochs"] == epochs


def test_the_discriminator_waits_and_the_average_follows(tiny_data, monkeypatch):
    """Before its step the discriminator does not change, from it on it does; the average stays behind the weights."""
    monkeypatch.setattr(train, "DISCRIMINATOR_FROM", 1)
    torch.manual_seed(0)
    dataset, rng = LipDataset(Footage(tiny_data), train=True), np.random.default_rng(0)
    weight, _, crop = where_the_mouth_is(dataset, train.MOUTH_WEIGHT)
    learner = train.Learner(LipUNet(), weight, crop, torch.device("cpu"))
    batch, sounds = next(dataset.batches(4, rng)), dataset.sounds(8, rng)
    judge, old = learner.discriminator.verdict.bias, learner.model.paint.weight.detach().clone()
    before = judge.detach().clone()
    learner.step(batch, sounds, 0, 1e-3)
    assert torch.equal(judge, before)
    learner.step(batch, sounds, 1, 1e-3)
    assert not torch.equal(judge, before)
    new, averaged = learner.model.paint.weight, learner.averaged.paint.weight
    assert 0 < (averaged - old).norm() < (new - old).norm()


def test_the_mouth_is_found_where_the_lips_are(tiny_data):
    """The crop is 56 x 104 inside the picture, even if lips lie at its edge; both maps have mean 1."""
    dataset = LipDataset(Footage(tiny_data), train=True)
    lips = dataset.footage.track["lips"]
    for move in (0, -40, 40):
        dataset.footage.track["lips"] = lips + move
        weight, judged, (rows, columns) = where_the_mouth_is(dataset, train.MOUTH_WEIGHT)
        assert weight.mean() == pytest.approx(1) and judged.mean() == pytest.approx(1)
        assert (rows.stop - rows.start, columns.stop - columns.start) == (56, 104)
        assert rows.start >= 0 and rows.stop <= 84 and columns.start >= 0 and columns.stop <= 168
        if not move:
            y, x = np.unravel_index(judged.argmax(), judged.shape)
            assert np.hypot(*(lips.reshape(-1, 2).mean(axis=0) - (x, y + 84))) < 3


def test_resume_refuses_other_data_and_finished_training(run, one_epoch, tmp_path):
    folder = Path(shutil.copytree(one_epoch, tmp_path / "checkpoints"))
    with pytest.raises(UserError, match="1 epochs already.*--resume --epochs 2"):
        run("--epochs", 1, "--resume")
    saved = torch.load(folder / "last.pth", weights_only=True)
    saved["data"] = {"id": "other", "clip": "other.mp4"}
    checkpoint.save(folder / "last.pth", saved)
    with pytest.raises(UserError, match=r"other\.mp4.*python train.py"):
        run("--epochs", 2, "--resume")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_at_a_random_moment_it_resumes(tiny_data, tmp_path, how):
    """A real process, interrupted or killed a while into training, leaves what loads and goes on."""
    command = [sys.executable, "train.py", "--data", tiny_data, "--checkpoints", tmp_path, "--device", "cpu"]
    process = subprocess.Popen([*command, "--epochs", "1000"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    saved = tmp_path / "last.pth"
    while not (saved.exists() and checkpoint.load(saved)[1]["epoch"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(np.random.default_rng(os.getpid()).uniform(0, 3))
    process.send_signal(how)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert "Traceback" not in stderr
    done = checkpoint.load(tmp_path / "last.pth")[1]["epoch"]
    checkpoint.load(tmp_path / "best.pth")
    assert done >= 1
    command += ["--resume", "--epochs", str(done + 1)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert checkpoint.load(tmp_path / "last.pth")[1]["epoch"] == done + 1


@pytest.mark.parametrize("damage", [
    "missing", "text", "truncated", "list", "foreign keys", "contract", "shape", "args"])
def test_a_bad_checkpoint_is_refused_in_one_line(tmp_path, damage, one_epoch):
    """Whatever is wrong with a checkpoint file, the error is ours and names the next command."""
    path = tmp_path / "best.pth"
    if damage == "text":
        path.write_text("hello")
    elif damage == "list":
        torch.save([1, 2], path)
    elif damage == "foreign keys":
        torch.save({"state_dict": {}}, path)
    elif damage != "missing":
        shutil.copy(one_epoch / "best.pth", path)
        saved = torch.load(path, weights_only=True)
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:5000])
        elif damage == "contract":
            torch.save({**saved, "contract": {**saved["contract"], "hop": 200}}, path)
        elif damage == "shape":
            torch.save({**saved, "model": {**saved["model"], "pose.weight": torch.zeros(3, 3)}}, path)
        else:
            torch.save({**saved, "model_args": {"channels": "many"}}, path)
    with pytest.raises(UserError) as error:
        checkpoint.load(path)
    assert "python train.py" in str(error.value) and "\n" not in str(error.value)
