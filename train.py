"""Step 2 of 4: learn "this sound, this mouth" from the prepared clip.

First it learns to hear: which mouth a sound belongs to. Then to draw mouths with the hearing as it
is: learned together, both take longer. What time did not allow of hearing is made up for with
--resume.

Reads   data/                     from preprocess.py
Writes  checkpoints/best.pth      the network that draws the held-out part best
        checkpoints/last.pth      the newest, after every epoch, with all that --resume needs
        checkpoints/preview.png   held-out frames: references, generated, real, generated on silence
        checkpoints/loss.png, log.csv

A tenth of the clip, the last that is usable and spoken in, is held out: never trained on, and what
"best" is judged by. Drawing stops at --epochs or --max-minutes, whichever comes first, or when the
held-out figure no longer falls; the learning rate is brought down in time for each. Ctrl-C at any
moment is safe: continue with --resume. With torchrun several processes share each batch, one for
each GPU or for some of the CPU's cores.

Run     python train.py [--data data] [--checkpoints checkpoints] [--device auto|cpu|cuda|cuda:N]
                        [--epochs N] [--max-minutes M] [--batch-size 8] [--lr X] [--resume]
        torchrun --nproc_per_node=PROCESSES train.py [the same]
Next    python inference.py
"""

import argparse
import contextlib
import math
import shlex
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from models import losses
from models.unet import LipUNet
from utils import cli
from utils.cli import CheckpointError, say
from utils.dataset.batches import LipDataset, MouthMaps, mouth_weight_maps
from utils.dataset.clip import Clip
from utils.evaluate import meter
from utils.evaluate.preview import write_preview
from utils.training import base, checkpoint, distributed
from utils.training.device import autocast, resolve, to_channels_last, to_device
from utils.training.epoch_log import EpochLog, check_finite, epoch_line
from utils.training.plots import write_log
from utils.training.schedule import Rates, Schedule, TimeLimit
from utils.training.state import (
    Progress,
    Settings,
    TrainState,
    build_model,
    make_checkpoint,
    restore,
)
from utils.training.steps import (
    hearing_loss,
    held_out_hearing,
    judge,
    optimizer_step,
    restrain,
    to_float,
    until_over,
    validate,
)
from utils.usable_frames import check_mouth

# -- edit these -----------------------------------------------------------------------------------
BASE: Path | None = base.SHIPPED  # network that has heard and seen many people: training starts
                              # from it. None: from nothing, which takes many times as long
EPOCHS = 8                    # 8 minutes for a 2-minute clip on 2 bfloat16 cores. Without a base 30
MIN_STEPS = 1200              # a short clip has more epochs, to make these. Without a base 6000
PATIENCE_STEPS = 1000         # without a new lowest held-out figure, after which training ends ...
COOLDOWN_STEPS = 600          # ... with this many more, in which the rate falls and lips get sharp
BATCH_SIZE = 8                # pictures a step of all processes; 2 if memory is short, 32+ on a GPU
LR = 6e-4                     # peak of the learning rate. Without a base 1e-3 trains best
FINAL_LR = 3e-6               # its end. Starting there, a day would not reach what ten minutes do
WARMUP_STEPS = 100            # from 0 to LR, of hearing and of drawing
WEIGHT_DECAY = 1e-2           # of AdamW
HEARING_STEPS = 1000          # at most, and no more than of drawing. Without a base 3000
HEARING_CHECK_STEPS = 25      # between two looks at the held-out part
HEARING_PATIENCE_STEPS = 150  # without a new lowest loss end hearing, if it began from a base ...
HEARING_COOLDOWN_STEPS = 75   # ... with this many more, in which the rate falls
HEARING_SHARE = 0.3           # of --max-minutes, at most
SOUNDS = 64                   # a step of hearing, and as many of other people's voices
VOICES_WEIGHT = 1.0           # of these: less forgets them
VOICES_GAIN = 1.5             # how far these move the mouth, over what the base hears in them: it
                              # is unsure of a voice that it has not met, and moves too little
MOUTH_WEIGHT = 4.0            # how much more a pixel of the mouth counts than one of the cheek
GRADIENT_WEIGHT = 1.0         # of the gradient loss: more is sharper, too much rings
DISCRIMINATOR_LR_SHARE = 0.5  # its learning rate over the generator's
ADVERSARIAL_WEIGHT = 0.01     # of the discriminator's logits: more is sharper, too much invents
FEATURE_WEIGHT = 0.4          # of the difference in the discriminator's features
EMA_DECAY = 0.999             # the exponential moving average of the weights is kept, which is
                              # steadier: over the last tenth of the steps, 1000 at most
TOLERANCE_SHARE = 0.02        # best.pth is the newest network within this share of the lowest
                              # held-out figure: a later one is sharper and follows better
VALIDATION_FRAMES = 300       # held-out frames looked at in each epoch, evenly spaced
COMPILE = False               # torch.compile: a minute at the start; may pay off on a GPU
SEED = 1                      # of weights, data order and augmentation
# -------------------------------------------------------------------------------------------------
START = time.monotonic()


# -- first: hearing -------------------------------------------------------------------------------
def train_hearing(
    state: TrainState,
    trained: LipDataset,
    held: LipDataset,
    schedule: Schedule,
    progress: Progress,
) -> LipUNet:
    """Train the audio branch, in each process, until the schedule is over or the held-out part is
    heard no better. Returns the network with what serves the held-out part of that.
    """
    torch.manual_seed(SEED + schedule.step)
    trained.set_epoch(SEED, 0, schedule.step)
    state.model.train()
    figures: list[float] = []
    for lr in until_over(schedule, "learning to hear"):
        # 1. is there more to learn?
        if state.teacher and not schedule.first_step and schedule.step % HEARING_CHECK_STEPS == 0:
            figures.append(distributed.broadcast(held_out_hearing(state.averaged, held)))
            if schedule.maybe_stop_early(
                    figures, len(figures) - 1, HEARING_PATIENCE_STEPS, HEARING_COOLDOWN_STEPS):
                progress.heard = HEARING_STEPS

        # 2. this voice: predict landmarks from the sound
        mel, real = to_device(trained.draw_sounds(SOUNDS), state.device)
        with autocast(state.device):
            landmarks = state.model.predict_landmarks(state.model.encode_audio(mel))
        loss = hearing_loss(landmarks, real)

        # 3. other people's voices
        if state.teacher:
            loss = loss + VOICES_WEIGHT * voices_loss(state)

        # 4. step and average
        gradient_norm = optimizer_step(state.optimizer, loss, lr)
        check_finite({"loss": loss.item(), "gradient_norm": gradient_norm}, schedule)
        state.ema.update_parameters(state.model)

    # 5. back towards the base
    return restrain(state.teacher, state.averaged, held) if state.teacher else state.averaged


def voices_loss(state: TrainState) -> Tensor:
    """Do other people's voices still move the mouth? As the base hears them, times VOICES_GAIN."""
    with autocast(state.device):
        features, heard = state.teacher.ask(SOUNDS)
        landmarks = state.model.predict_landmarks(state.model.audio_encoder(features))
    return hearing_loss(landmarks, VOICES_GAIN * heard)


# -- then: drawing, epoch by epoch -----------------------------------------------------------------
def train_epoch(state: TrainState, loader: DataLoader, maps: MouthMaps, log: EpochLog):
    """Train for one epoch, or until time is up."""
    state.model.train()
    for batch in loader:
        batch = to_device(batch, state.device)
        real = to_float(batch.lower_face)
        lr = log.schedule.lr()

        # 1. generator: draw mouths at their real landmarks
        with autocast(state.device):
            generated, _ = state.generator_ddp(*batch.inputs)
        picture = losses.picture_loss(generated, real, maps.train_weight)
        gradient = losses.gradient_loss(generated, real, maps.train_weight)
        loss = picture + GRADIENT_WEIGHT * gradient

        # 2. discriminator: it learns to tell photographed from generated mouths, and judges these
        lr_d = lr * DISCRIMINATOR_LR_SHARE
        adversarial, feature = judge(state, generated, real, maps.crop, lr_d)
        loss = loss + ADVERSARIAL_WEIGHT * adversarial + FEATURE_WEIGHT * feature

        # 3. step and average
        gradient_norm = optimizer_step(state.optimizer, loss, lr)
        state.ema.update_parameters(state.model)

        # 4. log: each number named here becomes a column of log.csv; the schedule moves on
        log.add(len(real), {"train_loss": picture.item(), "gradient_norm": gradient_norm})
        if log.schedule.is_over():
            break


# -- start and save -------------------------------------------------------------------------------
def build_or_resume(
    args: argparse.Namespace,
    dataset: LipDataset,
    device: torch.device,
) -> tuple[TrainState, Progress]:
    """Networks and optimizers: new, or as checkpoints/last.pth holds them with --resume."""
    path = Path(args.checkpoints) / "last.pth"
    if args.resume:
        model, saved = checkpoint.load(path)
        settings = Settings(**saved["settings"])
        found = base.find_base(BASE, model) if saved["base"] else None
        frozen = model.audio_encoder.conv1.weight
        if found and not torch.equal(found["model"]["audio_encoder.conv1.weight"], frozen):
            raise CheckpointError(f"{path} was begun with another base than {BASE}")
    else:
        torch.manual_seed(SEED)
        model = build_model(dataset)
        found = base.find_base(BASE, model)
        if found:
            base.start_from(found, model)
        steps_per_epoch = len(dataset) / (args.batch_size or BATCH_SIZE)
        epochs = max(EPOCHS, math.ceil(MIN_STEPS / steps_per_epoch))
        settings = Settings(BATCH_SIZE, LR, epochs, SEED)
    settings.epochs = args.epochs or settings.epochs
    settings.batch_size = args.batch_size or settings.batch_size
    settings.lr = args.lr or settings.lr
    state = TrainState(model, device, EMA_DECAY, WEIGHT_DECAY, found, COMPILE)
    if not args.resume:
        return state, Progress(settings)
    progress = restore(state, settings, saved, path, dataset.clip.meta)
    if args.epochs:
        progress.patience_start_epoch = progress.epoch
    if progress.epoch >= settings.epochs:
        raise CheckpointError(
            f"{path} has been trained for {progress.epoch} epochs already",
            options=f"--resume --epochs {2 * progress.epoch}")
    return state, progress


def make_loaders(
    trained: LipDataset,
    held: LipDataset,
    batch_size: int,
) -> tuple[DataLoader, DataLoader]:
    """Loaders of this process's share of the training part, shuffled, and of the held-out part."""
    processes = distributed.world_size()
    rank = distributed.rank()
    share = math.ceil(batch_size / processes)
    sampler = DistributedSampler(trained, processes, rank, seed=SEED)
    loader = DataLoader(trained, share, sampler=sampler, collate_fn=LipDataset.collate)
    mine = range(rank, len(held), processes)
    val_loader = DataLoader(held, share, sampler=mine, collate_fn=LipDataset.collate)
    return loader, val_loader


def minutes_left(args: argparse.Namespace) -> float | None:
    """Of --max-minutes; None without it."""
    return args.max_minutes and args.max_minutes - (time.monotonic() - START) / 60


def hearing_schedule(
    args: argparse.Namespace,
    progress: Progress,
    steps_per_epoch: int,
    rates: Rates,
) -> Schedule:
    """What is to be learned of hearing, in this run and before."""
    steps = min(HEARING_STEPS, progress.settings.epochs * steps_per_epoch)
    minutes = minutes_left(args)
    limit = TimeLimit(time.monotonic(), minutes and HEARING_SHARE * minutes)
    every = min(HEARING_CHECK_STEPS, steps)
    return Schedule(steps // every, every, progress.heard, rates, limit)


def seed_epoch(loader: DataLoader, epoch: int):
    """Each epoch draws from its own number, so that --resume repeats an interrupted one exactly."""
    rank = distributed.rank()
    torch.manual_seed(100_003 * SEED + epoch + 10**9 * rank)
    loader.sampler.set_epoch(epoch)
    loader.dataset.set_epoch(SEED, epoch, rank)


def save_epoch(folder: Path, state: TrainState, progress: Progress, held: LipDataset) -> bool:
    """Write what an epoch has brought. Returns whether it is the new best.pth."""
    figure = progress.history[-1]["val_loss"]
    is_best = figure < progress.best * (1 + TOLERANCE_SHARE)
    progress.best = min(figure, progress.best)
    content = make_checkpoint(state, progress, held.clip.meta)
    if is_best:
        checkpoint.save(folder / "best.pth", {**content, "training": {}})
    write_preview(folder / "preview.png", state.averaged, held, state.device)
    write_log(folder, progress.history)
    # last.pth comes last: a run that is killed before it repeats this epoch and loses nothing
    checkpoint.save(folder / "last.pth", content)
    return is_best


def train(
    args: argparse.Namespace,
    trained: LipDataset,
    held: LipDataset,
    device: torch.device,
) -> Progress:
    """Train, alone or as one of several processes: hearing, then epoch after epoch."""
    folder = Path(args.checkpoints)
    is_writer = distributed.rank() == 0
    state, progress = build_or_resume(args, trained, device)
    if is_writer and not args.resume:
        checkpoint.keep_earlier(folder)
    if is_writer and not progress.epoch:
        content = make_checkpoint(state, progress, trained.clip.meta)
        checkpoint.save(folder / "last.pth", content)
    maps = to_device(mouth_weight_maps(trained, MOUTH_WEIGHT), device)
    loader, val_loader = make_loaders(trained, held, progress.settings.batch_size)
    rates = Rates(progress.settings.lr, FINAL_LR, WARMUP_STEPS)
    heard = None
    schedule = hearing_schedule(args, progress, len(loader), rates)
    if not schedule.is_over():
        heard = train_hearing(state, trained, held, schedule, progress)
        progress.heard = max(progress.heard, schedule.step)
    state.begin_drawing(heard)
    begun = time.monotonic()
    validate(state.averaged, val_loader, maps, device)  # the time limit leaves room for one
    now = time.monotonic()
    limit = TimeLimit(now, minutes_left(args), now - begun)
    schedule = Schedule(progress.settings.epochs, len(loader), progress.step, rates, limit)
    while progress.epoch < schedule.epochs:
        # 1. train for an epoch
        progress.epoch += 1
        begun = time.monotonic()
        seed_epoch(loader, progress.epoch)
        log = EpochLog(progress.epoch, len(trained), schedule)
        train_epoch(state, loader, maps, log)
        numbers = log.close()

        # 2. look at the held-out part
        row = {
            "epoch": progress.epoch,
            **numbers,
            "val_loss": validate(state.averaged, val_loader, maps, device),
            "lr": schedule.lr(),
            "seconds": round(time.monotonic() - begun, 1),
        }
        progress.history.append(row)

        # 3. save, and stop in time
        progress.step = schedule.step
        figures = [row["val_loss"] for row in progress.history[progress.patience_start_epoch:]]
        news = schedule.maybe_stop_early(figures, progress.epoch, PATIENCE_STEPS, COOLDOWN_STEPS)
        progress.settings.epochs = schedule.epochs
        if is_writer:
            is_best = save_epoch(folder, state, progress, held)
            say(epoch_line(row, schedule, is_best) + news)
        schedule.update()
        if schedule.is_over():
            break
    return progress


@record
def main(args: argparse.Namespace):
    """Data, training, and a first look at the result."""
    with distributed.process_group():
        # 1. the data: its training part and its held-out part
        device = resolve(args.device)
        clip = Clip(args.data)
        check_mouth(clip.track, clip.mel)
        trained = LipDataset(clip, train=True)
        held = LipDataset(clip, train=False, max_frames=VALIDATION_FRAMES)
        say(f"{len(trained)} frames to train on, {len(held)} held out")

        # 2. train; the first process writes
        is_writer = distributed.rank() == 0
        with cli.write_lock(args.checkpoints) if is_writer else contextlib.nullcontext():
            progress = train(args, trained, held, device)
    if not is_writer:
        return

    # 3. does its mouth follow the sound?
    best = Path(args.checkpoints) / "best.pth"
    model = to_channels_last(checkpoint.load(best)[0], device)
    say(meter.brief(clip, model, device))
    data_option = cli.option("data", args.data, "data")
    checkpoint_option = cli.option("checkpoint", best, "checkpoints/best.pth")
    say(f"lowest held-out figure {progress.best:.4f}; look at {args.checkpoints}/preview.png; "
        f"next: python inference.py{data_option}{checkpoint_option}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__, "data", "checkpoints", "device")
    parser.add_argument(
        "--epochs", type=cli.positive(int),
        help=f"number of epochs in all (default: {EPOCHS}, more for a short clip; or as before)")
    parser.add_argument(
        "--max-minutes", type=cli.positive(float), help="stop this run after that time")
    parser.add_argument(
        "--batch-size", type=cli.positive(int),
        help=f"pictures a step (default: {BATCH_SIZE}, or as before)")
    parser.add_argument(
        "--lr", type=cli.positive(float),
        help=f"peak of the learning rate (default: {LR}, or as before)")
    parser.add_argument("--resume", action="store_true", help="go on from checkpoints/last.pth")
    return parser.parse_args(argv)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--resume"]
    again = shlex.join([sys.argv[0], *words, "--resume"])
    cli.run(main, parse_args(), f"; go on with: {distributed.launcher()} {again}")
