"""The state of a training: its average, and what a checkpoint restores."""

import copy
import math
from pathlib import Path

import pytest
import torch
from helpers.mutate import set_at

from models.discriminator import Discriminator
from models.unet import LipUNet
from utils.cli import CheckpointError
from utils.storage import Meta, Source
from utils.training.state import Settings, TrainState, restore

CPU = torch.device("cpu")
META = Meta(150, "abc", (64, 64), Source("clip.mp4", 1, 1.0, "0"), 0, [], 1)
SETTINGS = Settings(batch_size=8, lr=1e-3, epochs=3, seed=1)


def make_state():
    """A small state after one step of each optimizer."""
    torch.manual_seed(0)
    model = LipUNet(channels=(16, 16, 16, 16), audio_width=8)
    state = TrainState(model, CPU, ema_decay=0.999, weight_decay=0.01)
    step(state)
    return state


def step(state):
    """One step of both optimizers with gradients of ones."""
    for optimizer in (state.optimizer, state.optimizer_d):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    state.ema.update_parameters(state.model)


def saved_by(state):
    return {
        "training": copy.deepcopy(state.state_dict()),
        "scheduler": {"heard": 5, "step": 11},
        "settings": {"batch_size": 8, "lr": 1e-3, "epochs": 3, "seed": 1},
        "epoch": 1,
        "best": 0.03,
        "history": [],
        "data": {"id": "abc", "clip": "clip.mp4"},
    }


def test_a_restored_state_makes_the_same_next_step():
    state = make_state()
    other = TrainState(copy.deepcopy(state.averaged), CPU, 0.999, 0.01)
    progress = restore(other, SETTINGS, saved_by(state), Path("last.pth"), META)
    assert (progress.epoch, progress.step, progress.best) == (1, 11, 0.03)
    state.ema.n_averaged.fill_(11)
    step(state)
    step(other)
    for network in ("model", "averaged", "discriminator"):
        ours = getattr(state, network).state_dict()
        theirs = getattr(other, network).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), network


def test_another_batch_size_keeps_the_place_in_the_schedule():
    state = make_state()
    settings = Settings(batch_size=4, lr=1e-3, epochs=3, seed=1)
    assert restore(state, settings, saved_by(state), Path("last.pth"), META).step == 22


def test_the_average_stays_behind_the_weights():
    state = make_state()
    old = state.model.to_rgb.weight.detach().clone()
    step(state)
    new = state.model.to_rgb.weight
    averaged = state.averaged.to_rgb.weight
    assert 0 < (averaged - old).norm() < (new - old).norm()
    assert not state.averaged.training
    assert not averaged.requires_grad


@pytest.mark.parametrize(("keys", "value"), [
    (("optimizer",), 5),
    (("optimizer",), [1]),
    (("optimizer", 0), {}),
    (("optimizer", 10**6), {}),
    (("optimizer", 0, "step"), torch.tensor(math.nan)),
    (("optimizer_d", 0, "exp_avg"), torch.zeros(3)),
    (("optimizer_d", 1, "exp_avg_sq"), "x"),
    (("model", "landmark_std"), torch.tensor(math.inf)),
    (("discriminator",), {}),
    (("discriminator",), None),
])
def test_a_training_that_cannot_be_is_refused(keys, value):
    state = make_state()
    saved = saved_by(state)
    set_at(saved["training"], keys, value)
    with pytest.raises(CheckpointError, match=r"last\.pth holds no training to go on with"):
        restore(state, SETTINGS, saved, Path("last.pth"), META)


def test_a_best_checkpoint_holds_no_training():
    state = make_state()
    with pytest.raises(CheckpointError, match=r"no training to go on with.*python train\.py"):
        restore(state, SETTINGS, {**saved_by(state), "training": {}}, Path("last.pth"), META)


def test_a_training_on_another_clip_is_refused():
    state = make_state()
    saved = {**saved_by(state), "data": {"id": "other", "clip": "other.mp4"}}
    with pytest.raises(CheckpointError, match=r"was trained on other\.mp4, but the data is of"):
        restore(state, SETTINGS, saved, Path("last.pth"), META)


def test_with_a_base_it_is_the_teacher_and_the_features_of_its_voices_stay():
    """The convolutions that made the features of the voices do not learn; all else does."""
    torch.manual_seed(0)
    model = LipUNet(channels=(16, 16, 16, 16), audio_width=8)
    discriminator = Discriminator().state_dict()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    voices = torch.randn(6, 16, 192)
    base = {"model": weights, "voices": voices, "discriminator": discriminator}
    state = TrainState(model, CPU, ema_decay=0.999, weight_decay=0.01, base=base)
    found = state.discriminator.state_dict()
    assert all(torch.equal(found[name], value) for name, value in discriminator.items())
    fixed = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert {name.split(".")[1] for name in fixed} == {"conv1", "norm1", "conv2", "norm2"}
    assert state.teacher.ask(4)[0].shape == (4, 16, 192)
