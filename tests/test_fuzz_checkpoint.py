"""Checkpoints from strangers, for inference and for --resume: refused in one line, or as good as our own."""

import argparse
import math
import shutil

import numpy as np
import pytest
import torch

import mutate
import train
from models.unet import LipUNet
from test_fuzz import fuzz, outcome
from utils import checkpoint, report
from utils.console import UserError
from utils.dataset import Footage, LipDataset, where_the_mouth_is
from utils.generate import lowers
from utils.schedule import Schedule

CPU = torch.device("cpu")
ROW = {"epoch": 1, "train": 0.04, "held_out": 0.03, "heard": 0.2, "lr": 1e-3, "pictures_per_s": 30.0, "seconds": 9.0}
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture(scope="module")
def prepared(tiny_data):
    """The tiny clip, opened, and its training part."""
    footage = Footage(tiny_data)
    return footage, LipDataset(footage, train=True)


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A folder with last.pth and best.pth of a small network after one step."""
    footage, dataset = prepared
    torch.manual_seed(0)
    weight, _, crop = where_the_mouth_is(dataset, train.MOUTH_WEIGHT)
    learner = train.Learner(LipUNet(channels=(16, 16, 16, 16), audio_width=8), weight, crop, CPU)
    rng = np.random.default_rng(0)
    learner.step(next(dataset.batches(2, rng)), dataset.sounds(2, rng), train.DISCRIMINATOR_FROM, 1e-3)
    folder = tmp_path_factory.mktemp("trained")
    content = train.pack_up(learner, {"step": 11, "epoch": 1, "best": 0.03, "history": [ROW]},
                            argparse.Namespace(batch_size=8, lr=1e-3, epochs=3), footage)
    checkpoint.save(folder / "last.pth", content)
    checkpoint.save(folder / "best.pth", {**content, "learner": {}})
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the checkpoints, to be damaged."""
    return shutil.copytree(trained, tmp_path / "checkpoints")


def arguments(folder):
    return argparse.Namespace(data="data", checkpoints=str(folder), resume=True, epochs=None, batch_size=None, lr=None)


def speak(folder, footage):
    """Draw one picture with best.pth, as inference.py does."""
    model, saved = checkpoint.load(folder / "best.pth")
    references = np.tile((0, 100), (footage.frames, 1))
    pictures = list(lowers(model, footage, references, np.array([50]), footage.windows, CPU))
    assert pictures[0].shape == (84, 168, 3) and saved["data"]["id"] and saved["epoch"] >= 0
    return saved


def resume(folder, prepared):
    """Go on from last.pth for a step, as train.py does."""
    footage, dataset = prepared
    args = arguments(folder)
    learner, _, state = train.begin(args, footage, dataset, CPU)
    schedule = Schedule(args.epochs, math.ceil(len(dataset.frames) / args.batch_size), state["step"],
                        (args.lr, train.FINAL_LR), train.WARMUP_STEPS)
    assert 0 <= schedule.rate() < math.inf
    for optimizer in (learner.optimizer, learner.judging):  # a step with what was kept, without the long way there
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    if state["history"]:
        report.log(folder, state["history"] + [ROW])
    checkpoint.save(folder / "written.pth", train.pack_up(learner, state, args, footage))


def pth_of(content, rng):
    """Return the bytes of a checkpoint with something else in it: in what it says, or in its tensors."""
    import io
    how = rng.random()
    if how < 0.15:
        return mutate.bytes_of(content, rng)
    saved = torch.load(io.BytesIO(content), weights_only=True)
    part = rng.choice(list(saved))  # each as often: else the many tensors would take all
    if how < 0.35:
        saved[part] = rng.choice([*mutate.NASTY, *mutate.tensors()])
    elif how < 0.5:
        saved[rng.choice(("model", "learner"))] = mutate.weights_of(saved["model"], rng)
    elif how < 0.65 and saved["learner"]:
        saved["learner"] = mutate.weights_of(saved["learner"], rng)
    else:
        saved[part] = mutate.tree_of(saved[part], rng, [*mutate.NASTY, *mutate.tensors()])
    file = io.BytesIO()
    torch.save(saved, file)
    return file.getvalue()


how_many = pytest.mark.parametrize("count", [8, pytest.param(400, marks=pytest.mark.slow)])


@how_many
def test_inference(folder, prepared, count):
    fuzz(folder / "best.pth", pth_of, "best", count, lambda: speak(folder, prepared[0]))


@how_many
def test_resume(folder, prepared, count):
    fuzz(folder / "last.pth", pth_of, "last", count, lambda: resume(folder, prepared))


def change(path, *keys, value):
    """Replace one value in a checkpoint."""
    saved = torch.load(path, weights_only=True)
    holder = saved
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    torch.save(saved, path)


@pytest.mark.parametrize(("keys", "value"), [
    (("scheduler", "step"), "x"), (("scheduler", "step"), -1), (("scheduler", "step"), True),
    (("scheduler",), {}), (("settings", "batch_size"), 0), (("settings", "batch_size"), 8.0),
    (("settings", "lr"), math.nan), (("settings", "lr"), "fast"), (("settings", "epochs"), None),
    (("history",), [1]), (("history",), [{}]), (("history",), [{**ROW, "x": 1}]), (("history",), [{**ROW, "lr": "x"}]),
    (("history",), [{**ROW, "train": math.nan}]), (("data",), {}), (("data", "clip"), 5), (("data", "id"), None),
    (("epoch",), -1), (("epoch",), True), (("best",), math.nan), (("best",), -1.0),
    (("model_args", "dropout"), 2), (("model_args", "references"), 3), (("model_args", "mels"), 81),
    (("model_args", "channels"), [8, 8, 8]), (("model_args", "channels"), [9, 9, 9, 9]), (("model_args", "x"), 1),
    (("model", "spread"), torch.tensor(math.nan)), (("model", "spread"), torch.tensor(1.0).double()),
    (("model", 5), torch.zeros(1)), (("model", "mel_mean"), torch.zeros(1).expand(80, 10 ** 9)),
    (("contract", "hop"), "two\nlines" * 1000)])
def test_values_that_cannot_be(folder, keys, value):
    change(folder / "best.pth", *keys, value=value)
    error = outcome(checkpoint.load, folder / "best.pth")
    assert isinstance(error, UserError) and "python train.py" in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize(("keys", "value"), [
    (("optimizer",), 5), (("optimizer", "state"), [1]), (("optimizer", "state", 0), {}),
    (("optimizer", "state", 10 ** 6), {}), (("optimizer", "state", 0, "step"), torch.tensor(math.nan)),
    (("judging", "state", 0, "exp_avg"), torch.zeros(3)), (("judging", "state", 1, "exp_avg_sq"), "x"),
    (("model", "spread"), torch.tensor(math.inf)), (("discriminator",), {}), (("discriminator",), None)])
def test_a_training_that_cannot_be(folder, prepared, keys, value):
    change(folder / "last.pth", "learner", *keys, value=value)
    error = outcome(resume, folder, prepared)
    assert isinstance(error, UserError) and "no training to go on with" in str(error)


@pytest.mark.parametrize("change_of", [{"lr": "x"}, {"betas": None}, {"fused": 7}, {"params": []}])
def test_settings_of_the_optimizer_are_ours(folder, prepared, change_of):
    """What a file says of rates, betas and the like is not taken over."""
    saved = torch.load(folder / "last.pth", weights_only=True)
    saved["learner"]["optimizer"]["param_groups"][0].update(change_of)
    torch.save(saved, folder / "last.pth")
    resume(folder, prepared)


@pytest.mark.parametrize(("name", "value"), [
    ("channels", [10 ** 9] * 4), ("channels", [8, 8, 8, 10 ** 6]), ("audio_width", 10 ** 9), ("points", 10 ** 9),
    ("mels", 10 ** 9), ("references", 10 ** 9)])
def test_a_network_that_would_fill_the_memory_is_not_built(folder, monkeypatch, name, value):
    change(folder / "best.pth", "model_args", name, value=value)
    monkeypatch.setattr(checkpoint, "LipUNet", None)
    assert isinstance(outcome(checkpoint.load, folder / "best.pth"), UserError)


def test_a_pickle_runs_no_code(tmp_path):
    """A file that would call a function when it is unpickled is refused, and the function is not called."""
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    torch.save({"model": Trap()}, tmp_path / "best.pth")
    assert isinstance(outcome(checkpoint.load, tmp_path / "best.pth"), UserError)
    assert not (tmp_path / "sprung").exists()
