"""A disk that fails: it numbers every call that changes files, and lets one of them fail.

Counted are files opened for writing, each write and close of them, renames, removals, new folders, lock files, and the
files that FFmpeg writes: opened, each packet, closed.
"""

import builtins
import csv
import errno
import hashlib
import io
import os
import re
from pathlib import Path

import av
import numpy as np
import torch

from utils import media

KINDS = {"disk full": errno.ENOSPC, "permission": errno.EACCES, "interrupted": None}
CHANGING = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir")  # functions of os
PASSING = {".lock"}  # files that are no result


class Disk:
    """Watches the files below `root`. seen: what each call did, numbers in names replaced by #."""

    def __init__(self, root, patch):
        self.root, self.seen, self.at, self.kind = os.path.realpath(root), [], None, None
        real_open, real_os_open, real_media = builtins.open, os.open, av.open

        def open_file(file, mode="r", *rest, **options):
            writes = set(mode) & set("wax+") and not isinstance(file, int)
            if writes:
                self.touch("open", file)
            opened = real_open(file, mode, *rest, **options)
            return _File(opened, file, self) if writes else opened

        def open_descriptor(path, flags, *rest, **options):
            if flags & os.O_CREAT:
                self.touch("lock", path)
            return real_os_open(path, flags, *rest, **options)

        def open_media(file, mode=None, *rest, **options):
            if mode != "w":
                return real_media(file, mode, *rest, **options)
            path = file.removeprefix("file:")
            self.touch("open", path, _media_error)
            return _Media(real_media(file, mode, *rest, **options), path, self)

        for module in (builtins, io):
            patch.setattr(module, "open", open_file)
        patch.setattr(os, "open", open_descriptor)
        patch.setattr(av, "open", open_media)
        for name in CHANGING:
            patch.setattr(os, name, self._counted(name))

    def _counted(self, name):
        real = getattr(os, name)

        def call(path, *rest, **options):
            folder = options.get("dir_fd")
            whole = path if folder is None else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
            self.touch(name, whole)
            return real(path, *rest, **options)
        return call

    def touch(self, what, path, error=OSError):
        """Number a call; raise if it is the one that is to fail."""
        path = os.path.abspath(os.fspath(path))
        if os.path.commonpath([path, self.root]) != self.root:
            return
        self.seen.append(f"{what} {re.sub('[0-9]+', '#', os.path.relpath(path, self.root))}")
        if len(self.seen) - 1 == self.at:
            code = KINDS[self.kind]
            raise KeyboardInterrupt if code is None else error(code, os.strerror(code), path)

    def fail(self, at=None, kind=None):
        """Count anew; call number `at` is to fail."""
        self.seen, self.at, self.kind = [], at, kind

    def sites(self):
        """Return the numbers of the calls to try: of each kind of call the first, the middle and the last one."""
        alike = {}
        for number, label in enumerate(self.seen):
            alike.setdefault(label, []).append(number)
        return sorted({numbers[k] for numbers in alike.values() for k in (0, len(numbers) // 2, -1)})


def _media_error(code, text, path):
    return av.error.classes[code](code, text, path)


def _nameless(code, text, _):
    return OSError(code, text)


class _File:
    """A file opened for writing. A write that fails has written half; a close that fails loses what was buffered."""

    def __init__(self, file, path, disk):
        self._file, self._path, self._disk = file, path, disk

    def write(self, data):
        try:
            self._disk.touch("write", self._path, _nameless)
        except BaseException:
            self._file.write(data[:len(data) // 2])
            raise
        return self._file.write(data)

    def close(self):
        if self._file.closed:
            return
        try:
            self._disk.touch("close", self._path, _nameless)
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
    """A media file that is written. FFmpeg's errors name no file here, as is so on a full disk."""

    def __init__(self, container, path, disk):
        self._container, self._path, self._disk = container, path, disk

    def mux(self, packets):
        self._disk.touch("mux", self._path, lambda code, text, _: _media_error(code, text, None))
        self._container.mux(packets)

    def close(self):
        self._disk.touch("close", self._path, lambda code, text, _: _media_error(code, text, None))
        self._container.close()

    def __getattr__(self, name):
        return getattr(self._container, name)


# -- what is compared --------------------------------------------------------------------------------
def digest(path):
    """Return what a file holds: of videos what is seen and heard, of checkpoints and logs all but the durations."""
    if path.suffix == ".mp4":
        pictures = [np.concatenate([plane.reshape(-1) for plane in frame.planes()])
                    for frame in media.read_frames(path)]
        content = [np.array(pictures).tobytes(), media.read_sound(path, 16000).tobytes()]
    elif path.suffix == ".pth":
        saved = torch.load(path, weights_only=True)
        for row in saved["history"]:
            del row["seconds"], row["pictures_per_s"]
        content = [repr([value.numpy().tobytes() if torch.is_tensor(value) else value for value in _flat(saved)])]
    elif path.suffix == ".csv":
        content = [repr([row[:-2] for row in csv.reader(io.StringIO(path.read_text()))])]
    else:
        content = [path.read_bytes()]
    return hashlib.sha256(b"".join(part.encode() if isinstance(part, str) else part for part in content)).hexdigest()


def _flat(value):
    """Return the leaves of nested dicts and lists, each after its key."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in (key, *_flat(item))]
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, (list, tuple)) else [value]


def snapshot(folder):
    """Return {path in it: what it holds}."""
    folder = Path(folder)
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in PASSING}


def part(state, *names):
    """Return the part of a snapshot that lies in these files and folders."""
    return {path: content for path, content in state.items() if path in names or path.split("/")[0] in names}
