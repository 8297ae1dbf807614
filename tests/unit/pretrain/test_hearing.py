"""A base is gone on with: first its hearing, then its drawing, the other being left as it is."""

import copy

import pytest
import torch

from utils.cli import UserError
from utils.pretrain import __main__ as pretrain
from utils.pretrain.voices import VoiceDataset
from utils.training.base import AUDIO_BRANCH, save_base
from utils.training.schedule import Rates, Schedule
from utils.training.steps import hearing_loss

CPU = torch.device("cpu")


@pytest.fixture
def dataset(voice, monkeypatch):
    """The speaker, and few sounds kept of them."""
    monkeypatch.setattr(pretrain, "KEPT_SOUNDS", 128)
    monkeypatch.setattr(pretrain, "SOUNDS", 64)
    return VoiceDataset(voice, train=True)


def loss_of(state, dataset):
    mel, real = next(pretrain.mixed_sounds([dataset], 7))
    with torch.inference_mode():
        landmarks = state.averaged.predict_landmarks(state.averaged.encode_audio(mel))
    return hearing_loss(landmarks, real).item()


def changed(state, before):
    """Names of the averaged network's weights that are not what they were."""
    after = state.averaged.state_dict()
    return {name for name in after if not torch.equal(after[name], before[name])}


def test_hearing_improves_then_drawing(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "EMA_DECAY", 0.9)
    new = pretrain.build([dataset], CPU)
    voices = pretrain.keep_voices(new.averaged, [dataset])
    path = tmp_path / "base.pth"
    save_base(path, new.averaged, new.discriminator, voices, "a test")

    state = pretrain.build([dataset], CPU, path)
    before = copy.deepcopy(state.averaged.state_dict())
    loss = loss_of(state, dataset)
    pretrain.train_hearing(state, [dataset], Schedule(1, 40, 0, Rates(1e-3, 1e-4, 5)))
    assert loss_of(state, dataset) < 0.9 * loss
    heard = changed(state, before)
    assert heard == {name for name in before if name.startswith(AUDIO_BRANCH)}

    before = copy.deepcopy(state.averaged.state_dict())
    judged = VoiceDataset(dataset.clip, train=False, max_frames=24)
    difference = pretrain.judge_drawing(state.averaged, judged, CPU)
    pretrain.train_drawing(state, [dataset], Schedule(1, 12, 0, Rates(1e-3, 1e-4, 2)))
    assert pretrain.judge_drawing(state.averaged, judged, CPU) < 0.95 * difference
    assert state.ema.n_averaged == 12  # of drawing alone: nothing of its first weights is kept
    drawn = changed(state, before)
    assert not drawn & heard
    assert {"stem.conv1.weight", "fuse.weight", "to_rgb.weight"} <= drawn


def test_a_base_that_is_missing_is_named(dataset, tmp_path):
    with pytest.raises(UserError, match=r"missing\.pth cannot be used .*No such file"):
        pretrain.build([dataset], CPU, tmp_path / "missing.pth")
