"""What utils.benchmark times: the scripts' own functions, run here on a short film, each the median of several runs."""

import contextlib
import io
import runpy
import statistics
import sys
import time
from collections import Counter
from fractions import Fraction
from itertools import chain, count, islice
from pathlib import Path
from unittest import mock

import av
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.unet import LipUNet
from utils import audio, contract, device, face, media, pixels, tracking
from utils.dataset import Footage, LipDataset, where_the_mouth_is
from utils.generate import live as draw_live

ROOT = Path(__file__).parent.parent


class Clock:
    """Seconds by part. What a part calls of another counts there alone; what is in none counts as `rest`."""

    def __init__(self, rest):
        self.seconds, self.within, self.since = Counter(), [rest], time.perf_counter()

    def turn(self):
        """Book the time since the last turn."""
        now = time.perf_counter()
        self.seconds[self.within[-1]] += now - self.since
        self.since = now

    def timed(self, part, work):
        """Return `work` as a function whose time is booked to `part`."""
        def run(*given, **named):
            self.turn()
            self.within.append(part)
            try:
                return work(*given, **named)
            finally:
                self.turn()
                self.within.pop()
        return run

    def each(self, part, work):
        """Return `work`, a generator function, with the time of each of its steps booked to `part`."""
        def run(*given, **named):
            items = work(*given, **named)
            return iter(self.timed(part, lambda: next(items, None)), None)
        return run

    @contextlib.contextmanager
    def watching(self, *watched):
        """Time, within the block, the functions that are named as (part, owner, name)."""
        with contextlib.ExitStack() as stack:
            for part, owner, name in watched:
                work = getattr(owner, name)
                wrap = self.each if name == "read_frames" else self.timed
                stack.enter_context(mock.patch.object(owner, name, wrap(part, work)))
            self.since = time.perf_counter()
            yield
            self.turn()

    @property
    def total(self):
        return sum(self.seconds.values())


def median(clocks):
    """Return the Clock of the run that took the median time: its parts add up to its total."""
    return sorted(clocks, key=lambda clock: clock.total)[len(clocks) // 2]


def script(name):
    """Return what a script defines, by name. It is not started."""
    return runpy.run_path(str(ROOT / f"{name}.py"), run_name=name)


def start(main, *words):
    """Run a script's main() with these words of its command line, quietly."""
    with (mock.patch.object(sys, "argv", [sys.argv[0], *map(str, words)]), contextlib.redirect_stdout(io.StringIO()),
          contextlib.redirect_stderr(io.StringIO())):
        main()


def gflop(work):
    """Return the billions of operations in the matrix products and convolutions of work(), backward ones included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


# ------------------------------------------------------------------------------------------------------
def preprocess(film, data, runs):
    """Return frames/s of preprocess.py from the film to `data`, and the milliseconds of its parts a frame."""
    main, clocks = script("preprocess")["main"], []
    for _ in range(runs):
        clocks.append(Clock("rest"))
        with clocks[-1].watching(
                ("decode", media, "read_frames"), ("decode", media.Frame, "rgb"), ("landmarks", tracking, "track"),
                ("align", face, "align"), ("write", pixels, "png"), ("write", Path, "write_bytes"),
                ("write", np, "save")):
            start(main, film, "--data", data)
    frames, clock = contract.read_meta(data)["frames"], median(clocks)
    parts = {f"{part}_ms": round(1000 * seconds / frames, 2) for part, seconds in clock.seconds.items()}
    return {"frames_per_s": round(frames / clock.total, 1), **dict(sorted(parts.items()))}


def train(data, runs, steps):
    """Return pictures/s of train.py's steps with the discriminator judging, shares of time, and GFLOP of a picture."""
    names = script("train")
    footage, where = Footage(data), device.resolve("auto")
    dataset, rng = LipDataset(footage, train=True), np.random.default_rng(1)
    weight, _, mouth = where_the_mouth_is(dataset, names["MOUTH_WEIGHT"])
    learner = names["Learner"](LipUNet(points=footage.points.shape[1]), weight, mouth, where)
    learner.model.train()
    batches = chain.from_iterable(dataset.batches(names["BATCH_SIZE"], rng) for _ in count())

    def step(clock):
        batch, sounds = clock.timed("data", lambda: device.to(where, (
            next(batches), dataset.sounds(names["SOUND_BATCH"], rng))))()
        learner.step(batch, sounds, names["DISCRIMINATOR_FROM"], names["LR"])

    operations, clocks = gflop(lambda: step(Clock("forward"))) / names["BATCH_SIZE"], []
    for _ in range(runs):
        step(Clock("forward"))
        clocks.append(Clock("forward"))
        with clocks[-1].watching(
                ("backward", torch.Tensor, "backward"), ("optimizer", torch.optim.AdamW, "step"),
                ("optimizer", torch.nn.utils, "clip_grad_norm_"), ("optimizer", torch, "_foreach_lerp_")):
            for _ in range(steps):
                step(clocks[-1])
    clock = median(clocks)
    speed = steps * names["BATCH_SIZE"] / clock.total
    shares = {f"{part}_share": round(clock.seconds[part] / clock.total, 4)
              for part in ("data", "forward", "backward", "optimizer")}
    return {"pictures_per_s": round(speed, 1), **shares, "seconds_per_1732_frames": round(1732 / speed, 1),
            "gflop_per_picture": round(operations, 2)}


@torch.inference_mode()
def infer(data, runs, batches=6):
    """Return pictures/s of the network alone, in bfloat16 where it is native and in float32."""
    footage, where = Footage(data), device.resolve("auto")
    model = LipUNet(points=footage.points.shape[1]).to(where, memory_format=torch.channels_last).eval()
    size = script("inference")["BATCH_SIZE"]
    frames = np.arange(size) % footage.frames
    inputs = device.to(where, footage.inputs(frames, footage.windows(frames), footage.references()))

    def draw(context, times=1):
        with context:
            for _ in range(times):
                model(**inputs)[0].sum().item()  # asked for, so that it is there

    found = {"gflop_per_picture": round(gflop(lambda: draw(contextlib.nullcontext())) / size, 2)}
    for name, context in (("pictures_per_s", lambda: device.autocast(where)),
                          ("float32_pictures_per_s", contextlib.nullcontext)):
        found[name] = round(batches * size / device.usual(lambda c=context: draw(c(), batches), runs), 1)
    return found


def live(data, runs, seconds=3):
    """Return pictures/s of utils.generate.live, fed a frame's sound at a time, how many times as fast as speech that
    is, and the ms from a moment of speech to its picture."""
    footage, where = Footage(data), device.resolve("auto")
    model = LipUNet(points=footage.points.shape[1]).to(where, memory_format=torch.channels_last).eval()
    shape = seconds * contract.FPS, audio.SAMPLES_PER_FRAME
    sound = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    references, found = footage.references(), []
    for _ in range(runs):
        begun = time.perf_counter()
        pictures = sum(1 for _ in draw_live(model, footage, references, sound, where))
        found.append(pictures / (time.perf_counter() - begun))
    speed = statistics.median(found)
    return {"pictures_per_s": round(speed, 1), "times_real_time": round(speed / contract.FPS, 2),
            "latency_ms": round(audio.LATENCY_MS + 1000 / speed)}


def reapply(data, film, runs):
    """Return frames/s of reapply_faces.py on the newest prediction of `data`, and how many times as long it takes as
    decoding and encoding the same frames of the film; run in turn."""
    names, seconds = script("reapply_faces"), {"pasted": [], "transcoded": []}
    frames = contract.read_meta(data)["frames"]
    for _ in range(runs):
        for name, work in (
                ("pasted", lambda: start(names["main"], "--data", data, "--output", data / "pasted.mp4")),
                ("transcoded", lambda: transcode(film, data / "bare.mp4", frames, names["CRF"], names["PRESET"]))):
            begun = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begun)
    over = [pasted / bare for pasted, bare in zip(*seconds.values(), strict=True)]
    return {"frames_per_s": round(frames / statistics.median(seconds["pasted"]), 1),
            "transcode_frames_per_s": round(frames / statistics.median(seconds["transcoded"]), 1),
            "over_transcode": round(statistics.median(over), 3)}


def transcode(source, target, frames, crf, preset):
    """Decode the first `frames` pictures of a film and encode them as media.VideoWriter does, with nothing between."""
    with av.open(str(source)) as film, av.open(str(target), "w") as copy:
        shown = film.streams.video[0]
        shown.thread_type = "AUTO"
        stream = copy.add_stream("libx264", rate=contract.FPS, options={"crf": str(crf), "preset": preset})
        stream.width, stream.height, stream.pix_fmt = shown.width, shown.height, "yuv420p"
        for k, picture in enumerate(islice(film.decode(shown), frames)):
            picture.pts, picture.time_base, picture.pict_type = k, Fraction(1, contract.FPS), 0
            copy.mux(stream.encode(picture))
        copy.mux(stream.encode(None))
