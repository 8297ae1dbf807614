"""Clips of many speakers -> one prepared folder for each speaker, once.

    <prepared>/<speaker>/lower_faces.npy  (N, 84, 168, 3) uint8, all clips one after the other
                         mel.npy          (4N, 80) float32
                         track.npz        each clip is a shot
                         speaker.json     which clips, and which were left out and why; last
"""

import multiprocessing
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils import storage
from utils.audio import log_mel
from utils.cli import DataError, UserError
from utils.contract import (
    CONTRACT,
    FACE_SIZE,
    LOWER_HEIGHT,
    LOWER_TOP,
    MIN_FRAMES,
    SAMPLE_RATE,
)
from utils.face.geometry import Affine, align
from utils.face.tracking import track_face
from utils.media.find import find_media
from utils.media.reader import read_frames, read_sound
from utils.storage import Track

FEWEST_FACES_SHARE = 0.8  # of a clip's frames must show a face
MOST_PEOPLE = 1           # in a clip: whose voice is it, if two are seen?


def speakers_of(folder: Path) -> dict[str, list[Path]]:
    """Clips of each speaker: <speaker>_<clip>.<ending>. Raises UserError if there are none."""
    clips = defaultdict(list)
    for path in find_media(folder, "video"):
        speaker, _, clip = path.stem.rpartition("_")
        if speaker and clip:
            clips[speaker].append(path)
    if not clips:
        raise UserError(f"{folder} holds no videos named <speaker>_<clip>.mp4; name them so and "
                        "run: python -m utils.pretrain FOLDER")
    return dict(clips)


def prepare(clips: dict[str, list[Path]], prepared: Path):
    """Prepare the speakers that are not yet, as many at once as there are CPU cores."""
    missing = [name for name in clips if not is_prepared(prepared / name, clips[name])]
    folders = [prepared / name for name in missing]
    if not missing:
        return
    workers = min(len(missing), os.cpu_count() or 1)
    spawn = multiprocessing.get_context("spawn")  # a fork would share PyTorch's threads
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: only the parent says that it ends
    with ProcessPoolExecutor(workers, spawn, signal.signal, ignore) as pool:
        done = pool.map(_prepare_speaker, folders, [clips[name] for name in missing])
        for _ in tqdm(done, total=len(missing), desc="preparing", unit="speaker"):
            pass


def is_prepared(folder: Path, clips: list[Path]) -> bool:
    """Whether the speaker's folder is finished, from these clips and with these constants."""
    path = folder / "speaker.json"
    return path.is_file() and storage.read_json(path).get("made_of") == _made_of(clips)


def _made_of(clips):
    files = [[path.name, path.stat().st_size] for path in clips]
    return {"clips": files, "contract": CONTRACT}


def _prepare_speaker(folder, clips):
    """Prepare the clips of a speaker, those that are of use."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speaker.json").unlink(missing_ok=True)
    tracks = []
    mels = []
    left_out = {}
    with open(folder / "lower_faces.raw", "wb") as pictures:
        for clip in clips:
            try:
                track, mel = _read_clip(clip)
            except UserError as error:
                left_out[clip.name] = error.message
                continue
            tracks.append(track)
            mels.append(mel)
            for lower_face in lower_faces(clip, track):
                pictures.write(lower_face.tobytes())
    if tracks:
        joined = storage.join_tracks(tracks)
        storage.write_track(folder / "track.npz", joined)
        np.save(folder / "mel.npy", np.concatenate(mels))
        raw = np.memmap(folder / "lower_faces.raw", np.uint8, "r")
        np.save(folder / "lower_faces.npy", raw.reshape(-1, LOWER_HEIGHT, FACE_SIZE, 3))
    (folder / "lower_faces.raw").unlink()
    storage.write_json(
        folder / "speaker.json",
        {"made_of": _made_of(clips), "left_out": left_out, "used": len(tracks),
         "frames": sum(map(len, tracks))})


def _read_clip(clip):
    """Track and log-mel of a clip. Raises DataError if it is of no use."""
    track, people = track_face((frame.rgb() for frame in read_frames(clip)), 1)
    if max(people) > MOST_PEOPLE:
        raise DataError("several people")
    if len(track) < MIN_FRAMES or track.valid.mean() < FEWEST_FACES_SHARE:
        raise DataError(f"a face in {track.valid.sum()} of {len(track)} frames")
    sound = read_sound(clip, SAMPLE_RATE, video_start=True)
    if sound is None or not len(sound):
        raise DataError("no sound")
    return track, log_mel(sound[:, 0], len(track))


def lower_faces(clip: Path, track: Track) -> Iterator[np.ndarray]:
    """Yield the lower half (84, 168, 3) uint8 of each aligned face."""
    for frame, transform in zip(read_frames(clip), track.transform, strict=False):
        yield align(frame.rgb(), Affine(transform))[LOWER_TOP:]
