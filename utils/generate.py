"""Lower faces of a speaker: the source frame that each moment gets, and the drawing itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.unet import Drawing, LipUNet
from utils.audio import QUIET_DB, MelWindows, find_pauses, usual_level
from utils.cli import say
from utils.compositing.large import LargeReferences
from utils.contract import EYE_DISTANCE_PX, FPS, MEL_FLOOR, SAMPLE_RATE
from utils.dataset.clip import Clip, Inputs
from utils.dataset.references import evenly_spaced
from utils.face.landmarks import LOWER_INNER_COLUMNS, UPPER_INNER_COLUMNS, mouth_matrix
from utils.media.reader import Losses, read_sound
from utils.prefetch import prefetch
from utils.storage import Track
from utils.training import checkpoint
from utils.training.device import autocast, resolve, to_channels_last, to_device

# Footage does not turn nearer to a cut: the shot behind it would only flash up.
TURN_TO_CUT_FRAMES = FPS // 2

# Another voice moves the mouth less, for what the network is unsure of it moves too little.
USUAL_MOVEMENT = 0.95  # of the footage's: a voice that moves the mouth less is helped so far
NO_MOVEMENT = 0.2      # of the footage's: what moves the mouth less is no speech and is not helped
MOST_GAIN = 1.6        # largest help: a voice may also be a calm one
SURE_FRAMES = 5 * FPS  # of speech: a shorter one is helped less, for chance may have made it calm
GAIN_FRAMES = 1000     # of a speech that are listened to, evenly spaced


@dataclass
class Speaker:
    """The network and the footage that it speaks on.

    model: in eval mode, on `device`. references (N, 2): of clip.references(), frame numbers of the
    two reference pictures of each frame. large: those pictures in full size, to draw in full size
    too. strength: how far the mouth moves, 1 as heard, 0 not at all.
    """

    model: LipUNet
    clip: Clip
    references: np.ndarray
    device: torch.device
    large: LargeReferences | None = None
    strength: float = 1.0


def load_speaker(
    path: str | Path, clip: Clip, device_name: str = "auto", full_size: bool = False
) -> tuple[Speaker, dict]:
    """Speaker whose network a checkpoint holds, and the content of that checkpoint.

    device_name: auto, cpu, cuda or cuda:N. full_size: draw as large as the footage, with the
    references that were kept for it. Raises CheckpointError if the file is no checkpoint.
    """
    model, saved = checkpoint.load(path)
    device = resolve(device_name)
    model = to_channels_last(model, device)
    if full_size:
        large = LargeReferences(clip)
        return Speaker(model, clip, clip.kept_references(), device, large), saved
    return Speaker(model, clip, clip.references(), device), saved


def read_driving(path: Path, video_start: bool = False) -> np.ndarray:
    """16 kHz samples of a speech as the network hears it, none if there is no sound.

    Quiet speech is brought up to the usual level. That, damage, and a file without audible speech
    is said.
    video_start: of read_sound.
    """
    losses = Losses()
    sound = read_sound(path, SAMPLE_RATE, video_start=video_start, losses=losses)
    for note in losses.sound_notes():
        say(note)
    if sound is None or not len(sound):
        return np.empty(0, np.float32)
    sound = sound[:, 0]
    heard, level = usual_level(sound)
    if level < QUIET_DB:
        found = f"is very quiet ({level:.0f} dBFS); it is made louder for the network only"
        if heard is sound:
            found = f"has no speech that stands out ({level:.0f} dBFS); the mouth will stay closed"
        say(f"note: {path} {found}")
    return heard


def seen_span(track: Track, frames: int | None = None) -> tuple[int, int]:
    """First of the first `frames` that shows the face, and one after the last.

    What lies outside is a title or an end card.
    """
    valid = track.valid[:frames]
    return int(valid.argmax()), len(valid) - int(valid[::-1].argmax())


def turning_points(track: Track, frames: int | None = None) -> tuple[int, int]:
    """Frames (low, high) at which footage that runs forward and back turns.

    They lie in the first and in the last second that shows the face, where it moves least, because
    a turn throws the head back the way it came. A frame without a face is no turning point, nor is
    one so near a cut that the shot behind it would only flash up. frames: of the footage, all if
    None.
    """
    first, last = seen_span(track, frames)
    searched = max(1, min(FPS, (last - first) // 4))
    step = np.linalg.norm(np.diff(track.landmarks, axis=0), axis=-1).mean(axis=1)  # (N - 1,) px
    step = np.pad(step, 1, mode="edge")
    motion = np.where(track.valid, step[:-1] + step[1:], np.inf)

    shot, stop = track.shot_bounds().T
    since_cut = np.arange(len(track)) - shot
    until_cut = stop - 1 - np.arange(len(track))
    low = np.where(until_cut < TURN_TO_CUT_FRAMES, np.inf, motion)[first : first + searched]
    high = np.where(since_cut < TURN_TO_CUT_FRAMES, np.inf, motion)[last - searched : last]
    return first + int(low.argmin()), last - searched + int(high.argmin())


def pingpong(
    count: int, frames: int, start: int = 0, low: int = 0, high: int | None = None
) -> np.ndarray:
    """Source frame numbers (count,) of speech that begins at frame `start`.

    They rise by one. If the footage is too short for that they turn at `high`
    (default: the last frame), then at `low`, and so on, and show neither end twice in a row.
    """
    if high is None or start + count <= frames:
        high = frames - 1
    return position_after(np.arange(count), start, low, high)


def position_after(steps: np.ndarray, start: int, low: int, high: int) -> np.ndarray:
    """Source frame (N,) that `steps` (N,) from `start` lead to: up to `high`, down to `low` ..."""
    to_first_turn = abs(high - start)
    length = max(1, high - low)
    going_there = start + np.sign(high - start) * steps
    since_high = (steps - to_first_turn) % (2 * length)
    returning = low + np.abs(length - since_high)
    return np.where(steps < to_first_turn, going_there, returning)


def generate_lower_faces(
    speaker: Speaker,
    order: np.ndarray,
    mel_windows: MelWindows | np.ndarray,
    batch_size: int = 16
) -> Iterator[np.ndarray]:
    """Yield a lower face for each moment of speech, uint8 RGB: (84, 168, 3), or `scale` times as
    large if the speaker has its references in full size.

    order (M,): the source frame of each moment. mel_windows: what is heard at the moments 0..M-1,
    anything that gives (B, 64, 80) for an array of B moments.
    """
    def drawings():
        for first in range(0, len(order), batch_size):
            moments = np.arange(first, min(first + batch_size, len(order)))
            frames = order[moments]
            inputs = speaker.clip.inputs(frames, mel_windows[moments], speaker.references)
            yield frames, draw(speaker, to_device(inputs, speaker.device))

    for frames, drawing in prefetch(drawings(), 1):  # the next while these are enlarged
        if speaker.large:
            yield from speaker.large.enlarge(drawing, speaker.references[frames])
        else:
            pictures = (drawing.picture.clamp(0, 1) * 255).round().byte()
            yield from pictures.permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def heard_mouth(model: LipUNet, windows: np.ndarray) -> np.ndarray:
    """Opening and width (B, 2) of the mouth, normalised, that are heard in log-mel windows
    (B, 64, 80).
    """
    mel = to_device(torch.from_numpy(windows), model.mel_mean.device)
    landmarks = model.predict_landmarks(model.encode_audio(mel))             # (B, 130)
    return landmarks.cpu().numpy() @ mouth_matrix()


def voice_gain(speaker: Speaker, mel: np.ndarray) -> float:
    """Strength, 1 to MOST_GAIN, with which speech of log-mel (4T, 80) opens the mouth about as far
    as it opens in the footage: the global variance of speech synthesis (Silén et al. 2012). It is
    said.
    """
    track = speaker.clip.track
    spoken = np.flatnonzero(~find_pauses(mel))
    windows = MelWindows(mel)[evenly_spaced(spoken, GAIN_FRAMES)]
    heard = heard_mouth(speaker.model, windows)[:, 0].std() * speaker.model.landmark_std.item()
    seen = track.opening[track.valid].std() * EYE_DISTANCE_PX
    movement = heard / max(1e-9, seen)
    if movement < NO_MOVEMENT:
        return 1.0
    gain = float(np.clip(USUAL_MOVEMENT / movement, 1, MOST_GAIN))
    gain **= min(1, len(spoken) / SURE_FRAMES)
    if gain > 1:
        say(f"note: this voice moves the mouth little; its strength is multiplied by {gain:.2f}")
    return gain


@torch.inference_mode()
def draw(speaker: Speaker, inputs: Inputs) -> Drawing:
    """What the network draws of B moments, whose inputs are on its device."""
    model = speaker.model
    with autocast(speaker.device):
        embedding = model.encode_audio(inputs.mel)                           # (B, A)
        landmarks = model.predict_landmarks(embedding)                       # (B, 130)
        if speaker.strength != 1:
            # about the mouth at rest, which silence asks for
            silence = torch.full_like(inputs.mel[:1], np.log(MEL_FLOOR))
            at_rest = model.encode_audio(silence)                            # (1, A)
            embedding = at_rest + min(1, speaker.strength) * (embedding - at_rest)
            closed = model.predict_landmarks(at_rest)                        # (1, 130)
            landmarks = closed + speaker.strength * (landmarks - closed)
        target_points = model.landmarks_to_pixels(landmarks, inputs.pose)    # (B, 65, 2)
        if speaker.strength > 1:
            target_points = keep_lips_apart(target_points)
        return model.draw(inputs.reference, inputs.points, target_points, embedding, inputs.pose)


def keep_lips_apart(points: Tensor) -> Tensor:
    """Landmarks (B, 65, 2) px of the lower half; where the inner edges of the lips cross they meet.
    """
    upper = points[:, UPPER_INNER_COLUMNS, 1]                                # (B, 9)
    lower = points[:, LOWER_INNER_COLUMNS, 1]                                # (B, 9)
    crossed = (upper - lower).clamp(min=0) / 2
    points = points.clone()
    points[:, UPPER_INNER_COLUMNS, 1] = upper - crossed
    points[:, LOWER_INNER_COLUMNS, 1] = lower + crossed
    return points
