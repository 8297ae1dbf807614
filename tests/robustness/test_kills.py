"""Real processes: the chain where every name needs quotes, and scripts killed at random moments."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.faults import snapshot

from utils.media.reader import read_frames
from utils.storage import remove_tree
from utils.training import checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ("preprocess.py", "train.py", "inference.py", "reapply_faces.py")
DATA = "数据 'd'"
CHECKPOINTS = "net $1"
WRITTEN = (DATA, CHECKPOINTS)  # folders
KILLS = 3
MOST_SECONDS = 300  # of a script
pytestmark = pytest.mark.slow

FIRST = "python preprocess.py 她\\'s\\ \\\"film\\\".mp4 --data \"数据 'd'\""
ADDED = {
    "train.py": "--checkpoints 'net $1' --epochs 1 --device cpu",
    "inference.py": "'your speech.wav'",
}


class Chain(NamedTuple):
    """All four scripts, run once."""

    folder: Path              # that they ran in
    kept: Path                # copy of what they wrote
    commands: dict[str, str]  # as a user would type them
    seconds: dict[str, float]
    out: str                  # standard output of the last one


def start(command, folder):
    """Start a command line as a shell takes it, `python` being this one."""
    this_python = f'python() {{ exec {shlex.quote(sys.executable)} "$@"; }}'
    return subprocess.Popen(
        ["bash", "-c", f"{this_python}; {command}"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Standard output and error of a process that must end well."""
    out, err = process.communicate(timeout=MOST_SECONDS)
    assert process.returncode == 0, err[-2000:]
    return out, err


def make_project(root, clip, speech):
    """A folder of odd name with the scripts in it; the video and the data are links."""
    folder = root / "it's 测试 \"x\" $HOME"
    folder.mkdir()
    for name in (*SCRIPTS, "models", "utils"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(clip, root / "film 1.mp4")
    (folder / '她\'s "film".mp4').symlink_to(root / "film 1.mp4")
    shutil.copy(speech, folder / "your speech.wav")
    (root / "large disk").mkdir()
    (folder / DATA).symlink_to(root / "large disk")
    return folder


@pytest.fixture(scope="module")
def chain(tiny_clip, tiny_speech, tmp_path_factory):
    """The chain of the four scripts, each started as the one before it says."""
    folder = make_project(tmp_path_factory.mktemp("chain"), tiny_clip, tiny_speech)
    command = FIRST
    commands = {}
    seconds = {}
    for name in SCRIPTS:
        assert name in command
        commands[name] = f"{command} {ADDED.get(name, '')}"
        begun = time.monotonic()
        out, err = finish(start(commands[name], folder))
        seconds[name] = time.monotonic() - begun
        if name != SCRIPTS[-1]:
            command = re.search(r"next: (python .*)", err)[1]
    kept = tmp_path_factory.mktemp("kept")
    for name in WRITTEN:
        shutil.copytree(folder / name, kept / name)
    return Chain(folder, kept, commands, seconds, out)


def test_every_name_may_need_quoting(chain):
    """The suggested commands ran as printed; the last one printed the path of a video."""
    video = chain.folder / chain.out.rstrip("\n")
    assert sum(1 for _ in read_frames(video)) == 50
    assert (chain.folder / DATA).is_symlink()
    assert video.name == "film 1--your speech.mp4"


def restore(chain):
    """Bring back what the undisturbed chain wrote; the data stays behind its link."""
    for name in WRITTEN:
        place = chain.folder / name
        for path in place.iterdir():
            remove_tree(path)
        shutil.copytree(chain.kept / name, place, dirs_exist_ok=True)


def next_command(chain, name):
    """What a user types after a kill: the same again, --resume for a training that has begun."""
    last = chain.folder / CHECKPOINTS / "last.pth"
    if name != "train.py" or not last.exists():
        return chain.commands[name]
    _, saved = checkpoint.load(last)
    has_ended = saved["epoch"] == 1
    return "true" if has_ended else f"{chain.commands[name]} --resume"


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_kill_at_a_random_moment_leaves_is_put_right_by_the_next_run(chain, name):
    """Three times each; the result is the undisturbed one's, and nothing else is left."""
    expected = {place: snapshot(chain.kept / place) for place in WRITTEN}
    if name == "preprocess.py":  # what was made from the data before is dropped
        for path in list(expected[DATA]):
            if path.startswith(("pred/", "pack/")):
                del expected[DATA][path]
    rng = np.random.default_rng(os.getpid())
    for _ in range(KILLS):
        restore(chain)
        if name == "train.py":
            remove_tree(chain.folder / CHECKPOINTS)
        moment = rng.uniform(0.4, 1) * chain.seconds[name]
        process = start(chain.commands[name], chain.folder)
        time.sleep(moment)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 0), moment
        finish(start(next_command(chain, name), chain.folder))
        for place, wanted in expected.items():
            found = snapshot(chain.folder / place)
            paths = found.keys() | wanted.keys()
            wrong = [path for path in paths if found.get(path) != wanted.get(path)]
            assert not wrong, moment
