"""Prepared speakers, opened for reading, and batches drawn from all of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from utils.dataset.batches import (
    Batch,
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


def mixed_batches(
    datasets: list[VoiceDataset], pictures: int, seed: int
) -> Iterator[Batch]:
    """Yield batches without end, each of a few speakers, who are drawn by the root of their frames:
    who has much footage does not outweigh all others.
    """
    rng = np.random.default_rng(seed)
    shares = np.sqrt([len(dataset) for dataset in datasets])
    shares = shares / shares.sum()
    each = pictures // SPEAKERS_PER_STEP
    step = 0
    while True:
        if step % STEPS_PER_DRAW == 0:
            for k, dataset in enumerate(datasets):
                dataset.set_epoch(seed, step, k)
        parts = []
        for k in rng.choice(len(datasets), SPEAKERS_PER_STEP, p=shares):
            frames = rng.integers(len(datasets[k]), size=each)
            parts.append(datasets[k].__getitems__(frames.tolist()))
        yield join(parts)
        step += 1


def join(parts: list[Batch]) -> Batch:
    """Batches as one: pictures before extra sounds in `landmarks`, as LipUNet predicts them."""
    pictures = [part.landmarks[:len(part.mel)] for part in parts]
    sounds = [part.landmarks[len(part.mel):] for part in parts]
    joined = Batch(*map(torch.cat, zip(*parts, strict=True)))
    return joined._replace(landmarks=torch.cat(pictures + sounds))
