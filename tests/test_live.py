"""Sound that comes in chunks: the faces of the whole sound, each in time, with memory that does not grow."""

import contextlib
import re
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch

from conftest import ROOT
from models.unet import LipUNet
from test_audio import noise
from test_unet import network
from utils import audio, checkpoint, dataset, generate
from utils.contract import MIN_FRAMES

CPU = torch.device("cpu")
SIZES = {"10 ms": 160, "40 ms": 640, "333 ms": 5328, "1 s": 16000, "whole": 10 ** 9, "random": None}
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


def cut(sound, size):
    """Return the sound in chunks of so many samples, or of random ones, some of them empty."""
    if size is None:
        places = np.random.default_rng(1).integers(0, len(sound) + 1, 40)
        return np.split(sound, np.sort([*places, *places[::7]]))
    return [sound[k:k + size] for k in range(0, len(sound), size)]


@pytest.fixture(scope="module")
def footage(tiny_data):
    return dataset.Footage(tiny_data)


@pytest.fixture(scope="module")
def model():
    """A small network that moves and mixes, and keeps what it has drawn before that is rounded."""
    torch.manual_seed(0)
    model = LipUNet(channels=(8, 8, 8, 8), audio_width=32).eval()
    model.usual.copy_(network().usual)
    for head in (model.mix, model.flow):
        torch.nn.init.normal_(head.weight, std=0.05)
    model.drawn = []
    model.register_forward_hook(lambda _, __, output: model.drawn.append(output[0]))
    return model


@each_size
@pytest.mark.parametrize("samples", [0, 1, 320, 321, 400, 401, 640, 959, 961, 1600, 1601, 5679, 5680, 48000 + 321])
def test_mel_and_windows_are_those_of_the_whole_sound(samples, size):
    sound = noise(samples)
    frames = audio.frames_of(sound)
    mel = audio.log_mel(sound, frames)
    np.testing.assert_allclose(np.concatenate(list(audio.mel_stream(cut(sound, size)))), mel, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(list(audio.window_stream(cut(sound, size)))),
                               audio.windows(mel, range(frames)), atol=1e-5)


@pytest.fixture
def exact(monkeypatch):
    """Drawing in float32."""
    monkeypatch.setattr(generate.device, "autocast", lambda _: contextlib.nullcontext())


@pytest.fixture(scope="module")
def whole(footage, model):
    """What is drawn of a whole sound as inference.py does it: (sound, first source frame, source frames, faces, and
    those before rounding)."""
    sound, start = noise(20900), footage.frames - 10
    order = generate.pingpong(audio.frames_of(sound), footage.frames, start, *generate.turns(footage.track))
    heard = partial(audio.windows, audio.log_mel(sound, len(order)))
    model.drawn.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate.device, "autocast", lambda _: contextlib.nullcontext())
        faces = np.stack(list(generate.lowers(model, footage, footage.references(), order, heard, CPU)))
    return sound, start, order, faces, torch.cat(model.drawn)


@each_size
def test_faces_are_those_of_the_whole_sound(footage, model, whole, exact, size):
    """At the start, at the end, and where the footage turns."""
    sound, start, order, expected, drawn = whole
    model.drawn.clear()
    faces, sources = zip(*generate.live(model, footage, footage.references(), cut(sound, size), CPU, start),
                         strict=True)
    assert list(sources) == order.tolist() and len(set(sources)) > 20
    assert (torch.cat(model.drawn) - drawn).abs().max() < 1e-4
    assert np.abs(np.stack(faces).astype(int) - expected).max() <= 1
    assert faces[0].shape == (84, 168, 3) and faces[0].dtype == np.uint8


@pytest.fixture
def drawn_at_once(monkeypatch):
    """Faces that take no time."""
    monkeypatch.setattr(generate, "lowers", lambda model, footage, references, order, *_: order)


@each_size
def test_each_face_comes_no_later_than_stated_and_no_sooner_than_it_can(footage, drawn_at_once, size):
    sound, fed = noise(5 * 16000), [0]

    def spoken():
        for chunk in cut(sound, size):
            fed.append(fed[-1] + len(chunk))
            yield chunk

    latency = round(audio.LATENCY_MS * 16)
    assert audio.LATENCY_MS <= 400 and audio.LATENCY_MS == 355  # as the docstring of live() and the README have it
    for i, _ in enumerate(generate.live(None, footage, None, spoken(), CPU)):
        needed = min(640 * i + latency, len(sound))
        assert fed[-2] < needed <= fed[-1] or fed[-1] == needed, "with the chunk that brings the last sample needed"
    assert i == 124


@pytest.mark.parametrize(("short", "long"), [((640, 100), (640, 600)), ((80000, 1), (80000, 5)),
                                              ((80000, 1), (400000, 1))], ids=["small chunks", "large", "one"])
def test_memory_does_not_grow_with_the_speech(footage, short, long):
    """Chunks of so many samples, so many times."""
    def drawn(**inputs):
        return torch.zeros(len(inputs["mel"]), 3, 84, 168), None

    def peak(samples, count):
        chunks = [noise(samples)] * count
        tracemalloc.start()
        try:
            for _ in generate.live(drawn, footage, references, chunks, CPU):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    references = np.tile((0, MIN_FRAMES), (footage.frames, 1))
    peak(*short)  # what is loaded once is loaded
    assert peak(*long) < 1.1 * peak(*short)


def test_the_example_of_the_readme_runs(tiny_data, model, exact, monkeypatch, tmp_path):
    code, = re.findall(r"## Live.*?```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert 3 <= len(code.splitlines()) <= 8
    shown = []
    (tmp_path / "data").symlink_to(tiny_data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "load", lambda path: (model, {}) if path == "checkpoints/best.pth" else None)
    exec(code, {"chunks": cut(noise(16000), 640), "show": lambda *face: shown.append(face)})
    assert len(shown) == 25 and shown[0][0].shape == (84, 168, 3) and [n for _, n in shown] == list(range(25))
