"""utils.export: what it writes, that the ONNX file draws what PyTorch draws, what it refuses."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from helpers.messages import one_line

from models.unet import LipUNet
from models.warp import RIDGE, gaussian_kernel
from utils import contract, export
from utils.cli import UserError
from utils.dataset.clip import Clip, Inputs
from utils.face.landmarks import WARP_POINTS
from utils.training import checkpoint

SAVED = {"data": {"clip": "anna.mp4"}, "epoch": 7}


@pytest.fixture
def model(monkeypatch):
    """A small network that moves and mixes, as a checkpoint; its landmarks lie on a grid."""
    torch.manual_seed(0)
    model = LipUNet(channels=(16, 16, 16, 16), audio_width=32).eval()
    x, y = np.meshgrid(np.linspace(50, 118, 13), np.linspace(8, 76, 5))
    model.landmark_pose_fit[2] = torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1))
    for head in (model.to_weights, model.to_displacement):
        torch.nn.init.normal_(head.weight, std=0.05)
    monkeypatch.setattr(checkpoint, "load", lambda path: (model, SAVED))
    return model


@pytest.fixture
def run(tmp_path):
    """Run utils.export, writing to a folder that is not there yet; returns the path."""

    def call(output="net/easy.onnx"):
        export.main(export.parse_args(["--output", str(tmp_path / output)]))
        return tmp_path / output

    return call


@pytest.fixture
def stand_in(model, monkeypatch):
    """PyTorch as exporter and as onnxruntime, off by stand_in.off: each takes half a minute."""

    class Session:
        def __init__(self, network, providers):
            assert network == b"network"

        def run(self, names, feed):
            tensors = {name: torch.from_numpy(value) for name, value in feed.items()}
            return [value.detach().numpy() + state.off for value in model(**tensors)]

    state = types.SimpleNamespace(off=1e-5)
    runtime = types.SimpleNamespace(InferenceSession=Session)
    monkeypatch.setattr(export, "import_packages", lambda: runtime)
    monkeypatch.setattr(export, "to_onnx", lambda *_: b"network")
    return state


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_in_one_line(monkeypatch, run, tmp_path, missing):
    for name in ("onnxruntime", "onnxscript"):
        module = None if name == missing else types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(UserError, match=f"{missing}.*run: pip install onnxscript onnx") as error:
        run()
    assert one_line(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("off", [2e-3, np.nan, np.inf])
def test_a_file_that_draws_otherwise_is_not_left(stand_in, run, tmp_path, off):
    stand_in.off = off
    with pytest.raises(UserError, match=r"differs from PyTorch by .* nothing was") as error:
        run()
    assert one_line(error)
    assert not list(tmp_path.iterdir())


def test_another_shape_differs(model):
    """Of outputs that broadcast against each other too."""
    session = types.SimpleNamespace(run=lambda *_: [np.zeros((1, 3, 84, 168)), np.zeros((1, 1))])
    with torch.inference_mode():
        assert export.largest_difference(model, session) == np.inf


def test_the_json_says_what_to_feed(stand_in, run, tiny_data, capsys):
    path = run()
    assert path.read_bytes() == b"network"
    assert sorted(file.name for file in path.parent.iterdir()) == ["easy.json", "easy.onnx"]
    description = json.loads(path.with_suffix(".json").read_text())
    assert description["contract"] == contract.CONTRACT
    assert description["trained"] == {"clip": "anna.mp4", "epoch": 7}
    assert description["landmarks"] == list(WARP_POINTS)
    assert description["latency_ms"] == 355
    assert "4 i + 2 - 32 " in description["window"]
    assert "30%" in description["references"]
    assert "20%" in description["references"]
    assert capsys.readouterr().out == "largest difference from PyTorch: 1.0e-05\n"

    clip = Clip(tiny_data)
    frames = np.array([30, 40])
    real = clip.inputs(frames, clip.mel_windows[frames], clip.references())
    assert list(description["inputs"]) == ["reference", "points", "mel", "pose"]
    for name, value in real._asdict().items():
        described = description["inputs"][name]
        assert described["shape"] == ["batch", *value.shape[1:]]
        assert described["dtype"] == str(value.dtype).removeprefix("torch.")
    assert list(description["outputs"]) == ["lower", "landmarks"]
    assert description["outputs"]["lower"]["shape"] == ["batch", 3, 84, 168]
    assert description["outputs"]["landmarks"]["shape"] == ["batch", 130]


def test_examples_have_the_shapes_of_inputs(model):
    inputs = export.example(model, 3)
    assert isinstance(inputs, Inputs)
    shapes = [tuple(value.shape) for value in inputs]
    assert shapes == [(3, 2, 84, 168, 3), (3, 2, 65, 2), (3, 64, 80), (3, 2)]


def test_another_ending_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"should end in \.onnx; run: .*net\.onnx"):
        run("net.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["report.onnx", "Report.onnx"])
def test_the_report_of_the_training_is_not_overwritten(stand_in, run, tmp_path, name):
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match=r"report of utils\.evaluate; run: .*easy_human\.onnx") as e:
        run(name)
    assert one_line(e)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("spread", [0, 2, 20, 100])
def test_solve_is_as_good_as_linear_algebra(spread):
    """From points that coincide, the worst there is, to points far apart."""
    rng = torch.Generator().manual_seed(0)
    points = 84 + spread * torch.randn(3, 65, 2, generator=rng)
    matrix = gaussian_kernel(points, points, 168) + RIDGE * torch.eye(65)
    right = torch.randn(3, 65, 4, generator=rng)
    exact = torch.linalg.solve(matrix.double(), right.double())
    difference = (export.solve(matrix, right) - exact).abs().max()
    assert difference < 1e-3 * exact.abs().max()


@pytest.mark.slow
@torch.inference_mode()
def test_the_file_draws_what_pytorch_draws(model, run, tiny_data, capsys):
    """With other batch sizes than it was exported and checked with, of a real clip."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = run()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shapes = {tuple(given.shape[1:]) for given in session.get_inputs()}
    assert shapes == {(2, 84, 168, 3), (2, 65, 2), (64, 80), (2,)}
    clip = Clip(tiny_data)
    references = clip.references()
    for frames in (np.array([100]), np.arange(0, 140, 20)):
        inputs = clip.inputs(frames, clip.mel_windows[frames], references)
        feed = {name: value.numpy() for name, value in inputs._asdict().items()}
        exported = session.run(["lower", "landmarks"], feed)
        for ours, theirs in zip(model(*inputs), exported, strict=True):
            np.testing.assert_allclose(ours.detach().numpy(), theirs, atol=1e-3)
    out, err = capsys.readouterr()
    assert out.startswith("largest difference")
    assert len(out.splitlines()) == 1
    assert len(err.splitlines()) == 2
