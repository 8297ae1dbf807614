"""How much memory a program takes. Linux only."""

import subprocess
import sys
import time
from pathlib import Path

from helpers.layout import ROOT

LOOK_EVERY_S = 0.01


def peak_mb(*command: object) -> float:
    """Most anonymous memory that `python *command` has at a time, in MB.

    Anonymous (RssAnon) is what the system cannot drop, as it can the pages of a mapped file. The
    program runs in the project's folder; RuntimeError if it fails.
    """
    words = [sys.executable, *map(str, command)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    peak_kb = 0
    with subprocess.Popen(words, cwd=ROOT, **quiet) as process:
        while process.poll() is None:
            peak_kb = max(peak_kb, anonymous_kb(process.pid))
            time.sleep(LOOK_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{words[1:]} ended with {process.returncode}")
    return peak_kb / 1024


def anonymous_kb(number: int) -> int:
    """Anonymous memory of process `number` now; 0 if it has ended."""
    try:
        status = Path(f"/proc/{number}/status").read_text()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields.get("RssAnon", "0").split()[0])
