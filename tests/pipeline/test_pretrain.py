"""utils.pretrain on clips of two speakers, and a training that starts from what it made."""

import copy

import pytest
import torch
from helpers.messages import error_line

import train
from models.unet import LipUNet
from utils.training.base import load_base


@pytest.fixture
def clips(tiny_clip, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("anna_1.mp4", "ben_1.mp4"):
        (folder / name).symlink_to(tiny_clip)
    return folder


def test_a_speaker_who_is_not_there_cannot_be_left_out(run_script, clips):
    result = run_script("utils.pretrain", clips, "--leave-out", "carl")
    assert "there is no such speaker; expected some of anna, ben" in error_line(result)
    result = run_script("utils.pretrain", clips, "--leave-out", "anna", "ben")
    assert "add clips of other speakers" in error_line(result)


@pytest.mark.slow
def test_a_base_is_learned_and_trained_from(run_script, clips, tiny_data, tmp_path, monkeypatch):
    """Its figures are printed, and train.py begins with its weights."""
    path = tmp_path / "base.pth"
    learn = ("utils.pretrain", clips, "--output", path, "--minutes", 0.3, "--leave-out", "ben")
    result = run_script(*learn, separate=True)
    assert result.code == 0, result.err
    assert "1 clips of 1 speakers" in result.err
    ben, mean = (line.split() for line in result.out.splitlines())
    assert (ben[0], mean[0]) == ("ben", "mean")
    assert -1 <= float(mean[2]) <= 1

    monkeypatch.setattr(train, "BASE", path)
    words = ("--data", tiny_data, "--checkpoints", tmp_path / "net", "--max-minutes", 0.01)
    begun = []

    def note(state, *_):
        begun.append(copy.deepcopy(state.model.state_dict()))
        return {}

    monkeypatch.setattr(train, "make_checkpoint", note)
    monkeypatch.setattr(train, "train_epoch", lambda *_: 1 / 0)  # only the start is looked at
    with pytest.raises(ZeroDivisionError):
        run_script("train", *words)
    weights = load_base(path, LipUNet())["model"]
    name = "audio_encoder.gru.weight_ih_l0"
    assert torch.equal(begun[0][name], weights[name])
