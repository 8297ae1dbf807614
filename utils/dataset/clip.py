"""A prepared clip, opened for reading, and the one rule of what the network is fed of it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.audio import MelWindows
from utils.cli import DataError
from utils.contract import FPS, LOWER_TOP, N_MELS, REFERENCE_GAP_FRAMES
from utils.dataset.pack import LOWER_FACES, MEL, open_packed
from utils.dataset.references import choose_references
from utils.face.geometry import transform_points
from utils.storage import read_meta, read_track


class Inputs(NamedTuple):
    """Input of LipUNet.forward for B frames."""

    reference: Tensor    # (B, 2, 84, 168, 3) uint8 RGB: closed mouth, open mouth
    points: Tensor       # (B, 2, 65, 2) float32: landmarks of each reference, px of its lower half
    mel: Tensor          # (B, 64, 80) float32 log-mel
    pose: Tensor         # (B, 2) float32: head pose of the frame to be drawn


class Clip:
    """A prepared clip.

    data: its folder. meta, track: see utils.storage. frames: N. lower_faces: (N, 84, 168, 3)
    uint8, memory-mapped. mel: (4N, 80) float32 log-mel. mel_windows: its MelWindows, which do not
    cross cuts. points: (N, 65, 2) float32, the track's landmarks in pixels of the lower half.

    Raises DataError if the folder is unfinished, damaged or made with other constants.
    """

    def __init__(self, data: str | Path):
        self.data = Path(data)
        self.meta = read_meta(self.data)
        track = read_track(self.data, self.meta)
        lower_faces = open_packed(self.data, LOWER_FACES, self.meta.frames)
        mel = np.array(open_packed(self.data, MEL, self.meta.frames)).reshape(-1, N_MELS)
        self._fill(track, lower_faces, mel)

    def _fill(self, track, lower_faces, mel):
        self.frames = len(track)
        self.track = track
        self.lower_faces = lower_faces
        self.mel = mel
        self.mel_windows = MelWindows(mel, track.shot_bounds())
        points = transform_points(track.landmarks, track.transform)
        self.points = (points - (0, LOWER_TOP)).astype(np.float32)

    def inputs(
        self,
        frames: np.ndarray,
        windows: np.ndarray,
        references: np.ndarray,
    ) -> Inputs:
        """The network's input for the frame numbers `frames` (B,) that hear `windows` (B, 64, 80).

        This is the one input rule of training, inference and evaluation. Of frame i it uses the
        head pose, and the lower halves and landmarks of the frames references[i] (N, 2): never its
        own.
        """
        serving = references[frames]                                             # (B, 2)
        arrays = (
            self.lower_faces[serving],
            self.points[serving],
            np.ascontiguousarray(windows),
            self.track.pose[frames])
        return Inputs(*map(torch.from_numpy, arrays))

    def references(
        self,
        allowed: np.ndarray | None = None,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Reference frames (N, 2) of each frame, out of the usable ones, and of them only the ones
        `allowed` (N,) bool; see choose_references. Footage that nothing can be learned from has
        those with a face. DataError if the clip is too short.
        """
        usable = self._serving()
        if allowed is not None:
            usable = usable & allowed
        chosen = choose_references(self.track, usable, rng)
        if (chosen < 0).any():
            raise DataError(
                f"{self.data} has {usable.sum()} usable frames, too few to find a reference frame "
                f"{REFERENCE_GAP_FRAMES / FPS:.0f} s away from each", video="LONGER_VIDEO")
        return chosen

    def kept_references(self) -> np.ndarray:
        """The same (N, 2) for use in full size: out of the frames that were kept for that, and of
        the others only where none of those is far enough away and of the same shot.
        """
        kept = np.zeros(self.frames, bool)
        kept[self.meta.references] = True
        chosen = choose_references(self.track, kept & self._serving())
        shot = self.track.shot_bounds()[:, 0]
        own = shot[:, None]
        astray = (chosen < 0) | (shot[chosen] != own)
        if not astray.any():
            return chosen
        others = self.references()
        other_is_better = astray & (shot[others] == own)
        return np.where((chosen < 0) | other_is_better, others, chosen)

    def _serving(self):
        """Frames (N,) bool that may serve as references."""
        usable = self.track.usable
        enough = usable.sum() > 2 * REFERENCE_GAP_FRAMES
        return usable if enough else self.track.valid
