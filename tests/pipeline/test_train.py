"""Training: falls, resumes to the same result, ends in time, survives interruption."""

import copy
import itertools
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import train
from models import losses
from models.discriminator import Discriminator
from models.unet import LipUNet
from utils.dataset.batches import LipDataset, mouth_weight_maps
from utils.dataset.clip import Clip
from utils.training import checkpoint, state
from utils.training.base import AUDIO_BRANCH, PERSONAL, load_base, save_base
from utils.training.epoch_log import EpochLog
from utils.training.schedule import Rates, Schedule
from utils.training.state import TrainState, build_model

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def small():
    """Training is a matter of moments: a small network, no report at its end."""
    def network():
        return LipUNet(channels=(16, 16, 16, 16), audio_width=16)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "LipUNet", network)
        patch.setattr(train.meter, "brief", lambda *_: "not measured")
        yield


@pytest.fixture
def run(tiny_data, tmp_path, monkeypatch, run_script):
    """Run train.py on the tiny clip with a checkpoints folder; returns its Result."""
    def call(*arguments, folder="checkpoints"):
        monkeypatch.setattr(train, "START", time.monotonic())
        return run_script(
            "train", "--data", tiny_data, "--device", "cpu",
            "--checkpoints", tmp_path / folder, *arguments)
    return call


@pytest.fixture(scope="module")
def one_epoch(small, tiny_data, tmp_path_factory, run_script):
    """A checkpoints folder after one epoch. A test that changes it copies it first."""
    folder = tmp_path_factory.mktemp("one") / "checkpoints"
    result = run_script(
        "train", "--data", tiny_data, "--device", "cpu", "--epochs", 1, "--checkpoints", folder)
    assert result.code == 0, result.err
    return folder


def read(path):
    return torch.load(path, weights_only=True)


def tensors_and_numbers(tree):
    """Yield what nested dicts and lists hold, in their order."""
    values = tree.values() if isinstance(tree, dict) else tree
    for value in values:
        if isinstance(value, dict | list | tuple):
            yield from tensors_and_numbers(value)
        else:
            yield value


def test_loss_falls_and_everything_is_written(run, tmp_path):
    """Four epochs bring the training loss down; checkpoints, preview, plot and log are there."""
    assert run("--epochs", 4).code == 0
    folder = tmp_path / "checkpoints"
    model, saved = checkpoint.load(folder / "best.pth")
    history = read(folder / "last.pth")["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    figures = [row["val_loss"] for row in history]
    assert figures[saved["epoch"] - 1] <= (1 + train.TOLERANCE_SHARE) * min(figures)
    assert not model.training
    found = {path.name for path in folder.iterdir()}
    assert {"preview.png", "loss.png", "log.csv", "best.pth", "last.pth"} <= found
    assert not list(folder.glob("*.tmp"))
    assert len((folder / "log.csv").read_text().splitlines()) == 5


@pytest.mark.slow
def test_resumed_training_equals_uninterrupted(run, tmp_path, monkeypatch):
    """Interrupted in the middle of epoch 2, then resumed: everything is bit-equal."""
    assert run("--epochs", 3, folder="whole").code == 0
    step, steps = train.optimizer_step, []

    def interrupted(*arguments):
        steps.append(arguments)
        if len(steps) == 25 + 17:  # hearing comes in 25s, drawing has 11 steps an epoch
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train, "optimizer_step", interrupted)
        assert run("--epochs", 3, folder="parts").code == 130
    assert read(tmp_path / "parts" / "last.pth")["epoch"] == 1
    assert run("--epochs", 3, "--resume", folder="parts").code == 0
    whole, parts = (read(tmp_path / name / "last.pth") for name in ("whole", "parts"))
    assert all(torch.equal(whole["model"][key], parts["model"][key]) for key in whole["model"])
    ours, theirs = (list(tensors_and_numbers(saved["training"])) for saved in (whole, parts))
    assert len(ours) == len(theirs) > 200
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b
    for row in whole["history"] + parts["history"]:
        del row["seconds"], row["pictures_per_s"]
    assert whole["history"] == parts["history"]
    assert whole["best"] == parts["best"]
    assert whole["scheduler"] == parts["scheduler"]


@pytest.mark.slow
def test_max_minutes_ends_in_time_with_the_rate_down(run, tmp_path):
    """With 20 seconds it stops within 20 seconds, learning rate at its end, checkpoint saved."""
    begun = time.monotonic()
    assert run("--epochs", 10_000, "--max-minutes", 1 / 3).code == 0
    assert time.monotonic() - begun < 23
    history = read(tmp_path / "checkpoints" / "last.pth")["history"]
    assert history
    assert history[-1]["lr"] < 3 * train.FINAL_LR


def test_a_new_training_keeps_the_old_one(run, one_epoch, tmp_path, monkeypatch):
    """Without --resume older checkpoints are moved to *.old.pth, and that is said."""
    folder = Path(shutil.copytree(one_epoch, tmp_path / "checkpoints"))
    old = read(folder / "last.pth")["model"]
    result = run("--epochs", 1, "--lr", 1e-4)
    assert result.code == 0
    assert "last.old.pth" in result.err
    kept = read(folder / "last.old.pth")["model"]
    assert all(torch.equal(old[key], kept[key]) for key in old)


@pytest.mark.parametrize("name", ["landmark_loss", "gradient_loss"])
def test_a_loss_that_is_not_finite_stops_and_names_the_step(run, tmp_path, monkeypatch, name):
    """Of hearing or drawing: the next command is named, and the checkpoints are from before it."""
    monkeypatch.setattr(losses, name, lambda predicted, *_: predicted.mean() * math.nan)
    result = run("--epochs", 1)
    assert result.code == 1
    assert re.search(r"at step 0 .*nan.*train\.py .*--resume --lr 0\.0002", result.err)
    model, saved = checkpoint.load(tmp_path / "checkpoints" / "last.pth")
    assert saved["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.slow
def test_resume_keeps_the_settings_it_is_not_given(run, tmp_path, monkeypatch):
    """Batch size, learning rate and epochs go on as they were."""
    path = tmp_path / "checkpoints" / "last.pth"
    run("--epochs", 3, "--batch-size", 4, "--lr", 2e-4, "--max-minutes", 0.02)
    first = read(path)
    assert first["epoch"] == 1
    assert run("--resume").code == 0
    done = read(path)
    expected = {"batch_size": 4, "lr": 2e-4, "epochs": 3, "seed": train.SEED}
    assert done["settings"] == first["settings"] == expected
    assert done["epoch"] == 3


@pytest.mark.slow
def test_a_short_clip_trains_for_more_epochs_unless_told(run, tmp_path, monkeypatch):
    """The tiny clip has 88 frames to train on: 11 steps of 8 pictures an epoch."""
    monkeypatch.setattr(train, "MIN_STEPS", 55)
    monkeypatch.setattr(train, "EPOCHS", 1)
    for options, epochs in (((), 5), (("--epochs", 2), 2), (("--batch-size", 100), 63)):
        run(*options, "--max-minutes", 0.01, folder=str(epochs))
        assert read(tmp_path / str(epochs) / "last.pth")["settings"]["epochs"] == epochs


def test_the_discriminator_learns_and_hearing_does_not(tiny_data):
    dataset = LipDataset(Clip(tiny_data), train=True)
    dataset.frames = dataset.frames[:8]
    torch.manual_seed(0)
    networks = TrainState(build_model(dataset), CPU, train.EMA_DECAY, train.WEIGHT_DECAY)
    networks.begin_drawing()
    maps = mouth_weight_maps(dataset, train.MOUTH_WEIGHT)
    dataset.set_epoch(1)
    loader = DataLoader(dataset, 8, collate_fn=LipDataset.collate)
    log = EpochLog(1, 8, Schedule(1, 1, 0, Rates(1e-3, 1e-6, 1)))
    learning = networks.discriminator.to_logits.bias, networks.model.to_rgb.bias
    kept = networks.model.audio_encoder.to_embedding.bias
    before = [bias.detach().clone() for bias in (*learning, kept)]
    train.train_epoch(networks, loader, maps, log)
    changed = [not torch.equal(*pair) for pair in zip((*learning, kept), before, strict=True)]
    assert changed == [True, True, False]


def test_other_voices_are_to_move_the_mouth_as_the_base_does_but_further(monkeypatch):
    """Without dropout a network that is still the base has nothing to learn of them at a gain of
    1, and something at the gain of train.py.
    """
    torch.manual_seed(0)
    model = state.LipUNet()
    start = {
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "discriminator": Discriminator().state_dict(),
        "voices": torch.randn(20, 16, 192),
    }
    networks = TrainState(model, CPU, train.EMA_DECAY, train.WEIGHT_DECAY, start)
    networks.model.eval()
    found = {}
    for gain in (1.0, train.VOICES_GAIN):
        monkeypatch.setattr(train, "VOICES_GAIN", gain)
        found[gain] = train.voices_loss(networks)
    assert found[1.0] < 1e-6
    assert found[train.VOICES_GAIN] > 1e-3
    found[train.VOICES_GAIN].backward()
    assert networks.model.landmark_head.weight.grad.abs().max() > 0
    assert all(weight.grad is None for weight in networks.teacher.network.parameters())


def audio_branch(network):
    return {name: value for name, value in network.items() if name.startswith(AUDIO_BRANCH)}


def test_it_hears_first_then_draws_with_the_restrained_hearing(run, tmp_path, monkeypatch):
    """Of hearing the features of the voices stay as they are; drawing changes nothing of it."""
    torch.manual_seed(1)
    path = tmp_path / "base.pth"
    save_base(path, state.LipUNet(), Discriminator(), torch.randn(20, 16, 192), "a test")
    monkeypatch.setattr(train, "BASE", path)
    heard = []

    def restrain(teacher, model, held):
        network = copy.deepcopy(model)
        torch.nn.init.constant_(network.landmark_head.bias, 7.0)
        heard.append((copy.deepcopy(model.state_dict()), network.state_dict()))
        return network

    monkeypatch.setattr(train, "restrain", restrain)
    result = run("--epochs", 2)
    assert result.code == 0, result.err
    begun = load_base(path, state.LipUNet())["model"]
    [(learned, kept)] = heard
    changed = {name for name in begun if not torch.equal(begun[name], learned[name])}
    changed -= set(PERSONAL)
    assert changed == {
        name for name in audio_branch(begun) if not re.search(r"\.(conv|norm)[12]\.", name)}
    last = read(tmp_path / "checkpoints" / "last.pth")
    for network in (last["model"], last["training"]["model"]):
        for name, value in audio_branch(network).items():
            assert torch.equal(value, kept[name]), name
    assert not torch.equal(last["model"]["to_rgb.weight"], kept["to_rgb.weight"])


def test_interrupted_while_it_hears_it_begins_again(run, tmp_path, monkeypatch):
    """--resume has nothing to go on with but the settings, and ends like an uninterrupted run."""
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_hearing", interrupted)
        assert run("--epochs", 1, "--lr", 2e-4, folder="parts").code == 130
    assert run("--resume", folder="parts").code == 0
    assert run("--epochs", 1, "--lr", 2e-4, folder="whole").code == 0
    whole, parts = (read(tmp_path / name / "last.pth") for name in ("whole", "parts"))
    assert whole["settings"] == parts["settings"]
    assert all(torch.equal(whole["model"][key], parts["model"][key]) for key in whole["model"])


def test_resume_refuses_another_base(run, tmp_path, monkeypatch):
    """Its features would be of other convolutions than those that the training has frozen."""
    for seed, more in ((1, ("--epochs", 1)), (2, ("--epochs", 2, "--resume"))):
        torch.manual_seed(seed)
        path = tmp_path / f"base{seed}.pth"
        save_base(path, state.LipUNet(), Discriminator(), torch.randn(20, 16, 192), "a test")
        monkeypatch.setattr(train, "BASE", path)
        result = run(*more)
    assert result.code == 1
    assert re.search(r"last\.pth was begun with another base than .*base2\.pth", result.err)


@pytest.mark.parametrize(("epochs", "most", "steps"), [
    (2, 11, []), (2, 1000, [11]), (3, 1000, [14]), (1000, 1000, [989])])
def test_resume_hears_what_more_epochs_allow(
        one_epoch, run, tmp_path, monkeypatch, epochs, most, steps):
    """As many as of drawing, above 25 a multiple of it; 11 were made."""
    shutil.copytree(one_epoch, tmp_path / "checkpoints")
    found = []

    def noted(*arguments):
        schedule = arguments[-2]
        found.append(schedule.epochs * schedule.steps_per_epoch - schedule.step)
        raise KeyboardInterrupt

    assert read(one_epoch / "last.pth")["scheduler"] == {"heard": 11, "step": 11}
    monkeypatch.setattr(train, "train_hearing", noted)
    monkeypatch.setattr(train, "HEARING_STEPS", most)
    run("--resume", "--epochs", epochs)
    assert found == steps


def test_hearing_has_a_share_of_the_minutes_and_no_more_steps_than_drawing(run, monkeypatch):
    """The tiny clip has 11 steps an epoch."""
    found = []

    def noted(*arguments):
        found.append(arguments[-2])
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_hearing", noted)
    run("--epochs", 5, "--max-minutes", 1)
    run("--epochs", 1000)
    steps = [schedule.epochs * schedule.steps_per_epoch for schedule in found]
    assert steps == [50, train.HEARING_STEPS]
    assert 0.9 * train.HEARING_SHARE < found[0].limit.minutes <= train.HEARING_SHARE
    assert found[1].limit.minutes is None


def test_hearing_ends_once_the_held_out_part_is_heard_no_better(run, tmp_path, monkeypatch):
    """After 4 looks without a new lowest loss and 3 more steps; it is then done for good."""
    step, rates = train.optimizer_step, []

    def counted(optimizer, loss, lr):
        rates.append(lr)
        return step(optimizer, loss, lr)

    path = tmp_path / "base.pth"
    save_base(path, state.LipUNet(), Discriminator(), torch.randn(20, 16, 192), "a test")
    monkeypatch.setattr(train, "BASE", path)
    monkeypatch.setattr(train, "restrain", lambda teacher, model, held: model)

    def flat(model, held):
        assert not model.training
        return next(losses)

    losses = iter([0.5, 0.4, 0.3, *[0.3] * 100])
    monkeypatch.setattr(train, "held_out_hearing", flat)
    monkeypatch.setattr(train, "HEARING_CHECK_STEPS", 1)
    monkeypatch.setattr(train, "HEARING_PATIENCE_STEPS", 4)
    monkeypatch.setattr(train, "HEARING_COOLDOWN_STEPS", 3)
    monkeypatch.setattr(train, "optimizer_step", counted)
    assert run("--epochs", 2).code == 0
    assert len(rates) == 6 + 3 + 22
    assert rates[8] < 0.5 * rates[6]
    assert read(tmp_path / "checkpoints" / "last.pth")["scheduler"]["heard"] == train.HEARING_STEPS
    assert run("--epochs", 3, "--resume").code == 0
    assert len(rates) == 6 + 3 + 33


def test_resume_refuses_other_data_and_finished_training(run, one_epoch, tmp_path):
    folder = Path(shutil.copytree(one_epoch, tmp_path / "checkpoints"))
    result = run("--epochs", 1, "--resume")
    assert result.code == 1
    assert re.search("1 epochs already.*--resume --epochs 2", result.err)
    saved = read(folder / "last.pth")
    saved["data"] = {"id": "other", "clip": "other.mp4"}
    checkpoint.save(folder / "last.pth", saved)
    result = run("--epochs", 2, "--resume")
    assert result.code == 1
    assert re.search(r"other\.mp4.*python train.py", result.err)


@pytest.mark.parametrize("damage", ["empty", "discriminator"])
def test_resume_refuses_what_holds_no_training(run, one_epoch, tmp_path, damage):
    """A best.pth put in place of last.pth, or damaged weights, are refused in one line."""
    folder = Path(shutil.copytree(one_epoch, tmp_path / "checkpoints"))
    saved = read(folder / "last.pth")
    if damage == "empty":
        saved["training"] = {}
    else:
        saved["training"]["discriminator"]["to_logits.bias"] = torch.zeros(5)
    checkpoint.save(folder / "last.pth", saved)
    result = run("--epochs", 2, "--resume")
    assert result.code == 1
    assert re.search(r"last\.pth holds no training to go on with.*python train.py", result.err)


def test_one_more_number_may_be_logged(run, one_epoch, tmp_path, monkeypatch):
    """A learner's own column goes to log.csv, the checkpoint loads, and training resumes."""
    shutil.copytree(one_epoch, tmp_path / "checkpoints")
    add = EpochLog.add

    def with_one_more(log, pictures, numbers):
        add(log, pictures, {**numbers, "my_number": 7.0})

    monkeypatch.setattr(EpochLog, "add", with_one_more)
    assert run("--epochs", 2, "--resume").code == 0
    checkpoint.load(tmp_path / "checkpoints" / "best.pth")
    log = (tmp_path / "checkpoints" / "log.csv").read_text().splitlines()
    assert log[0].endswith("my_number")
    assert log[2].endswith("7.0")


@pytest.mark.slow
def test_training_ends_early_with_the_rate_down(run, tmp_path, monkeypatch):
    """Once nothing gets better it says so and ends after the cooldown; --resume goes on."""
    # the first one is of the look before training begins
    figures = itertools.chain([9.0, 5.0, 4.0], itertools.repeat(4.5))

    def quick_epoch(state, loader, maps, log):
        for batch in loader:
            log.add(len(batch.lower_face), {"train_loss": 0.05})

    monkeypatch.setattr(train, "train_epoch", quick_epoch)
    monkeypatch.setattr(train, "write_preview", lambda *_: None)
    monkeypatch.setattr(train, "validate", lambda *_: next(figures))
    monkeypatch.setattr(train, "PATIENCE_STEPS", 2 * 3)
    monkeypatch.setattr(train, "COOLDOWN_STEPS", 2 * 4)
    path = tmp_path / "checkpoints" / "last.pth"
    result = run("--batch-size", 44)
    history = read(path)["history"]
    assert len(history) == read(path)["settings"]["epochs"] == 2 + 3 + 4
    assert history[-1]["lr"] < 2 * train.FINAL_LR < history[4]["lr"]
    said = re.findall(r"no lower for 3 epochs: .* the last epoch is 9$", result.err, re.M)
    assert len(said) == 1
    assert "9 epochs already" in run("--resume").err
    assert run("--resume", "--epochs", 12).code == 0
    assert len(read(path)["history"]) == read(path)["settings"]["epochs"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_at_a_random_moment_it_resumes(tiny_data, tmp_path, how, run_script):
    """A real process, interrupted or killed a while into training: what it leaves goes on."""
    options = ["--data", tiny_data, "--checkpoints", tmp_path, "--device", "cpu"]
    command = [sys.executable, ROOT / "train.py", *options, "--epochs", "6"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    last = tmp_path / "last.pth"
    while not (tmp_path / "best.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.1)  # not by loading: that would slow the training down tenfold
    while not checkpoint.load(last)[1]["epoch"] and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(np.random.default_rng(os.getpid()).uniform(0, 3))
    process.send_signal(how)
    try:
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()  # started in the background, it may ignore SIGINT
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert "Traceback" not in stderr
    done = checkpoint.load(last)[1]["epoch"]
    checkpoint.load(tmp_path / "best.pth")
    assert done >= 1
    result = run_script("train", *options, "--resume", "--epochs", done + 1, separate=True)
    assert result.code == 0, result.err
    assert checkpoint.load(last)[1]["epoch"] == done + 1
