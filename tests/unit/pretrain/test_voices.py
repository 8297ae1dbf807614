"""Batches drawn from many speakers."""

import itertools

import numpy as np
import pytest
import torch

from utils.dataset.batches import MOUTH_STD, Batch, LipDataset
from utils.face.landmarks import mouth_matrix
from utils.pretrain import __main__ as pretrain
from utils.pretrain.voices import VoiceDataset, mixed


def test_landmarks_are_normalised_clip_by_clip(voice):
    dataset = VoiceDataset(voice, train=True)
    first, second = np.split(dataset.norm.landmarks, 2)
    assert len(dataset.trained) == voice.track.valid.sum()
    assert np.abs(first - second).max() < 0.2  # it is moved in the frame, not in the aligned face
    mouth = first[voice.track.valid[:len(first)]] @ mouth_matrix()
    assert np.sqrt(mouth.var(axis=0).mean()) == pytest.approx(MOUTH_STD, rel=0.1)
    whole = LipDataset(voice, train=True).norm.landmarks
    assert np.abs(whole[:len(first)] - whole[len(first):]).max() > 1


def test_sounds_are_what_the_speakers_give(voice):
    """As many of each of the few speakers, with the landmarks of their own frames."""
    datasets = [VoiceDataset(voice, train=True) for _ in range(3)]
    for k, dataset in enumerate(datasets):
        dataset.norm = dataset.norm._replace(landmarks=np.full_like(dataset.norm.landmarks, k))

    def sounds(seed):
        return mixed(datasets, seed, lambda dataset: dataset.draw_sounds(4))

    seen = set()
    for mel, landmarks in itertools.islice(sounds(0), 12):
        assert mel.shape == (16, 64, 80)
        assert landmarks.shape == (16, 130)
        speakers = landmarks.unflatten(0, (4, 4))
        assert (speakers == speakers[:, :1, :1]).all()
        seen |= set(landmarks[:, 0].tolist())
    assert seen == {0, 1, 2}
    first, again, other = (next(sounds(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pictures_are_of_all_speakers(voice):
    datasets = [VoiceDataset(voice, train=True) for _ in range(3)]
    drawn = []

    def draw(dataset):
        drawn.append(datasets.index(dataset))
        return pretrain.draw_pictures(dataset)

    batch, *_ = (Batch(*parts) for parts in itertools.islice(mixed(datasets, 0, draw), 12))
    assert set(drawn) == {0, 1, 2}
    assert batch.lower_face.shape == (8, 84, 168, 3)
    again = next(mixed(datasets, 0, draw))
    assert torch.equal(batch.lower_face, Batch(*again).lower_face)
