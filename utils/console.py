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
    try:
        main()
    except UserError as error:
        say(f"error: {error}")
        sys.exit(1)
    except (OSError, MemoryError) as error:
        say(f"error: {error.strerror or error if isinstance(error, OSError) else 'out of memory'}"
            + (f": {error.filename}" if getattr(error, "filename", None) else "")
            + "; nothing finished was lost, mend it and run the same command again")
        sys.exit(1)
    except RuntimeError as error:  # PyTorch's way to say that memory ran out; anything else is ours to mend
        if "memory" not in str(error):
            raise
        say("error: out of memory; close other programs, or lower BATCH_SIZE (train.py: --batch-size 4), and run again")
        sys.exit(1)
    except KeyboardInterrupt:
        say(f"\ninterrupted; nothing finished was lost{resume_hint}")
        sys.exit(130)


@contextlib.contextmanager
def writing(folder):
    """Hold the right to write `folder` (made if missing) until the block or the process ends.

    Raises UserError if another run holds it.
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
        yield
    finally:
        lock.release()
