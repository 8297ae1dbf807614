"""The files of data/: meta.json, track.npz, the identity of a source, and atomic writes."""

import contextlib
import hashlib
import json
import ntpath
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np

from utils.cli import DATA, DataError, UserError, naming_errors
from utils.contract import CONTRACT
from utils.shots import shot_bounds, shots

# Limits of what data/ may hold: a value beyond them would crash or stall what reads it.
SIDES_PX = range(2, 2**16 + 1, 2)  # of a frame
LARGEST_PX = 1e5         # no number in track.npz is larger
SMALLEST_SCALE = 0.02    # of the map from the source to the aligned face
LARGEST_SCALE = 50.0
SCALES = range(1, 5)     # times the network's size that a lower face may have

# What track.npz holds of each frame: dtype and shape.
TRACK_ARRAYS = {
    "transform": (np.float32, (2, 3)),
    "landmarks": (np.float32, (65, 2)),
    "valid": (np.bool_, ()),
    "lips": (np.float32, (40, 2)),
    "pose": (np.float32, (2,)),
    "mouth": (np.float32, (2,))
}


# -- reading and writing ---------------------------------------------------------------------------
@contextlib.contextmanager
def reading(path: Path, error: type[UserError] = DataError) -> Iterator[None]:
    """Whatever goes wrong inside becomes one `error` that names the file; UserError passes.

    numpy, zipfile, zlib, json and torch each raise their own kinds on a damaged file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        text = f"{type(problem).__name__}: {problem!s:.300}"
        raise error(f"{path} cannot be used ({text})") from problem


def write_atomically(path: Path, content: bytes):
    """Write to a temporary name, then rename: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming_errors(path):
            temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict):
    """Write a dict as JSON, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(path, text.encode(errors="surrogatepass"))  # paths that are not UTF-8


def read_json(path: Path, error: type[UserError] = DataError) -> dict:
    """The dict in a JSON file. Raises `error` if it is missing, damaged or no JSON object."""
    with reading(path, error):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError("it holds no JSON object")
        return content


# -- the source video ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Source:
    """What tells a source file from another.

    path: absolute. bytes: size. mtime: time of the last change, s since 1970. sha256: of the
    content, hexadecimal.
    """

    path: str
    bytes: int
    mtime: float
    sha256: str


def identify_source(path: Path) -> Source:
    """The identity of a file as it is now."""
    path = path.resolve()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    stat = path.stat()
    return Source(str(path), stat.st_size, stat.st_mtime, digest.hexdigest())


def read_asset(path: Path, sha256: str) -> bytes:
    """Content of a file that is shipped with the project. Raises UserError if it is another."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path} is missing or damaged (its SHA-256 is not the expected one); "
            "restore it from the project and run again"
        )
    return content


def find_moved(path: str, sha256: str, data: str | Path) -> Path:
    """Where a file is now: at `path`, else in input/ or beside `data` under its name, if it is the
    same; else `path`. A project may be moved, or come from another machine.
    """
    name = ntpath.basename(path)  # whichever system it comes from
    beside = Path(data).absolute().parent
    folders = [] if os.path.isfile(path) else [Path("input"), beside / "input", beside]
    for moved in (folder / name for folder in folders):
        if os.path.isfile(moved) and identify_source(moved).sha256 == sha256:
            return moved
    return Path(path)


# -- meta.json -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Meta:
    """What data/ was made from and what it holds.

    frames: N. id: changes with the source and the contract. size: (width, height) of a source
    frame, px, both even. av_offset_ms: by how much the sound was moved, positive: earlier.
    references: frames whose lower half lies in data/reference/, `scale` times as large as the
    network's. sound: the file with the sound, if it was recorded apart. track: number of the sound
    track, if one was asked for. shown_frames: from 0 on, those of the source; the rest come from
    other takes, which are only learned from.
    """

    frames: int
    id: str
    size: tuple[int, int]
    source: Source
    av_offset_ms: int
    references: list[int]
    scale: int
    sound: Source | None = None
    track: int | None = None
    shown_frames: int = 0  # all
    other_takes: list[Source] = field(default_factory=list)

    def __post_init__(self):
        if not self.shown_frames:
            object.__setattr__(self, "shown_frames", self.frames)

    @property
    def files(self) -> set[str]:
        """Names of the files that data/ was made from."""
        sources = [self.source, self.sound, *self.other_takes]
        return {ntpath.basename(str(source.path)) for source in sources if source}


def read_meta(data: str | Path) -> Meta:
    """data/meta.json of a finished preprocess.py, checked: this contract, and all files there.

    Raises DataError that names what was found and what was expected.
    """
    data = Path(data)
    path = data / "meta.json"
    if not path.is_file():
        raise DataError(f"{data} holds no prepared clip (no finished meta.json)")
    found = read_json(path)
    with reading(path):
        check_contract(found["contract"], f"{data} was made", DataError)
        meta = Meta(
            frames=found["frames"],
            id=found["id"],
            size=tuple(found["size"]),
            source=Source(**found["source"]),
            av_offset_ms=found["av_offset_ms"],
            references=list(found["references"]),
            scale=found["scale"],
            sound=Source(**found["sound"]) if found.get("sound") else None,
            other_takes=[Source(**one) for one in found.get("other_takes", [])],
            track=found.get("track"),
            shown_frames=found.get("shown_frames", 0)
        )
        _check_meta(meta)
    pictures = len(list((data / "face").glob("*.png")))
    features = len(list((data / "audio").glob("*.npy")))
    if (pictures, features) != (meta.frames, meta.frames):
        raise DataError(
            f"{data} should hold {meta.frames} pictures and as many features, "
            f"but has {pictures} and {features}"
        )
    return meta


def check_contract(found: dict, what: str, error: type[UserError]):
    """Raise `error` if the constants `found` differ from utils/contract.py's, the version first.

    what: who carries them, for the message ("data was made").
    """
    found = {"version": 1, **found}  # version 1 did not carry its number
    for key, value in CONTRACT.items():
        other = repr(found.get(key))  # a damaged file may hold what cannot even be compared
        if other != repr(value):
            raise error(f"{what} with {key} = {other:.99}, but utils/contract.py has {value}")


def _check_meta(meta):
    """Raise ValueError that names the first wrong entry."""
    sides = [side for side in meta.size if type(side) is int and side in SIDES_PX]
    source_types = [type(value) for value in astuple(meta.source)]
    fits = {
        "frames": type(meta.frames) is int and meta.frames >= 1,
        "id": type(meta.id) is str,
        "size": len(meta.size) == len(sides) == 2,
        "source": source_types == [str, int, float, str],
        "av_offset_ms": type(meta.av_offset_ms) is int,
        "references": all(type(i) is int and 0 <= i < meta.frames for i in meta.references),
        "scale": type(meta.scale) is int and meta.scale in SCALES,
        "track": meta.track is None or (type(meta.track) is int and meta.track >= 1),
        "shown_frames": type(meta.shown_frames) is int and 0 < meta.shown_frames <= meta.frames
    }
    for name, right in fits.items():
        if not right:
            raise ValueError(f"it has no valid '{name}'")


def source_path(meta: Meta, data: str | Path = DATA) -> Path:
    """Path of the source video. Raises DataError if it is gone or is not what was prepared."""
    source = meta.source
    path = find_moved(source.path, source.sha256, data)
    if not os.path.isfile(path):
        raise DataError(f"the source video {path} is gone; put it back or into input/, or prepare "
                        "it again")
    stat = path.stat()
    same = stat.st_size == source.bytes
    if same and stat.st_mtime != source.mtime:
        same = identify_source(path).sha256 == source.sha256
    if not same:
        raise DataError(f"{path} has changed since it was prepared", video=path)
    return path


# -- track.npz -------------------------------------------------------------------------------------
@dataclass(eq=False)
class Track:
    """The face in each of N frames: where it is, what its mouth does, and what it is good for.

    transform (N, 2, 3) float32: affine map from source to aligned face, px.
    landmarks (N, 65, 2) float32: source px, columns as landmarks.WARP_POINTS.
    valid (N,) bool: a face is there and its mouth is not covered. It can be rendered.
    cuts (C,) int64: first frame of each shot.
    lips (N, 40, 2) float32: px of the aligned face.
    pose (N, 2) float32: head turn and nod, in eye distances.
    mouth (N, 2) float32: opening and width, in eye distances.
    usable (N,) bool: valid, and it may be trained on and judged by: see utils.usable_frames.
    """

    transform: np.ndarray
    landmarks: np.ndarray
    valid: np.ndarray
    cuts: np.ndarray
    lips: np.ndarray
    pose: np.ndarray
    mouth: np.ndarray
    usable: np.ndarray = None  # type: ignore[assignment]  # as valid: older data does not have it

    def __post_init__(self):
        if self.usable is None:
            self.usable = self.valid

    def __len__(self) -> int:
        return len(self.valid)

    @property
    def opening(self) -> np.ndarray:
        """Opening of the mouth (N,), in eye distances."""
        return self.mouth[:, 0]

    def shots(self) -> list[tuple[int, int]]:
        """The shots as (first frame, one after the last)."""
        return shots(self.cuts, len(self))

    def shot_bounds(self) -> np.ndarray:
        """First frame of its shot, and one after the last, for each frame: (N, 2)."""
        return shot_bounds(self.cuts, len(self))


def join_tracks(tracks: list[Track]) -> Track:
    """The tracks one after the other, with a cut before each."""
    arrays = {
        name: np.concatenate([getattr(track, name) for track in tracks])
        for name in (*TRACK_ARRAYS, "usable")
    }
    starts = np.cumsum([0, *map(len, tracks)])[:-1]
    cuts = [track.cuts + start for track, start in zip(tracks, starts, strict=True)]
    return Track(**arrays, cuts=np.concatenate(cuts))


def write_track(path: Path, track: Track):
    """Write a track as npz file."""
    with naming_errors(path), open(path, "wb") as file:
        np.savez(file, **vars(track))


def read_track(data: str | Path, meta: Meta) -> Track:
    """data/track.npz. Raises DataError if it is damaged or holds impossible values."""
    path = Path(data) / "track.npz"
    with reading(path):
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in (*TRACK_ARRAYS, "cuts")}
            track = Track(**arrays, usable=archive.get("usable"))
        _check_track(track, meta.frames)
    return track


def _check_track(track, frames):
    """Raise ValueError that names the first array that cannot belong to that many frames."""
    arrays = {**TRACK_ARRAYS, "usable": TRACK_ARRAYS["valid"]}
    for name, (dtype, shape) in arrays.items():
        array = getattr(track, name)
        expected = (frames, *shape)
        if array.dtype != dtype or array.shape != expected:
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {expected}"
            )
        if not (np.abs(array) <= LARGEST_PX).all():
            raise ValueError(f"{name} has values that are not finite or beyond {LARGEST_PX:.0f}")
    cuts = track.cuts
    edges = np.append(cuts, frames)
    rising = edges[0] == 0 and (np.diff(edges) > 0).all()
    if cuts.dtype != np.int64 or cuts.ndim != 1 or not rising:
        raise ValueError(f"cuts must rise from 0 to below {frames}")
    scale = np.sqrt(np.abs(np.linalg.det(track.transform[:, :, :2])))
    if scale.min() < SMALLEST_SCALE or scale.max() > LARGEST_SCALE:
        raise ValueError(f"transform must scale by {SMALLEST_SCALE} to {LARGEST_SCALE}")


# -- files and folders -----------------------------------------------------------------------------
def only_file(found: list[Path], folder: str | Path, kind: str, command: str) -> Path:
    """The only one of the files of a kind that were found in `folder`.

    Raises UserError with the possible commands if there is none or more than one.
    """
    if not found:
        raise UserError(
            f"no {kind} in {folder}/; put one there, or name it: {command} PATH "
            "(or make the built-in sample: python -m utils.sample)"
        )
    if len(found) > 1:
        commands = [f"{command} {shlex.quote(str(path))}" for path in found]
        raise UserError(
            f"{len(found)} {kind} files in {folder}/; name one: {'  or  '.join(commands)}"
        )
    return found[0]


def remove_tree(path: Path):
    """Remove a file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
