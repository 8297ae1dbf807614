"""Pieces of speech, and mouths that are rendered for them, pasted into the video and measured."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from utils import av_sync, storage
from utils.audio import SAMPLES_PER_FRAME, MelWindows, fit_length
from utils.cli import CheckpointError, UserError
from utils.compositing.paste import Paster
from utils.contract import FACE_SIZE, SAMPLE_RATE, lower_size
from utils.evaluate import metrics
from utils.face.geometry import (
    Affine,
    Box,
    resample_smooth,
    shrink,
    source_box,
    transform_points,
)
from utils.face.landmarks import LIP_COLUMNS
from utils.face.tracking import track_face
from utils.generate import Speaker, generate_lower_faces
from utils.media.pixels import to_uint8, yuv_to_rgb
from utils.media.reader import probe, read_frames, read_sound
from utils.shots import shots
from utils.storage import Track
from utils.usable_frames import unrecorded_frames

PIECE_FRAMES = 75            # of a piece at most (3 s): about one sentence
SHORTEST_PIECE_FRAMES = 25   # a shorter piece says nothing about a mouth over time
AROUND_SHARE = 0.5           # of the face's size: what the landmarker sees of the frame around it
SEAM_STEP_FRAMES = 5         # from one frame whose seam and grain are measured to the next
BAND_PX = FACE_SIZE / 28     # of the face: how far from the border the grain is looked at


@dataclass(eq=False)
class Utterance:
    """A piece of real speech, T frames from `first` on in its video or sound file.

    mel_windows: of its moments 0..T-1. mouth (T, 2): opening and width in eye distances; of other
    people NaN where no face is seen. sound (640 T,): 16 kHz.
    """

    first: int
    mel_windows: MelWindows
    mouth: np.ndarray
    sound: np.ndarray

    def __len__(self) -> int:
        return len(self.mouth)

    def overlaps(self, other: "Utterance") -> bool:
        """Whether they share a frame number."""
        return self.first < other.first + len(other) and other.first < self.first + len(self)


@dataclass
class Job:
    """A rendering to make: `count` frames of the utterance shown, with another mouth.

    driving: the Utterance whose sound drives; None if nobody speaks. The mouth is what the network
    draws of mel_windows or, where they are None, lower_faces, pasted as they are.
    """

    kind: str
    shown: Utterance
    driving: Any
    count: int
    mel_windows: MelWindows | None = None
    lower_faces: Sequence[np.ndarray] = ()


@dataclass
class Rendering:
    """What a Job became, measured in the finished frames.

    frames (T,): source frame numbers. mouth (T, 2): opening and width in eye distances. lips
    (T, 40, 2): px of the aligned face. Of kind "own" only, else empty: lower_faces (T), before they
    are pasted, as large as the network's; borders: (seam, grain, lips) of some frames, the last the
    sharpness of the lips over that of the real ones.
    """

    shown: Utterance
    driving: Any
    frames: np.ndarray
    mouth: np.ndarray
    lips: np.ndarray
    lower_faces: Sequence[np.ndarray] = ()
    borders: Sequence[tuple[float, float, float]] = ()


Renderings = dict[str, list[Rendering]]  # by kind


# -- real speech -----------------------------------------------------------------------------------
def pieces(frames: np.ndarray, cuts: np.ndarray) -> list[tuple[int, int]]:
    """Runs (first, stop) of rising frame numbers that cross no cut, and leave none out.

    Each has PIECE_FRAMES, or half of all frames if they are few, and is cut from what still has
    SHORTEST_PIECE_FRAMES.
    """
    if not len(frames):
        return []
    longest = min(PIECE_FRAMES, len(frames) // 2)
    found = []
    for run in np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1):
        for first, stop in shots(cuts, run[-1] + 1):
            last = stop - SHORTEST_PIECE_FRAMES
            for begin in range(max(first, run[0]), last + 1, longest):
                found.append((begin, min(stop, begin + longest)))
    return found


def utterances(
    spans: Iterable[tuple[int, int]],
    mel_windows: MelWindows,
    mouth: np.ndarray,
    sound: np.ndarray
) -> list[Utterance]:
    """Utterances in the spans (first, stop) of a video; the other arguments are of all of it."""
    found = []
    for first, stop in spans:
        windows = mel_windows.starting_at(first)
        samples = sound[first * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
        found.append(Utterance(first, windows, mouth[first:stop], samples))
    return found


def track_video(path: Path, most: int | None = None) -> Track:
    """Track of the face in a video, or in its first `most` frames."""
    frames = islice(read_frames(path), most)
    frames = tqdm(frames, total=most or probe(path).frames, desc=f"reading {path}")
    return track_face(frame.rgb() for frame in frames).track


def video_utterances(path: Path) -> list[Utterance]:
    """Utterances of another video: face and offset of the sound as preprocess.py finds them."""
    track = track_video(path)
    sound = read_sound(path, SAMPLE_RATE, video_start=True)
    if sound is None or not track.valid.any():
        raise UserError(
            f"--against {path} needs a face and sound; name another video of the person"
        )
    sound, mel, _ = av_sync.synchronise(sound[:, 0], track)
    usable = track.valid & ~unrecorded_frames(sound, len(track))
    spans = pieces(np.flatnonzero(usable), track.cuts)
    mel_windows = MelWindows(mel, track.shot_bounds())
    return utterances(spans, mel_windows, track.mouth, fit_length(sound, len(track)))


# -- rendered speech -------------------------------------------------------------------------------
class _Scene:
    """The frames of one utterance, decoded once, into which mouths are pasted and measured."""

    def __init__(self, speaker, paster, video, shown):
        self.speaker = speaker
        self.paster = paster
        self.frames = shown.first + np.arange(len(shown))
        self.transform = speaker.clip.track.transform[self.frames]
        decoded = read_frames(video, shown.first, shown.first + len(shown))
        self.decoded = [(frame.planes(), frame.colours) for frame in decoded]

        # the part of the frame that holds the face, and what is around it, all the time
        low = round(-AROUND_SHARE * FACE_SIZE)
        around = Box(low, FACE_SIZE - low, low, FACE_SIZE - low)
        size = speaker.clip.meta.size[::-1]
        boxes = [source_box(Affine(transform), size, around) for transform in self.transform]
        top, _, left, _ = np.min(boxes, axis=0)
        _, bottom, _, right = np.max(boxes, axis=0)
        self.box = Box(top, bottom, left, right)

    def render(self, job):
        """Draw, paste and measure. Raises CheckpointError if no face is found in what was made."""
        frames = self.frames[:job.count]
        lower_faces = job.lower_faces
        if job.mel_windows is not None:
            lower_faces = list(generate_lower_faces(self.speaker, frames, job.mel_windows))
        track = track_face(self._pictures(lower_faces)).track
        if not track.valid.any():
            raise CheckpointError(
                f"no face is found in the generated frames from {frames[0]} on; train longer",
                options="--resume"
            )
        lips = track.landmarks[:, LIP_COLUMNS] + (self.box.left, self.box.top)  # px of the source
        lips = transform_points(lips, self.transform[:job.count])
        rendering = Rendering(job.shown, job.driving, frames, track.mouth, lips)
        if job.kind == "own":
            rendering.lower_faces = [shrink(picture, lower_size()) for picture in lower_faces]
            every_few = range(0, job.count, SEAM_STEP_FRAMES)
            rendering.borders = [self._look(k, lower_faces[k]) for k in every_few]
        return rendering

    def _pasted(self, k, lower_face):
        """Surroundings of the face in frame k of the scene, y, u, v, with the lower face in it."""
        real, colours = self.decoded[k]
        planes = [plane.copy() for plane in real]
        self.paster(planes, colours, self.frames[k], lower_face)
        y, u, v = planes
        half = self.box.halved().slices
        return y[self.box.slices], u[half], v[half]

    def _pictures(self, lower_faces):
        """Yield the surroundings of the face, RGB, with each lower face pasted."""
        for k, lower_face in enumerate(lower_faces):
            _, colours = self.decoded[k]
            pasted = self._pasted(k, lower_face)
            y, u, v = (cv2.resize(plane, self.box.size) for plane in pasted)
            yield to_uint8(yuv_to_rgb(y, u, v, colours))

    def _look(self, k, lower_face):
        """(seam, grain, lips) of what is pasted into frame k of the scene."""
        made, _, _ = self._pasted(k, lower_face)
        (real, _, _), _ = self.decoded[k]
        real = real[self.box.slices]
        affine = Affine(self.transform[k]).cropped(self.box.top, self.box.left)
        mask = self.paster.mask(self.frames[k])
        mask = resample_smooth(mask, affine.to_lower_half(), self.box.size)
        grain = metrics.grain(made, real, mask, BAND_PX / affine.scale)
        lips = self.speaker.clip.track.landmarks[self.frames[k], LIP_COLUMNS]
        lips = np.round(lips - (self.box.left, self.box.top)).astype(int)
        left, top, right, bottom = np.maximum(0, [*lips.min(axis=0), *lips.max(axis=0)])
        box = slice(top, bottom + 1), slice(left, right + 1)
        fineness = metrics.fineness(made[box]) / max(1e-9, metrics.fineness(real[box]))
        return metrics.seam(made, real, mask), grain, fineness


def render_all(speaker: Speaker, jobs: list[Job]) -> Renderings:
    """Renderings by the kind of their job. Each scene is decoded once, for all its jobs."""
    clip = speaker.clip
    video = storage.source_path(clip.meta, clip.data)
    paster = Paster(clip.track)
    by_scene = defaultdict(list)
    for job in jobs:
        by_scene[job.shown].append(job)

    by_kind = defaultdict(list)
    with tqdm(total=len(jobs), desc="rendering and measuring", leave=False) as bar:
        for shown, jobs_of_scene in by_scene.items():
            scene = _Scene(speaker, paster, video, shown)
            for job in jobs_of_scene:
                by_kind[job.kind].append(scene.render(job))
                bar.update()
    return by_kind
