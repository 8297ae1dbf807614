"""The contract between the four scripts: constants, where files lie, meta.json.

The scripts meet only through files. Whatever two of them must agree on stands here, once. Changing a
constant of this file changes the data: run preprocess.py and train.py again after it.
"""

import hashlib
import json
import os
import shlex
import shutil
import zipfile
from pathlib import Path

import numpy as np

from utils.console import UserError, naming, option

# -- pictures ----------------------------------------------------------------------------------------
FPS = 25                     # pictures per second, whatever the source has
FACE_SIZE = 168              # an aligned face is FACE_SIZE x FACE_SIZE, RGB uint8
LOWER_TOP = FACE_SIZE // 2   # face[LOWER_TOP:] is the lower half: 84 high, 168 wide

# Where the points that speech does not move come to lie in the aligned face, as a share of FACE_SIZE:
# (x, y) by landmark number. The outer eye corners are 0.35 apart on the line y = 0.39; with that the chin
# of a mouth opened as wide as it goes stays inside row 160 of 168, and the upper lip below row 84.
TEMPLATE = {
    33: (0.325, 0.390), 133: (0.434, 0.393), 362: (0.566, 0.393), 263: (0.675, 0.390),  # eye corners
    168: (0.500, 0.369), 6: (0.500, 0.399), 197: (0.500, 0.429),                        # nose bridge
}

EYE_DISTANCE = FACE_SIZE * (TEMPLATE[263][0] - TEMPLATE[33][0])  # px between the outer eye corners of an aligned face

# -- sound -------------------------------------------------------------------------------------------
SAMPLE_RATE = 16000          # Hz, mono
N_FFT = 800                  # samples of one spectrum (50 ms), and its window
HOP = 160                    # samples between two mel rows: 100 rows a second
N_MELS = 80                  # bands of one row
MEL_FMIN, MEL_FMAX = 55, 7600  # Hz
MEL_FLOOR = 1e-5             # magnitudes below it count as silence: log(1e-5) = -11.51
ROWS_PER_FRAME = SAMPLE_RATE // (HOP * FPS)  # exactly 4: rows 4i..4i+3 belong to frame i
WINDOW_ROWS = 32             # rows on either side of a frame's middle that the network hears: +-320 ms

REFERENCE_GAP = FPS          # a reference frame is at least this many frames (1 s) from the frame it serves
MIN_FRAMES = 2 * FPS         # 2 s: the least footage in which every frame finds one, if all show a face

CONTRACT = {
    "fps": FPS, "face_size": FACE_SIZE, "template": {str(k): list(v) for k, v in TEMPLATE.items()},
    "sample_rate": SAMPLE_RATE, "n_fft": N_FFT, "hop": HOP, "n_mels": N_MELS, "mel_fmin": MEL_FMIN,
    "mel_fmax": MEL_FMAX, "mel_floor": MEL_FLOOR, "window_rows": WINDOW_ROWS,
}

# What track.npz holds of each frame: dtype and shape. Of its numbers none is larger than LARGEST (pixels, at most), and
# the scale of a transform lies in SCALES: what is beyond would crash or stall what reads it.
TRACK = {"transform": (np.float32, (2, 3)), "landmarks": (np.float32, (478, 3)), "valid": (np.bool_, ()),
         "lips": (np.float32, (40, 2)), "pose": (np.float32, (2,)), "shape": (np.float32, (2,))}
LARGEST, SCALES = 1e5, (0.02, 50)

VIDEO_ENDINGS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv"}
SOUND_ENDINGS = {".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".wma"}


def face_path(data, i):
    return Path(data) / "face" / f"{i:06d}.png"


def detail_path(data, i):
    return Path(data) / "detail" / f"{i:06d}.png"


def lower_path(folder, j):
    return Path(folder) / f"{j:06d}.png"


def mel_path(data, i):
    return Path(data) / "audio" / f"{i:06d}.npy"


def remedy_for(data, video="VIDEO"):
    """Return the end of an error line: the command that prepares `data` anew."""
    return f"run: python preprocess.py {shlex.quote(str(video))}{option('data', data, 'data')}"


def train_command(data, checkpoints):
    """Return the command that trains with these folders, for messages."""
    return f"python train.py{option('data', data, 'data')}{option('checkpoints', checkpoints, 'checkpoints')}"


# -- files that others may have made -----------------------------------------------------------------
def whole(low, high):
    """Return what tells whether a value is an integer, and no bool, from low to high."""
    return lambda value: type(value) is int and low <= value <= high


def number(low, high):
    """Return what tells whether a value is a number, and no NaN, from low to high."""
    return lambda value: type(value) in (int, float) and low <= value <= high


def text(value):
    return type(value) is str


def check(found, table, what, remedy):
    """Raise UserError unless the dict `found` has a fitting value for each key of `table`; other keys are left alone.

    A table has by key what tells whether the value fits, or a table of its own if the value is to be a dict.
    """
    for key, fits in table.items():
        value, nested = found.get(key), isinstance(fits, dict)
        if not (isinstance(value, dict) if nested else fits(value)):
            raise UserError(f"{what} has no valid '{key}'; {remedy}")
        if nested:
            check(value, fits, f"{what}, {key},", remedy)


def is_file(path):
    """True if there is a file of that name; False also for what no file can be named."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def read_array(path, dtype, shape, mmap_mode=None):
    """Return the array of an npy file, unless it is of another dtype or shape: looked at before memory is taken.

    Raises ValueError, or OSError if it cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            found, _, kind = np.lib.format.read_array_header_1_0(file)
        if (found, kind) == (shape, np.dtype(dtype)):
            return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy's reader and the parsers that it calls each raise their own
        raise ValueError(f"{type(error).__name__}: {error}") from error
    raise ValueError(f"it holds {kind} {found}, expected {np.dtype(dtype)} {shape}")


# -- meta.json ---------------------------------------------------------------------------------------
META = {"frames": whole(1, 10 ** 7), "id": text,
        "detail": lambda found: type(found) is list and len(found) < 1000 and all(map(whole(0, 10 ** 7), found)),
        "contract": {}, "av_offset_ms": whole(-10 ** 5, 10 ** 5),
        "source": {"path": text, "bytes": whole(0, 2 ** 63), "mtime": number(-1e12, 1e12), "sha256": text},
        "size": lambda size: type(size) is list and len(size) == 2 and all(map(whole(2, 2 ** 16), size))
        and not any(side % 2 for side in size)}  # width, height


def write_whole(path, content):
    """Write bytes to a temporary name, then rename: a reader sees the old file or the new."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path):
            temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, content):
    """Write `content` as JSON, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False).encode())


def read_json(path, remedy):
    """Return the dict in a JSON file.

    Raises UserError, ending in `remedy` (the next command), if it is missing or no JSON object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; {remedy}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; {remedy}")
    return content


def read_meta(data):
    """Return data/meta.json, checked: a finished preprocess.py, this contract, as many files as it says.

    Raises UserError naming what was found, what was expected and the command that mends it.
    """
    data = Path(data)
    remedy = remedy_for(data)
    if not (data / "meta.json").is_file():
        raise UserError(f"{data} holds no prepared clip (no finished meta.json); {remedy}")
    meta = read_json(data / "meta.json", remedy)
    check(meta, META, f"{data}/meta.json", remedy)
    check_contract(meta["contract"], f"{data} was made", remedy)
    counts = [sum(1 for _ in (data / "face").glob("*.png")), sum(1 for _ in (data / "audio").glob("*.npy"))]
    if counts != [meta["frames"]] * 2:
        raise UserError(f"{data} should hold {meta['frames']} pictures and as many features, "
                        f"but has {counts[0]} and {counts[1]}; {remedy}")
    return meta


def check_contract(found, what, remedy):
    """Raise UserError if the constants `found` (a dict) differ from this file's."""
    for key, value in CONTRACT.items():
        if repr(found.get(key)) != repr(value):  # what a stranger's file holds may not even bear a comparison
            raise UserError(f"{what} with {key} = {found.get(key)!r:.99}, but utils/contract.py has {value}; {remedy}")


def read_track(data, meta, points=None):
    """Return data/track.npz as a dict of arrays.

    transform (N, 2, 3) float32 frame -> face; landmarks (N, 478, 3) float32 source pixels, or only those numbered
    `points`; valid (N,) bool; lips (N, 40, 2) float32 face pixels; pose (N, 2) float32; shape (N, 2) float32 mouth
    opening and width over eye distance; cuts (C,) int64, the first frame of each shot. Raises UserError if it is
    damaged or holds what can't be.
    """
    path, n, remedy = Path(data) / "track.npz", meta["frames"], remedy_for(data)
    try:
        with zipfile.ZipFile(path) as archive:
            track = {key: _read_rows(archive, key, n, *kind, points if key == "landmarks" else None)
                     for key, kind in {**TRACK, "cuts": (np.int64, ())}.items()}
    except Exception as error:  # numpy, zipfile and zlib each raise their own on a damaged archive
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); {remedy}") from error
    track["valid"] = track["valid"].view(np.uint8) != 0  # a bool of another byte than 0 and 1 counts as both
    cuts, area = track["cuts"], np.linalg.det(track["transform"][:, :, :2].astype(np.float64))
    if cuts[0] != 0 or (np.diff(cuts) <= 0).any() or cuts[-1] >= n:
        raise UserError(f"{path}: cuts must rise from 0 to below {n}; {remedy}")
    if not ((area >= SCALES[0] ** 2) & (area <= SCALES[1] ** 2)).all():
        raise UserError(f"{path}: transform must scale by {SCALES[0]} to {SCALES[1]}; {remedy}")
    return track


def _read_rows(archive, key, n, dtype, size, columns, block=256):
    """Return an array (n, *size) of an npz file, of it only those columns: ten minutes of landmarks are 86 MB.

    Raises ValueError, or what zipfile and numpy raise, if it is another or holds what is not finite or too large.
    """
    with archive.open(f"{key}.npy") as file:
        np.lib.format.read_magic(file)
        shape, fortran, found = np.lib.format.read_array_header_1_0(file)
        rows = max(1, min(n, *shape[:1])) if key == "cuts" and shape else n
        if (shape, fortran, found) != ((rows, *size), False, np.dtype(dtype)):
            raise ValueError(f"{key} is {found} {shape}, expected {np.dtype(dtype)} {(rows, *size)}")
        parts, step = [], found.itemsize * int(np.prod(size))
        for first in range(0, rows, block):
            part = np.frombuffer(file.read(step * min(block, rows - first)), dtype).reshape(-1, *size)
            if not (np.abs(part) <= LARGEST).all():
                raise ValueError(f"{key} has values that are not finite or beyond {LARGEST:.0f}")
            parts.append(part if columns is None else part[:, columns])
        if file.read(1) or sum(map(len, parts)) != rows:  # reading to the end compares the checksum too
            raise ValueError(f"{key} has not {rows} rows")
        return np.concatenate(parts)


def source_identity(path):
    """Return what tells a source file from another: absolute path, size in bytes, mtime, SHA-256."""
    path = Path(path).resolve()
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    stat = path.stat()
    return {"path": str(path), "bytes": stat.st_size, "mtime": stat.st_mtime, "sha256": digest.hexdigest()}


def source_path(meta, data):
    """Return the source video's path, after checking that it is still the file that was prepared."""
    source = meta["source"]
    path = Path(source["path"])
    if not is_file(path):
        raise UserError(f"the source video {path} is gone; put it back or {remedy_for(data)}")
    stat = path.stat()
    same = stat.st_size == source["bytes"]
    if same and stat.st_mtime != source["mtime"]:
        same = source_identity(path)["sha256"] == source["sha256"]
    if not same:
        raise UserError(f"{path} has changed since it was prepared; {remedy_for(data, path)}")
    return path


def files(folder, endings):
    """Return the files in `folder` that have one of these endings, sorted."""
    return sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in endings and p.is_file())


def only_file(folder, endings, kind, command):
    """Return the only file of that kind in `folder`; UserError with the possible commands otherwise."""
    folder, found = Path(folder), files(folder, endings)
    if not found:
        raise UserError(f"no {kind} in {folder}/; put one there, or name it: {command} PATH "
                        "(or make the built-in sample: python -m utils.sample)")
    if len(found) > 1:
        raise UserError(f"{len(found)} {kind} files in {folder}/; name one: "
                        + "  or  ".join(f"{command} {shlex.quote(str(p))}" for p in found))
    return found[0]


def remove(path):
    """Remove a file or a folder, if it is there."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
