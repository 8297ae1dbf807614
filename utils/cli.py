"""What every script does at its edges: options, one-line errors, one writer per folder.

Code below the scripts raises a UserError and knows no commands. `run` adds the command that helps,
with the folders of this call.
"""

import contextlib
import io
import os
import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

DATA = "data"  # default of --data
CHECKPOINT = "checkpoints/best.pth"  # default of --checkpoint
DEBUG = "EASY_HUMAN_DEBUG"  # environment variable: with "1" every error keeps its traceback

# What RuntimeError and cv2.error say when memory ran out. "memory" alone is too little: it is in
# many of PyTorch's everyday messages ("memory_format", "single memory location").
MEMORY_PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "Insufficient memory",
    "out of memory",
    "bad allocation",
    "bad_alloc"
)


# Options that several scripts have: default and meaning.
SHARED_OPTIONS = {
    "data": (DATA, "working folder of preprocess.py"),
    "checkpoint": (CHECKPOINT, "from train.py"),
    "checkpoints": ("checkpoints", "folder to write to"),
    "device": ("auto", "auto, cpu, cuda or cuda:N"),
}

# -- errors that a user can put right --------------------------------------------------------------
class UserError(Exception):
    """Something that the user can put right: what was found, and what was expected.

    message: one printable line, whatever a file from elsewhere puts into it.
    """

    def __init__(self, message: str):
        self.message = "".join(letter if letter.isprintable() else " " for letter in message)
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.line()

    def line(self, args: Namespace | None = None) -> str:
        """The message and, if there is one, the command to run next."""
        command = self.command(args)
        return f"{self.message}; run: {command}" if command else self.message

    def command(self, args: Namespace | None = None) -> str:
        """The command that helps, with the folders of `args`, or "" if there is none."""
        return ""


class DataError(UserError):
    """data/ is missing, damaged or stale: preprocess.py makes it."""

    def __init__(self, message: str, video: str | Path = "VIDEO"):
        super().__init__(message)
        self.video = video

    def command(self, args: Namespace | None = None) -> str:
        """preprocess.py on the video."""
        return f"python preprocess.py {shlex.quote(str(self.video))}{_data_option(args)}"


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or of another network: train.py makes it."""

    def __init__(self, message: str, options: str = ""):
        super().__init__(message)
        self.options = options

    def command(self, args: Namespace | None = None) -> str:
        """train.py with the same folders, and the options of this error."""
        checkpoint = getattr(args, "checkpoint", CHECKPOINT)
        folder = getattr(args, "checkpoints", Path(checkpoint).parent)
        folders = _data_option(args) + option("checkpoints", folder, "checkpoints")
        return f"python train.py{folders} {self.options}".rstrip()


class PredictionError(UserError):
    """A prediction in data/pred/ is missing, damaged or stale: inference.py makes it."""

    def command(self, args: Namespace | None = None) -> str:
        """inference.py on the same data."""
        return f"python inference.py AUDIO{_data_option(args)}"


def _data_option(args):
    return option("data", getattr(args, "data", DATA), DATA)


def option(name: str, value: object, default: str) -> str:
    """The text " --name value" for the next command, quoted for a shell; "" for the default."""
    if str(value) == default:
        return ""
    return f" --{name} {shlex.quote(str(value))}"


# -- command line ----------------------------------------------------------------------------------
def parser(doc: str | None, *shared: str) -> ArgumentParser:
    """ArgumentParser whose --help is the script's docstring, with some of the SHARED_OPTIONS."""
    parser = ArgumentParser(
        description=doc, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    for name in shared:
        default, meaning = SHARED_OPTIONS[name]
        parser.add_argument(f"--{name}", default=default, help=f"{meaning} (default: {default})")
    return parser


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """An argparse type: a finite number of that kind above 0."""

    def convert(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    convert.__name__ = f"positive {kind.__name__}"  # argparse names it in its error line
    return convert


def say(message: str):
    """Print a line to standard error: standard output is for results.

    Of the processes that torchrun starts only the first one prints.
    """
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)


# -- running a script ------------------------------------------------------------------------------
def run(
    main: Callable[[Namespace], None],
    args: Namespace,
    resume_hint: str = ""
):
    """Call main(args). What a user can put right ends in one line and exit code 1, Ctrl-C in 130.

    resume_hint: how to go on after an interruption. With EASY_HUMAN_DEBUG=1 in the environment
    every error keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a console may not know all letters
    if os.environ.get(DEBUG) == "1":
        main(args)
        return
    code, message = _outcome(main, args, resume_hint)
    if code:  # said only now: the exception is gone, so its progress bars are closed
        say(" ".join(message.splitlines()))
        sys.exit(code)


def _outcome(main, args, resume_hint):
    """Exit code and line of main(args). Errors of the program itself keep their traceback."""
    try:
        _check_not_empty(args)
        main(args)
    except UserError as error:
        return 1, f"error: {error.line(args)}"
    except OSError as error:
        file = f": {error.filename}" if error.filename else ""
        again = resume_hint or " and run the same command again"
        return 1, (
            f"error: {error.strerror or error}{file}; nothing finished was lost "
            f"({DEBUG}=1 shows the traceback); put it right{again}"
        )
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        return 1, (
            f"error: out of memory ({DEBUG}=1 shows the traceback); close other programs, "
            "or lower BATCH_SIZE (train.py: --batch-size 4), and run again"
        )
    except KeyboardInterrupt:
        return 130, f"interrupted; nothing finished was lost{resume_hint}"
    return 0, ""


def _check_not_empty(args):
    """Raise UserError if a text is empty, as "$NAME" is in a shell that knows no NAME."""
    for name, value in vars(args).items():
        if "" in (value if isinstance(value, list) else [value]):
            raise UserError(f"an empty {name.replace('_', '-')} was given, as an unset variable of "
                            "a shell gives; name one, or leave it out, and run again")


def _is_out_of_memory(error):
    """True for each library's own way to say it, without an import of that library."""
    kind = type(error)
    if isinstance(error, MemoryError) or kind.__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError) and kind.__module__ != "cv2":
        return False
    return any(phrase in str(error) for phrase in MEMORY_PHRASES)


# -- writing ---------------------------------------------------------------------------------------
@contextlib.contextmanager
def naming_errors(path: str | Path) -> Iterator[None]:
    """An OSError that names no file, as that of a full disk, names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


@contextlib.contextmanager
def write_lock(folder: str | Path) -> Iterator[None]:
    """The right to write `folder` (made if missing), until the block or the process ends.

    Raises UserError if another run holds it. An OSError that names no file names `folder`.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{folder} is a file; expected a folder. Name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another run is writing {folder}; wait until it has ended, or name another folder"
        ) from error
    with lock, naming_errors(folder):
        yield
