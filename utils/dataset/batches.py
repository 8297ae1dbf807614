"""The held-out split, and batches of what the network is fed and what is wanted of it."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.cli import DataError
from utils.contract import (
    FACE_SIZE,
    FPS,
    LOWER_HEIGHT,
    LOWER_TOP,
    MEL_FLOOR,
    N_MELS,
    REFERENCE_GAP_FRAMES,
)
from utils.dataset import augment
from utils.dataset.clip import Clip
from utils.dataset.references import evenly_spaced
from utils.face.landmarks import mouth_matrix
from utils.shots import seconds_of
from utils.usable_frames import spoken_frames

HELD_OUT_SHARE = 0.10      # of the clip, its last part that will do, that is never trained on
HELD_OUT_USABLE = 0.8      # of its frames at least may be judged by ...
HELD_OUT_SPOKEN = 0.2      # ... and at least so many are spoken in, or an earlier part is taken
GUARD_FRAMES = FPS         # between training and held-out part, in neither: neighbours look alike
REST_QUANTILE = 0.2        # of opening: frames at most as open are shown where silence is heard
MOUTH_STD = 2.2            # of opening and width in normalised landmarks: then most are about 1
LEAST_MEL_STD = 0.1        # a band that hardly changes is not blown up beyond this
LEAST_SPREAD_PX = FACE_SIZE / 42  # least size of the region that counts as the mouth
CROP_HEIGHT = LOWER_HEIGHT * 2 // 3 // 8 * 8  # 56 rows that the discriminator sees, halved thrice
CROP_WIDTH = FACE_SIZE * 5 // 8 // 8 * 8      # 104 columns


class Batch(NamedTuple):
    """What one step of drawing or validation needs; B pictures."""

    reference: Tensor        # (B, 2, 84, 168, 3) uint8 RGB   } input of the network:
    points: Tensor           # (B, 2, 65, 2) float32 px       } see utils.dataset.clip.Inputs
    mel: Tensor              # (B, 64, 80) float32            }
    pose: Tensor             # (B, 2) float32                 }
    target_points: Tensor    # (B, 65, 2) float32: the real landmarks, px of the lower half
    lower_face: Tensor       # (B, 84, 168, 3) uint8 RGB: the real picture

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What LipUNet.forward gets, in its order, to draw at the real landmarks."""
        return self.reference, self.points, self.mel, self.pose, self.target_points


class LandmarkNorm(NamedTuple):
    """Normalisation of the landmarks: what head pose does to them is taken out."""

    pose_fit: np.ndarray     # (3, 130) float32: px by [turn, nod, 1]
    std: float               # px of a normalised landmark of 1
    landmarks: np.ndarray    # (N, 130) float32: (px - [turn, nod, 1] @ pose_fit) / std


class MouthMaps(NamedTuple):
    """Where the mouth of a clip is."""

    train_weight: Tensor           # (84, 168) float32, mean 1: the mouth counts more
    val_weight: Tensor             # (84, 168) float32, mean 1: only the mouth counts
    crop: tuple[slice, slice]      # 56 rows, 104 columns that the discriminator sees


def split(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers of the training part and of the held-out part of a clip.

    Held out is the last stretch that can be judged by, of the take that is rendered: nearly all of
    its frames are usable, and somebody speaks. That is the end of the clip, if there is none.
    """
    frames = clip.meta.shown_frames
    length = max(round(HELD_OUT_SHARE * frames), min(2 * FPS, frames // 4))
    usable = clip.track.usable[:frames]
    spoken = spoken_frames(clip.mel, clip.track.usable)[:frames]
    fits = _shares(usable, length) >= HELD_OUT_USABLE
    fits &= _shares(spoken, length) >= HELD_OUT_SPOKEN
    fitting = np.flatnonzero(fits)
    first = fitting[-1] if len(fitting) else frames - length
    stop = first + length
    every = np.arange(clip.frames)
    apart = (every < first - GUARD_FRAMES) | (every >= stop + GUARD_FRAMES)
    return every[apart], every[first:stop]


def _shares(flags, length):
    """Share of True in each stretch of that length, by its first frame."""
    sums = np.cumsum(np.pad(flags, (1, 0)))
    return (sums[length:] - sums[:-length]) / length


class LipDataset(Dataset):
    """The training part (train=True) or the held-out part of a clip, for a DataLoader with
    collate_fn=LipDataset.collate.

    In training each epoch draws other references and augments the sound; some samples hear only
    silence and are shown a closed mouth. The held-out part is fed as in use: sound as recorded,
    references as inference chooses them.

    max_frames: evenly spaced, all if None.
    Raises DataError if the clip is too short to be trained on.
    """

    def __init__(
        self,
        clip: Clip,
        train: bool,
        max_frames: int | None = None,
    ):
        self.clip = clip
        self.train = train
        usable = clip.track.usable & clip.track.valid
        trained, held = self.parts()
        self.trained = trained[usable[trained]]
        held = held[usable[held]]
        if len(self.trained) < 2 * REFERENCE_GAP_FRAMES + 1 or not len(held):
            cut = "" if usable.all() else (
                f"; nothing can be learned from {seconds_of(~usable)}: cut that out")
            raise DataError(
                f"{clip.data} has {len(self.trained)} frames to train on and {len(held)} to judge "
                f"by, too few (best are 2-5 minutes){cut}", video="LONGER_VIDEO")
        frames = self.trained if train else held
        self.frames = evenly_spaced(frames, max_frames or len(frames))
        self.norm = self.normalised()
        openings = clip.track.opening[self.trained]
        self.at_rest = self.trained[openings <= np.quantile(openings, REST_QUANTILE)]
        self.rng = np.random.default_rng()
        self.references = np.empty((0, 2), np.int64)
        if not train:
            self.references = clip.references()

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Frame numbers to train on and held out, before those without a face are left out."""
        return split(self.clip)

    def normalised(self) -> LandmarkNorm:
        """Normalisation of the landmarks."""
        return normalise_landmarks(self.clip, self.trained)

    def set_epoch(self, *seed: int):
        """Draw the references of an epoch, and seed its augmentation."""
        self.rng = np.random.default_rng(seed)
        in_training_part = np.zeros(self.clip.frames, bool)
        in_training_part[self.trained] = True
        self.references = self.clip.references(in_training_part, self.rng)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Batch of the frames at these indices: DataLoader asks for a whole batch at once."""
        frames = self.frames[indices]
        if not self.train:
            return self._batch(frames, self.clip.mel_windows[frames])
        frames, windows = self._augmented_windows(frames)
        batch = self._batch(frames, windows)
        light = augment.random_light(len(frames), self.rng)
        return batch._replace(
            reference=augment.relight(batch.reference, light[:, None]),
            lower_face=augment.relight(batch.lower_face, light),
            pose=augment.disturb_pose(batch.pose, self.rng))

    def draw_sounds(self, count: int) -> tuple[Tensor, Tensor]:
        """Augmented log-mel windows (count, 64, 80) at random, and the normalised landmarks
        (count, 130) that belong to them.
        """
        frames, mel = self._augmented_windows(self.rng.choice(self.trained, count))
        return torch.from_numpy(mel), torch.from_numpy(self.norm.landmarks[frames])

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """The batch as it is: __getitems__ has put it together."""
        return batch

    def mel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (80,) of each mel band over the training part."""
        mel = self.clip.mel.reshape(self.clip.frames, -1)[self.trained].reshape(-1, N_MELS)
        std = np.maximum(mel.std(axis=0), LEAST_MEL_STD)
        return torch.from_numpy(mel.mean(axis=0)), torch.from_numpy(std)

    def _batch(self, frames, windows):
        inputs = self.clip.inputs(frames, windows, self.references)
        return Batch(
            *inputs,
            target_points=torch.from_numpy(self.clip.points[frames]),
            lower_face=torch.from_numpy(self.clip.lower_faces[frames]))

    def _augmented_windows(self, frames):
        """Frames and their augmented mel windows; some are silent, and frames at rest take their
        place.
        """
        rng = self.rng
        frames = frames.copy()
        silent = rng.random(len(frames)) < augment.SILENT_SHARE
        frames[silent] = rng.choice(self.at_rest, silent.sum())
        windows = self.clip.mel_windows[frames]
        changed = rng.random(len(frames)) >= augment.AS_RECORDED_SHARE
        windows[changed] = augment.augment_mel(windows[changed], rng)
        windows[silent] = augment.noise_floor(windows[silent].shape, rng, *augment.SILENCE_LOG)
        return frames, np.maximum(windows, np.float32(np.log(MEL_FLOOR)))


def normalise_landmarks(clip: Clip, trained: np.ndarray) -> LandmarkNorm:
    """Normalisation of the clip's landmarks, fitted to the frame numbers `trained`.

    The linear fit on head pose knows opening and width of the mouth too: else a pose that trembles
    with the mouth would take over the mouth's part. The unit is the person's movement of the mouth:
    among all landmarks what is left of head pose counts more, and differs from film to film.
    """
    frames = clip.frames
    points = clip.points.reshape(frames, -1).astype(np.float64)                  # (N, 130)
    pose = np.column_stack([clip.track.pose, np.ones(frames)])                   # (N, 3)
    mouth = clip.track.mouth - clip.track.mouth[trained].mean(axis=0)            # (N, 2)
    known = np.hstack([pose, mouth])                                             # (N, 5)
    fit, *_ = np.linalg.lstsq(known[trained], points[trained], rcond=None)
    pose_fit = fit[:3]
    residual = points - pose @ pose_fit
    std = mouth_unit(residual[trained])
    landmarks = (residual / std).astype(np.float32)
    return LandmarkNorm(pose_fit.astype(np.float32), std, landmarks)


def mouth_unit(landmarks: np.ndarray) -> float:
    """Length by which landmarks (N, 130) px are to be divided such that opening and width have a
    standard deviation of MOUTH_STD.
    """
    mouth = landmarks @ mouth_matrix()                                           # (N, 2)
    return max(1e-6, float(np.sqrt(mouth.var(axis=0).mean())) / MOUTH_STD)


def mouth_weight_maps(dataset: LipDataset, mouth_weight: float) -> MouthMaps:
    """Weight maps and crop by where the lips of the training part are.

    mouth_weight: how much more a pixel of the mouth counts in training than one of the cheek. For
    choosing the best network only the mouth counts: collar and light of the held-out part say
    nothing of how well the mouth is drawn.
    """
    lips = dataset.clip.track.lips[dataset.trained].reshape(-1, 2)
    centre = lips.mean(axis=0) - (0, LOWER_TOP)
    spread = np.maximum(1.5 * lips.std(axis=0), LEAST_SPREAD_PX)
    y, x = np.mgrid[:LOWER_HEIGHT, :FACE_SIZE]
    distance = ((x - centre[0]) / spread[0]) ** 2 + ((y - centre[1]) / spread[1]) ** 2
    nearness = np.exp(-0.5 * distance)
    rows = _crop_about(centre[1], CROP_HEIGHT, LOWER_HEIGHT)
    columns = _crop_about(centre[0], CROP_WIDTH, FACE_SIZE)
    train_weight = _mean_1(1 + (mouth_weight - 1) * nearness)
    return MouthMaps(train_weight, _mean_1(nearness), (rows, columns))


def _mean_1(weight):
    weight = weight / weight.mean()
    return torch.from_numpy(weight.astype(np.float32))


def _crop_about(centre, length, whole):
    first = round(centre - length / 2)
    first = int(np.clip(first, 0, whole - length))
    return slice(first, first + length)
