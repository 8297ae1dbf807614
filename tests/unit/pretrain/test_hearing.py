"""A base is gone on with: its hearing improves, its drawing stays."""

import copy

import pytest
import torch

from models import losses
from utils.cli import UserError
from utils.face.landmarks import mouth_matrix
from utils.pretrain import __main__ as pretrain
from utils.pretrain.voices import VoiceDataset, mixed_batches
from utils.training.base import save_base
from utils.training.schedule import Rates, Schedule

CPU = torch.device("cpu")


@pytest.fixture
def dataset(voice, monkeypatch):
    """The speaker, and few sounds kept of them."""
    monkeypatch.setattr(pretrain, "KEPT_SOUNDS", 128)
    return VoiceDataset(voice, train=True, extra_sounds=16)


def hearing_loss(state, dataset):
    batch = next(mixed_batches([dataset], 0, 7))
    with torch.inference_mode():
        landmarks = state.averaged.predict_landmarks(state.averaged.encode_audio(batch.extra_mel))
    to_mouth = torch.from_numpy(mouth_matrix())
    return losses.landmark_and_mouth_loss(landmarks, batch.landmarks, to_mouth).item()


def test_hearing_improves_and_drawing_stays(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "EMA_DECAY", 0.9)
    new = pretrain.build([dataset], CPU)
    voices = pretrain.keep_voices(new.averaged, [dataset])
    path = tmp_path / "base.pth"
    save_base(path, new.averaged, new.discriminator, voices, "a test")

    state = pretrain.go_on(path, CPU)
    before = copy.deepcopy(state.averaged.state_dict())
    loss = hearing_loss(state, dataset)
    pretrain.train_hearing(state, [dataset], Schedule(1, 40, 0, Rates(1e-3, 1e-4, 5)))
    assert hearing_loss(state, dataset) < 0.9 * loss
    for name, weight in state.averaged.state_dict().items():
        heard = name.startswith(("audio_encoder", "landmark_head"))
        assert torch.equal(weight, before[name]) != (heard and weight.is_floating_point()), name


def test_a_base_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing\.pth does not exist"):
        pretrain.go_on(tmp_path / "missing.pth", CPU)
