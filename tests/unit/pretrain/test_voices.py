"""Batches drawn from many speakers."""

import itertools

import numpy as np
import pytest
import torch

from utils.dataset.batches import MOUTH_STD, LipDataset
from utils.face.landmarks import mouth_matrix
from utils.pretrain.voices import VoiceDataset, join, mixed_batches


def test_landmarks_are_normalised_clip_by_clip(voice):
    dataset = VoiceDataset(voice, train=True)
    first, second = np.split(dataset.norm.landmarks, 2)
    assert len(dataset.trained) == voice.track.valid.sum()
    assert np.abs(first - second).max() < 0.2  # it is moved in the frame, not in the aligned face
    mouth = first[voice.track.valid[:len(first)]] @ mouth_matrix()
    assert np.sqrt(mouth.var(axis=0).mean()) == pytest.approx(MOUTH_STD, rel=0.1)
    whole = LipDataset(voice, train=True).norm.landmarks
    assert np.abs(whole[:len(first)] - whole[len(first):]).max() > 1


def test_a_batch_is_what_the_speakers_give(voice):
    """Pictures first, then extra sounds: as LipUNet predicts their landmarks."""
    dataset = VoiceDataset(voice, train=True, extra_sounds=3)
    dataset.set_epoch(1)
    parts = [dataset.__getitems__([k, k + 1]) for k in (0, 5)]
    batch = join(parts)
    assert batch.mel.shape == (4, 64, 80)
    assert batch.extra_mel.shape == (6, 64, 80)
    expected = [part.landmarks[:2] for part in parts] + [part.landmarks[2:] for part in parts]
    assert torch.equal(batch.landmarks, torch.cat(expected))


def test_all_speakers_are_seen(voice):
    datasets = [VoiceDataset(voice, train=True, extra_sounds=1) for _ in range(3)]
    seen = set()
    for k, dataset in enumerate(datasets):
        dataset.__getitems__ = lambda frames, k=k, own=dataset.__getitems__: (
            seen.add(k), own(frames))[1]
    batches = list(itertools.islice(mixed_batches(datasets, 8, seed=0), 12))
    assert seen == {0, 1, 2}
    assert batches[0].lower_face.shape == (8, 84, 168, 3)
    again = next(mixed_batches(datasets, 8, seed=0))
    assert torch.equal(batches[0].lower_face, again.lower_face)
