"""How fast is this machine, and do the scripts' needs stay bounded? One table of named rows.

machine   GFLOP/s of a float32 and a bfloat16 matrix product, GB/s of a memory copy: what other figures depend on
memory    with --memory only, for it takes half an hour or more: peak memory of preprocess.py and reapply_faces.py on 1
          minute and on 10 minutes of 1080p (the clip over and over, scaled), and 10 minutes over 1. It is the anonymous
          resident memory (RssAnon, looked at 100 times a second), which the system cannot drop as it can a mapped file;
          with a mapped file's pages it is "resident" (VmHWM). reapply_faces.py pastes the film's own lower faces.
          Linux only

Run     python -m utils.benchmark [--clip VIDEO] [--data DIR] [--json] [--memory]
"""

import json
import subprocess
import sys
import tempfile
import time
from itertools import chain, islice, repeat
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from utils import console, contract, media, pixels, sample
from utils.console import UserError, say

# ------------------------------------------------------------------------------------------------------
SECONDS = 60, 600           # of the two films
WIDTH, HEIGHT = 1920, 1080
ROOT = Path(__file__).parent.parent
SIDE, COPIED, TIMES = 2048, 256 << 20, 5  # of the matrices; bytes; the best of so many counts
# ------------------------------------------------------------------------------------------------------


def quickest(work):
    """Return the seconds of the quickest of a few calls."""
    seconds = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def machine():
    """Return what the CPU and the memory reach."""
    found = {"threads": torch.get_num_threads()}
    for kind in (torch.float32, torch.bfloat16):
        a = torch.ones(SIDE, SIDE, dtype=kind)
        seconds = quickest(lambda a=a: a @ a)
        found[f"{str(kind).removeprefix('torch.')}_gflop_per_s"] = round(2 * SIDE ** 3 / 1e9 / seconds)
    source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)
    found["copy_gb_per_s"] = round(COPIED / 1e9 / quickest(lambda: np.copyto(target, source)), 1)
    return found


# ------------------------------------------------------------------------------------------------------
def scaled(planes):
    """Return the planes of a picture scaled into 1080p, with black at the sides."""
    scale, result = min(HEIGHT / planes[0].shape[0], WIDTH / planes[0].shape[1]), []
    height, width = (int(side * scale) // 4 * 4 for side in planes[0].shape)
    for plane, part, black in zip(planes, (1, 2, 2), (16, 128, 128), strict=True):
        picture = np.full((HEIGHT // part, WIDTH // part), black, np.uint8)
        top, left = (HEIGHT - height) // 2 // part, (WIDTH - width) // 2 // part
        picture[top:top + height // part, left:left + width // part] = cv2.resize(
            plane, (width // part, height // part), interpolation=cv2.INTER_LINEAR)
        result.append(picture)
    return result


def write_film(clip, path, seconds):
    """Write a 1080p film of so many seconds: the clip over and over."""
    sound, count = media.read_sound(clip, contract.SAMPLE_RATE, video_start=True), round(seconds * contract.FPS)
    if sound is None or not len(sound):
        raise UserError(f"{clip} has no sound; run: python -m utils.benchmark --clip A_VIDEO_WITH_SPEECH --memory")
    blocks = np.array_split(np.resize(sound, (round(seconds * contract.SAMPLE_RATE), 1)), count)
    frames = islice(chain.from_iterable(map(media.read_frames, repeat(clip))), count)
    with media.VideoWriter(path, WIDTH, HEIGHT, 23, "ultrafast", iter(blocks), contract.SAMPLE_RATE) as film:
        for frame in tqdm(frames, total=count, desc=f"writing {seconds} s of 1080p", unit="frame"):
            film.write(scaled(frame.planes()))


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


def peak(*command):
    """Run a script and return its peaks in MB: {"anonymous": RssAnon, "resident": VmHWM}."""
    peaks = {"RssAnon": 0, "VmHWM": 0}
    with subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]))  # kB
            time.sleep(0.01)
    if process.returncode:
        raise UserError(f"{Path(command[0]).name} ended with {process.returncode} (see above); mend it and run again: "
                        "python -m utils.benchmark --memory")
    return {"anonymous": round(peaks["RssAnon"] / 1024), "resident": round(peaks["VmHWM"] / 1024)}


def memory(clip, folder, seconds=SECONDS):
    """Return the peaks of both scripts on both films (MB), and how much the longer film takes over the shorter."""
    if not Path("/proc/self/status").is_file():
        raise UserError("memory can only be measured on Linux; run: python -m utils.benchmark")
    found = {"preprocess.py": {}, "reapply_faces.py": {}}
    for length in seconds:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            film, data = Path(work) / "film.mp4", Path(work) / "data"
            write_film(clip, film, length)
            found["preprocess.py"][f"{length}_s"] = peak("preprocess.py", film, "--data", data)
            write_prediction(data, film)
            found["reapply_faces.py"][f"{length}_s"] = peak("reapply_faces.py", "--data", data)
    for peaks in found.values():
        short, long = peaks.values()
        peaks["ratio"] = {key: round(long[key] / short[key], 2) for key in short}
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
    rows = {"machine": machine()}
    if args.memory:
        with tempfile.TemporaryDirectory(dir=args.data) as folder:
            clip = Path(args.clip) if args.clip else Path(folder) / "sample.mp4"
            if not args.clip:
                sample.write_clip(clip, 20, sample.CLIP_SEED)
            rows["memory_mb"] = memory(clip, folder)
    else:
        say("rows: machine; with --memory also memory (half an hour or more)")
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("--clip", metavar="VIDEO", help="a face that speaks (default: the built-in sample)")
    parser.add_argument("--data", metavar="DIR", help="folder for the temporary files, which for --memory take 2 GB "
                        "(default: the system's)")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--memory", action="store_true", help="measure memory too")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
