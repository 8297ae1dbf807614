"""The measurement as a whole: what is rendered, the rows made of it, and what they mean."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.unet import LipUNet
from utils import cli, storage
from utils.audio import MelWindows, fit_length
from utils.av_sync import place_sound
from utils.cli import DataError, UserError
from utils.contract import MEL_FLOOR, N_MELS, ROWS_PER_FRAME, SAMPLE_RATE
from utils.dataset.augment import noise_floor
from utils.dataset.batches import split
from utils.dataset.clip import Clip
from utils.dataset.references import evenly_spaced
from utils.evaluate.rendering import (
    SHORTEST_PIECE_FRAMES,
    Job,
    Renderings,
    Utterance,
    pieces,
    render_all,
    utterances,
    video_utterances,
)
from utils.evaluate.rows import OpeningRange, Rows, follow_rows, leak_rows, look_rows, silence_row
from utils.evaluate.speech import closures, read_voice, voice_jobs, voice_rows
from utils.generate import Speaker, voice_gain
from utils.media.reader import read_sound

MOST_PAIRS = 24        # swapped pairs that are rendered
QUICK_PAIRS = 4        # the same for the line at the end of training
QUICK_KINDS = {"swapped", "own", "silence"}
MOST_OTHERS = 60       # other pieces whose real mouths say what chance is
MEAN_FRAMES = 300      # frames whose mean is the mouth of a network that does not listen
ROOM_LEVEL = -7.5      # log-mel of a quiet room's noise floor, as in the pauses of recorded speech

Pairs = list[tuple[Utterance, Utterance]]  # (shown, driving)


# -- what is rendered ------------------------------------------------------------------------------
def plan(speaker: Speaker, trained: np.ndarray, pairs: Pairs) -> list[Job]:
    """Jobs: each (shown, driving) pair swapped, and for each utterance shown the controls, with
    which a swapped rendering of the same picture is compared.
    """
    lower_faces = speaker.clip.lower_faces
    some = lower_faces[evenly_spaced(trained, MEAN_FRAMES)]
    mean_face = some.mean(axis=0).round().astype(np.uint8)
    jobs = []
    controlled = set()
    for shown, driving in pairs:
        count = min(len(shown), len(driving))
        jobs.append(Job("swapped", shown, driving, count, driving.mel_windows))
        if shown in controlled:
            continue
        controlled.add(shown)
        real = list(lower_faces[driving.first : driving.first + count])
        closed_mouth = lower_faces[speaker.references[shown.first, 0]]
        rng = np.random.default_rng(shown.first)
        rows = ROWS_PER_FRAME * len(shown)
        noise = noise_floor((1, rows, N_MELS), rng, ROOM_LEVEL, ROOM_LEVEL)[0]
        silence = np.full_like(noise, np.log(MEL_FLOOR))
        jobs += [
            Job("own", shown, shown, len(shown), shown.mel_windows),
            Job("real", shown, driving, count, lower_faces=real),
            Job("frozen", shown, driving, count, lower_faces=[closed_mouth] * count),
            Job("mean", shown, driving, count, lower_faces=[mean_face] * count),
            Job("silence", shown, None, len(shown), MelWindows(silence)),
            Job("noise", shown, None, len(shown), MelWindows(noise))
        ]
    return jobs


def choose_pairs(shown: list[Utterance], driving: list[Utterance], most: int) -> Pairs:
    """Pairs (shown, driving) of different utterances, at most `most`, drawn at random."""
    pairs = [(one, other) for one in shown for other in driving if one is not other]
    order = np.random.default_rng(0).permutation(len(pairs))
    return [pairs[k] for k in order[:most]]


# -- what is measured ------------------------------------------------------------------------------
def real_speech(clip: Clip, held: np.ndarray) -> tuple[list[Utterance], list[Utterance]]:
    """Utterances in the frames `held`, and some of the whole clip to compare with."""
    meta = clip.meta
    path = storage.source_path(meta, clip.data)
    if meta.sound:
        path = storage.find_moved(meta.sound.path, meta.sound.sha256, clip.data)
    sound = read_sound(path, SAMPLE_RATE, 1, not meta.sound, None, meta.track)
    if sound is None:
        raise DataError(f"{path} has no sound")
    sound = place_sound(sound[:, 0], meta.av_offset_ms)  # as training heard it
    whole = (clip.mel_windows, clip.track.mouth, fit_length(sound, clip.frames))
    usable = clip.track.usable
    shown = utterances(pieces(held[usable[held]], clip.track.cuts), *whole)
    every = np.flatnonzero(usable[:meta.shown_frames])
    spans = np.array(pieces(every, clip.track.cuts))
    return shown, utterances(evenly_spaced(spans, MOST_OTHERS), *whole)


def evaluate(
    speaker: Speaker,
    trained_on: str,
    against: str | None = None,
    voices: Sequence[str] = (),
    quick: bool = False
) -> tuple[Rows, Renderings]:
    """Rows of the report, and the renderings by kind that they are made from.

    trained_on: id of the data that the network was trained on. quick: few pairs, no controls.
    Raises UserError if there are no pieces to swap.
    """
    clip = speaker.clip
    trained = held = np.arange(clip.meta.shown_frames)
    if trained_on == clip.meta.id:
        trained, held = split(clip)
    usable = clip.track.usable[trained]
    trained = trained[usable] if usable.any() else trained

    # 1. what is said on which picture
    shown, others = real_speech(clip, held)
    driving = video_utterances(Path(against)) if against else shown
    pairs = choose_pairs(shown, driving, QUICK_PAIRS if quick else MOST_PAIRS)
    if not pairs:
        raise UserError(
            f"{clip.data} has no two held-out pieces of {SHORTEST_PIECE_FRAMES} frames or more to "
            f"swap; run: python -m utils.evaluate{cli.option('data', clip.data, 'data')} "
            "--against ANOTHER_VIDEO"
        )
    jobs = plan(speaker, trained, pairs)
    if quick:
        jobs = [job for job in jobs if job.kind in QUICK_KINDS]
    if against:  # the real lower faces of another video are not in this clip
        jobs = [job for job in jobs if job.kind != "real"]
    spoken = {f"voice {path}": read_voice(Path(path)) for path in voices}

    # 2. the finished pictures, and the figures
    made = render_all(speaker, jobs)
    for kind, voice in spoken.items():
        strength = voice_gain(speaker, voice.mel_windows.mel)
        made |= render_all(replace(speaker, strength=strength), voice_jobs(kind, voice, shown))
    opening = clip.track.opening
    person = OpeningRange(*np.quantile(opening, (0.1, 0.9)))
    rows = (
        follow_rows(made)
        | leak_rows(others, made, clip.track.pose)
        | look_rows(clip, trained, made["own"])
    )
    rows["silence"] = silence_row(made, person)
    if not quick:
        rows["closures"] = closures(made["swapped"] + made["own"], person)
    rows |= voice_rows(made, spoken, person, opening)
    return rows, made


def brief(clip: Clip, model: LipUNet, device: torch.device) -> str:
    """A line on the held-out part of the clip that `model`, in eval mode, was trained on."""
    try:
        speaker = Speaker(model, clip, clip.references(), device)
        rows, _ = evaluate(speaker, clip.meta.id, quick=True)
    except UserError as error:
        return f"not measured: {error}"
    return (f"mouth opening follows {rows['follows, swapped sound']['opening']:.2f} with swapped "
            f"sound, {rows['follows, own sound']['opening']:.2f} with its own; "
            f"partial leak {rows['leak, partial']['opening']:.2f}; "
            f"sharpness {rows['texture']['sharpness']:.2f}; "
            f"open on silence {rows['silence']['digital']:.2f}")


# -- what it means ---------------------------------------------------------------------------------
def sentence(rows: Rows) -> str:
    """What the figures mean, in one sentence."""
    swapped = rows["follows, swapped sound"]
    follows = "does not yet follow"
    if swapped["opening"] >= 0.8:
        follows = "follows"
    elif swapped["opening"] >= 0.6:
        follows = "follows somewhat"
    lag = swapped["lag"]
    timing = ""
    if lag:
        side = "late" if lag > 0 else "early"
        timing = f", {abs(lag)} frames {side}"

    leak = rows["leak, partial"]
    chance = rows.get("  chance, partial", {"opening": 0, "width": 0})
    doubt = max(0.1, 2 * leak["error"])
    leaks = any(leak[key] > max(0, chance[key]) + doubt for key in ("opening", "width"))
    shows = "shows" if leaks else "does not show"

    looks = "as sharp as"
    if rows["texture"]["sharpness"] < 0.75:
        looks = "softer than"
    elif rows["texture"]["sharpness"] > 1.25:
        looks = "grainier than"
    rests = "closes" if rows["silence"]["digital"] < 0.15 else "stays open"
    return (f"The mouth {follows} the sound{timing}; the old mouth {shows} through; "
            f"it is {looks} the real one and {rests} in silence.")
