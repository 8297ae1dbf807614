"""The sound of footage: out of which file and track, and moved to where it belongs."""

import tempfile
from pathlib import Path

import numpy as np

from utils import av_sync, cli
from utils.audio import SILENT_PEAK, count_frames, has_voice, log_mel
from utils.av_sync import Offset, Synchronised
from utils.cli import DataError, UserError, say
from utils.contract import FPS, SAMPLE_RATE
from utils.media.reader import Losses, probe, read_sound
from utils.storage import Track


def read_speech(video: Path, apart: str | None, number: int | None) -> np.ndarray:
    """Sound of the video, (samples,) float32 at 16 kHz, from the moment of its first picture on.

    apart: the file that has it instead, from its own beginning. number: of its sound track, if one
    was asked for. Mapped from a temporary file: the sound of an hour takes 230 MB. Raises DataError
    if there is none, or nothing but silence.
    """
    losses = Losses()
    path = Path(apart or video)
    tracks = probe(path).tracks
    if number and number > tracks:
        raise UserError(f"--track {number} was asked for, but {path} has {tracks} sound tracks; "
                        "run: python preprocess.py VIDEO --track N with a lower N")
    sound = read_sound(path, SAMPLE_RATE, 1, not apart, losses, number)
    if sound is None or not len(sound):
        raise DataError(f"{path} has no sound that can be decoded; the mouth is learnt from sound "
                        "and picture together. Take a video with sound, or name a file with the "
                        "sound: --sound FILE")
    for note in losses.sound_notes():
        say(note)
    peak = max(sound.max(), -sound.min())
    if peak < SILENT_PEAK:
        raise DataError(f"the sound of {path} is silent (peak {peak:.6f} of 1); "
                        "take a video in which the person is heard")
    return on_disk([sound])


def on_disk(sounds: list[np.ndarray]) -> np.ndarray:
    """Sounds (samples,) one after the other, mapped from a temporary file."""
    scratch = tempfile.TemporaryFile()  # noqa: SIM115 - it goes when the last reference does
    with cli.naming_errors(tempfile.gettempdir()):
        for sound in sounds:
            scratch.write(sound.data)
        scratch.flush()
    return np.memmap(scratch, np.float32, "r", shape=sum(map(len, sounds)))


def put_in_step(sound: np.ndarray, video: Path, track: Track) -> tuple[np.ndarray, int]:
    """Sound that was recorded apart, moved to where it belongs, and the ms that it was late."""
    mel = log_mel(sound, count_frames(sound))
    camera = read_sound(video, SAMPLE_RATE, video_start=True)
    confidence = 0.0
    if camera is not None and has_voice(camera[:, 0]):
        by = "what the camera heard"
        heard = log_mel(camera[:, 0], len(track))
        late_ms, confidence = av_sync.find_apart(mel, track, heard)
    if confidence < av_sync.LIKELY_CONFIDENCE:
        by = "the mouth"
        late_ms, confidence = av_sync.find_apart(mel, track)
    side = "after" if late_ms >= 0 else "before"
    found = (f"note: by {by}, the video begins {abs(late_ms) / 1000:.2f} s {side} the sound "
             f"(confidence {confidence:.2f})")
    if confidence < av_sync.LIKELY_CONFIDENCE:
        say(f"{found}; that is not sure, and the sound was left as it is. Cut the file so that "
            "both begin together, or name another one")
        return sound, 0
    say(f"{found}; the sound was moved there")
    ms = round(late_ms)
    return av_sync.place_sound(sound, ms), ms


def synchronise(
    sound: np.ndarray, track: Track, choice: str | int, apart_from: Path | None = None
) -> Synchronised:
    """The sound moved to where it belongs, with notes.

    choice: as --av-offset. apart_from: the video, if the sound was recorded apart from it.
    """
    apart_ms = 0
    if apart_from and choice == "auto":
        sound, apart_ms = put_in_step(sound, apart_from, track)
    seconds = len(sound) / SAMPLE_RATE
    wanted = len(track) / FPS
    if abs(seconds - wanted) >= 0.5 / FPS:
        change = "was padded with silence" if seconds < wanted else "was cut"
        say(f"note: the sound lasts {seconds:.2f} s, the picture {wanted:.2f} s: "
            f"the sound {change}")
    synchronised = av_sync.synchronise(sound, track, choice)
    late_ms, confidence, applied_ms = synchronised.offset
    say(f"note: {synchronised.offset}")
    offset = Offset(late_ms + apart_ms, confidence, applied_ms + apart_ms)
    return synchronised._replace(offset=offset)
