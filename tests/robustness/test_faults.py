"""Each write, rename, removal and close of each script fails in turn: one line, nothing half-made,
and the next run makes everything right.

The scripts run in this process on a clip of 2 seconds, train.py on the tiny one, the shortest it
takes. What costs time and writes nothing - tracking, reading sound, drawing, learning - is done
once and remembered.
"""

import functools
import os
import re
import resource
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from helpers.cases import CASES, inference_arguments, train_arguments
from helpers.faults import KINDS, Disk

import inference
import reapply_faces
import train
from models.unet import LipUNet
from utils import footage_faces, footage_sound, generate, sample, storage
from utils.evaluate import preview
from utils.media.reader import read_sound
from utils.training import state

CLIP_SECONDS = 2
SPEECH_SECONDS = 0.6
SMALL = {"channels": (16, 16, 16, 16), "audio_width": 16}
EVERY = 37  # a share of the calls is tried in the quick test


# -- costly steps, done once -----------------------------------------------------------------------
def remembered(function, key):
    """A function that is computed once for each key(*arguments); what it yields is a list."""
    known = {}

    @functools.wraps(function)
    def recall(*arguments, **options):
        name = key(*arguments, **options)
        if name not in known:
            result = function(*arguments, **options)
            known[name] = list(result) if isinstance(result, Iterator) else result
        return known[name]

    return recall


def sound_key(path, rate, channels=1, video_start=False, losses=None, track=None):
    content = storage.identify_source(path).sha256
    return content, rate, channels, video_start


def remembered_tracking(track_face):
    """track_face that reads all pictures each time, but follows a face once."""
    known = {}

    def track(pictures, number=1):
        pictures = list(pictures)
        name = len(pictures), pictures[0].tobytes()
        if name not in known:
            known[name] = track_face(pictures, number)
        return known[name]

    return track


def quick_epoch(state, loader, maps, log):
    """Change the weights a little, as an epoch does."""
    with torch.no_grad():
        for weight in state.model.parameters():
            weight.mul_(0.99)
    state.ema.update_parameters(state.model)
    log.add(1, {"train_loss": 0.05, "gradient_norm": 1.0})


@pytest.fixture(scope="module")
def quick():
    """Costly steps that write nothing are done once, training is a trifle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(footage_faces, "track_face", remembered_tracking(footage_faces.track_face))
        recall_sound = remembered(read_sound, sound_key)
        for module in (footage_sound, generate, reapply_faces):
            patch.setattr(module, "read_sound", recall_sound)
        draw = remembered(inference.generate_lower_faces, lambda *arguments: "one speech")
        patch.setattr(inference, "generate_lower_faces", draw)
        patch.setattr(train, "train_epoch", quick_epoch)
        patch.setattr(state, "LipUNet", functools.partial(LipUNet, **SMALL))
        patch.setattr(train, "HEARING_STEPS", 2)
        patch.setattr(train, "VALIDATION_FRAMES", 2)
        patch.setattr(preview, "FRAMES", 1)
        patch.setattr(train.meter, "brief", lambda *arguments: "not measured")
        yield


@pytest.fixture(scope="module")
def made(quick, run_script, tiny_data, tmp_path_factory):
    """What undisturbed runs make: a folder with clip, speech, data and checkpoints."""
    root = tmp_path_factory.mktemp("made")
    sample.write_clip(root / "clip.mp4", CLIP_SECONDS, 9)
    sample.write_speech(root / "speech.wav", SPEECH_SECONDS, 10)
    data = root / "data"
    for name, arguments in (
        ("preprocess", (root / "clip.mp4", "--data", data)),
        ("train", (*train_arguments(root), "--data", tiny_data)),
        ("inference", inference_arguments(root, root)),
        ("reapply_faces", ("--data", data)),
    ):
        result = run_script(name, *arguments)
        assert result.code == 0, result.err
    return root


# -- the tests -------------------------------------------------------------------------------------
@pytest.fixture
def stage(made, tiny_data, tmp_path, run_script):
    """Call it with a script's name: the Case, ready to run."""

    def make(name):
        return CASES[name](tmp_path / "work", made, tiny_data, run_script)

    return make


class Site(NamedTuple):
    """A call that may fail."""

    number: int
    label: str


def sites_of(case, disk):
    """Run undisturbed; return the calls that may fail."""
    disk.fail()
    result = case.run()
    assert result.code == 0, result.err
    assert case.is_done(), "undisturbed"
    return [Site(number, disk.seen[number]) for number in disk.sites()]


def disturb(case, disk, site, kind):
    """Let one call fail, check what that leaves and says, run again undisturbed and compare."""
    case.renew()
    disk.fail(site.number, kind)
    result = case.run()
    disk.fail()
    case.check()
    assert "Traceback" not in result.err
    if "could not be replaced" in result.err:  # then the new video has another name
        assert result.code == 0
        assert site.label.startswith("replace data/result")
    elif result.code == 0:  # a call that was not needed, as the mkdir of a folder that is there
        assert case.is_done()
        assert site.label.startswith(("mkdir", "lock"))
    elif KINDS[kind] is None:
        assert result.code == 130
        assert len(lines_with(result.err, "interrupted; nothing finished")) == 1
    else:
        lines = lines_with(result.err, "error: ")
        assert result.code == 1
        assert len(lines) == 1
        reason = r"error: (No space left on device|Permission denied)"
        assert re.match(rf"{reason}: {re.escape(str(case.root))}\S*; nothing", lines[0])
    again = case.run()
    assert again.code == 0, again.err
    assert case.is_done()


def lines_with(errors, beginning):
    return [line for line in re.split("[\r\n]", errors) if line.startswith(beginning)]


@pytest.mark.parametrize("name", CASES)
def test_some_call_fails(stage, name, monkeypatch, tmp_path):
    """A share of the calls, each failing in another way; all of them are among the slow tests."""
    case = stage(name)
    disk = Disk(tmp_path / "work", monkeypatch)
    kinds = list(KINDS)
    for k, site in enumerate(sites_of(case, disk)[::EVERY]):
        disturb(case, disk, site, kinds[k % len(kinds)])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_each_call_fails(stage, name, monkeypatch, tmp_path):
    """A third of the calls, in three ways; which and how depends on the process, so that in time
    each was tried."""
    case = stage(name)
    disk = Disk(tmp_path / "work", monkeypatch)
    kinds = list(KINDS)
    first, shift = divmod(os.getpid() % 9, 3)
    for k, site in enumerate(sites_of(case, disk)[first::3]):
        kind = kinds[(shift + k) % len(kinds)]
        try:
            disturb(case, disk, site, kind)
        except BaseException as error:
            error.add_note(f"{site}, {kind}")
            raise


@pytest.mark.parametrize("piece", [
    "face",
    pytest.param("reference", marks=pytest.mark.slow),
    pytest.param("audio", marks=pytest.mark.slow),
    pytest.param("track.npz", marks=pytest.mark.slow),
    "meta.json",
])
def test_an_interrupted_swap_counts_as_unfinished_until_all_is_made_again(
    stage, monkeypatch, tmp_path, run_script, piece
):
    case = stage("preprocess")
    disk = Disk(tmp_path / "work", monkeypatch)
    assert case.run().code == 0
    number = disk.seen.index(f"replace data/preprocess.new/{piece}")
    case.renew()
    disk.fail(number, "interrupted")
    assert case.run().code == 130
    disk.fail()
    assert not (case.data / "meta.json").exists()
    refused = run_script("reapply_faces", "--data", case.data)
    assert refused.code == 1
    assert "no finished meta.json" in refused.err
    assert "run: python preprocess.py VIDEO" in refused.err
    assert case.run().code == 0
    assert case.is_done()


@pytest.mark.parametrize(
    ("name", "limit"),
    [("preprocess", 140_000), ("train", 200_000), ("inference", 10_000), ("reapply", 30_000)],
)
def test_the_kernel_refuses_to_write(stage, name, limit):
    """No part is played here: files may not grow beyond a limit (bytes), the error is real."""
    case = stage(name)
    old, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        result = case.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (old, hard))
    assert result.code == 1
    assert "Traceback" not in result.err
    [line] = lines_with(result.err, "error: ")
    assert line.startswith(f"error: File too large: {case.root}")
    case.check()
    assert case.run().code == 0
    assert case.is_done()


# -- what killed runs left -------------------------------------------------------------------------
def test_what_a_killed_render_left_is_removed(stage):
    case = stage("reapply")
    leftover = case.data / "result" / "another.mp4.tmp"
    leftover.write_bytes(b"half")
    assert case.run().code == 0
    assert case.is_done()
    assert not leftover.exists()


def test_what_a_killed_packing_left_is_removed(stage):
    case = stage("train")
    leftover = case.root / "tiny" / "pack" / "face-1.npy.tmp"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    assert case.run().code == 0
    assert not leftover.exists()
