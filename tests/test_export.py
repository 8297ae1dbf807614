"""utils.export: what it writes, that the ONNX file draws what PyTorch draws, and that no other is left."""

import json
import sys
import types

import numpy as np
import pytest
import torch

from conftest import one_line
from models.unet import LipUNet, near
from test_unet import network
from utils import checkpoint, contract, export, face
from utils.console import UserError
from utils.dataset import Footage

SAVED = {"data": {"clip": "anna.mp4"}, "epoch": 7}


@pytest.fixture
def model(monkeypatch):
    """A small network that moves and mixes, as a checkpoint."""
    torch.manual_seed(0)
    model = LipUNet(channels=(16, 16, 16, 16), audio_width=32).eval()
    model.usual.copy_(network().usual)
    for head in (model.mix, model.flow):
        torch.nn.init.normal_(head.weight, std=0.05)
    monkeypatch.setattr(checkpoint, "load", lambda path: (model, SAVED))
    return model


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run utils.export in process, writing to a folder that is not there yet."""
    def call(output="net/easy.onnx"):
        monkeypatch.setattr(sys, "argv", ["export", "--output", str(tmp_path / output)])
        export.main()
        return tmp_path / output
    return call


@pytest.fixture
def played(model, monkeypatch):
    """PyTorch in the part of the exporter and of onnxruntime, off by played.off: each alone takes half a minute."""
    class Session:
        def __init__(self, network, *_, **__):
            assert network == b"network"

        def run(self, names, fed):
            return [value.detach().numpy() + state.off for value in
                    model(**{name: torch.from_numpy(value) for name, value in fed.items()})]

    state = types.SimpleNamespace(off=1e-5)
    ort = types.SimpleNamespace(InferenceSession=Session, SessionOptions=types.SimpleNamespace)
    monkeypatch.setattr(export, "packages", lambda: ort)
    monkeypatch.setattr(export, "to_onnx", lambda *_: b"network")
    return state


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_in_one_line(monkeypatch, run, tmp_path, missing):
    for name in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else types.ModuleType(name))
    with pytest.raises(UserError, match=f"{missing}.*run: pip install onnxscript onnxruntime$") as error:
        run()
    assert one_line(error) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("off", [2e-3, np.nan, np.inf])
def test_a_file_that_draws_otherwise_is_not_left(played, run, tmp_path, off):
    played.off = off
    with pytest.raises(UserError, match="differs from PyTorch by .* nothing was written") as error:
        run()
    assert one_line(error) and not list(tmp_path.iterdir())


def test_the_json_tells_what_to_feed(played, run, tiny_data, capsys):
    path = run()
    assert path.read_bytes() == b"network"
    assert sorted(file.name for file in path.parent.iterdir()) == ["easy.json", "easy.onnx"]
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["contract"] == contract.CONTRACT and told["landmarks"] == face.CARRIED and told["latency_ms"] == 355
    footage = Footage(tiny_data)
    real = footage.inputs([30, 40], footage.windows(np.array([30, 40])), footage.references())
    assert {name: [["batch", *value.shape[1:]], str(value.dtype)[6:]] for name, value in real.items()} == \
        {name: [value["shape"], value["dtype"]] for name, value in told["inputs"].items()}
    assert told["outputs"]["lower"]["shape"] == ["batch", 3, 84, 168]
    assert told["outputs"]["landmarks"]["shape"] == ["batch", 130]
    assert "4 i + 2 - 32 " in told["window"] and "30%" in told["references"] and "20%" in told["references"]
    out = capsys.readouterr().out
    assert "largest difference from PyTorch: 1.0e-05" in out and out.count("onnxruntime") == 2


def test_another_ending_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"should end in \.onnx; run: .*net\.onnx"):
        run("net.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spread", [0, 2, 20, 100])
def test_solve_is_as_good_as_linear_algebra(spread):
    """From points that coincide, the worst there is, to points far apart."""
    rng = torch.Generator().manual_seed(0)
    points = 84 + spread * torch.randn(3, 65, 2, generator=rng)
    matrix = near(points, points, 168) + export.RIDGE * torch.eye(65)
    right = torch.randn(3, 65, 4, generator=rng)
    exact = torch.linalg.solve(matrix.double(), right.double())
    assert (export.solve(matrix, right) - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.slow
@torch.inference_mode()
def test_the_file_draws_what_pytorch_draws(model, run, tiny_data, capsys):
    """With other batch sizes than it was exported and checked with, of a real clip."""
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    path = run()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    footage = Footage(tiny_data)
    references = footage.references()
    assert {tuple(i.shape[1:]) for i in session.get_inputs()} == {(2, 84, 168, 3), (2, 65, 2), (64, 80), (2,)}
    for frames in (np.array([100]), np.arange(0, 140, 20)):
        inputs = footage.inputs(frames, footage.windows(frames), references)
        drawn = session.run(["lower", "landmarks"], {name: value.numpy() for name, value in inputs.items()})
        for ours, theirs in zip(model(**inputs), drawn, strict=True):
            np.testing.assert_allclose(ours.detach().numpy(), theirs, atol=1e-3)
    out, err = capsys.readouterr()
    assert "largest difference" in out and len(out.splitlines()) == 3 and len(err.splitlines()) == 2
