"""What every script does at its edges: help from the docstring, one-line errors, one writer per folder."""

import argparse
import contextlib
import shlex
import sys
from pathlib import Path

from filelock import FileLock, Timeout


class UserError(Exception):
    """Something that the user can mend. The message says what was found, what was expected, what to run next.

    It is one line whatever a file from elsewhere puts into it, and holds nothing that a terminal would obey.
    """

    def __init__(self, message):
        super().__init__("".join(letter if letter.isprintable() else " " for letter in message))


def parser(doc):
    """Return an ArgumentParser whose --help is the script's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                                   allow_abbrev=False)


def positive(kind):
    """Return an argparse type: a finite number of that kind (int or float) above 0."""
    def convert(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value
    convert.__name__ = f"positive {kind.__name__}"  # argparse names it in its error line
    return convert


def option(name, value, default):
    """Return " --name value", quoted for a shell, or nothing if the value is the default: for the next command."""
    return "" if str(value) == default else f" --{name} {shlex.quote(str(value))}"


def say(message):
    """Print a line to standard error: standard output is kept for results."""
    print(message, file=sys.stderr, flush=True)


def run(main, resume_hint=""):
    """Run a script's main(): one clear line and exit code 1 for what a user can mend, 130 for Ctrl-C."""
    code, message = _outcome(main, resume_hint)
    if code:  # said only now: with the exception gone its progress bars are closed, and the line is its own
        say(" ".join(message.splitlines()))
        sys.exit(code)


def _outcome(main, resume_hint):
    """Return (exit code, what to say) of main(); what is ours to mend keeps its traceback."""
    try:
        main()
    except UserError as error:
        return 1, f"error: {error}"
    except OSError as error:
        named = f": {error.filename}" if error.filename else ""
        return 1, (f"error: {error.strerror or error}{named}; nothing finished was lost, mend it"
                   f"{resume_hint or ' and run the same command again'}")
    except Exception as error:  # PyTorch and OpenCV each have their own way to say that memory ran out
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        return 1, ("error: out of memory; close other programs, or lower BATCH_SIZE (train.py: --batch-size 4), and "
                   "run again")
    except KeyboardInterrupt:
        return 130, f"interrupted; nothing finished was lost{resume_hint}"
    return 0, ""


@contextlib.contextmanager
def naming(path):
    """Let an OSError that names no file, as that of a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


@contextlib.contextmanager
def writing(folder):
    """Hold the right to write `folder` (made if missing) until the block or the process ends.

    Raises UserError if another run holds it. An OSError names `folder` if it names no file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; expected a folder. Name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another run is writing {folder}; wait until it has ended, or name another folder") from error
    try:
        with naming(folder):
            yield
    finally:
        lock.release()
