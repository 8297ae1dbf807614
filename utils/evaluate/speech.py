"""What is measured of speech itself: lips that close at p, b and m, and other people's voices."""

from pathlib import Path

import numpy as np

from utils.audio import MelWindows, count_frames, find_pauses, log_mel
from utils.cli import UserError
from utils.contract import FPS, ROWS_PER_FRAME, SAMPLE_RATE
from utils.evaluate import metrics
from utils.evaluate.rendering import Job, Rendering, Utterance
from utils.evaluate.rows import OpeningRange, Row
from utils.media.reader import read_sound

VOICE_FRAMES = 20 * FPS  # of each voice that are rendered at most


# -- lips that close -------------------------------------------------------------------------------
def closures(renderings: list[Rendering], person: OpeningRange) -> Row | None:
    """Row about lips closing at p, b and m; None without the phoneme recogniser."""
    try:
        import hama  # optional: nothing else in the project needs it
    except ImportError:
        return None
    recogniser = hama.ASRModel()
    sounds = {}  # utterance -> frames of its p, b and m
    shares = []
    for rendering in renderings:
        driving = rendering.driving
        if driving not in sounds:
            spans = recogniser.phoneme_spans(recogniser(driving.sound, SAMPLE_RATE))
            sounds[driving] = [
                int(span.start_ms * FPS / 1000)
                for span in spans
                if span.phoneme[0] in "pbm"
            ]
        frames = len(rendering.mouth)
        made = metrics.closes(rendering.mouth[:, 0], *person)
        real = metrics.closes(driving.mouth[:frames, 0], *person)
        shares += [(made[t], real[t], made.mean()) for t in sounds[driving] if t < frames]
    if not shares:
        return {"sounds": 0}
    generated, real_share, any_share = np.mean(shares, axis=0).tolist()
    return {
        "ratio": generated / max(real_share, 1e-9),
        "generated": generated,
        "real": real_share,
        "any": any_share,
        "sounds": len(shares)
    }


# -- voices ----------------------------------------------------------------------------------------
def read_voice(path: Path) -> np.ndarray:
    """Log-mel (4 T, 80) of the first seconds of a sound file. Raises UserError if it is silent."""
    sound = read_sound(path, SAMPLE_RATE)
    if sound is None or not len(sound):
        raise UserError(f"--voices {path} has no sound; name files with speech")
    return log_mel(sound[:, 0], min(VOICE_FRAMES, count_frames(sound)))


def voice_jobs(kind: str, mel: np.ndarray, shown: list[Utterance]) -> list[Job]:
    """Jobs that speak a voice on the utterances shown, in turn, until it ends."""
    jobs: list[Job] = []
    first = 0
    frames = len(mel) // ROWS_PER_FRAME
    while first < frames:
        scene = shown[len(jobs) % len(shown)]
        count = min(len(scene), frames - first)
        jobs.append(Job(kind, scene, None, count, MelWindows(mel).starting_at(first)))
        first += count
    return jobs


def voice_row(
    renderings: list[Rendering], mel: np.ndarray, person: OpeningRange, own_opening: np.ndarray
) -> Row:
    """Row about a voice: how much the mouth moves, and how far it stays open in pauses.

    own_opening (N,): of the person's own mouth in the footage.
    """
    opening = person.share(renderings)
    spread = opening.std() * (person.high - person.low)
    pauses = find_pauses(mel)
    return {
        "movement": float(spread / own_opening.std()),
        "pauses": float(opening[pauses].mean()) if pauses.any() else None
    }
