"""The base: what is kept of it, what a training takes over, what is refused."""

import copy

import pytest
import torch
from helpers.messages import one_line

from models.unet import LipUNet
from utils.cli import UserError
from utils.contract import CONTRACT
from utils.training import base
from utils.training.state import TrainState

CPU = torch.device("cpu")


def make_state(seed, channels=(16, 16, 16, 16)):
    torch.manual_seed(seed)
    model = LipUNet(channels=channels, audio_width=8)
    model.landmark_std.fill_(seed)
    model.mel_mean.fill_(-seed)
    return TrainState(model, CPU, ema_decay=0.999, weight_decay=0.01)


@pytest.fixture
def saved(tmp_path):
    """A base file, and the state it was made from."""
    state = make_state(3)
    path = tmp_path / "folder" / "base.pth"
    base.save_base(path, state, "2 clips of 1 speaker")
    return path, state


def change(path, **entries):
    content = torch.load(path, weights_only=True)
    torch.save({**content, **entries}, path)


def test_a_training_takes_over_all_but_what_is_the_persons(saved):
    path, learned = saved
    state = make_state(5)
    base.start_from(base.load_base(path), state)
    assert state.model.landmark_std == state.averaged.landmark_std == 5
    assert (state.model.mel_mean == -3).all()
    for network in (state.model, state.averaged):
        for ours, theirs in zip(network.parameters(), learned.model.parameters(), strict=True):
            assert torch.equal(ours, theirs.half().float())
    found = state.discriminator.state_dict()
    for name, tensor in learned.discriminator.state_dict().items():
        assert torch.allclose(found[name], tensor, atol=1e-3)


def test_it_is_half_as_large_as_the_network(saved):
    path, state = saved
    parameters = [*state.model.parameters(), *state.discriminator.parameters()]
    assert path.stat().st_size < 3 * sum(map(torch.numel, parameters))


def test_another_network_is_refused_before_anything_changes(saved):
    state = make_state(5, channels=(16, 16, 16, 24))
    before = copy.deepcopy(state.model.state_dict())
    with pytest.raises(ValueError, match="down4"):
        base.start_from(base.load_base(saved[0]), state)
    assert all(torch.equal(before[name], tensor)
               for name, tensor in state.model.state_dict().items())


def test_another_size_of_face_is_welcome_another_sound_is_not(saved):
    path, _ = saved
    change(path, contract={**CONTRACT, "face_size": 256})
    base.load_base(path)
    change(path, contract={**CONTRACT, "hop": 200})
    with pytest.raises(UserError, match="hop = 200") as error:
        base.load_base(path)
    assert one_line(error)


@pytest.mark.parametrize("damage", ["missing", "cut short", "no dict", "another SHA-256"])
def test_what_is_no_base_is_named_in_one_line(saved, damage, monkeypatch):
    path, _ = saved
    if damage == "missing":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "no dict":
        torch.save([1, 2], path)
    else:
        monkeypatch.setattr(base, "SHIPPED", path)
    with pytest.raises(UserError, match=r"base\.pth") as error:
        base.load_base(path)
    assert one_line(error)


def test_the_shipped_base_fits_the_network():
    """It is whole, small, and of the network and the sound as they are now."""
    loaded = base.load_base(base.SHIPPED)
    assert base.SHIPPED.stat().st_size < 6e6
    base.start_from(loaded, TrainState(LipUNet(), CPU, ema_decay=0.999, weight_decay=0.01))
