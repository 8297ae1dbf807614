"""Checkpoints: written whole, and what is none is refused in one line."""

import math

import pytest
import torch
from helpers.messages import one_line
from helpers.mutate import set_at

from models.unet import LipUNet
from utils.cli import CheckpointError
from utils.contract import CONTRACT
from utils.training import checkpoint

SMALL = {"channels": [16, 16, 16, 16], "audio_width": 8}
ROW = {"epoch": 1, "train_loss": 0.04, "val_loss": 0.03}


def make_content(**model_args):
    """Content of a checkpoint of a small network."""
    model = LipUNet(**{**SMALL, **model_args})
    return {
        "model": model.state_dict(),
        "model_args": model.model_args,
        "training": {},
        "scheduler": {"heard": 5, "step": 11},
        "epoch": 1,
        "best": 0.03,
        "settings": {"batch_size": 8, "lr": 1e-3, "epochs": 3, "seed": 1},
        "contract": dict(CONTRACT),
        "history": [dict(ROW)],
        "base": True,
        "data": {"id": "abc", "clip": "clip.mp4"},
    }


def refusal(path):
    """The one-line message with which loading is refused; it names the next command."""
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    message = one_line(error)
    assert "python train.py" in message
    assert len(message) < 1000
    return message


def test_what_was_saved_is_loaded(tmp_path):
    content = make_content()
    checkpoint.save(tmp_path / "best.pth", content)
    model, saved = checkpoint.load(tmp_path / "best.pth")
    assert not model.training
    assert saved["history"] == [ROW]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, content["model"][name])
    assert [path.name for path in tmp_path.iterdir()] == ["best.pth"]


def test_one_number_more_in_the_history_is_welcome(tmp_path):
    content = make_content()
    content["history"] = [dict(ROW), {**ROW, "epoch": 2, "my_number": 0.5}]
    checkpoint.save(tmp_path / "best.pth", content)
    _, saved = checkpoint.load(tmp_path / "best.pth")
    assert saved["history"][1]["my_number"] == 0.5


@pytest.mark.parametrize("references", [1, 3])
def test_any_number_of_references_is_welcome(tmp_path, references):
    checkpoint.save(tmp_path / "best.pth", make_content(num_references=references))
    model, _ = checkpoint.load(tmp_path / "best.pth")
    assert model.model_args["num_references"] == references


@pytest.mark.parametrize("damage", ["missing", "text", "truncated", "list", "foreign keys"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "best.pth"
    if damage == "text":
        path.write_text("hello")
    elif damage == "list":
        torch.save([1, 2], path)
    elif damage == "foreign keys":
        torch.save({"state_dict": {}}, path)
    elif damage == "truncated":
        checkpoint.save(path, make_content())
        path.write_bytes(path.read_bytes()[:5000])
    refusal(path)


def test_a_training_that_has_not_finished_an_epoch_is_to_be_resumed(tmp_path):
    checkpoint.save(tmp_path / "last.pth", make_content())
    assert "--resume" in refusal(tmp_path / "best.pth")


def test_a_checkpoint_of_an_older_version_is_refused_with_the_command(tmp_path):
    content = make_content()
    del content["contract"]["version"]
    content["model"] = {"audio.layers.0.weight": torch.zeros(3)}
    checkpoint.save(tmp_path / "best.pth", content)
    assert "version" in refusal(tmp_path / "best.pth")


@pytest.mark.parametrize(("keys", "value"), [
    (("scheduler", "step"), "x"),
    (("scheduler", "heard"), -1),
    (("scheduler", "step"), -1),
    (("scheduler", "step"), True),
    (("scheduler",), {}),
    (("settings", "batch_size"), 0),
    (("settings", "batch_size"), 8.0),
    (("settings", "lr"), math.nan),
    (("settings", "lr"), "fast"),
    (("settings", "epochs"), None),
    (("settings",), {"batch_size": 8, "lr": 1e-3, "epochs": 3, "seed": 1, "more": 1}),
    (("history",), [1]),
    (("history",), [{}]),
    (("history",), 7),
    (("history",), [{**ROW, "lr": "x"}]),
    (("history",), [{**ROW, "train_loss": math.nan}]),
    (("data",), {}),
    (("data", "clip"), 5),
    (("data", "id"), None),
    (("epoch",), -1),
    (("epoch",), True),
    (("best",), math.nan),
    (("best",), -1.0),
    (("training",), None),
    (("model_args", "dropout"), 2),
    (("model_args", "mels"), 81),
    (("model_args", "num_landmarks"), 10**9),
    (("model_args", "channels"), [8, 8, 8]),
    (("model_args", "channels"), [9, 9, 9, 9]),
    (("model_args", "x"), 1),
    (("model_args",), {"channels": "many"}),
    (("model", "landmark_std"), torch.tensor(math.nan)),
    (("model", "landmark_std"), torch.tensor(1.0).double()),
    (("model", "pose_encoder.weight"), torch.zeros(3, 3)),
    (("model", 5), torch.zeros(1)),
    (("model", "mel_mean"), torch.zeros(1).expand(80, 10**9)),
    (("contract", "hop"), "two\nlines" * 1000),
    (("contract", "hop"), 200),
    (("contract",), 5),
])
def test_values_that_cannot_be_are_refused(tmp_path, keys, value):
    content = make_content()
    set_at(content, keys, value)
    torch.save(content, tmp_path / "best.pth")
    refusal(tmp_path / "best.pth")


@pytest.mark.parametrize(("name", "value"), [
    ("channels", [10**9] * 4),
    ("channels", [8, 8, 8, 10**6]),
    ("audio_width", 10**9),
    ("mels", 10**9),
    ("num_references", 10**9),
])
def test_a_network_that_would_fill_the_memory_is_not_built(tmp_path, monkeypatch, name, value):
    content = make_content()
    content["model_args"][name] = value
    torch.save(content, tmp_path / "best.pth")
    monkeypatch.setattr(checkpoint, "LipUNet", None)
    refusal(tmp_path / "best.pth")


def test_a_pickle_runs_no_code(tmp_path):
    """A file that would call a function when it is unpickled is refused, and does not call it."""
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    torch.save({"model": Trap()}, tmp_path / "best.pth")
    refusal(tmp_path / "best.pth")
    assert not (tmp_path / "sprung").exists()


def test_an_earlier_training_is_kept_and_said(tmp_path, capsys):
    for name in ("best", "last"):
        (tmp_path / f"{name}.pth").write_text(name)
    checkpoint.keep_earlier(tmp_path)
    assert (tmp_path / "best.old.pth").read_text() == "best"
    assert (tmp_path / "last.old.pth").read_text() == "last"
    said = capsys.readouterr().err
    assert "last.old.pth and" in said
    (tmp_path / "last.pth").write_text("unfinished")
    checkpoint.keep_earlier(tmp_path)
    assert (tmp_path / "last.pth").read_text() == "unfinished"
