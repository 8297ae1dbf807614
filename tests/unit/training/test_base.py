"""The base: what is kept of it, what a training takes over, what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.messages import one_line

from models.discriminator import Discriminator
from models.unet import LipUNet
from utils.cli import UserError
from utils.contract import CONTRACT
from utils.training import base
from utils.training.steps import restrain


def make_model(seed):
    torch.manual_seed(seed)
    model = LipUNet()
    model.landmark_std.fill_(seed)
    model.landmark_pose_fit.fill_(seed)
    model.mel_mean.fill_(-seed)
    return model


def make_voices(count):
    """Features that move together, as those of speech do."""
    return torch.randn(count, 16, 10) @ torch.randn(10, 192)


@pytest.fixture
def saved(tmp_path):
    """A base file, and what it was made from."""
    model = make_model(3)
    discriminator = Discriminator()
    voices = make_voices(40)
    path = tmp_path / "folder" / "base.pth"
    base.save_base(path, model, discriminator, voices, "2 clips of 1 speaker")
    return path, model, discriminator, voices


def change(path, **entries):
    content = torch.load(path, weights_only=True)
    torch.save({**content, **entries}, path)


def test_a_training_takes_over_all_but_what_is_the_persons(saved):
    path, learned, discriminator, _ = saved
    model = make_model(5)
    loaded = base.load_base(path, LipUNet())
    base.start_from(loaded, model)
    assert model.landmark_std == 5
    assert (model.landmark_pose_fit == 5).all()
    assert (model.mel_mean == -3).all()
    for ours, theirs in zip(model.parameters(), learned.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())
    for name, tensor in discriminator.state_dict().items():
        assert torch.allclose(loaded["discriminator"][name], tensor, atol=1e-3)


def test_the_voices_come_back_nearly_as_they_were(saved):
    path, _, _, voices = saved
    found = base.load_base(path, LipUNet())["voices"]
    assert (found - voices).abs().max() < 0.02 * voices.abs().max()


def test_the_teacher_answers_for_sounds_between_two_voices(saved):
    """It stays as the base is while the network learns; no sound is one of the file's own."""
    path, learned, _, _ = saved
    student = make_model(5)
    loaded = base.load_base(path, LipUNet())
    loaded["voices"] = torch.stack([torch.zeros(16, 192), torch.ones(16, 192)])
    teacher = base.Teacher(loaded, student, torch.device("cpu"))
    with torch.no_grad():
        for weight in student.parameters():
            weight.zero_()
    features, landmarks = teacher.ask(50)
    assert features.shape == (50, 16, 192)
    assert landmarks.shape == (50, 130)
    share = features[:, 0, 0]
    assert (features == share[:, None, None]).all()
    assert len(share.unique()) > 20
    assert 0 <= share.min() < share.max() <= 1
    with torch.no_grad():
        expected = learned.eval().predict_landmarks(learned.audio_encoder(features))
    assert torch.allclose(landmarks, expected, atol=0.01)
    assert landmarks.std(dim=0).max() > 0.02


@pytest.mark.parametrize("share", [1, 0.5, 0])
def test_hearing_goes_back_to_the_base_as_far_as_the_held_out_part_likes(saved, share):
    """The held-out landmarks are what a network hears that lies so far from the base."""
    path = saved[0]
    student = make_model(5).eval()
    teacher = base.Teacher(base.load_base(path, LipUNet()), student, torch.device("cpu"))
    ours, theirs = student.state_dict(), teacher.network.state_dict()
    wanted = {
        name: torch.lerp(theirs[name], ours[name], float(share))
        if name.startswith(base.AUDIO_BRANCH) else ours[name]
        for name in ours}
    mel = np.random.default_rng(0).normal(-6, 2, (12, 64, 80)).astype(np.float32)
    between = make_model(5).eval()
    between.load_state_dict(wanted)
    with torch.no_grad():
        landmarks = between.predict_landmarks(between.encode_audio(torch.from_numpy(mel)))
    held = SimpleNamespace(
        clip=SimpleNamespace(mel_windows=mel),
        frames=np.arange(2, 12),
        norm=SimpleNamespace(landmarks=landmarks.numpy()))
    before = {name: value.clone() for name, value in ours.items()}
    found = restrain(teacher, student, held).state_dict()
    for name in ours:
        assert torch.allclose(found[name], wanted[name], atol=1e-6), name
        assert torch.equal(student.state_dict()[name], before[name]), name


def test_it_is_half_as_large_as_the_network(saved):
    path, model, discriminator, _ = saved
    parameters = [*model.parameters(), *discriminator.parameters()]
    assert path.stat().st_size < 2.2 * sum(map(torch.numel, parameters))


def test_another_network_is_refused(saved):
    with pytest.raises(UserError, match="down4") as error:
        base.load_base(saved[0], LipUNet(channels=(32, 48, 96, 104)))
    assert one_line(error)


def test_another_size_of_face_is_welcome_another_sound_is_not(saved):
    path = saved[0]
    change(path, contract={**CONTRACT, "face_size": 256})
    base.load_base(path, LipUNet())
    change(path, contract={**CONTRACT, "hop": 200})
    with pytest.raises(UserError, match="hop = 200") as error:
        base.load_base(path, LipUNet())
    assert one_line(error)


@pytest.mark.parametrize("damage", ["missing", "cut short", "no dict", "another SHA-256"])
def test_what_is_no_base_is_named_in_one_line(saved, damage, monkeypatch):
    path = saved[0]
    if damage == "missing":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "no dict":
        torch.save([1, 2], path)
    else:
        monkeypatch.setattr(base, "SHIPPED", path)
    with pytest.raises(UserError, match=r"base\.pth") as error:
        base.load_base(path, LipUNet())
    assert one_line(error)


def test_the_shipped_base_fits_the_network():
    """It is whole, small, and of the network and the sound as they are now."""
    loaded = base.load_base(base.SHIPPED, LipUNet())
    assert base.SHIPPED.stat().st_size < 6e6
    base.start_from(loaded, LipUNet())
    notice = (base.SHIPPED.parent / "NOTICE.md").read_text(encoding="utf-8")
    assert base.SHIPPED_SHA256 in notice
    assert f"{base.SHIPPED.stat().st_size:,} bytes" in notice
