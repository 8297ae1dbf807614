"""Sound that comes in chunks: the faces of the whole sound, each in time, in little memory."""

import contextlib
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.unet import Drawing, LipUNet
from utils import audio, generate, live
from utils.contract import MIN_FRAMES
from utils.dataset.clip import Clip
from utils.generate import Speaker, generate_lower_faces, pingpong, turning_points
from utils.live import generate_live
from utils.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SIZES = {
    "10 ms": 160, "40 ms": 640, "333 ms": 5328, "1 s": 16000, "whole": 10 ** 9, "random": None,
}
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


def noise(samples, seed=0):
    """Reproducible noise with a tone in it."""
    tone = np.sin(2 * np.pi * 440 * np.arange(samples) / 16000)
    hiss = np.random.default_rng(seed).standard_normal(samples)
    return (0.1 * hiss + 0.2 * tone).astype(np.float32)


def cut(sound, size):
    """The sound in chunks of `size` samples, or of random sizes, some of them empty."""
    if size is None:
        places = np.random.default_rng(1).integers(0, len(sound) + 1, 40)
        return np.split(sound, np.sort([*places, *places[::7]]))
    return [sound[k:k + size] for k in range(0, len(sound), size)]


@pytest.fixture(scope="module")
def clip(tiny_data):
    return Clip(tiny_data)


@pytest.fixture(scope="module")
def model():
    """A small network that moves and mixes, and keeps in .drawn its pictures before rounding."""
    torch.manual_seed(0)
    model = LipUNet(channels=(8, 8, 8, 8), audio_width=32).eval()
    x, y = np.meshgrid(np.linspace(0.3, 0.7, 13) * 168, np.linspace(0.1, 0.9, 5) * 84)
    grid = np.stack([x, y], axis=-1).reshape(-1)
    model.landmark_pose_fit[2] = torch.from_numpy(grid)
    for head in (model.to_weights, model.to_displacement):
        torch.nn.init.normal_(head.weight, std=0.05)
    model.drawn = []
    draw = model.draw

    def remembered(*inputs):
        drawing = draw(*inputs)
        model.drawn.append(drawing.picture)
        return drawing

    model.draw = remembered
    return model


@pytest.fixture(scope="module")
def speaker(model, clip):
    return Speaker(model, clip, clip.references(), CPU)


@pytest.fixture(scope="module")
def float32():
    """Drawing without mixed precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "autocast", lambda _: contextlib.nullcontext())
        yield


@each_size
@pytest.mark.parametrize(
    "samples", [0, 1, 320, 321, 400, 401, 640, 959, 961, 1600, 1601, 5679, 5680, 48000 + 321]
)
def test_mel_and_windows_are_those_of_the_whole_sound(samples, size):
    sound = noise(samples)
    frames = audio.count_frames(sound)
    mel = audio.log_mel(sound, frames)
    rows = np.concatenate(list(audio.mel_stream(cut(sound, size))))
    windows = np.concatenate(list(audio.window_stream(cut(sound, size))))
    np.testing.assert_allclose(rows, mel, atol=1e-5)
    np.testing.assert_allclose(windows, audio.MelWindows(mel)[range(frames)], atol=1e-5)


@pytest.fixture(scope="module")
def whole(speaker, float32):
    """What is drawn of a whole sound as inference.py does it: (sound, first source frame, source
    frames, faces, and those before rounding)."""
    sound = noise(20900)
    frames = speaker.clip.frames
    start = frames - 10
    count = audio.count_frames(sound)
    order = pingpong(count, frames, start, *turning_points(speaker.clip.track))
    windows = audio.MelWindows(audio.log_mel(sound, count))
    speaker.model.drawn.clear()
    faces = np.stack(list(generate_lower_faces(speaker, order, windows)))
    return sound, start, order, faces, torch.cat(speaker.model.drawn)


@each_size
def test_faces_are_those_of_the_whole_sound(speaker, whole, size):
    """At the start, at the end, and where the footage turns."""
    sound, start, order, expected, drawn = whole
    speaker.model.drawn.clear()
    pairs = generate_live(speaker, cut(sound, size), start)
    faces, sources = zip(*pairs, strict=True)
    assert list(sources) == order.tolist() and len(set(sources)) > 20
    difference = (torch.cat(speaker.model.drawn) - drawn).abs().max()
    assert difference < 0.1 / 255, "a tenth of a grey level: rounding"
    assert np.abs(np.stack(faces).astype(int) - expected).max() <= 1
    assert faces[0].shape == (84, 168, 3) and faces[0].dtype == np.uint8


@each_size
def test_each_face_comes_no_later_than_stated_and_no_sooner_than_it_can(
    speaker, size, monkeypatch
):
    monkeypatch.setattr(live, "generate_lower_faces", lambda speaker, order, *_: order)
    sound = noise(5 * 16000)
    fed = [0]  # samples, after each chunk

    def spoken():
        for chunk in cut(sound, size):
            fed.append(fed[-1] + len(chunk))
            yield chunk

    assert audio.LATENCY_MS == 355  # as the docstring of generate_live and the README have it
    latency = round(audio.LATENCY_MS * 16)
    for i, _ in enumerate(generate_live(speaker, spoken())):
        needed = min(640 * i + latency, len(sound))
        with_its_chunk = fed[-2] < needed <= fed[-1]
        assert with_its_chunk or fed[-1] == needed
    assert i == 124


@pytest.mark.parametrize(
    ("short", "long"),
    [((640, 100), (640, 600)), ((80000, 1), (80000, 5)), ((80000, 1), (400000, 1))],
    ids=["small chunks", "large", "one"],
)
def test_memory_does_not_grow_with_the_speech(clip, short, long):
    """short, long: samples of a chunk, and how many chunks come."""
    def draw(reference, points, target_points, audio_embedding, pose):
        return Drawing(torch.zeros(len(pose), 3, 84, 168), None, None, None)

    model = SimpleNamespace(
        encode_audio=lambda mel: mel,
        predict_landmarks=lambda audio_embedding: audio_embedding,
        landmarks_to_pixels=lambda landmarks, pose: pose,
        draw=draw,
    )
    references = np.tile((0, MIN_FRAMES), (clip.frames, 1))
    speaker = Speaker(model, clip, references, CPU)

    def peak(samples, count):
        chunks = [noise(samples)] * count
        tracemalloc.start()
        try:
            for _ in generate_live(speaker, chunks):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(*short)  # what is loaded once is loaded
    assert peak(*long) < 1.1 * peak(*short)


def test_the_example_of_the_readme_runs(tiny_data, model, float32, monkeypatch, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code, = re.findall(r"## Live.*?```python\n(.*?)```", readme, re.S)
    assert 3 <= len(code.splitlines()) <= 8
    shown = []
    (tmp_path / "data").symlink_to(tiny_data)
    monkeypatch.chdir(tmp_path)
    loaded = {"checkpoints/best.pth": (model, {})}
    monkeypatch.setattr(checkpoint, "load", lambda path: loaded[path])
    example = {"chunks": cut(noise(16000), 640), "show": lambda *face: shown.append(face)}
    exec(code, example)
    assert len(shown) == 25
    assert shown[0][0].shape == (84, 168, 3)
    assert [frame for _, frame in shown] == list(range(25))
