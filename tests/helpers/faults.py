"""A disk that fails: it numbers every call that changes files, and lets one of them fail.

Counted are files opened for writing, each write and close of them, renames, removals, new folders,
lock files, and the files that FFmpeg writes: opened, each packet, closed.
"""

import builtins
import csv
import errno
import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from utils.media.reader import read_frames, read_sound

KINDS = {"disk full": errno.ENOSPC, "permission": errno.EACCES, "interrupted": None}
CHANGING = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir")  # functions of os
NO_RESULTS = {".lock"}  # files that are not compared

MakeError = Callable[[int, str, str], BaseException]


class Disk:
    """Watches the files below `root`. seen: what each call did, with # for numbers in names."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = os.path.realpath(root)
        self.fail()
        opened = self._counted_open(builtins.open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        patch.setattr(os, "open", self._counted_descriptor(os.open))
        patch.setattr(av, "open", self._counted_media(av.open))
        for name in CHANGING:
            patch.setattr(os, name, self._counted(name))

    def fail(self, at: int | None = None, kind: str = "disk full") -> None:
        """Count from 0 again; call number `at` is to fail."""
        self.seen: list[str] = []
        self.at = at
        self.kind = kind

    def touch(self, what: str, path: str | os.PathLike, make_error: MakeError = OSError) -> None:
        """Number a call; raise if it is the one that is to fail."""
        path = os.path.abspath(os.fspath(path))
        if os.path.commonpath([path, self.root]) != self.root:
            return
        number = len(self.seen)
        name = os.path.relpath(path, self.root)
        self.seen.append(f"{what} {re.sub('[0-9]+', '#', name)}")
        if number == self.at:
            code = KINDS[self.kind]
            if code is None:
                raise KeyboardInterrupt
            raise make_error(code, os.strerror(code), path)

    def sites(self) -> list[int]:
        """Calls to try: of each kind of call the first, the middle and the last one."""
        similar = defaultdict(list)
        for number, label in enumerate(self.seen):
            similar[label].append(number)
        chosen = set()
        for numbers in similar.values():
            chosen |= {numbers[0], numbers[len(numbers) // 2], numbers[-1]}
        return sorted(chosen)

    def _counted_open(self, real):
        def open_file(file, mode="r", *rest, **options):
            writes = set(mode) & set("wax+") and not isinstance(file, int)
            if not writes:
                return real(file, mode, *rest, **options)
            self.touch("open", file)
            return _File(real(file, mode, *rest, **options), file, self)

        return open_file

    def _counted_descriptor(self, real):
        def open_descriptor(path, flags, *rest, **options):
            if flags & os.O_CREAT:
                self.touch("lock", path)
            return real(path, flags, *rest, **options)

        return open_descriptor

    def _counted_media(self, real):
        def open_media(file, mode=None, *rest, **options):
            if mode != "w":
                return real(file, mode, *rest, **options)
            path = file.removeprefix("file:")
            self.touch("open", path, _media_error)
            return _Media(real(file, mode, *rest, **options), path, self)

        return open_media

    def _counted(self, name):
        real = getattr(os, name)

        def call(path, *rest, **options):
            folder = options.get("dir_fd")
            place = "" if folder is None else os.readlink(f"/proc/self/fd/{folder}")
            self.touch(name, os.path.join(place, path))
            return real(path, *rest, **options)

        return call


def _media_error(code, text, path):
    return av.error.classes[code](code, text, path)


def _nameless_media_error(code, text, path):
    return _media_error(code, text, None)


def _nameless_error(code, text, path):
    return OSError(code, text)


class _File:
    """A file opened for writing. A write that fails has written half, a close loses the rest."""

    def __init__(self, file, path, disk):
        self._file = file
        self._path = path
        self._disk = disk

    def write(self, data):
        try:
            self._disk.touch("write", self._path, _nameless_error)
        except BaseException:
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def close(self):
        if self._file.closed:
            return
        try:
            self._disk.touch("close", self._path, _nameless_error)
        except BaseException:
            self._file.flush()
            self._file.truncate(self._file.tell() // 2)
            raise
        finally:
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


class _Media:
    """A media file that is written. FFmpeg's errors name no file, as is so on a full disk."""

    def __init__(self, container, path, disk):
        self._container = container
        self._path = path
        self._disk = disk

    def mux(self, packets):
        self._disk.touch("mux", self._path, _nameless_media_error)
        self._container.mux(packets)

    def close(self):
        self._disk.touch("close", self._path, _nameless_media_error)
        self._container.close()

    def __getattr__(self, name):
        return getattr(self._container, name)


# -- what is compared ------------------------------------------------------------------------------
def digest(path: Path) -> str:
    """What a file holds: of videos what is seen and heard, of trainings all but the durations."""
    readers = {".mp4": _read_video, ".pth": _read_checkpoint, ".csv": _read_log}
    read = readers.get(path.suffix, Path.read_bytes)
    return hashlib.sha256(read(path)).hexdigest()


def _read_video(path):
    pictures = []
    for frame in read_frames(path):
        pictures.append(b"".join(plane.tobytes() for plane in frame.planes()))
    return b"".join(pictures) + read_sound(path, 16000).tobytes()


def _read_checkpoint(path):
    saved = torch.load(path, weights_only=True)
    for row in saved["history"]:
        del row["seconds"], row["pictures_per_s"]
    return repr(_leaves(saved)).encode()


def _read_log(path):
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    for row in rows:
        del row["seconds"], row["pictures_per_s"]
    return repr(rows).encode()


def _leaves(value: Any) -> list:
    """The leaves of nested dicts and lists, each after its key."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in (key, *_leaves(item))]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value.numpy().tobytes() if torch.is_tensor(value) else value]


def snapshot(folder: Path) -> dict[str, str]:
    """What a folder holds: {path in it: digest}."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.name not in NO_RESULTS:
            found[str(path.relative_to(folder))] = digest(path)
    return found


def part(state: dict[str, str], *names: str) -> dict[str, str]:
    """The part of a snapshot that lies in these files and folders."""
    return {path: content for path, content in state.items() if path.split("/")[0] in names}


def below(state: dict[str, str], folder: str) -> dict[str, str]:
    """The part of a snapshot below a folder ("pred/speech/"), by the names there."""
    inside = [path for path in state if path.startswith(folder)]
    return {path.removeprefix(folder): state[path] for path in inside}
