"""Real processes: the whole chain where every name needs quoting, and each script killed at random moments."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from faults import snapshot
from utils import checkpoint, contract, media

SCRIPTS = ("preprocess.py", "train.py", "inference.py", "reapply_faces.py")
PLACES = ("数据 'd'", "net $1")  # what the scripts write
KILLS = 3
pytestmark = pytest.mark.slow


def start(command, folder):
    """Start a command line as a shell takes it, `python` being this one."""
    return subprocess.Popen(["bash", "-c", f"python() {{ exec {shlex.quote(sys.executable)} \"$@\"; }}; {command}"],
                            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    """Return (standard output, standard error) of a process that must end well."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-2000:]
    return out, err


@pytest.fixture(scope="module")
def chain(tiny_clip, tiny_speech, tmp_path_factory):
    """All four scripts in a folder of odd name, each as the one before it says; the video and the data are links.

    Returns (folder, a copy of what was written, the commands, seconds each took, what the last one printed).
    """
    root = tmp_path_factory.mktemp("chain")
    folder = root / "it's 测试 \"x\" $HOME"
    folder.mkdir()
    for name in (*SCRIPTS, "models", "utils"):
        (folder / name).symlink_to(ROOT / name)
    (root / "film 1.mp4").write_bytes(Path(tiny_clip).read_bytes())
    (folder / "她's \"film\".mp4").symlink_to(root / "film 1.mp4")
    (folder / "your speech.wav").write_bytes(Path(tiny_speech).read_bytes())
    (root / "large disk").mkdir()
    (folder / "数据 'd'").symlink_to(root / "large disk")
    command, commands, took = "python preprocess.py 她\\'s\\ \\\"film\\\".mp4 --data \"数据 'd'\"", [], []
    extra = {"train.py": "--checkpoints 'net $1' --epochs 1 --device cpu", "inference.py": "'your speech.wav'"}
    for name in SCRIPTS:
        assert name in command
        commands.append(f"{command} {extra.get(name, '')}")
        begun = time.monotonic()
        out, err = finish(start(commands[-1], folder))
        took.append(time.monotonic() - begun)
        command = re.search(r"next: (python .*)", err)[1] if name != SCRIPTS[-1] else ""
    kept = tmp_path_factory.mktemp("kept")
    for name in PLACES:
        shutil.copytree(folder / name, kept / name)
    return folder, kept, dict(zip(SCRIPTS, commands, strict=True)), dict(zip(SCRIPTS, took, strict=True)), out


def test_every_name_may_need_quoting(chain):
    """The suggested commands ran as printed; the last one printed the path of a video."""
    folder, _, _, _, out = chain
    video = folder / out.rstrip("\n")
    assert sum(1 for _ in media.read_frames(video)) == 50
    assert (folder / "数据 'd'").is_symlink() and video.name == "film 1--your speech.mp4"


@pytest.mark.parametrize("name", SCRIPTS)
def test_killed_at_a_random_moment_the_next_run_mends_it(chain, name):
    """Three times each; the result is the undisturbed one's, and nothing else is left."""
    folder, kept, commands, took, _ = chain
    places, checkpoints = [folder / place for place in PLACES], folder / PLACES[1]
    expected = [snapshot(kept / place) for place in PLACES]
    if name == "preprocess.py":  # what was made from the data before is dropped
        expected[0] = {path: content for path, content in expected[0].items()
                       if not path.startswith(("pred/", "pack/"))}
    rng = np.random.default_rng(os.getpid())
    for _ in range(KILLS):
        for place in places:
            for path in place.iterdir():
                contract.remove(path)
            shutil.copytree(kept / place.name, place, dirs_exist_ok=True)
        if name == "train.py":
            contract.remove(checkpoints)
        moment = rng.uniform(0.4, 1) * took[name]
        process = start(commands[name], folder)
        time.sleep(moment)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 0), moment
        again = commands[name]
        if name == "train.py" and (checkpoints / "last.pth").exists():
            ended = checkpoint.load(checkpoints / "last.pth")[1]["epoch"] == 1
            again = "true" if ended else f"{again} --resume"
        finish(start(again, folder))
        for place, wanted in zip(places, expected, strict=True):
            found = snapshot(place)
            assert sorted(path for path in found | wanted if found.get(path) != wanted.get(path)) == [], moment
