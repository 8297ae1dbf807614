"""data/pack/: all lower halves in one large file, all mel rows in another. Reading thousands of
small files in each epoch is slow.

The pictures in data/face/ and the features in data/audio/ stay the contract: replace one by hand
and the pack is made again.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from utils.cli import DataError, naming_errors
from utils.contract import (
    FACE_SIZE,
    LOWER_HEIGHT,
    LOWER_TOP,
    N_MELS,
    ROWS_PER_FRAME,
    face_path,
    mel_path,
)
from utils.media.pixels import read_picture
from utils.storage import reading

LARGEST_LOG_MEL = 1e5    # values beyond it can only be damage


class Kind(NamedTuple):
    """What is packed of each frame: its file, how it is read, and what that gives."""

    path: Callable
    read: Callable
    shape: tuple[int, ...]
    dtype: type


def read_lower_face(path: Path) -> np.ndarray:
    """Lower half (84, 168, 3) uint8 of an aligned face. Raises DataError if it is damaged."""
    return read_picture(path, (FACE_SIZE, FACE_SIZE), DataError)[LOWER_TOP:]


def read_mel_block(path: Path) -> np.ndarray:
    """Log-mel (4, 80) float32 of a frame. Raises DataError if it is damaged."""
    with reading(path):
        block = np.load(path)
        if block.dtype != np.float32 or block.shape != (ROWS_PER_FRAME, N_MELS):
            raise ValueError(f"it holds {block.dtype} {block.shape}")
        if not (np.abs(block) <= LARGEST_LOG_MEL).all():
            raise ValueError(f"it has values that are not finite or beyond {LARGEST_LOG_MEL}")
        return block


LOWER_FACES = Kind(face_path, read_lower_face, (LOWER_HEIGHT, FACE_SIZE, 3), np.uint8)
MEL = Kind(mel_path, read_mel_block, (ROWS_PER_FRAME, N_MELS), np.float32)


def open_packed(data: Path, kind: Kind, frames: int) -> np.ndarray:
    """The files of one kind as an array (N, *kind.shape), memory-mapped.

    The pack is made first if it is missing or older than the files. Raises DataError that names
    the file if one is missing or damaged.
    """
    files = [kind.path(data, i) for i in range(frames)]
    folder = data / "pack"
    name = files[0].parent.name
    packed = folder / f"{name}-{_state_of(files)}.npy"
    shape = (frames, *kind.shape)
    array = _load(packed, shape, kind.dtype)
    if array is None:
        folder.mkdir(exist_ok=True)
        with naming_errors(folder), FileLock(folder / ".lock"):
            # of two runs that start at once the second waits, and finds the pack made
            array = _load(packed, shape, kind.dtype)
            if array is None:
                for outdated in folder.glob(f"{name}-*"):
                    outdated.unlink()
                _write(packed, files, kind)
                array = np.load(packed, mmap_mode="r")
    return array


def _state_of(files):
    """Name that changes with size or time of any of the files."""
    state = []
    for path in files:
        try:
            stat = path.stat()
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing") from error
        state.append((stat.st_size, stat.st_mtime_ns))
    text = repr([state, LOWER_TOP])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load(path, shape, dtype):
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return array if (array.shape, array.dtype) == (shape, dtype) else None


def _write(path, files, kind):
    temporary = f"{path}.tmp"
    # written, not memory-mapped: on a full disk a map kills the process without a word
    with open(temporary, "wb") as file:
        descr = np.lib.format.dtype_to_descr(np.dtype(kind.dtype))
        header = {"descr": descr, "fortran_order": False, "shape": (len(files), *kind.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for path_of_frame in files:
            file.write(kind.read(path_of_frame).tobytes())
    os.replace(temporary, path)
