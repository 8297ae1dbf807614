"""Checkpoints from strangers, for inference and for --resume: refused in one line, or as good as
our own.
"""

import argparse
import io
import math
import random

import numpy as np
import pytest
import torch
from helpers import mutate
from torch.utils.data import DataLoader

import train
from models.unet import LipUNet
from utils.cli import UserError
from utils.dataset.batches import LipDataset, mouth_weight_maps
from utils.dataset.clip import Clip
from utils.generate import Speaker, generate_lower_faces
from utils.training import checkpoint, state
from utils.training.epoch_log import EpochLog
from utils.training.plots import write_log
from utils.training.schedule import Rates, Schedule
from utils.training.state import Progress, Settings, TrainState, build_model, make_checkpoint

CPU = torch.device("cpu")
ROW = {"epoch": 1, "train_loss": 0.04, "val_loss": 0.03, "lr": 1e-3}
CHANGES = 8
MORE_CHANGES = 200  # with -m slow
counts = pytest.mark.parametrize(
    "count", [CHANGES, pytest.param(MORE_CHANGES, marks=pytest.mark.slow)])
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def small():
    """Networks are small."""
    def build(**arguments):
        return LipUNet(**{"channels": (16, 16, 16, 16), "audio_width": 8, **arguments})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "LipUNet", build)
        yield


@pytest.fixture(scope="module")
def dataset(tiny_data):
    """The training part of the tiny clip, 8 frames of it."""
    dataset = LipDataset(Clip(tiny_data), train=True)
    dataset.frames = dataset.frames[:8]
    return dataset


@pytest.fixture(scope="module")
def content(small, dataset):
    """Bytes of a last.pth after a step of both networks."""
    torch.manual_seed(0)
    networks = TrainState(build_model(dataset), CPU, train.EMA_DECAY, train.WEIGHT_DECAY)
    networks.begin_drawing()
    maps = mouth_weight_maps(dataset, train.MOUTH_WEIGHT)
    schedule = Schedule(2, 1, 0, Rates(1e-3, 1e-6, 1))
    dataset.set_epoch(0)
    loader = DataLoader(dataset, 8, collate_fn=LipDataset.collate)
    train.train_epoch(networks, loader, maps, EpochLog(1, 8, schedule))
    progress = Progress(Settings(8, 1e-3, 3, 1), epoch=1, step=11, best=0.03, history=[ROW])
    file = io.BytesIO()
    torch.save(make_checkpoint(networks, progress, dataset.clip.meta), file)
    return file.getvalue()


def speak(path, dataset):
    """Draw one picture with a checkpoint, as inference.py does."""
    model, saved = checkpoint.load(path)
    clip = dataset.clip
    references = np.tile((0, 100), (clip.frames, 1))
    speaker = Speaker(model, clip, references, CPU)
    pictures = list(generate_lower_faces(speaker, np.array([50]), clip.mel_windows))
    assert pictures[0].shape == (84, 168, 3)
    assert saved["data"]["id"]
    assert saved["epoch"] >= 0


def resume(path, dataset):
    """Go on from a checkpoint for a step, as train.py does."""
    args = argparse.Namespace(
        checkpoints=str(path.parent), resume=True, epochs=None, batch_size=None, lr=None)
    networks, progress = train.build_or_resume(args, dataset, CPU)
    networks.begin_drawing()
    settings = progress.settings
    steps = math.ceil(len(dataset) / settings.batch_size)
    rates = Rates(settings.lr, train.FINAL_LR, train.WARMUP_STEPS)
    schedule = Schedule(settings.epochs, steps, progress.step, rates)
    assert 0 <= schedule.lr() < math.inf
    # a step with what was kept, without the long way there
    for optimizer in (networks.optimizer, networks.optimizer_d):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    write_log(path.parent, [*progress.history, ROW])
    content = make_checkpoint(networks, progress, dataset.clip.meta)
    checkpoint.save(path.with_name("written.pth"), content)


def changed(content: bytes, rng: random.Random) -> bytes:
    """Bytes of a checkpoint with something else in it: in what it says, or in its tensors."""
    how = rng.random()
    if how < 0.15:
        return mutate.bytes_of(content, rng)
    saved = torch.load(io.BytesIO(content), weights_only=True)
    part = rng.choice(list(saved))  # each as often: else the many tensors would take all
    nasty = [*mutate.NASTY, *mutate.tensors()]
    if how < 0.35:
        saved[part] = rng.choice(nasty)
    elif how < 0.5:
        saved["model"] = mutate.weights_of(saved["model"], rng)
    elif how < 0.65:
        saved["training"] = mutate.weights_of(saved["training"], rng)
    else:
        saved[part] = mutate.tree_of(saved[part], rng, nasty)
    file = io.BytesIO()
    torch.save(saved, file)
    return file.getvalue()


@counts
@pytest.mark.parametrize("use", [speak, resume])
def test_a_strange_checkpoint_works_or_is_refused_in_one_line(
        content, dataset, tmp_path, use, count):
    path = tmp_path / "last.pth"
    for k, rng in enumerate(mutate.generators(use.__name__, count)):
        path.write_bytes(changed(content, rng))
        try:
            use(path, dataset)
        except UserError as error:
            assert str(error).isprintable()
            assert "python train.py" in str(error)
        except Exception as error:
            raise AssertionError(f"change {k}") from error
    path.write_bytes(content)
    use(path, dataset)


