"""Prepared speakers, opened for reading, and what is drawn from all of them."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.dataset.batches import (
    LandmarkNorm,
    LipDataset,
    mouth_unit,
    normalise_landmarks,
)
from utils.dataset.clip import Clip
from utils.storage import TRACK_ARRAYS, Track, reading

FEWEST_FRAMES = 25       # with a face, of a clip whose landmarks can be normalised by themselves
SPEAKERS_PER_STEP = 4    # whose pictures and sounds a step sees
STEPS_PER_DRAW = 500     # after which all speakers draw other references


class Voice(Clip):
    """A speaker of prepare(): a Clip without a meta.json, each of whose clips is a shot."""

    def __init__(self, folder: Path):
        self.data = folder
        with reading(folder), np.load(folder / "track.npz") as arrays:
            track = Track(**{name: arrays[name] for name in (*TRACK_ARRAYS, "cuts")})
            lower_faces = np.load(folder / "lower_faces.npy", mmap_mode="r")
            self._fill(track, lower_faces, np.load(folder / "mel.npy"))


class VoiceDataset(LipDataset):
    """All frames of a speaker: to train on (train=True), or fed as in use to judge by.

    Landmarks are normalised clip by clip: what else differs between recordings is not speech.
    """

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """All frames, for both."""
        every = np.arange(self.clip.frames)
        return every, every

    def normalised(self) -> LandmarkNorm:
        """Normalisation with a fit for each clip, and one unit for all clips of the speaker."""
        norm = normalise_landmarks(self.clip, self.trained)
        pixels = norm.std * norm.landmarks
        for first, stop in self.clip.track.shots():
            own = self.trained[(self.trained >= first) & (self.trained < stop)]
            if len(own) >= FEWEST_FRAMES:
                of_clip = normalise_landmarks(self.clip, own)
                pixels[first:stop] = (of_clip.std * of_clip.landmarks)[first:stop]
        std = mouth_unit(pixels[self.trained])
        return LandmarkNorm(norm.pose_fit, std, pixels / std)


def mixed(
    datasets: list[VoiceDataset], seed: int, draw: Callable[[VoiceDataset], tuple]
) -> Iterator[list[Tensor]]:
    """Yield without end what is drawn of a few speakers, joined. They are chosen by the root of
    their frames: who has much footage does not outweigh all others.
    """
    rng = np.random.default_rng(seed)
    shares = np.sqrt([len(dataset) for dataset in datasets])
    shares = shares / shares.sum()
    for step in itertools.count():
        if step % STEPS_PER_DRAW == 0:
            for k, dataset in enumerate(datasets):
                dataset.set_epoch(seed, step, k)
        few = rng.choice(len(datasets), SPEAKERS_PER_STEP, p=shares)
        drawn = [draw(datasets[k]) for k in few]
        yield [torch.cat(parts) for parts in zip(*drawn, strict=True)]
