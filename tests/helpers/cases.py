"""What each script must hold to when a run of it has failed, and what is done when it has ended.

A case is one script on a folder with a clip, a speech, data and checkpoints, which earlier runs on
something else have left.
"""

import shutil

import numpy as np
import torch
from helpers.faults import below, digest, part, snapshot

import reapply_faces
from utils import storage
from utils.cli import PredictionError, UserError
from utils.contract import face_path, lower_face_path
from utils.media.writer import Quality, SoundTrack, VideoWriter
from utils.training import checkpoint

PREPARED = ("face", "reference", "audio", "track.npz", "report.png", "meta.json")


def train_arguments(root):
    small = ("--epochs", 1, "--batch-size", 44)
    return "--checkpoints", root / "checkpoints", "--device", "cpu", *small


def inference_arguments(root, made):
    network = made / "checkpoints" / "best.pth"
    data = ("--data", root / "data")
    return made / "speech.wav", *data, "--checkpoint", network, "--device", "cpu"


class Case:
    """One script on a copy of `made` that earlier runs on something else have left.

    root: the copy. run() starts the script; check() asserts that what a failed run left is old or
    new, never a mixture; is_done() tells whether all is as an undisturbed run leaves it.
    """

    def __init__(self, root, made, tiny_data, run_script):
        self.root = root
        self.made = made
        self.data = root / "data"
        self.tiny_data = tiny_data
        self.run_script = run_script
        self.template = root.with_name("before")
        shutil.copytree(made, root)
        self.make_older()
        self.prepare()
        shutil.move(root, self.template)
        self.renew()

    def renew(self):
        """Bring the folder back to what it was."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.template, self.root)

    def make_older(self):
        """Change what is there into what earlier runs left: complete, other than the new."""
        second = face_path(self.data, 1).read_bytes()
        face_path(self.data, 0).write_bytes(second)
        pred = self.data / "pred" / "speech"
        shutil.copytree(pred, self.data / "pred" / "other")
        lower_face_path(pred, 0).write_bytes(lower_face_path(pred, 1).read_bytes())
        (self.data / "pack").mkdir(exist_ok=True)
        (self.data / "pack" / "face-0.npy").write_bytes(b"stale")
        result = self.data / "result" / "clip--speech.mp4"
        shutil.copy(result, result.with_name("kept.mp4"))
        write_other_video(result)
        for name in ("best", "last"):
            path = self.root / "checkpoints" / f"{name}.pth"
            saved = torch.load(path, weights_only=True)
            checkpoint.save(path, {**saved, "best": 0.9})


def write_other_video(path):
    sound = SoundTrack(iter([np.zeros((800, 1), np.float32)]), 16000)
    half = np.full((32, 32), 128, np.uint8)
    with VideoWriter(path, (64, 64), Quality(23, "ultrafast"), sound) as video:
        video.write([np.full((64, 64), 90, np.uint8), half, half])


class PreprocessCase(Case):
    """Old data of another clip is complete, or the new is, or nothing counts."""

    def prepare(self):
        meta = storage.read_json(self.data / "meta.json")
        storage.write_json(self.data / "meta.json", {**meta, "id": "old"})
        self.before = snapshot(self.data)
        self.result = part(self.before, "result")
        self.after = {**part(snapshot(self.made / "data"), *PREPARED), **self.result}

    def run(self):
        return self.run_script("preprocess", self.made / "clip.mp4", "--data", self.data)

    def check(self):
        state = snapshot(self.data)
        assert part(state, "result") == self.result
        try:
            meta = storage.read_meta(self.data)
        except UserError:
            return
        unfinished = part(state, "preprocess.new")
        finished = {path: state[path] for path in state if path not in unfinished}
        assert finished == (self.before if meta.id == "old" else self.after)

    def is_done(self):
        return snapshot(self.data) == self.after


class InferenceCase(Case):
    """The prediction that reapply_faces.py takes is the old one or the new one, whole."""

    def prepare(self):
        self.before = snapshot(self.data)
        self.after = snapshot(self.made / "data")

    def run(self):
        return self.run_script("inference", *inference_arguments(self.root, self.made))

    def check(self):
        state = snapshot(self.data)
        kept = (*PREPARED, "result")
        assert part(state, *kept) == part(self.before, *kept)
        assert below(state, "pred/other/") == below(self.before, "pred/other/")
        try:
            meta = storage.read_meta(self.data)
            [prediction] = reapply_faces.read_predictions(self.data, meta)
        except PredictionError:
            return
        assert prediction.folder.name == "speech"
        found = snapshot(prediction.folder)
        assert found in [below(whole, "pred/speech/") for whole in (self.before, self.after)]

    def is_done(self):
        state = snapshot(self.data)
        names = {path.split("/")[0] for path in state}
        made = below(self.after, "pred/speech/")
        return (
            below(state, "pred/speech/") == made
            and "inference.new" not in names
            and state["pred/last.json"] == self.after["pred/last.json"]
        )


class ReapplyCase(Case):
    """Each video is the old one or the new one; all else stays."""

    name = "result/clip--speech.mp4"

    def prepare(self):
        storage.remove_tree(self.data / "pred")
        shutil.copytree(self.made / "data" / "pred", self.data / "pred")
        self.before = snapshot(self.data)
        self.after = {**self.before, self.name: digest(self.made / "data" / self.name)}

    def run(self):
        return self.run_script("reapply_faces", "--data", self.data)

    def check(self):
        other = self.data / "result/clip--speech-2.mp4"  # where the file could not be replaced
        if other.exists():
            assert digest(other) == self.after[self.name]
            other.unlink()
        state = snapshot(self.data)
        state.pop(f"{self.name}.tmp", None)
        assert state in (self.before, self.after)

    def is_done(self):
        return snapshot(self.data) == self.after


class TrainCase(Case):
    """What was trained before is there under its own or its .old name, and can be loaded."""

    def prepare(self):
        no_pack = shutil.ignore_patterns("pack")
        shutil.copytree(self.tiny_data, self.root / "tiny", ignore=no_pack)
        self.folder = self.root / "checkpoints"
        self.before = snapshot(self.folder)
        self.after = snapshot(self.made / "checkpoints")
        self.resume = False

    def run(self):
        arguments = [*train_arguments(self.root), "--data", self.root / "tiny"]
        if not self.resume:
            return self.run_script("train", *arguments)
        self.resume = False
        result = self.run_script("train", *arguments, "--resume")
        _, saved = checkpoint.load(self.folder / "last.pth")
        if result.code and saved["epoch"] == 1:
            return result._replace(code=0)  # it had ended already
        return result

    def check(self):
        for name in ("best", "last"):
            found = {path.name: digest(path) for path in self.folder.glob(f"{name}*.pth")}
            old = self.before[f"{name}.pth"]
            assert old in found.values()
        self.resume = found.get("last.pth", old) != old

    def is_done(self):
        state = snapshot(self.folder)
        kept = [state.pop(f"{name}.old.pth", None) for name in ("best", "last")]
        earlier = [self.before[f"{name}.pth"] for name in ("best", "last")]
        return state == self.after and kept == earlier


CASES = {
    "preprocess": PreprocessCase,
    "train": TrainCase,
    "inference": InferenceCase,
    "reapply": ReapplyCase,
}
