"""Step 2 of 4: learn "this sound, this mouth" from the prepared clip.

Reads   data/                     from preprocess.py
Writes  checkpoints/best.pth      the network that draws the held-out part best
        checkpoints/last.pth      the newest, after every epoch, with all that --resume needs
        checkpoints/preview.png   held-out frames: references, generated, real, and generated on silence
        checkpoints/loss.png, log.csv

The last tenth of the clip is held out: never trained on, and what "best" is judged by. Training stops at --epochs or
--max-minutes, whichever comes first, or when the held-out figure no longer falls; the learning rate is brought down in
time for each. Ctrl-C at any moment is safe: go on with --resume. With torchrun several processes share each batch, one
for each GPU or for some of the CPU's cores.

Run     python train.py [--data data] [--checkpoints checkpoints] [--device auto|cpu|cuda|cuda:N]
                        [--epochs N] [--max-minutes M] [--batch-size 8] [--lr X] [--resume]
        torchrun --nproc_per_node=PROCESSES train.py [the same]
Next    python inference.py
"""

import contextlib
import copy
import itertools
import math
import os
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.discriminator import Discriminator
from models.losses import (adversarial_loss, discriminator_loss, feature_loss, gradient_loss, landmark_loss,
                           picture_loss)
from models.unet import Lesson, LipUNet
from utils import checkpoint, console, device, evaluate, report, together
from utils.console import UserError, say
from utils.contract import CONTRACT, train_command
from utils.dataset import Footage, LipDataset, thin, where_the_mouth_is
from utils.schedule import Schedule, stalled

# ------------------------------------------------------------------------------------------------------
EPOCHS = 30             # a 2-minute clip: about half an hour on 2 CPU cores with bfloat16
LEAST_STEPS = 6000      # a short clip has more epochs, so many steps in all: about 20 minutes there
PATIENCE = 1500         # steps without a new lowest held-out figure after which training comes to its end, with a fall
COOLDOWN = 1000         # of the rate over so many more: the last part of it gives most of the sharpness
BATCH_SIZE = 8          # pictures a step, of all processes together; 4 or 2 if memory is short, 32 or more on a GPU
LR = 1e-3               # peak of the learning rate, what trains best from scratch with AdamW
FINAL_LR = 3e-6         # its end. Often quoted as *the* rate for this U-Net; starting there, a whole day of CPU
                        # training would not reach what ten minutes from LR reach
WARMUP_STEPS = 100      # steps from 0 to LR
WEIGHT_DECAY = 1e-2     # of AdamW
MOUTH_WEIGHT = 4.0      # how much more a pixel of the mouth counts than one of the cheek
GRADIENT_WEIGHT = 1.0   # share of the gradient loss: more is sharper, too much rings
LANDMARK_WEIGHT = 0.15  # share of the audio branch's own teacher
DISCRIMINATOR_FROM = 300   # step at which the discriminator begins to judge: lips first, then teeth
DISCRIMINATOR_TIME = 1.3   # a step with it over one without: for the forecast, made before it begins
DISCRIMINATOR_RATE = 0.5   # its learning rate, as a share of the network's
ADVERSARIAL_WEIGHT = 0.01  # share of the discriminator's verdict: more is sharper, too much invents teeth
FEATURE_WEIGHT = 0.4       # share of the difference in its features
AVERAGING = 0.999          # what is kept, validated and shown is the exponential average of the weights, steadier
                           # than the weights themselves: of the last tenth of all steps so far, at most of 1000
SOUND_BATCH = 64        # more sounds a step for the audio branch alone: nearly free, and sync learns in minutes
CLIP_NORM = 1.0         # longest gradient of a step
TOLERANCE = 0.02        # best.pth is the newest network whose held-out mouth is within this share of the lowest: at
                        # the same figure a later one is sharper and follows the sound better
VALIDATE_MOST = 300     # held-out frames looked at each epoch, evenly spread
COMPILE = False         # torch.compile: a minute at the start; brings nothing on a CPU, may on a GPU
SEED = 1                # of weights, data order and sound changes; each epoch draws from (SEED, epoch)
# ------------------------------------------------------------------------------------------------------
START = time.monotonic()


class Learner:
    """All that training changes: the network, its running average, the discriminator and their optimizers.

    weight: (84, 168), what each pixel counts. mouth: (rows, columns), the slices of the crop that is judged.
    """

    def __init__(self, model, weight, mouth, where):
        self.model = model.to(where, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.discriminator = Discriminator().to(where, memory_format=torch.channels_last)
        lesson = Lesson(self.model)
        if COMPILE:
            lesson.compile()
        self.lesson, self.examined = together.averaging(lesson), together.averaging(self.discriminator)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=True)
        self.judging = torch.optim.AdamW(self.discriminator.parameters(), LR, betas=(0.5, 0.99), fused=True)
        self.weight, self.mouth, self.where = weight.to(where), (..., *mouth), where

    def step(self, batch, sounds, number, rate):
        """Learn from a batch and from more sounds. Returns (picture loss, norm of the gradient), floats."""
        (inputs, lower, landmarks, points), (sounds, others) = batch, sounds
        real = scaled(lower)
        with device.autocast(self.where):
            generated, heard = self.lesson(inputs, points, sounds)
            picture = (picture_loss(generated, real, self.weight)
                       + GRADIENT_WEIGHT * gradient_loss(generated, real, self.weight))
            taught = landmark_loss(heard.float(), torch.cat([landmarks, others]))
            loss = picture + LANDMARK_WEIGHT * taught
            if number >= DISCRIMINATOR_FROM:
                loss = loss + self.judge(generated[self.mouth], real[self.mouth], rate)
        norm = descend(self.optimizer, loss, rate)
        with torch.no_grad():
            share = max(1 - AVERAGING, 9 / (10 + number))  # early weights are soon forgotten
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), share)
        return picture.item(), norm

    def state_dict(self):
        """Return what --resume needs, as nested dicts of tensors and numbers."""
        return {"model": self.model.state_dict(), "discriminator": self.discriminator.state_dict(),
                "optimizer": self.optimizer.state_dict(), "judging": self.judging.state_dict()}

    def load_state_dict(self, saved):
        """Go on from what state_dict() returned; the average is the checkpoint's own network.

        Raises AttributeError, KeyError, TypeError or ValueError if it is something else.
        """
        for network, optimizer in (("model", "optimizer"), ("discriminator", "judging")):
            part, steps = getattr(self, network), getattr(self, optimizer)
            part.load_state_dict(checkpoint.fitting(saved[network], part.state_dict()))
            weights = dict(enumerate(part.parameters()))
            state = {k: checkpoint.fitting(kept, {"step": torch.zeros(()), "exp_avg": weights[k],
                                                  "exp_avg_sq": weights[k]})
                     for k, kept in saved[optimizer]["state"].items()}
            steps.load_state_dict({**steps.state_dict(), "state": state})  # its settings are this file's

    def judge(self, generated, real, rate):
        """Let the discriminator learn from a batch of mouths. Returns what the network is to learn from it."""
        self.discriminator.requires_grad_(True)
        verdict, features = self.examined(torch.cat([real, generated.detach()]))
        wanted = [feature[:len(real)].detach() for feature in features]
        descend(self.judging, discriminator_loss(*verdict.float().chunk(2)), rate * DISCRIMINATOR_RATE)
        self.discriminator.requires_grad_(False)
        verdict, features = self.discriminator(generated)
        return ADVERSARIAL_WEIGHT * adversarial_loss(verdict.float()) + FEATURE_WEIGHT * feature_loss(features, wanted)


def descend(optimizer, loss, rate):
    """Take one step down the loss. Returns the norm of the gradient before it was cut to CLIP_NORM."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM).item()
    if math.isfinite(norm):
        optimizer.step()
    return norm


def scaled(lower):
    """(B, 84, 168, 3) uint8 -> (B, 3, 84, 168) float32, 0..1."""
    return lower.permute(0, 3, 1, 2).float() / 255


def train_epoch(learner, dataset, schedule, epoch, args):
    """Train for one epoch, or until time is up. Returns (mean picture loss, pictures per second)."""
    rng = np.random.default_rng((SEED, epoch))  # alike in all processes; what is left to chance in the network is not
    torch.manual_seed(SEED * 100_003 + epoch + together.rank() * 10 ** 9)
    learner.model.train()
    total, pictures, begun = 0.0, 0, time.monotonic()
    bar, last = tqdm(total=len(dataset.frames), desc=f"epoch {epoch}", unit="picture", leave=False), begun
    for batch in dataset.batches(args.batch_size, rng):
        mine, sounds = together.share((batch, dataset.sounds(SOUND_BATCH, rng)))
        loss, norm = learner.step(device.to(learner.where, mine), device.to(learner.where, sounds),
                                  schedule.step, schedule.rate())
        if not math.isfinite(loss) or not math.isfinite(norm):
            again = train_command(args.data, args.checkpoints)
            raise UserError(f"the loss is {loss}, its gradient {norm} at epoch {epoch}, step {schedule.step}; "
                            f"the checkpoints are from before it. Run: {again} --resume --lr {args.lr / 3:.1g}")
        total, pictures = total + loss * len(mine[1]), pictures + len(mine[1])
        now = time.monotonic()
        schedule.advance((now - last) * (DISCRIMINATOR_TIME if schedule.step < DISCRIMINATOR_FROM else 1))
        last = now
        if forecast := schedule.forecast():
            with bar.external_write_mode():
                say(forecast)
        bar.set_postfix_str(f"{schedule.left():.1f} min left in all", refresh=False)
        bar.update(len(batch[1]))
        if schedule.over():
            break
    bar.close()
    total, pictures = together.total(total, pictures)
    return total / pictures, pictures / (time.monotonic() - begun)


@torch.inference_mode()
def validate(model, dataset, judged, args, where):
    """Return how far the held-out part is off: its mouth (mean absolute difference, 0..1, weighted by `judged`), drawn
    with the landmarks given, and the landmarks heard (smooth L1, of their usual spread).

    Sound as recorded, references as inference chooses them. At the landmarks heard, the first would favour blurred
    mouths, which are never far off.
    """
    model.eval()
    mouth = heard = 0.0
    for batch in itertools.islice(dataset.batches(args.batch_size), together.rank(), None, together.count()):
        inputs, lower, landmarks, points = device.to(where, batch)
        with device.autocast(where):
            sound = model.hear(inputs["mel"])
            generated = model.draw(inputs["reference"], inputs["points"], points, sound, inputs["pose"])
            heard += landmark_loss(model.landmarks(sound).float(), landmarks).item() * len(lower)
        mouth += picture_loss(generated, scaled(lower), judged).item() * len(lower)
    return tuple(value / len(dataset.frames) for value in together.total(mouth, heard))


# ------------------------------------------------------------------------------------------------------
def begin(args, footage, dataset, where):
    """Return (learner, `judged` of where_the_mouth_is, state): new, or where checkpoints/last.pth stands with --resume.

    state: epoch, step, best, history, and since: the epoch from which patience counts. Epochs, batch size and rate
    that args leaves open are filled in.
    """
    folder = Path(args.checkpoints)
    torch.manual_seed(SEED)
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS * (args.batch_size or BATCH_SIZE) / len(dataset.frames)))
    settings = {"epochs": epochs, "batch_size": BATCH_SIZE, "lr": LR}
    if args.resume:
        model, saved = checkpoint.load(folder / "last.pth", train_command(args.data, args.checkpoints))
        settings.update(saved["settings"])
    more = args.resume and args.epochs
    for key in ("epochs", "batch_size", "lr"):  # what was not asked for stays as it was
        if getattr(args, key) is None:
            setattr(args, key, settings[key])
    if not args.resume:
        model = LipUNet(points=footage.points.shape[1])
        mean, std = dataset.mel_statistics()
        for name, value in (("mel_mean", mean), ("mel_std", std), ("usual", dataset.usual),
                            ("spread", dataset.spread)):
            getattr(model, name).copy_(value)
        state = {"epoch": 0, "step": 0, "best": math.inf, "history": []}
        finished = (folder / "best.pth").exists()  # else it ended within its first epoch: nothing to keep
        kept = [name for name in ("last", "best")
                if finished and not together.rank() and (folder / f"{name}.pth").exists()]
        for name in kept:
            os.replace(folder / f"{name}.pth", folder / f"{name}.old.pth")
        if kept:
            say(f"kept the earlier training as {' and '.join(str(folder / f'{name}.old.pth') for name in kept)} "
                "(to go on with a training, use --resume)")
    else:
        if saved["data"]["id"] != footage.meta["id"]:
            raise UserError(f"{folder}/last.pth was trained on {saved['data']['clip']}, but {args.data} holds "
                            f"{Path(footage.meta['source']['path']).name}; run: python train.py"
                            f"{console.option('data', args.data, 'data')} --checkpoints ANOTHER_FOLDER")
        batches = saved["scheduler"]["step"] * settings["batch_size"]
        state = {"epoch": saved["epoch"], "step": round(batches / args.batch_size), "best": saved["best"],
                 "history": saved["history"]}
    weight, judged, crop = where_the_mouth_is(dataset, MOUTH_WEIGHT)
    learner = Learner(model, weight, crop, where)
    if args.resume:
        try:
            learner.load_state_dict(saved["learner"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder}/last.pth holds no training to go on with ({type(error).__name__}: {error}); "
                            f"run: {train_command(args.data, args.checkpoints)}") from error
    state["since"] = state["epoch"] if more else 0
    return learner, judged.to(where), state


def pack_up(learner, state, args, footage):
    """Return the checkpoint dict: the averaged network as "model", all that --resume needs as "learner"."""
    return {"model": learner.averaged.state_dict(), "model_args": learner.model.model_args,
            "learner": learner.state_dict(), "scheduler": {"step": state["step"]}, "epoch": state["epoch"],
            "best": float(state["best"]),
            "settings": {"batch_size": args.batch_size, "lr": args.lr, "epochs": args.epochs, "seed": SEED},
            "contract": CONTRACT, "history": state["history"],
            "data": {"id": footage.meta["id"], "clip": Path(footage.meta["source"]["path"]).name}}


def main():
    with together.joined() as number:
        args = parse_args()
        footage, where, state = train(args)
    if number:
        return

    # 5. does its mouth follow the sound?
    best, _ = checkpoint.load(Path(args.checkpoints) / "best.pth")
    say(evaluate.brief(footage, best.to(where, memory_format=torch.channels_last), where))
    say(f"lowest held-out figure {state['best']:.4f}; look at {args.checkpoints}/preview.png; "
        "next: python inference.py" + console.option("data", args.data, "data")
        + console.option("checkpoint", Path(args.checkpoints) / "best.pth", "checkpoints/best.pth"))


def train(args):
    """Train, alone or as one of several processes. Returns (footage, where, state)."""
    where, folder = device.resolve(args.device), Path(args.checkpoints)

    # 1. the data: its training part and its held-out part
    with together.first_alone():
        footage = Footage(args.data)
    trained, held = LipDataset(footage, train=True), LipDataset(footage, train=False)
    held.frames = thin(held.frames, VALIDATE_MOST)
    say(f"{len(trained.frames)} frames to train on, {len(held.frames)} held out")

    with contextlib.nullcontext() if together.rank() else console.writing(folder):
        # 2. the network, new or resumed
        learner, judged, state = begin(args, footage, trained, where)
        if state["epoch"] >= args.epochs:
            raise UserError(f"{folder}/last.pth has been trained for {state['epoch']} epochs already; "
                            f"run: {train_command(args.data, args.checkpoints)} --resume --epochs {2 * state['epoch']}")
        if not state["epoch"] and not together.rank():
            checkpoint.save(folder / "last.pth", pack_up(learner, state, args, footage))
        begun = time.monotonic()
        validate(learner.averaged, held, judged, args, where)  # a first look: how long will the last one take?
        schedule = Schedule(args.epochs, math.ceil(len(trained.frames) / args.batch_size), state["step"],
                            (args.lr, FINAL_LR), WARMUP_STEPS, START, args.max_minutes, time.monotonic() - begun)

        # 3. epoch after epoch: train, look at the held-out part, save
        while state["epoch"] < args.epochs and not (schedule.over() and state["history"]):
            begun = time.monotonic()
            epoch = state["epoch"] + 1
            loss, speed = train_epoch(learner, trained, schedule, epoch, args)
            held_out, heard = validate(learner.averaged, held, judged, args, where)
            state.update(epoch=epoch, step=schedule.step)
            state["history"].append({
                "epoch": epoch, "train": loss, "held_out": held_out, "heard": heard, "lr": schedule.rate(),
                "pictures_per_s": round(speed, 1), "seconds": round(time.monotonic() - begun, 1)})
            news = come_to_an_end(state, schedule, args)
            if not together.rank():
                best = keep(learner, state, args, footage, held)
                say(line(state, schedule, best) + news)
            schedule.update()
    return footage, where, state


def come_to_an_end(state, schedule, args):
    """Bring the end nearer if the held-out figure no longer falls. Returns what to say of it, or nothing.

    Stopping at once would keep a network of a high rate, whose lips are blurred: the cosine is cut short instead, and
    falls over the last epochs.
    """
    patience, cooldown = (max(3, math.ceil(steps / schedule.steps)) for steps in (PATIENCE, COOLDOWN))
    if args.epochs - state["epoch"] <= cooldown or not stalled(state["history"][state["since"]:], patience):
        return ""
    args.epochs = schedule.epochs = state["epoch"] + cooldown
    return f"\nheld-out no lower for {patience} epochs: the rate is brought down now, the last epoch is {args.epochs}"


def keep(learner, state, args, footage, held):
    """Write what an epoch has brought, and state["best"]. Returns True if it is the new best.pth."""
    folder = Path(args.checkpoints)
    best = state["history"][-1]["held_out"] < state["best"] * (1 + TOLERANCE)
    state["best"] = min(state["history"][-1]["held_out"], state["best"])
    content = pack_up(learner, state, args, footage)
    if best:  # last.pth comes last: a run killed in between repeats the epoch and loses nothing
        checkpoint.save(folder / "best.pth", {**content, "learner": {}})
    report.preview(folder / "preview.png", learner.averaged, held, learner.where)
    report.log(folder, state["history"])
    checkpoint.save(folder / "last.pth", content)
    return best


def line(state, schedule, best):
    """Return the line of an epoch."""
    row = state["history"][-1]
    over = schedule.over()
    return (f"epoch {row['epoch']:3d}{'' if over else f'/{schedule.epochs}'}  train {row['train']:.4f}  "
            f"held-out {row['held_out']:.4f}{'*' if best else ' '} heard {row['heard']:.3f}  lr {row['lr']:.1e}  "
            f"{row['pictures_per_s']:.0f} pictures/s  {'done' if over else f'{schedule.left():.1f} min left'}")


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("--data", default="data", help="working folder of preprocess.py (default: data)")
    parser.add_argument("--checkpoints", default="checkpoints", help="folder to write to (default: checkpoints)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--epochs", type=console.positive(int),
                        help=f"stop after so many in all (default: {EPOCHS}, more for a short clip; or as before)")
    parser.add_argument("--max-minutes", type=console.positive(float), help="stop this call after so many minutes")
    parser.add_argument("--batch-size", type=console.positive(int),
                        help=f"pictures a step (default: {BATCH_SIZE}, or as before)")
    parser.add_argument("--lr", type=console.positive(float),
                        help=f"peak of the learning rate (default: {LR}, or as before)")
    parser.add_argument("--resume", action="store_true", help="go on from checkpoints/last.pth")
    return parser.parse_args()


if __name__ == "__main__":
    again = [sys.argv[0], *(word for word in sys.argv[1:] if word != "--resume"), "--resume"]
    console.run(main, f"; go on with: {together.launcher()} {shlex.join(again)}")
