"""How fast is this machine, and what do the scripts make of it? One table of named rows.

Each is the median of several runs on the first 10 seconds of a clip, scaled to a shorter side of
360 and of 1080 pixels.

calibration   GFLOP/s of a float32 and a bfloat16 matrix product: what other figures depend on
preprocess    frames/s of preprocess.py at 360p and at 1080p, start of Python left out
train         pictures/s of train.py's steps of drawing; data_share: seconds that
              the DataLoader takes, for which the steps wait, over all
infer         pictures/s of the network alone, 16 at a time, as inference.py runs it and in float32
reapply       frames/s of reapply_faces.py at 1080p, and its time over that of bare decoding and
              encoding of the same frames
mfu           model-FLOP utilisation: operations of the matrix products and convolutions of one
              picture, times pictures/s, over the faster of the two matrix products above

Run     python -m utils.benchmark [--clip VIDEO] [--data DIR] [--json]
"""

import argparse
import contextlib
import io
import json
import runpy
import statistics
import tempfile
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.unet import LipUNet
from utils import cli, sample, storage
from utils.cli import UserError, say
from utils.contract import FPS, SAMPLE_RATE, lower_face_path
from utils.dataset.batches import LipDataset, mouth_weight_maps
from utils.dataset.clip import Clip
from utils.media.pixels import encode_png
from utils.media.reader import read_frames, read_sound
from utils.media.writer import Quality, SoundTrack, VideoWriter
from utils.training import device
from utils.training.epoch_log import EpochLog
from utils.training.schedule import Rates, Schedule

# --------------------------------------------------------------------------------------------------
FILM_S = 10             # length of the films that are timed
RUNS = 3                # whose median is taken
TRAIN_STEPS = 20        # of each run
TRAIN_EPOCHS = 10_000   # that the schedule plans: it must never end a run
INFER_BATCHES = 6       # of each run
MATRIX_SIDE = 2048      # of the matrix products
CALIBRATION_RUNS = 7    # more than RUNS, because they are short
# --------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]


def median_seconds(work: Callable[[], object], runs: int) -> float:
    """Median of the seconds that work() takes."""
    return statistics.median(timeit.repeat(work, number=1, repeat=runs))


def count_gflop(work: Callable[[], object]) -> float:
    """Billions of operations in the matrix products and convolutions of work(), and backward."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def calibrate() -> Row:
    """What the processor reaches."""
    row: Row = {"threads": torch.get_num_threads()}
    dtypes = {"fp32_gflops": torch.float32, "bf16_gflops": torch.bfloat16}
    for name, dtype in dtypes.items():
        matrix = torch.ones(MATRIX_SIDE, MATRIX_SIDE, dtype=dtype)
        seconds = median_seconds(partial(torch.matmul, matrix, matrix), CALIBRATION_RUNS)
        row[name] = round(2 * MATRIX_SIDE**3 / 1e9 / seconds, 1)
    return row


# -- films and predictions -------------------------------------------------------------------------
def write_film(clip: Path, path: Path, lines: int):
    """Write the first seconds of the clip as a film whose shorter side has `lines` pixels.

    Raises UserError if the clip has no sound.
    """
    sound = read_sound(clip, SAMPLE_RATE, video_start=True)
    if sound is None or not len(sound):
        command = "python -m utils.benchmark --clip A_VIDEO_WITH_SPEECH"
        raise UserError(f"{clip} has no sound; run: {command}")
    sound = sound[: FILM_S * SAMPLE_RATE]
    track = SoundTrack(iter([sound]), SAMPLE_RATE)
    height, width = next(read_frames(clip)).planes()[0].shape
    scale = lines / min(width, height)
    size = (round(scale * width / 2) * 2, round(scale * height / 2) * 2)
    with VideoWriter(path, size, Quality(23, "ultrafast"), track) as film:
        for frame in read_frames(clip, stop=FILM_S * FPS):
            film.write(frame.copied().reformat(*size))


def write_prediction(data: Path):
    """Write the clip's own lower faces as the last prediction, with the clip's own sound; as large
    as inference.py draws them.
    """
    clip = Clip(data)
    folder = data / "pred" / "own"
    folder.mkdir(parents=True)
    for i, lower_face in enumerate(clip.lower_faces):
        large = cv2.resize(lower_face, None, fx=clip.meta.scale, fy=clip.meta.scale)
        lower_face_path(folder, i).write_bytes(encode_png(large, 0))
    made = {
        "source_frames": list(range(clip.frames)),
        "scale": clip.meta.scale,
        "data_id": clip.meta.id,
        "sound": clip.meta.source.path,
        "sound_sha256": clip.meta.source.sha256}
    storage.write_json(folder / "meta.json", made)
    storage.write_json(data / "pred" / "last.json", {"speeches": ["own"]})


# -- the scripts -----------------------------------------------------------------------------------
def load_script(name: str) -> dict[str, Any]:
    """What a script defines, by name. It is not started."""
    return runpy.run_path(str(ROOT / f"{name}.py"), run_name=name)


def run_script(name: str, *words: object):
    """Run a script's main() with these words of its command line, without its output."""
    script = load_script(name)
    args = script["parse_args"]([str(word) for word in words])
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        script["main"](args)


def time_preprocess(film: Path, data: Path) -> Row:
    """Row of preprocess.py, which makes `data` from the film."""
    seconds = median_seconds(lambda: run_script("preprocess", film, "--data", data), RUNS)
    frames = storage.read_meta(data).frames
    return {"frames_per_s": round(frames / seconds, 1)}


def time_train(data: Path) -> Row:
    """Row of train.py's steps of drawing."""
    script = load_script("train")
    processor = device.resolve("auto")
    dataset = LipDataset(Clip(data), train=True)
    state, progress = script["build_or_resume"](script["parse_args"]([]), dataset, processor)
    state.begin_drawing()
    batch_size = progress.settings.batch_size
    loader, _ = script["make_loaders"](dataset, dataset, batch_size)
    script["seed_epoch"](loader, 1)
    maps = device.to_device(mouth_weight_maps(dataset, script["MOUTH_WEIGHT"]), processor)
    rates = Rates(script["LR"], script["FINAL_LR"], script["WARMUP_STEPS"])
    schedule = Schedule(TRAIN_EPOCHS, len(loader), 0, rates)

    def train(steps):
        with contextlib.redirect_stderr(io.StringIO()):
            log = EpochLog(1, len(dataset), schedule)
            script["train_epoch"](state, islice(loader, steps), maps, log)
            log.close()

    gflop = count_gflop(lambda: train(1))
    seconds = median_seconds(lambda: train(TRAIN_STEPS), RUNS)
    data_seconds = median_seconds(lambda: list(islice(loader, TRAIN_STEPS)), RUNS)
    pictures_per_s = TRAIN_STEPS * batch_size / seconds
    return {
        "pictures_per_s": round(pictures_per_s, 1),
        "data_share": round(data_seconds / seconds, 4),
        "seconds_per_1732_frames": round(1732 / pictures_per_s, 1),
        "gflop_per_picture": round(gflop / batch_size, 2)}


@torch.inference_mode()
def time_infer(data: Path) -> Row:
    """Row of an untrained network: in bfloat16 where the processor has it, and in float32."""
    clip = Clip(data)
    processor = device.resolve("auto")
    model = device.to_channels_last(LipUNet().eval(), processor)
    batch_size = load_script("inference")["BATCH_SIZE"]
    frames = np.arange(batch_size)
    inputs = clip.inputs(frames, clip.mel_windows[frames], clip.references())
    inputs = device.to_device(inputs, processor)

    def draw(precision):
        with precision:
            for _ in range(INFER_BATCHES):
                pictures, _ = model(*inputs)
                pictures.sum().item()  # a GPU is done only when the result is asked for

    pictures = INFER_BATCHES * batch_size
    gflop = count_gflop(lambda: draw(contextlib.nullcontext()))
    mixed = median_seconds(lambda: draw(device.autocast(processor)), RUNS)
    full = median_seconds(lambda: draw(contextlib.nullcontext()), RUNS)
    return {
        "pictures_per_s": round(pictures / mixed, 1),
        "float32_pictures_per_s": round(pictures / full, 1),
        "gflop_per_picture": round(gflop / pictures, 2)}


def time_reapply(film: Path, data: Path) -> Row:
    """Row of reapply_faces.py on the last prediction of `data`, in turns with a bare transcode."""
    frames = storage.read_meta(data).frames
    paste = partial(run_script, "reapply_faces", "--data", data, "--output", data / "pasted.mp4")
    copy = partial(transcode, film, data / "bare.mp4", frames)
    pasted = []
    transcoded = []
    for _ in range(RUNS):  # in turns, so that what else the machine does meets both
        pasted.append(median_seconds(paste, 1))
        transcoded.append(median_seconds(copy, 1))
    ratios = np.divide(pasted, transcoded)
    return {
        "frames_per_s": round(frames / statistics.median(pasted), 1),
        "transcode_frames_per_s": round(frames / statistics.median(transcoded), 1),
        "over_transcode": round(float(np.median(ratios)), 3)}


def transcode(source: Path, target: Path, frames: int):
    """Decode the first frames of a film and encode them as reapply_faces.py does."""
    script = load_script("reapply_faces")
    quality = Quality(script["CRF"], script["PRESET"])
    height, width = next(read_frames(source)).planes()[0].shape
    with VideoWriter(target, (width, height), quality) as copy:
        for frame in read_frames(source, stop=frames):
            frame.picture.pict_type = 0  # the encoder chooses, not the source
            copy.write(frame.picture)


# --------------------------------------------------------------------------------------------------
def time_all(clip: Path, folder: Path) -> Row:
    """All rows, by name. folder: for temporary files."""
    rows: Row = {"calibration": calibrate(), "preprocess": {}}
    for lines in (360, 1080):
        film = folder / f"film{lines}.mp4"
        data = folder / f"data{lines}"
        write_film(clip, film, lines)
        rows["preprocess"][f"{lines}p"] = time_preprocess(film, data)
    write_prediction(data)
    rows["reapply"] = time_reapply(film, data)
    data = folder / "data360"
    rows["preprocess"]["frames_per_s"] = rows["preprocess"]["360p"]["frames_per_s"]
    rows["train"] = time_train(data)
    rows["infer"] = time_infer(data)
    fastest = max(rows["calibration"]["fp32_gflops"], rows["calibration"]["bf16_gflops"])
    for row in (rows["train"], rows["infer"]):
        gflops = row["gflop_per_picture"] * row["pictures_per_s"]
        row["mfu"] = round(gflops / fastest, 3)
    return rows


def table(rows: Row, title: str = "") -> Iterator[str]:
    """Nested rows as lines of text, one a figure."""
    for name, value in rows.items():
        if isinstance(value, dict):
            yield from table(value, f"{title}{name}  ")
        else:
            label = title + name.replace("_", " ")
            yield f"{label:44s} {value:>10}"


def main(args: argparse.Namespace):
    """Time everything and print it."""
    say("this takes some minutes")
    with tempfile.TemporaryDirectory(dir=args.data) as folder:
        clip = args.clip
        if clip is None:
            clip = Path(folder, "sample.mp4")
            sample.write_clip(clip, FILM_S, sample.CLIP_SEED)
        rows = time_all(Path(clip), Path(folder))
    print(json.dumps(rows, indent=1) if args.json else "\n".join(table(rows)))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--clip", metavar="VIDEO", help="a face that speaks (default: the built-in sample)"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="folder for the temporary files (default: the system's)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON only")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
