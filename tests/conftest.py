"""What all tests share: the one way to run a script, and a tiny clip, speech and data folder.

Two tests run at a time, each with one thread for torch: two of them on the same cores would slow
each other tenfold. `-n 0` runs one at a time, as a debugger needs it.
"""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in scripts

from utils import cli, sample

ROOT = Path(__file__).resolve().parent.parent
CLIP_SECONDS = 6
CLIP_SEED = 11
SPEECH_SECONDS = 2
SPEECH_SEED = 12
MOST_SECONDS = 600  # that a script in a process of its own may take

os.environ.pop(cli.DEBUG, None)  # with it errors would keep their tracebacks


class Result(NamedTuple):
    """How a script ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def run_script() -> Callable[..., Result]:
    """Call it to run a script: run_script("train", "--data", data, cwd=folder) -> Result.

    name: "preprocess", "utils.evaluate" ... By default in this process, so that patches hold;
    separate=True: in a process of its own. The exit code is for the test to check.
    """

    def run(
        name: str, *arguments: object, cwd: Path | None = None, separate: bool = False
    ) -> Result:
        words = [str(argument) for argument in arguments]
        start = _run_separately if separate else _run_here
        return start(name, words, cwd or Path.cwd())

    return run


def _run_separately(name: str, words: list[str], cwd: Path) -> Result:
    program = ["-m", name] if "." in name else [str(ROOT / f"{name}.py")]
    done = subprocess.run(
        [sys.executable, *program, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def _run_here(name: str, words: list[str], cwd: Path) -> Result:
    """Do what the guard at the end of the script does."""
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):  # a package: its __main__ is what `python -m` runs
        module = importlib.import_module(f"{name}.__main__")
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd),
    ):
        try:
            cli.run(module.main, module.parse_args(words))
        except SystemExit as end:
            code = int(end.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a clip of the drawn face, 6 seconds."""
    path = tmp_path_factory.mktemp("clip") / "tiny.mp4"
    sample.write_clip(path, CLIP_SECONDS, CLIP_SEED)
    return path


@pytest.fixture(scope="session")
def tiny_speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a wav file with other speech, 2 seconds."""
    path = tmp_path_factory.mktemp("speech") / "tiny.wav"
    sample.write_speech(path, SPEECH_SECONDS, SPEECH_SEED)
    return path


@pytest.fixture(scope="session")
def tiny_data(
    run_script: Callable[..., Result],
    tiny_clip: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Folder that preprocess.py made from tiny_clip. A test that changes it copies it first."""
    data = tmp_path_factory.mktemp("prepared") / "data"
    result = run_script("preprocess", tiny_clip, "--data", data)
    assert result.code == 0, result.err
    return data
