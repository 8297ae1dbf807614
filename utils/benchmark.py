"""How fast is this machine, what do the scripts make of it, and do their needs stay bounded? One table of named rows.

Each is the median of several runs on 10 seconds of film, at 640x360 and at 1920x1080 (upright for an upright clip).

calibration   GFLOP/s of a float32 and a bfloat16 matrix product, GB/s of a memory copy: what other figures depend on
preprocess    frames/s of preprocess.py at 360p (and at 1080p), start of Python left out, and milliseconds of a frame
              in decoding, landmarks, alignment, writing and the rest: sound, report, what is done once
train         pictures/s of train.py's steps, the discriminator judging; shares of time; the peak anonymous memory
infer         pictures/s of the network alone, 16 at a time
reapply       frames/s of reapply_faces.py at 1080p, and its time over that of a bare decoding and encoding
live          pictures/s of utils.generate.live fed 40 ms at a time; how late a picture is, drawing included
mfu           model-FLOP utilisation: operations of the matrix products and convolutions of one picture, times
              pictures/s, over the faster of the two matrix products above
memory        with --memory only, for it takes an hour or more: peak memory of preprocess.py and reapply_faces.py on 1
              minute and on 10 minutes of 1080p, of train.py on 2 and on 20 minutes (the clip over and over), and the
              longer over the shorter. It is the anonymous resident memory (RssAnon, looked at 100 times a second),
              which the system cannot drop as it can a mapped file; with a mapped file's pages it is "resident"
              (VmHWM). reapply_faces.py pastes the film's own lower faces. Linux only

Run     python -m utils.benchmark [--clip VIDEO] [--data DIR] [--json] [--memory]
"""

import contextlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice, repeat
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from utils import console, contract, media, pixels, sample, speed
from utils.console import UserError, say
from utils.device import usual

# ------------------------------------------------------------------------------------------------------
SECONDS, RUNS, STEPS = 10, 3, 20  # of the films that are timed; the median of so many; training steps of each
LONG, TRAINED = (60, 600), (120, 1200)  # s of the films whose memory is compared, and of those trained on
TRAIN_MINUTES = 5           # on each at most: over 300 steps, from where on the discriminator judges
SIDE, COPIED, TIMES = 2048, 256 << 20, 7  # of the matrices; bytes; the median of so many counts
# ------------------------------------------------------------------------------------------------------


def calibration():
    """Return what the CPU and the memory reach."""
    found = {"threads": torch.get_num_threads()}
    for name, kind in (("fp32_gflops", torch.float32), ("bf16_gflops", torch.bfloat16)):
        a = torch.ones(SIDE, SIDE, dtype=kind)
        found[name] = round(2 * SIDE ** 3 / 1e9 / usual(lambda a=a: a @ a, TIMES), 1)
    source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)
    found["memcpy_gb_per_s"] = round(COPIED / 1e9 / usual(lambda: np.copyto(target, source), TIMES), 1)
    return found


# ------------------------------------------------------------------------------------------------------
def scaled(planes, size):
    """Return the planes of a picture scaled into `size` (width, height), with black around it."""
    scale, result = min(size[1] / planes[0].shape[0], size[0] / planes[0].shape[1]), []
    height, width = (int(side * scale) // 4 * 4 for side in planes[0].shape)
    for plane, part, black in zip(planes, (1, 2, 2), (16, 128, 128), strict=True):
        picture = np.full((size[1] // part, size[0] // part), black, np.uint8)
        top, left = (size[1] - height) // 2 // part, (size[0] - width) // 2 // part
        picture[top:top + height // part, left:left + width // part] = cv2.resize(
            plane, (width // part, height // part), interpolation=cv2.INTER_LINEAR)
        result.append(picture)
    return result


def write_film(clip, path, seconds, lines=1080):
    """Write a film of so many seconds, 16:9 or, of an upright clip, 9:16, the shorter side of `lines` pixels: the clip
    over and over."""
    sound, count = media.read_sound(clip, contract.SAMPLE_RATE, video_start=True), round(seconds * contract.FPS)
    if sound is None or not len(sound):
        raise UserError(f"{clip} has no sound; run: python -m utils.benchmark --clip A_VIDEO_WITH_SPEECH")
    blocks = np.array_split(np.resize(sound, (round(seconds * contract.SAMPLE_RATE), 1)), count)
    height, width = next(media.read_frames(clip)).planes()[0].shape
    size = (lines, lines * 16 // 9) if height > width else (lines * 16 // 9, lines)
    frames = islice(chain.from_iterable(map(media.read_frames, repeat(clip))), count)
    with media.VideoWriter(path, *size, 23, "ultrafast", iter(blocks), contract.SAMPLE_RATE) as film:
        for frame in tqdm(frames, total=count, desc=f"writing {seconds} s of {lines}p", unit="frame"):
            film.write(scaled(frame.planes(), size))
    return path


def write_prediction(data, film):
    """Lay down the film's own lower faces as a prediction, with its own sound."""
    folder, meta = data / "pred" / film.stem, contract.read_meta(data)
    folder.mkdir(parents=True)
    for i in range(meta["frames"]):
        lower = pixels.read_png(contract.face_path(data, i))[contract.LOWER_TOP:]
        contract.lower_path(folder, i).write_bytes(pixels.png(np.ascontiguousarray(lower)))
    contract.write_json(folder / "meta.json", {
        "frames": meta["frames"], "source_frames": list(range(meta["frames"])), "data_id": meta["id"],
        "sound": meta["source"]["path"], "sound_sha256": meta["source"]["sha256"]})
    contract.write_json(data / "pred" / "last.json", {"speeches": [folder.name]})


# ------------------------------------------------------------------------------------------------------
def watch(number, running):
    """Return the peaks in MB of process `number` while running(): {"anonymous": RssAnon, "resident": VmHWM}."""
    peaks = {"RssAnon": 0, "VmHWM": 0}
    while running():
        with contextlib.suppress(OSError):  # no such file: it has ended, or this is not Linux
            for line in Path(f"/proc/{number}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]))  # kB
        time.sleep(0.01)
    return {"anonymous": round(peaks["RssAnon"] / 1024), "resident": round(peaks["VmHWM"] / 1024)}


def peak(*command):
    """Run a script and return its peaks as watch() does."""
    with subprocess.Popen([sys.executable, *map(str, command)], cwd=speed.ROOT, stdout=subprocess.DEVNULL) as process:
        peaks = watch(process.pid, lambda: process.poll() is None)
    if process.returncode:
        raise UserError(f"{Path(command[0]).name} ended with {process.returncode} (see above); mend it and run again: "
                        "python -m utils.benchmark --memory")
    return peaks


def alone(work, *given):
    """Return what work(*given) returns in a process of its own, and the peaks of that."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(work, *given)
        child = multiprocessing.active_children()[-1]
        peaks = watch(child.pid, lambda: not future.done())
        return future.result(), peaks


def memory(clip, folder, long=LONG, trained=TRAINED):
    """Return the peaks of the scripts on short and long films (MB), and how much the long one takes over the other."""
    if not Path("/proc/self/status").is_file():
        raise UserError("memory can only be measured on Linux; run: python -m utils.benchmark")
    found = {}
    for seconds, lines in [*zip(long, repeat(1080)), *zip(trained, repeat(360))]:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            film, data = write_film(clip, Path(work) / "film.mp4", seconds, lines), Path(work) / "data"
            peaks = {"preprocess.py": peak("preprocess.py", film, "--data", data)}
            if lines == 1080:
                write_prediction(data, film)
                peaks["reapply_faces.py"] = peak("reapply_faces.py", "--data", data)
            else:
                peaks = {"train.py": peak("train.py", "--data", data, "--checkpoints", work, "--epochs", 1,
                                          "--max-minutes", TRAIN_MINUTES)}
            for name, value in peaks.items():
                found.setdefault(name, {})[f"{seconds}_s"] = value
    for peaks in found.values():
        short, longer = peaks.values()
        peaks["ratio"] = {key: round(longer[key] / short[key], 2) for key in short}
    return found


def speeds(clip, folder, seconds=SECONDS, runs=RUNS, steps=STEPS):
    """Return the rows that are timed: `runs` runs on films of so many seconds, in training of `steps` steps each."""
    found = {"calibration": calibration(), "preprocess": {}}
    best = max(found["calibration"]["fp32_gflops"], found["calibration"]["bf16_gflops"])
    for lines in (360, 1080):
        film, data = write_film(clip, folder / f"film{lines}.mp4", seconds, lines), folder / f"data{lines}"
        row = speed.preprocess(film, data, runs)
        found["preprocess"].setdefault("frames_per_s", row["frames_per_s"])
        found["preprocess"][f"{lines}p"] = row
    found["train"], peaks = alone(speed.train, folder / "data360", runs, steps)
    found["train"]["peak_anonymous_mb"] = peaks["anonymous"]
    found["infer"] = speed.infer(folder / "data360", runs)
    for name in ("train", "infer"):
        row = found[name]
        row["mfu"] = round(row["gflop_per_picture"] * row["pictures_per_s"] / best, 3)
    write_prediction(data, film)
    found["reapply"] = speed.reapply(data, film, runs)
    found["live"] = speed.live(folder / "data360", runs)
    return found


# ------------------------------------------------------------------------------------------------------
def show(values, name=""):
    """Print nested values as a table, a row each."""
    for key, value in values.items():
        if isinstance(value, dict):
            show(value, f"{name}{key}  ")
        else:
            print(f"{name + key.replace('_', ' '):44s} {value:>10}")


def main():
    args = parse_args()
    if not args.memory:
        say("some minutes; peak memory only with --memory, an hour or more")
    with tempfile.TemporaryDirectory(dir=args.data) as folder:
        folder = Path(folder)
        clip = Path(args.clip) if args.clip else folder / "sample.mp4"
        if not args.clip:
            sample.write_clip(clip, 2 * SECONDS if args.memory else SECONDS, sample.CLIP_SEED)
        rows = speeds(clip, folder)
        if args.memory:
            rows["memory_mb"] = memory(clip, folder)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("--clip", metavar="VIDEO", help="a face that speaks (default: the built-in sample)")
    parser.add_argument("--data", metavar="DIR", help="folder for the temporary files, which for --memory take 4 GB "
                        "(default: the system's)")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--memory", action="store_true", help="measure memory too")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
