"""Learn the base: a network that has heard and seen many people, from which train.py starts.

Reads   FOLDER/<speaker>_<clip>.mp4   short videos of many speakers, one face in each
Writes  FOLDER_prepared/<speaker>/    lower faces, landmarks and mel, 63 MB a minute; once: a run
                                      that was interrupted goes on with the next speaker
        checkpoints/base.pth          network and discriminator, float16

First it learns to draw and to hear, then only to hear, which is cheap and needs more. Whole
speakers are left out of the training; at the end it prints how well their mouths are heard
and drawn: correlation over time of opening and width, predicted from the sound, with the real ones
(mean over clips); and the difference of the mouth's pixels, 0..1, drawn at its real landmarks.
To train from it, name it in BASE at the top of train.py.

--start  go on with the hearing of a base, with the drawing as it is: minutes instead of an hour,
         for instance with speakers of another language

Run     python -m utils.pretrain FOLDER [--prepared FOLDER_prepared] [--output checkpoints/base.pth]
                                 [--start BASE] [--minutes 60] [--leave-out SPEAKER ...]
                                 [--device auto|cpu|...]
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models import losses
from models.unet import LipUNet
from utils import cli
from utils.cli import UserError, say
from utils.contract import FPS
from utils.dataset.batches import LEAST_MEL_STD, mouth_weight_maps
from utils.evaluate import metrics
from utils.face.landmarks import mouth_matrix
from utils.pretrain import prepare
from utils.pretrain.voices import SPEAKERS_PER_STEP, Voice, VoiceDataset, mixed_batches
from utils.training.base import load_base, save_base
from utils.training.device import autocast, resolve, to_device
from utils.training.schedule import Rates, Schedule, TimeLimit
from utils.training.state import TrainState
from utils.training.steps import judge, optimizer_step, to_float

# -- edit these -----------------------------------------------------------------------------------
STEPS = 6000                  # at most
BATCH_SIZE = 8                # pictures a step
EXTRA_SOUNDS = 64             # sounds a step for the audio branch alone: nearly free
RATES = Rates(1e-3, 1e-5, 200)  # learning rate: peak, end, steps of warm-up
HEARING_STEPS = 5000          # of the audio branch alone, at most
HEARING_SHARE = 0.25          # of the minutes for these
HEARING_RATES = Rates(6e-4, 1e-5, 200)  # learning rate: peak, end, steps of warm-up
EMA_DECAY = 0.999
WEIGHT_DECAY = 1e-2           # of AdamW
MOUTH_WEIGHT = 4.0            # how much more a pixel of the mouth counts than one of the cheek
LANDMARK_WEIGHT = 0.3         # of the landmark and the mouth loss, which teach the audio branch
DISCRIMINATOR_FROM = 0.5      # of the training: clips found on the web are soft, it comes late
DISCRIMINATOR_LR_SHARE = 0.5  # its learning rate over the generator's
ADVERSARIAL_WEIGHT = 0.01     # of the discriminator's logits: more is sharper, too much invents
FEATURE_WEIGHT = 0.4          # of the difference in the discriminator's features
LEAVE_OUT_EVERY = 8           # every eighth speaker is left out, unless --leave-out names them
KEPT_SOUNDS = 2400            # of its people, for trainings from the base: 0.4 KB each
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


def build(datasets: list[VoiceDataset], device: torch.device) -> TrainState:
    """A new network that knows the mel statistics of all speakers."""
    torch.manual_seed(SEED)
    model = LipUNet()
    mel = np.concatenate([dataset.clip.mel for dataset in datasets])
    model.mel_mean.copy_(torch.from_numpy(mel.mean(axis=0)))
    model.mel_std.copy_(torch.from_numpy(np.maximum(mel.std(axis=0), LEAST_MEL_STD)))
    return TrainState(model, device, EMA_DECAY, WEIGHT_DECAY)


def go_on(path: Path, device: torch.device) -> TrainState:
    """The networks of a base. Raises UserError if there is none."""
    torch.manual_seed(SEED)
    model = LipUNet()
    base = load_base(path, model)
    model.load_state_dict(base["model"])
    state = TrainState(model, device, EMA_DECAY, WEIGHT_DECAY)
    state.discriminator.load_state_dict(base["discriminator"])
    return state


def train(state: TrainState, datasets: list[VoiceDataset], schedule: Schedule):
    """Train until the schedule is over: the steps of train.py, with pictures of many people."""
    state.model.train()
    maps = to_device(mouth_weight_maps(datasets[0], MOUTH_WEIGHT), state.device)
    to_mouth = torch.from_numpy(mouth_matrix()).to(state.device)
    batches = mixed_batches(datasets, BATCH_SIZE, SEED)
    for lr in steps(schedule, "learning the base"):
        batch = to_device(next(batches), state.device)
        real = to_float(batch.lower_face)
        with autocast(state.device):
            generated, landmarks = state.model(*batch.inputs, batch.extra_mel)
        picture = losses.picture_loss(generated, real, maps.train_weight)
        gradient = losses.gradient_loss(generated, real, maps.train_weight)
        landmark = losses.landmark_and_mouth_loss(landmarks, batch.landmarks, to_mouth)
        loss = picture + gradient + LANDMARK_WEIGHT * landmark
        if schedule.progress >= DISCRIMINATOR_FROM:
            lr_d = lr * DISCRIMINATOR_LR_SHARE
            adversarial, feature = judge(state, generated, real, maps.crop, lr_d)
            loss = loss + ADVERSARIAL_WEIGHT * adversarial + FEATURE_WEIGHT * feature
        optimizer_step(state.optimizer, loss, lr)
        state.ema.update_parameters(state.model)


def train_hearing(state: TrainState, datasets: list[VoiceDataset], schedule: Schedule):
    """Train the audio branch alone until the schedule is over."""
    state.model.train()
    to_mouth = torch.from_numpy(mouth_matrix()).to(state.device)
    batches = mixed_batches(datasets, 0, SEED + 2)
    for lr in steps(schedule, "learning to hear"):
        batch = to_device(next(batches), state.device)
        with autocast(state.device):
            embedding = state.model.encode_audio(batch.extra_mel)
            landmarks = state.model.predict_landmarks(embedding)
        loss = losses.landmark_and_mouth_loss(landmarks, batch.landmarks, to_mouth)
        optimizer_step(state.optimizer, loss, lr)
        state.ema.update_parameters(state.model)


def steps(schedule: Schedule, title: str) -> Iterator[float]:
    """Yield the learning rate of each step until the schedule is over, with a bar."""
    with tqdm(total=100, desc=title, unit="%") as bar:
        while not schedule.is_over():
            begun = time.monotonic()
            yield schedule.lr()
            schedule.advance(time.monotonic() - begun)
            bar.set_postfix_str(f"step {schedule.step}", False)
            bar.update(int(100 * schedule.progress) - bar.n)


@torch.inference_mode()
def keep_voices(model: LipUNet, datasets: list[VoiceDataset]) -> Tensor:
    """Features (V, 16, 192) of sounds of all speakers, which keep them in mind in a training."""
    batches = itertools.islice(mixed_batches(datasets, 0, SEED + 1), KEPT_SOUNDS // EXTRA_SOUNDS)
    mel = torch.cat([batch.extra_mel for batch in batches])              # (V, 64, 80)
    return model.audio_features(mel.to(model.mel_mean.device)).cpu()


# -- how good is it? -------------------------------------------------------------------------------
@torch.inference_mode()
def judge_hearing(model: LipUNet, voice: Voice, device: torch.device) -> np.ndarray:
    """Correlations (clips, 2) of opening and width predicted from the sound with the real ones."""
    to_mouth = mouth_matrix()
    found = []
    for first, stop in voice.track.shots():
        frames = np.arange(first, stop)[voice.track.valid[first:stop]]
        mel = to_device(torch.from_numpy(voice.mel_windows[frames]), device)
        landmarks = model.predict_landmarks(model.encode_audio(mel))
        mouth = landmarks.cpu().numpy() @ to_mouth
        found.append(metrics.correlate_mouths(mouth, voice.track.mouth[frames]))
    return np.array(found)


@torch.inference_mode()
def judge_drawing(model: LipUNet, dataset: VoiceDataset, device: torch.device) -> float:
    """Mean absolute difference of the mouth's pixels, 0..1, drawn at its real landmarks."""
    maps = to_device(mouth_weight_maps(dataset, MOUTH_WEIGHT), device)
    differences = []
    for indices in np.array_split(np.arange(len(dataset)), max(1, len(dataset) // BATCH_SIZE)):
        batch = to_device(dataset.__getitems__(indices.tolist()), device)
        with autocast(device):
            generated, _ = model(*batch.inputs)
        real = to_float(batch.lower_face)
        differences.append(losses.picture_loss(generated, real, maps.val_weight).item())
    return float(np.mean(differences))


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
    sounds = EXTRA_SOUNDS // SPEAKERS_PER_STEP
    datasets = [VoiceDataset(voices[name], train=True, extra_sounds=sounds) for name in learned]
    count = sum(len(voices[name].track.cuts) for name in learned)
    minutes = sum(len(dataset) for dataset in datasets) / FPS / 60
    say(f"{count} clips of {len(learned)} speakers, {minutes:.0f} minutes; left out: "
        f"{', '.join(left_out)}")
    minutes_to_hear = args.minutes
    if args.start:
        state = go_on(Path(args.start), device)
    else:
        state = build(datasets, device)
        minutes_to_hear = HEARING_SHARE * args.minutes
        limit = TimeLimit(time.monotonic(), args.minutes - minutes_to_hear)
        train(state, datasets, Schedule(1, STEPS, 0, RATES, limit))
    limit = TimeLimit(time.monotonic(), minutes_to_hear)
    train_hearing(state, datasets, Schedule(1, HEARING_STEPS, 0, HEARING_RATES, limit))

    # 3. how well are speakers heard and drawn that it does not know?
    heard = []
    drawn = []
    for name in left_out:
        dataset = VoiceDataset(voices[name], train=False, max_frames=JUDGED_FRAMES)
        found = judge_hearing(state.averaged, voices[name], device)
        heard.append(found)
        drawn.append(judge_drawing(state.averaged, dataset, device))
        opening, width = found.mean(axis=0)
        print(f"{name:12} opening {opening:.2f}  width {width:.2f}  mouth {drawn[-1]:.4f}  "
              f"{len(found)} clips")
    opening, width = np.concatenate(heard).mean(axis=0)
    print(f"{'mean':12} opening {opening:.2f}  width {width:.2f}  mouth {np.mean(drawn):.4f}")

    # 4. write
    output = Path(args.output)
    kept = keep_voices(state.averaged, datasets)
    about = f"{count} clips of {len(learned)} speakers, {minutes:.0f} minutes"
    save_base(output, state.averaged, state.discriminator, kept, about)
    say(f"{output}: to train from it, name it in BASE at the top of train.py")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__, "device")
    parser.prog = "python -m utils.pretrain"  # not "__main__.py"
    parser.add_argument("folder", metavar="FOLDER", help="videos <speaker>_<clip>.<ending>")
    parser.add_argument("--prepared", help="folder to prepare in (default: FOLDER_prepared)")
    parser.add_argument(
        "--output", default="checkpoints/base.pth", help="(default: checkpoints/base.pth)")
    parser.add_argument(
        "--start", metavar="BASE", help="a base with whose hearing to go on (default: a new one)")
    parser.add_argument(
        "--minutes", type=cli.positive(float), default=60, help="of learning (default: 60)")
    parser.add_argument(
        "--leave-out", nargs="+", metavar="SPEAKER",
        help="speakers to judge by (default: every eighth)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
