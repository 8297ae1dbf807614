"""What the network is fed: the one input rule of training, inference and evaluation, and the held-out split."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from utils import audio
from utils.console import UserError, naming
from utils.contract import (FACE_SIZE, FPS, LARGEST, LOWER_TOP, MEL_FLOOR, N_MELS, REFERENCE_GAP, ROWS_PER_FRAME,
                            face_path, mel_path, read_array, read_meta, read_track, remedy_for)
from utils.face import CARRIED, closed_and_open, nearest_pose, shot_bounds, shots, to_face
from utils.pixels import read_png

HELD_OUT = 0.10           # share of the clip, its last part, that is never trained on
GUARD = FPS               # frames between the two parts that belong to neither: neighbours look alike
DRAWN = 5                 # references drawn at random in training, of which the nearest in head pose is taken
MOST_CANDIDATES = 200     # references to choose from in each shot


class Footage:
    """A prepared clip, opened for reading.

    meta, track: see contract.read_meta and read_track. lower: (N, 84, 168, 3) uint8, memory-mapped. mel: (4N, 80)
    float32. shot: see face.shot_bounds. points (N, 65, 2) float32: the landmarks face.CARRIED in pixels of the lower
    half, the only ones that track holds too. pose (N, 2), opening (N,): of the track. UserError if it is damaged.
    """

    def __init__(self, data):
        self.data = Path(data)
        self.meta = read_meta(data)
        self.track = read_track(data, self.meta, CARRIED)
        self.frames = self.meta["frames"]
        self.lower, self.mel = _pack(self.data, self.frames)
        self.shot = shot_bounds(self.track["cuts"], self.frames)
        points = to_face(self.track["landmarks"][:, :, :2], self.track["transform"])
        self.points = (points - (0, LOWER_TOP)).astype(np.float32)
        self.pose, self.opening = self.track["pose"], self.track["shape"][:, 0]

    def windows(self, frames):
        """Return the clip's own mel windows of `frames` (B, 64, 80); they do not cross cuts."""
        first, last = (self.shot[frames] * ROWS_PER_FRAME).T
        return audio.windows(self.mel, frames, first, last)

    def inputs(self, frames, windows, references):
        """Return the network's input for `frames` hearing `windows`: a dict of tensors for LipUNet.forward.

        This is the one input rule. Of frame i it uses the head pose, and of the frames references[i] the lower
        halves and their landmarks: never its own.
        """
        frames = np.asarray(frames)
        return {"reference": torch.from_numpy(self.lower[references[frames]]),             # (B, 2, 84, 168, 3) uint8
                "points": torch.from_numpy(self.points[references[frames]]),               # (B, 2, 65, 2) float32
                "mel": torch.from_numpy(np.ascontiguousarray(windows, np.float32)),        # (B, 64, 80)
                "pose": torch.from_numpy(self.pose[frames].astype(np.float32))}            # (B, 2)

    def references(self, allowed=None, rng=None):
        """Return (N, 2): for each frame the numbers of a closed-mouth and an open-mouth reference.

        They come from the same shot, at least REFERENCE_GAP frames away, from the frames `allowed` (bool (N,),
        default all with a face); a shot too short for that borrows open and closed mouths from others. Without
        `rng` the choice is the nearest head pose, kept while it stays nearly as good so that the picture does not
        flicker; with `rng` it is the nearest of DRAWN random ones, another each time. UserError if the footage is
        too short.
        """
        allowed = self.track["valid"] if allowed is None else allowed & self.track["valid"]
        every = np.flatnonzero(allowed)
        chosen = np.full((self.frames, 2), -1, np.int64)
        for first, last in shots(self.track["cuts"], self.frames):
            inside = every[(every >= first) & (every < last)]
            near, far = closed_and_open(self.opening, inside), closed_and_open(self.opening, every)
            for role in (0, 1):
                for candidates in (near[role], far[role], every):
                    todo = first + np.flatnonzero(chosen[first:last, role] < 0)
                    if len(todo) and len(candidates):
                        candidates = thin(candidates, MOST_CANDIDATES)
                        chosen[todo, role] = (nearest_pose(self.pose, todo, candidates) if rng is None else
                                              self._fair(todo, candidates, rng))
        if (chosen < 0).any():
            raise UserError(f"{self.data} has {len(every)} usable frames, too few to find a reference frame "
                            f"{REFERENCE_GAP / FPS:.0f} s away from each; {remedy_for(self.data, 'LONGER_VIDEO')}")
        return chosen

    def _fair(self, frames, candidates, rng):
        """Return the nearest in head pose of DRAWN random candidates for each frame, or -1: about as near as
        inference finds them, and another each time."""
        drawn = np.stack([_random(frames, candidates, rng) for _ in range(DRAWN)])
        apart = np.linalg.norm(self.pose[drawn] - self.pose[frames], axis=-1)
        return drawn[apart.argmin(axis=0), np.arange(len(frames))]


def thin(values, most):
    """Return at most so many of the values, evenly spread."""
    return values[np.linspace(0, len(values) - 1, min(len(values), most)).astype(int)]


def _random(frames, candidates, rng):
    """Return a random candidate at least REFERENCE_GAP from each frame, or -1 where there is none."""
    low = np.searchsorted(candidates, frames - REFERENCE_GAP, side="right")
    high = np.searchsorted(candidates, frames + REFERENCE_GAP, side="left")
    near = np.maximum(high - low, 0)
    free = len(candidates) - near
    pick = (rng.random(len(frames)) * free).astype(np.int64)
    pick += np.where(pick >= low, near, 0)
    return np.where(free > 0, candidates[np.minimum(pick, len(candidates) - 1)], -1)


def _pack(data, frames):
    """Return the lower halves (memory-mapped) and the mel, packed into data/pack/ when the files have changed.

    Reading thousands of small files each epoch is slow. The files stay the contract: replace one by hand and the
    pack is made anew.
    """
    remedy = remedy_for(data)
    paths = [path(data, i) for path in (face_path, mel_path) for i in range(frames)]
    try:
        stats = [path.stat() for path in paths]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; {remedy}") from error
    state = hashlib.sha256(repr([(s.st_size, s.st_mtime_ns) for s in stats] + [LOWER_TOP]).encode()).hexdigest()[:16]
    folder = data / "pack"
    lower_path, rows_path = folder / f"lower-{state}.npy", folder / f"mel-{state}.npy"
    pack = _open_pack(lower_path, rows_path, frames)
    if pack is None:
        folder.mkdir(exist_ok=True)
        with naming(folder), FileLock(folder / ".lock"):
            pack = _open_pack(lower_path, rows_path, frames)
            if pack is None:  # of two runs that start at once the second waits and finds it done
                for old in folder.glob("*.npy*"):
                    old.unlink()
                _write_pack(lower_path, rows_path, data, frames, remedy)
                pack = _open_pack(lower_path, rows_path, frames)
    return pack


def _open_pack(lower_path, rows_path, frames):
    """Return the lower halves and the mel, or None if they are not packed or what is there is something else."""
    try:
        lower = read_array(lower_path, np.uint8, (frames, FACE_SIZE - LOWER_TOP, FACE_SIZE, 3), mmap_mode="r")
        rows = read_array(rows_path, np.float32, (frames * ROWS_PER_FRAME, N_MELS))
    except (OSError, ValueError):
        return None
    return (lower, rows) if (np.abs(rows) <= LARGEST).all() else None


def _write_pack(lower_path, rows_path, data, frames, remedy):
    size = (frames, FACE_SIZE - LOWER_TOP, FACE_SIZE, 3)
    with open(f"{lower_path}.tmp", "wb") as file:  # no memory map: on a full disk that kills the process unheard
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": size})
        for i in range(frames):
            picture = read_png(face_path(data, i))
            if picture is None or picture.shape != (FACE_SIZE, FACE_SIZE, 3):
                raise UserError(f"{face_path(data, i)} is no RGB picture of {FACE_SIZE}x{FACE_SIZE}; {remedy}")
            file.write(picture[LOWER_TOP:].tobytes())
    os.replace(f"{lower_path}.tmp", lower_path)
    rows = np.empty((frames, ROWS_PER_FRAME, N_MELS), np.float32)
    for i in range(frames):
        try:
            rows[i] = read_array(mel_path(data, i), np.float32, rows.shape[1:])
        except (OSError, ValueError) as error:
            raise UserError(f"{mel_path(data, i)} cannot be read ({error}); {remedy}") from error
        if not (np.abs(rows[i]) <= LARGEST).all():
            raise UserError(f"{mel_path(data, i)} has values that are not finite or beyond {LARGEST:.0f}; {remedy}")
    with open(f"{rows_path}.tmp", "wb") as file:
        np.save(file, rows.reshape(-1, N_MELS))
    os.replace(f"{rows_path}.tmp", rows_path)


def split(frames):
    """Return (trained, held): the frame numbers of the training part and of the held-out last part."""
    held = max(round(HELD_OUT * frames), min(2 * FPS, frames // 4))
    return np.arange(frames - held - GUARD), np.arange(frames - held, frames)


class LipDataset:
    """Batches of inputs and what is wanted of them, from the training or the held-out part of a clip.

    With `train` every epoch draws new references and changes the sound as rooms, microphones and other voices
    would; some samples hear only silence and are shown a closed mouth.
    """

    SILENCE = 0.12        # share of the samples that hear silence
    AS_RECORDED = 0.2     # share that hear the sound as it was recorded; the others' sound is changed by:
    GAIN = (-2.0, 1.2)    # log of the loudness factor: -17 to +10 dB
    TILT = 0.8            # log, most change from the lowest to the highest band
    SHIFT = 2.0           # bands, most shift of the spectrum: shorter and longer vocal tracts
    PACE = 0.15           # log, most change of pace: 16 % faster or slower
    HIDDEN = 16           # bands at most that are flattened: none may be relied on (SpecAugment, Park et al. 2019)
    NOISE = (-12.5, -4.5)  # log level of the noise floor: from digital silence to a loud fan
    LIGHT = 0.15          # most change of each colour, alike in the references and the wanted picture
    POSE_NOISE = 0.004    # eye distances: keeps the exact pose from naming the frame

    def __init__(self, footage, train):
        self.footage = footage
        trained, held = split(footage.frames)
        valid = footage.track["valid"]
        self.frames = (trained if train else held)
        self.frames = self.frames[valid[self.frames]]
        self.part = np.zeros(footage.frames, bool)
        self.part[trained if train else slice(None)] = True
        self.trained = trained[valid[trained]]
        if len(self.trained) < REFERENCE_GAP * 2 + 1 or not len(self.frames):
            raise UserError(f"{footage.data} has {len(self.trained)} frames to train on, too few; "
                            "run: python preprocess.py LONGER_VIDEO (best 2-5 minutes)")
        self.fixed = None if train else footage.references()
        self._describe_landmarks()
        openings = footage.opening[self.trained]
        self.rest = self.trained[openings <= np.quantile(openings, 0.2)]

    def _describe_landmarks(self):
        """Normalise the landmarks: without what head pose does to them, over their usual spread.

        landmarks (N, 130) = (points - [pose, 1] @ usual) / spread, all of the training part. The fit knows how far
        the mouth is open and how wide it is, or a pose that trembles with the mouth would take the mouth's part.
        """
        points = self.footage.points.reshape(self.footage.frames, -1).astype(np.float64)
        pose = np.column_stack([self.footage.pose, np.ones(self.footage.frames)])
        mouth = self.footage.track["shape"] - self.footage.track["shape"][self.trained].mean(axis=0)
        fit, *_ = np.linalg.lstsq(np.hstack([pose, mouth])[self.trained], points[self.trained], rcond=None)
        usual = fit[:3]
        apart = points - pose @ usual
        spread = max(1e-6, apart[self.trained].std())
        self.usual, self.spread = torch.from_numpy(usual.astype(np.float32)), torch.tensor(spread).float()
        self.landmarks = (apart / spread).astype(np.float32)

    def mel_statistics(self):
        """Return mean and standard deviation (80,) of each band over the training part."""
        rows = self.footage.mel[:(self.trained[-1] + 1) * ROWS_PER_FRAME]
        return torch.from_numpy(rows.mean(axis=0)), torch.from_numpy(np.maximum(rows.std(axis=0), 0.1))

    def batches(self, size, rng=None):
        """Yield (input dict, lower (B, 84, 168, 3) uint8, landmarks (B, 130) float32 normalised, and where they
        are in `lower`: (B, 65, 2) float32 pixels). rng orders and changes (train).
        """
        order = self.frames if rng is None else rng.permutation(self.frames)
        references = self.fixed if rng is None else self.footage.references(self.part, rng)
        for first in range(0, len(order), size):
            frames = order[first:first + size]
            if rng is None:
                windows = self.footage.windows(frames)
            else:
                frames, windows = self._heard(frames, rng)
            inputs = self.footage.inputs(frames, windows, references)
            lower = torch.from_numpy(self.footage.lower[frames])
            if rng is not None:
                noise = rng.standard_normal(inputs["pose"].shape) * self.POSE_NOISE
                inputs["pose"] += torch.from_numpy(noise.astype(np.float32))
                light = rng.uniform(1 - self.LIGHT, 1 + self.LIGHT, (len(frames), 1, 1, 3))
                light = torch.from_numpy(light.astype(np.float32))
                inputs["reference"], lower = relight(inputs["reference"], light[:, None]), relight(lower, light)
            yield inputs, lower, torch.from_numpy(self.landmarks[frames]), torch.from_numpy(self.footage.points[frames])

    def sounds(self, size, rng):
        """Return `size` more mel windows and their normalised landmarks: the audio branch's own lesson."""
        frames, windows = self._heard(rng.choice(self.trained, size), rng)
        return torch.from_numpy(windows), torch.from_numpy(self.landmarks[frames])

    def _heard(self, frames, rng):
        """Return frames and the windows they hear in training: varied, and some of them silent and at rest."""
        frames = frames.copy()
        silent = rng.random(len(frames)) < self.SILENCE
        frames[silent] = rng.choice(self.rest, silent.sum())
        windows = self.footage.windows(frames)
        changed = rng.random(len(frames)) >= self.AS_RECORDED
        windows[changed] = vary(windows[changed], rng, self)
        windows[silent] = noise_floor(windows[silent].shape, rng, self.NOISE[0], -6.5)
        return frames, np.maximum(windows, np.float32(np.log(MEL_FLOOR)))


def where_the_mouth_is(dataset, importance):
    """Return (weight, judged, crop) by where the lips of this clip are.

    weight, judged: (84, 168) float32 maps of mean 1, how much each pixel counts. The first, for training, weighs the
    mouth `importance` times as much; the second, for choosing the best network, only the mouth: collar and light of the
    held-out part say nothing of how well the mouth is drawn. crop: slices of the 56 rows and 104 columns that the
    discriminator sees.
    """
    lips = dataset.footage.track["lips"][dataset.trained].reshape(-1, 2)
    h, w = dataset.footage.lower.shape[1:3]
    middle, spread = lips.mean(axis=0) - (0, h), np.maximum(lips.std(axis=0) * 1.5, w / 42)
    y, x = np.mgrid[:h, :w]
    near = np.exp(-0.5 * (((x - middle[0]) / spread[0]) ** 2 + ((y - middle[1]) / spread[1]) ** 2))
    maps = [torch.from_numpy((weight / weight.mean()).astype(np.float32))
            for weight in (1 + (importance - 1) * near, near)]
    crop = []
    for centre, size, whole in ((middle[1], h * 2 // 3, h), (middle[0], w * 5 // 8, w)):
        first = int(np.clip(round(centre - size / 2), 0, whole - size))
        crop.append(slice(first, first + size // 8 * 8))
    return *maps, tuple(crop)


def relight(pictures, light):
    """Return uint8 pictures (..., 3) with each colour multiplied by `light`."""
    return (pictures * light).clamp_(0, 255).byte()


def noise_floor(shape, rng, lowest, highest):
    """Return log-mel windows (B, T, 80) of steady noise, each at its own level and colour."""
    b, t, bands = shape
    level = rng.uniform(lowest, highest, (b, 1, 1))
    colour = rng.uniform(-1.5, 1.5, (b, 1, 1)) * np.linspace(-0.5, 0.5, bands)
    flutter = rng.standard_normal((b, t + 4, bands), np.float32)  # float32 from here on: half the time
    flutter = sum(flutter[:, k:k + t] for k in range(5))  # spectra overlap by 4/5, so neighbours are alike
    return (level + colour).astype(np.float32) + np.float32(0.3 / np.sqrt(5)) * flutter


def vary(windows, rng, by):
    """Return the windows (B, T, 80) as another room, microphone, voice or pace would have made them."""
    b, t, bands = windows.shape
    shifted = between(windows.transpose(0, 2, 1), np.arange(bands) + rng.uniform(-by.SHIFT, by.SHIFT, (b, 1)))
    pace = np.exp(rng.uniform(-by.PACE, by.PACE, (b, 1)))
    paced = between(shifted.transpose(0, 2, 1), (t - 1) / 2 + (np.arange(t) - (t - 1) / 2) * pace)
    louder = paced + (rng.uniform(*by.GAIN, (b, 1, 1)) + rng.uniform(-by.TILT, by.TILT, (b, 1, 1))
                      * np.linspace(-0.5, 0.5, bands)).astype(np.float32)
    first = rng.integers(0, bands, (b, 1, 1))
    hidden = (np.arange(bands) >= first) & (np.arange(bands) < first + rng.integers(0, by.HIDDEN, (b, 1, 1)))
    count = np.maximum(1, t * hidden.sum(axis=2, keepdims=True))
    mean = (louder * hidden).sum(axis=(1, 2), keepdims=True) / count
    louder = np.where(hidden, mean.astype(np.float32), louder)
    floor = noise_floor(windows.shape, rng, *by.NOISE)
    # powers add: np.logaddexp(2 * louder, 2 * floor) / 2, which takes five times as long
    return np.maximum(louder, floor) + 0.5 * np.log1p(np.exp(-2 * np.abs(louder - floor)))


def between(values, place):
    """Return values (B, L, C) interpolated at `place` (B, K) of their second axis: (B, K, C); the ends are held."""
    place = np.clip(place, 0, values.shape[1] - 1)
    low = np.minimum(place.astype(int), values.shape[1] - 2)
    part, each = (place - low)[..., None].astype(np.float32), np.arange(len(values))[:, None]
    return values[each, low] * (1 - part) + values[each, low + 1] * part
