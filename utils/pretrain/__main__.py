"""Learn the base: a network that has heard and seen many people, from which train.py starts.

Reads   FOLDER/<speaker>_<clip>.mp4   short videos of many speakers, one face in each
Writes  FOLDER_prepared/<speaker>/    lower faces, landmarks and mel, 63 MB a minute; once: a run
                                      that was interrupted goes on with the next speaker
        checkpoints/base.pth          network and discriminator, float16

First it learns to hear, then to draw with the hearing as it is: learned together, both come out
worse. Whole speakers are left out of the training; at the end it prints how well their mouths are
heard and drawn: correlation over time of opening and width, predicted from the sound, with the real
ones (mean over clips); and the difference of the mouth's pixels, 0..1, drawn at its real landmarks.
To train from it, name it in BASE at the top of train.py.

--start  go on with a base: minutes instead of an hour, for instance with speakers of another
         language

Run     python -m utils.pretrain FOLDER [--prepared FOLDER_prepared] [--output checkpoints/base.pth]
                                 [--start BASE] [--minutes 60] [--leave-out SPEAKER ...]
                                 [--device auto|cpu|...]
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from models import losses
from models.unet import LipUNet
from utils import cli
from utils.cli import UserError, say
from utils.contract import FPS
from utils.dataset.batches import LEAST_MEL_STD, Batch, mouth_weight_maps
from utils.evaluate import metrics
from utils.generate import heard_mouth
from utils.pretrain import prepare
from utils.pretrain.voices import SPEAKERS_PER_STEP, Voice, VoiceDataset, mixed
from utils.training.base import load_base, save_base
from utils.training.device import autocast, resolve, to_device
from utils.training.schedule import Rates, Schedule, TimeLimit
from utils.training.state import TrainState
from utils.training.steps import (
    hearing_loss,
    judge,
    optimizer_step,
    to_float,
    until_over,
    validate,
)

# -- edit these -----------------------------------------------------------------------------------
HEARING_SHARE = 0.3           # of the minutes; the rest is for drawing
STEPS = 6000                  # of hearing and of drawing, at most
SOUNDS = 128                  # a step of hearing
PICTURES = 8                  # a step of drawing
RATES = Rates(1e-3, 1e-5, 200)  # learning rate of hearing and drawing: peak, end, warm-up steps
EMA_DECAY = 0.999
WEIGHT_DECAY = 1e-2           # of AdamW
MOUTH_WEIGHT = 4.0            # how much more a pixel of the mouth counts than one of the cheek
DISCRIMINATOR_FROM = 0.5      # of the drawing: clips found on the web are soft, it comes late
DISCRIMINATOR_LR_SHARE = 0.5  # its learning rate over the generator's
ADVERSARIAL_WEIGHT = 0.01     # of the discriminator's logits: more is sharper, too much invents
FEATURE_WEIGHT = 0.4          # of the difference in the discriminator's features
LEAVE_OUT_EVERY = 8           # every eighth speaker is left out, unless --leave-out names them
KEPT_SOUNDS = 2304            # of its people, for trainings from the base: 0.4 KB each
JUDGED_FRAMES = 200           # of each speaker left out that are drawn
SEED = 1
# -------------------------------------------------------------------------------------------------


def split_speakers(names: list[str], leave_out: list[str] | None) -> tuple[list[str], list[str]]:
    """Speakers to learn from, and those left out. Raises UserError if either would be empty."""
    out = leave_out if leave_out is not None else names[LEAVE_OUT_EVERY // 2::LEAVE_OUT_EVERY]
    unknown = sorted(set(out) - set(names))
    if unknown:
        raise UserError(f"--leave-out {unknown[0]}: there is no such speaker; expected some of "
                        f"{', '.join(names)}")
    learned = [name for name in names if name not in out]
    if not learned or not out:
        raise UserError(f"{len(names)} speakers, {len(out)} of them left out; expected some of "
                        "each: add clips of other speakers and run the same command again")
    return learned, list(out)


def build(
    datasets: list[VoiceDataset], device: torch.device, start: str | None = None
) -> TrainState:
    """A new network that knows the mel statistics of all speakers, or the networks of a base.

    Raises UserError if there is no such base.
    """
    torch.manual_seed(SEED)
    model = LipUNet()
    mel = np.concatenate([dataset.clip.mel for dataset in datasets])
    model.mel_mean.copy_(torch.from_numpy(mel.mean(axis=0)))
    model.mel_std.copy_(torch.from_numpy(np.maximum(mel.std(axis=0), LEAST_MEL_STD)))
    base = load_base(Path(start), model) if start else {"model": model.state_dict()}
    model.load_state_dict(base["model"])
    state = TrainState(model, device, EMA_DECAY, WEIGHT_DECAY)
    if start:
        state.discriminator.load_state_dict(base["discriminator"])
    return state


def mixed_sounds(datasets: list[VoiceDataset], seed: int) -> Iterator[list[Tensor]]:
    """Yield SOUNDS log-mel windows (B, 64, 80) and their landmarks (B, 130) without end."""
    return mixed(datasets, seed, lambda dataset: dataset.draw_sounds(SOUNDS // SPEAKERS_PER_STEP))


def train_hearing(state: TrainState, datasets: list[VoiceDataset], schedule: Schedule):
    """Train the audio branch until the schedule is over."""
    state.model.train()
    sounds = mixed_sounds(datasets, SEED)
    for lr in until_over(schedule, "learning to hear"):
        mel, real = to_device(tuple(next(sounds)), state.device)
        with autocast(state.device):
            landmarks = state.model.predict_landmarks(state.model.encode_audio(mel))
        loss = hearing_loss(landmarks, real)
        optimizer_step(state.optimizer, loss, lr)
        state.ema.update_parameters(state.model)


def draw_pictures(dataset: VoiceDataset) -> Batch:
    """A speaker's share of PICTURES, at random."""
    frames = dataset.rng.integers(len(dataset), size=PICTURES // SPEAKERS_PER_STEP)
    return dataset.__getitems__(frames.tolist())


def train_drawing(state: TrainState, datasets: list[VoiceDataset], schedule: Schedule):
    """Train all but the audio branch until the schedule is over: the steps of train.py, with
    pictures of many people.
    """
    state.begin_drawing(state.averaged)
    maps = to_device(mouth_weight_maps(datasets[0], MOUTH_WEIGHT), state.device)
    batches = mixed(datasets, SEED + 1, draw_pictures)
    for lr in until_over(schedule, "learning to draw"):
        batch = to_device(Batch(*next(batches)), state.device)
        real = to_float(batch.lower_face)
        with autocast(state.device):
            generated, _ = state.model(*batch.inputs)
        loss = losses.picture_loss(generated, real, maps.train_weight)
        loss = loss + losses.gradient_loss(generated, real, maps.train_weight)
        if schedule.progress >= DISCRIMINATOR_FROM:
            lr_d = lr * DISCRIMINATOR_LR_SHARE
            adversarial, feature = judge(state, generated, real, maps.crop, lr_d)
            loss = loss + ADVERSARIAL_WEIGHT * adversarial + FEATURE_WEIGHT * feature
        optimizer_step(state.optimizer, loss, lr)
        state.ema.update_parameters(state.model)


@torch.inference_mode()
def keep_voices(model: LipUNet, datasets: list[VoiceDataset]) -> Tensor:
    """Features (V, 16, 192) of sounds of all speakers, which keep them in mind in a training."""
    sounds = mixed_sounds(datasets, SEED + 2)
    mel = torch.cat([next(sounds)[0] for _ in range(KEPT_SOUNDS // SOUNDS)])  # (V, 64, 80)
    return model.audio_features(mel.to(model.mel_mean.device)).cpu()


# -- how good is it? -------------------------------------------------------------------------------
def judge_hearing(model: LipUNet, voice: Voice) -> np.ndarray:
    """Correlations (clips, 2) of opening and width predicted from the sound with the real ones."""
    found = []
    for first, stop in voice.track.shots():
        frames = np.arange(first, stop)[voice.track.valid[first:stop]]
        mouth = heard_mouth(model, voice.mel_windows[frames])
        found.append(metrics.correlate_mouths(mouth, voice.track.mouth[frames]))
    return np.array(found)


def judge_drawing(model: LipUNet, dataset: VoiceDataset, device: torch.device) -> float:
    """Mean absolute difference of the mouth's pixels, 0..1, drawn at its real landmarks."""
    maps = to_device(mouth_weight_maps(dataset, MOUTH_WEIGHT), device)
    loader: DataLoader = DataLoader(dataset, PICTURES, collate_fn=lambda batch: batch)
    return validate(model, loader, maps, device)


# --------------------------------------------------------------------------------------------------
def main(args: argparse.Namespace):
    """Prepare, learn, judge, write."""
    # 1. the speakers, prepared once
    folder = Path(args.folder)
    clips = prepare.speakers_of(folder)
    prepared = Path(args.prepared or f"{folder}_prepared")
    learned, left_out = split_speakers(sorted(clips), args.leave_out)
    device = resolve(args.device)
    with cli.write_lock(prepared):
        prepare.prepare(clips, prepared)

    # 2. learn from most of them
    voices = {name: Voice(prepared / name) for name in clips}
    datasets = [VoiceDataset(voices[name], train=True) for name in learned]
    count = sum(len(voices[name].track.cuts) for name in learned)
    minutes = sum(len(dataset) for dataset in datasets) / FPS / 60
    about = f"{count} clips of {len(learned)} speakers, {minutes:.0f} minutes"
    say(f"{about}; left out: {', '.join(left_out)}")
    state = build(datasets, device, args.start)
    for train, share in (train_hearing, HEARING_SHARE), (train_drawing, 1 - HEARING_SHARE):
        limit = TimeLimit(time.monotonic(), share * args.minutes)
        train(state, datasets, Schedule(1, STEPS, 0, RATES, limit))

    # 3. how well are speakers heard and drawn that it does not know?
    heard = []
    drawn = []
    for name in left_out:
        dataset = VoiceDataset(voices[name], train=False, max_frames=JUDGED_FRAMES)
        found = judge_hearing(state.averaged, voices[name])
        heard.append(found)
        drawn.append(judge_drawing(state.averaged, dataset, device))
        opening, width = found.mean(axis=0)
        print(f"{name:12} opening {opening:.2f}  width {width:.2f}  mouth {drawn[-1]:.4f}  "
              f"{len(found)} clips")
    opening, width = np.concatenate(heard).mean(axis=0)
    print(f"{'mean':12} opening {opening:.2f}  width {width:.2f}  mouth {np.mean(drawn):.4f}")

    # 4. write
    kept = keep_voices(state.averaged, datasets)
    save_base(Path(args.output), state.averaged, state.discriminator, kept, about)
    say(f"{args.output}: to train from it, name it in BASE at the top of train.py")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__, "device")
    parser.prog = "python -m utils.pretrain"  # not "__main__.py"
    parser.add_argument("folder", metavar="FOLDER", help="videos <speaker>_<clip>.<ending>")
    parser.add_argument("--prepared", help="folder to prepare in (default: FOLDER_prepared)")
    parser.add_argument(
        "--output", default="checkpoints/base.pth", help="(default: checkpoints/base.pth)")
    parser.add_argument(
        "--start", metavar="BASE", help="a base to go on with (default: a new one)")
    parser.add_argument(
        "--minutes", type=cli.positive(float), default=60, help="of learning (default: 60)")
    parser.add_argument(
        "--leave-out", nargs="+", metavar="SPEAKER",
        help="speakers to judge by (default: every eighth)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
