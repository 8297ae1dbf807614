"""Each write, rename, removal and close of each script fails in turn: one line, nothing half-made, all mended later.

The scripts run in process on a 2-second clip (train.py on the tiny one, the shortest it takes). What costs time and
writes nothing - tracking, hearing, drawing, learning - is done once and remembered.
"""

import functools
import os
import re
import resource
import shutil
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import inference
import preprocess
import reapply_faces
import train
from faults import KINDS, Disk, digest, part, snapshot
from models.unet import LipUNet
from utils import checkpoint, console, contract, media, sample, tracking
from utils.console import UserError

SPEECH_SECONDS = 0.6
SMALL = {"channels": (16, 16, 16, 16), "audio_width": 16}


# -- the four scripts --------------------------------------------------------------------------------
def call(module, *arguments):
    """Run a script's main() as its guard does, with these arguments. Returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
        patch.setattr(train, "START", time.monotonic())
        try:
            console.run(module.main, "; go on with: python train.py --resume" if module is train else "")
        except SystemExit as end:
            return end.code
    return 0


def digest_of(path):
    """Return the SHA-256 of a file's bytes."""
    return contract.source_identity(path)["sha256"]


def remember(patch, module, name, key):
    """Let a function that returns or yields be computed once for each key(*arguments)."""
    real, known = getattr(module, name), {}

    @functools.wraps(real)
    def recall(*arguments, **options):
        k = key(*arguments, **options)
        if k not in known:
            result = real(*arguments, **options)
            known[k] = result if isinstance(result, (dict, np.ndarray)) else list(result)
        return known[k] if isinstance(known[k], (dict, np.ndarray)) else iter(known[k])
    patch.setattr(module, name, recall)


@pytest.fixture(scope="module")
def quick():
    """Costly steps that write nothing are done once, training is a trifle."""
    def track(pictures, number=1, crowd=None, real=tracking.track, known={}):  # noqa: B006
        pictures = list(pictures)
        k = len(pictures), pictures[0].tobytes()
        if k not in known:
            known[k] = real(pictures, number)
        crowd.append(1)
        return {key: np.array(value) for key, value in known[k].items()}

    def step(learner, batch, sounds, number, rate):
        with torch.no_grad():
            for mine, averaged in zip(learner.model.parameters(), learner.averaged.parameters(), strict=True):
                mine.mul_(1 - rate)
                averaged.lerp_(mine, 0.5)
        return 0.05, 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "track", track)
        remember(patch, media, "read_sound", lambda path, rate, channels=1, video_start=False, losses=None:
                 (digest_of(path), rate, channels, video_start))
        remember(patch, inference, "lowers", lambda *arguments: 0)
        patch.setattr(train.Learner, "step", step)
        patch.setattr(train, "LipUNet", functools.partial(LipUNet, **SMALL))
        patch.setattr(train, "VALIDATE_MOST", 2)
        patch.setattr(train.report, "PREVIEWS", 1)
        patch.setattr(train.evaluate, "brief", lambda *arguments: "not measured")
        yield


@pytest.fixture(scope="module")
def made(quick, tiny_data, tmp_path_factory):
    """What undisturbed runs make: a folder with clip, speech, data (face ... pred, result) and checkpoints."""
    root = tmp_path_factory.mktemp("made")
    sample.write_clip(root / "clip.mp4", 2, 9)
    sample.write_speech(root / "speech.wav", SPEECH_SECONDS, 10)
    data = root / "data"
    assert call(preprocess, root / "clip.mp4", "--data", data) == 0
    assert call(train, *train_arguments(root), "--data", tiny_data) == 0
    assert call(inference, *inference_arguments(root)) == 0
    assert call(reapply_faces, "--data", data) == 0
    return root


def train_arguments(root):
    return "--checkpoints", root / "checkpoints", "--device", "cpu", "--epochs", 1, "--batch-size", 44


def inference_arguments(root):
    return (root / "speech.wav", "--data", root / "data", "--checkpoint", root / "checkpoints" / "best.pth",
            "--device", "cpu")


def older(root):
    """Change a copy of `made` into what earlier runs on something else left: complete, and other than the new."""
    data = root / "data"
    meta = contract.read_json(data / "meta.json", "")
    pictures = [contract.face_path(data, i) for i in (0, 1)]
    pictures[0].write_bytes(pictures[1].read_bytes())
    pred = data / "pred" / "speech"
    shutil.copytree(pred, data / "pred" / "other")
    contract.lower_path(pred, 0).write_bytes(contract.lower_path(pred, 1).read_bytes())
    (data / "pack").mkdir(exist_ok=True)
    (data / "pack" / "lower-0.npy").write_bytes(b"stale")
    result = data / "result" / "clip--speech.mp4"
    shutil.copy(result, result.with_name("kept.mp4"))
    with media.VideoWriter(result, 64, 64, 23, "ultrafast", iter([np.zeros((800, 1), np.float32)]), 16000) as video:
        video.write([np.full((64, 64), 90, np.uint8), *[np.full((32, 32), 128, np.uint8)] * 2])
    for name in ("best", "last"):
        path = root / "checkpoints" / f"{name}.pth"
        checkpoint.save(path, {**torch.load(path, weights_only=True), "best": 0.9})
    return meta


def preprocess_case(root, made, data):
    """Old data of another clip is complete, or the new is, or nothing counts."""
    meta = older(root)
    contract.write_json(root / "data" / "meta.json", {**meta, "id": "old"})
    before = snapshot(root / "data")
    after = {**part(snapshot(made / "data"), "face", "detail", "audio", "track.npz", "report.png", "meta.json"),
             **part(before, "result")}

    def check():
        state = snapshot(root / "data")
        assert part(state, "result") == part(before, "result")
        try:
            now = contract.read_meta(root / "data")
        except UserError:
            return
        wanted = before if now["id"] == "old" else after
        state = {path: content for path, content in state.items() if not path.startswith("preprocess.new")}
        assert state == wanted

    clip = made / "clip.mp4"
    return SimpleNamespace(
        check=check, video=clip, run=lambda: call(preprocess, clip, "--data", root / "data"),
        ended=lambda: snapshot(root / "data") == after)


def inference_case(root, made, data):
    """The prediction that reapply_faces.py takes is the old one or the new one, whole."""
    older(root)
    before, after = snapshot(root / "data"), snapshot(made / "data" / "pred" / "speech")

    def check():
        state = snapshot(root / "data")
        assert part(state, "face", "detail", "audio", "result", "track.npz", "meta.json") == \
            part(before, "face", "detail", "audio", "result", "track.npz", "meta.json")
        assert not [path for path in before if path.startswith("pred/other/") and state[path] != before[path]]
        try:
            [(folder, _)] = reapply_faces.read_predictions(root / "data", contract.read_meta(root / "data"))
        except UserError as error:
            assert "python inference.py AUDIO" in str(error)
            return
        assert folder.name == "speech" and snapshot(folder) in (after, snapshot_of(before, "pred/speech/"))

    def ended():
        state = snapshot(root / "data")
        names = {path.split("/")[0] for path in state}
        return (snapshot_of(state, "pred/speech/") == after and "inference.new" not in names
                and state["pred/last.json"] == snapshot(made / "data")["pred/last.json"])

    arguments = (made / "speech.wav", "--data", root / "data", "--checkpoint",
                 made / "checkpoints" / "best.pth", "--device", "cpu")
    return SimpleNamespace(check=check, run=lambda: call(inference, *arguments), ended=ended)


def snapshot_of(state, folder):
    """Return the part of a snapshot below `folder`, by the names there."""
    return {path[len(folder):]: content for path, content in state.items() if path.startswith(folder)}


def reapply_case(root, made, data):
    """Each video is the old one or the new one; all else stays."""
    older(root)
    contract.remove(root / "data" / "pred")
    shutil.copytree(made / "data" / "pred", root / "data" / "pred")
    before = snapshot(root / "data")
    name, new = "result/clip--speech.mp4", snapshot(made / "data" / "result")["clip--speech.mp4"]

    def check():
        state = snapshot(root / "data")
        assert state.pop(name) in (before[name], new)
        state.pop(f"{name}.tmp", None)
        assert state == {path: content for path, content in before.items() if path != name}

    return SimpleNamespace(check=check, run=lambda: call(reapply_faces, "--data", root / "data"),
                           ended=lambda: snapshot(root / "data") == {**before, name: new})


def train_case(root, made, data):
    """What was trained before is there under its own or its .old name, and what is there can be loaded."""
    older(root)
    shutil.copytree(data, root / "tiny", ignore=shutil.ignore_patterns("pack"))
    folder = root / "checkpoints"
    before, after = snapshot(folder), snapshot(made / "checkpoints")
    again = ["--resume"]

    def check():
        again[:] = []
        for name in ("best", "last"):
            found = {path.name: digest(path) for path in folder.glob(f"{name}*.pth")}
            assert before[f"{name}.pth"] in found.values()
            if name == "last" and found.get("last.pth", before["last.pth"]) != before["last.pth"]:
                again[:] = ["--resume"]

    def ended():
        state = snapshot(folder)
        kept = [state.pop(f"{name}.old.pth", None) for name in ("best", "last")]
        return state == after and kept == [before["best.pth"], before["last.pth"]]

    def run():
        given, again[:] = list(again), []
        code = call(train, *train_arguments(root), "--data", root / "tiny", *given)
        if given and code and checkpoint.load(folder / "last.pth")[1]["epoch"] == 1:
            return 0  # it had ended
        return code

    again[:] = []
    return SimpleNamespace(check=check, run=run, ended=ended)


CASES = {"preprocess": preprocess_case, "train": train_case, "inference": inference_case, "reapply": reapply_case}


# -- the tests ---------------------------------------------------------------------------------------
@pytest.fixture
def stage(made, tiny_data, tmp_path):
    """Call it with a script's name: a case (see CASES) whose folder `renew` brings back to what it was."""
    def prepare(name):
        template, root = tmp_path / "before", tmp_path / "work"
        shutil.copytree(made, root)
        case = CASES[name](root, made, tiny_data)
        shutil.move(root, template)

        def renew():
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(template, root)
        case.renew, case.root = renew, root
        renew()
        return case
    return prepare


def sites_of(case, disk):
    """Run undisturbed; return the numbers and names of the calls that may fail."""
    disk.fail()
    assert case.run() == 0
    assert case.ended(), "undisturbed"
    return [(number, disk.seen[number]) for number in disk.sites()]


def disturb(case, disk, number, label, kind, capfd):
    """Let one call fail, check what that leaves and says, run again undisturbed and compare."""
    case.renew()
    capfd.readouterr()
    disk.fail(number, kind)
    code = case.run()
    disk.fail()
    errors = capfd.readouterr().err
    case.check()
    assert "Traceback" not in errors, errors
    if not code:  # a call without which all the same was made, as the mkdir of a folder that is there
        assert case.ended() and label.startswith(("mkdir", "lock")), label
    elif KINDS[kind] is None:
        assert code == 130 and len(re.findall(r"(?:^|[\r\n])interrupted; nothing finished", errors)) == 1, errors
    else:
        lines = [line for line in re.split("[\r\n]", errors) if line.startswith("error: ")]
        assert code == 1 and len(lines) == 1, errors
        assert re.match(rf"error: (No space left on device|Permission denied): {re.escape(str(case.root))}\S*; nothing",
                        lines[0])
    assert case.run() == 0, capfd.readouterr().err
    assert case.ended()


@pytest.mark.parametrize("name", CASES)
def test_some_call_fails(stage, name, monkeypatch, capfd, tmp_path):
    """A share of the calls, each failing in another way; all of them are among the slow tests."""
    case, disk = stage(name), Disk(tmp_path / "work", monkeypatch)
    sites = sites_of(case, disk)
    for k, (number, label) in enumerate(sites[::37]):
        disturb(case, disk, number, label, list(KINDS)[k % 3], capfd)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_each_call_fails(stage, name, monkeypatch, capfd, tmp_path):
    """Every call, the ways to fail in turn; other ones on each machine, so that in time each call fails in each way."""
    case, disk, first = stage(name), Disk(tmp_path / "work", monkeypatch), os.getpid()
    for k, (number, label) in enumerate(sites_of(case, disk)):
        kind = list(KINDS)[(first + k) % len(KINDS)]
        try:
            disturb(case, disk, number, label, kind, capfd)
        except BaseException as error:
            error.add_note(f"call {number}: {label}, {kind}")
            raise


# -- what the product does about it ------------------------------------------------------------------
@pytest.mark.parametrize("piece", ["face", "detail", "audio", "track.npz", "meta.json"])
def test_an_interrupted_swap_is_ended_and_not_begun_anew(stage, monkeypatch, tmp_path, capfd, piece):
    """The next run only moves what is left, on whatever video it was started."""
    case, disk = stage("preprocess"), Disk(tmp_path / "work", monkeypatch)
    disk.fail()
    case.run()
    number = disk.seen.index(f"replace data/preprocess.new/{piece}")
    find_faces = preprocess.find_faces
    for video in (None, tmp_path / "other.mp4"):
        case.renew()
        monkeypatch.setattr(preprocess, "find_faces", find_faces)
        disk.fail(number, "interrupted")
        assert case.run() == 130
        disk.fail()
        monkeypatch.setattr(preprocess, "find_faces", no_face)
        if video is None:
            assert case.run() == 0 and "is in place now" in capfd.readouterr().err
        else:
            shutil.copy(case.video, video)
            assert call(preprocess, video, "--data", case.root / "data") == 1
            contract.remove(case.root / "data" / "preprocess.new")
        assert case.ended()


def no_face(video, number):
    raise UserError("no face")


@pytest.mark.parametrize(("name", "limit"), [("preprocess", 200_000), ("train", 200_000), ("inference", 10_000),
                                             ("reapply", 30_000)])
def test_the_kernel_refuses_to_write(stage, name, limit, capfd):
    """No part is played here: files may not grow beyond a limit, and the error is the system's own."""
    case = stage(name)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    capfd.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        code = case.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    errors = capfd.readouterr().err
    assert code == 1 and "Traceback" not in errors, errors
    assert re.search(rf"(^|[\r\n])error: File too large: {re.escape(str(case.root))}", errors), errors
    case.check()
    assert case.run() == 0 and case.ended()


def test_what_killed_runs_left_is_removed(stage):
    """Temporary files of a render and of a packing that were killed go with the next run."""
    case = stage("reapply")
    left = case.root / "data" / "result" / "another.mp4.tmp"
    left.write_bytes(b"half")
    assert case.run() == 0 and case.ended() and not left.exists()


def test_a_packing_that_was_killed_leaves_nothing_for_long(stage):
    case = stage("train")
    left = case.root / "tiny" / "pack" / "lower-1.npy.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    assert case.run() == 0 and not left.exists()
