"""What is measured of speech itself: lips that close at p, b and m, and other people's voices."""

from pathlib import Path

import numpy as np

from utils.audio import MelWindows, count_frames, find_pauses, fit_length, log_mel
from utils.cli import UserError
from utils.contract import FPS, SAMPLE_RATE
from utils.evaluate import metrics
from utils.evaluate.rendering import (
    SHORTEST_PIECE_FRAMES,
    Job,
    Rendering,
    Renderings,
    Utterance,
    track_video,
    utterances,
)
from utils.evaluate.rows import OpeningRange, Row, Rows
from utils.generate import read_driving
from utils.media.reader import probe

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
def read_voice(path: Path) -> Utterance:
    """First seconds of a file with somebody's speech, as the network hears it.

    The mouth is the speaker's own if the file is a video that shows it; sound and picture are taken
    to be in step, as a short file cannot tell. Raises UserError if there is no sound.
    """
    seen = probe(path).has_video
    sound = read_driving(path, video_start=seen)
    if not len(sound):
        raise UserError(f"--voices {path} has no sound; name files with speech")
    frames = min(VOICE_FRAMES, count_frames(sound))
    mouth = np.full((frames, 2), np.nan)
    if seen:
        track = track_video(path, frames)
        mouth[:len(track)][track.valid] = track.mouth[track.valid]
    sound = fit_length(sound, frames)
    return Utterance(0, MelWindows(log_mel(sound, frames)), mouth, sound)


def voice_jobs(kind: str, voice: Utterance, shown: list[Utterance]) -> list[Job]:
    """Jobs that speak a voice on the utterances shown, in turn, until it ends."""
    jobs: list[Job] = []
    first = 0
    while first < len(voice):
        scene = shown[len(jobs) % len(shown)]
        stop = min(len(voice), first + len(scene))
        [said] = utterances([(first, stop)], voice.mel_windows, voice.mouth, voice.sound)
        jobs.append(Job(kind, scene, said, len(said), said.mel_windows))
        first = stop
    return jobs


def voice_rows(
    made: Renderings, voices: dict[str, Utterance], person: OpeningRange, own_opening: np.ndarray
) -> Rows:
    """Row about each voice by its kind of rendering, and the mean of those whose mouth is seen.

    own_opening (N,): of the person's own mouth in the footage.
    """
    rows: Rows = {}
    for kind, voice in voices.items():
        in_order = sorted(made[kind], key=lambda one: one.driving.first)
        opening = person.share(in_order)
        spread = opening.std() * (person.high - person.low)
        pauses = find_pauses(voice.mel_windows.mel)
        rows[kind] = _follows(in_order) | {
            "movement": float(spread / own_opening.std()),
            "pauses": float(opening[pauses].mean()) if pauses.any() else None
        }
    seen = [(row["opening"], row["width"]) for row in rows.values() if row["lag"] is not None]
    if len(seen) > 1:
        opening, width = np.mean(seen, axis=0).tolist()
        rows["voices, mean"] = {"opening": opening, "width": width, "files": len(seen)}
    return rows


def _follows(renderings):
    """Row about following the voice's own mouth, over all pieces in which it is seen.

    They are one speech, however short the pieces; but the mean of each is taken out, which the
    picture decides that it is shown on. If the mouth is seen too briefly all is None.
    """
    nothing = np.zeros((0, 2))
    pairs = [(nothing, nothing)]
    for one in renderings:
        seen = np.isfinite(one.driving.mouth[:, 0])
        if seen.any():
            made = one.mouth[seen]
            real = one.driving.mouth[seen]
            pairs.append((made - made.mean(axis=0), real - real.mean(axis=0)))
    made, real = map(np.concatenate, zip(*pairs, strict=True))
    if len(real) < SHORTEST_PIECE_FRAMES:
        return dict.fromkeys(("opening", "width", "lag"))
    opening, width = metrics.correlate_mouths(made, real)
    return {"opening": opening, "width": width, "lag": metrics.lag([(made[:, 0], real[:, 0])])}
