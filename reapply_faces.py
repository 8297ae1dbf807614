"""Step 4 of 4: generated lower faces + source video + new sound -> the final mp4.

Reads   data/pred/                what the last inference.py on this data wrote
        data/                     from preprocess.py, and the source video it names
Writes  data/result/<clip>--<speech>.mp4   source size, 25 fps, H.264 + AAC, the original speech
                                           file's sound; one for each speech of that run

Only the region around mouth, jaw and chin changes, with a soft edge and its colour matched to the
frame. The paths of the videos are the last lines on standard output.

--sound    another file is heard than the one that drove the mouth, of the same length: the voice
           drove, and the full mix of voice, music and noises is heard
--preview  only the first seconds, source and result side by side:
           data/result/<clip>--<speech>.preview.mp4

Run     python reapply_faces.py [--data data] [--preview SECONDS] [--sound FILE] [--output PATH]
"""

import argparse
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from utils import cli, storage
from utils.cli import PredictionError, UserError
from utils.compositing.paste import Paster
from utils.contract import FPS, lower_face_path, lower_size
from utils.media.pixels import planes_of, read_picture
from utils.media.reader import probe, read_frames, read_order, read_sound, sound_blocks
from utils.media.writer import AAC_RATES, Quality, SoundTrack, VideoWriter
from utils.prefetch import prefetch
from utils.storage import Meta

# --------------------------------------------------------------------------------------------------
CRF = 18                      # quality of the H.264: lower is better, 18 looks like the source
PRESET = "veryfast"           # of libx264: slower presets make smaller files
SOUND_TOLERANCE_FRAMES = 2.5  # --sound may be this much off the length of the speech
LENGTH_RATE_HZ = 1000         # at which the length of --sound is measured: an hour of it is small
MOST_NAME_BYTES = 235         # of a result's name; file systems take 255, with ".preview.mp4.tmp"
# --------------------------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """The generated lower faces of one speech, and where they go."""

    folder: Path
    source_frames: np.ndarray  # (M,) int: the source frame that each lower face belongs to
    sound: Path                # what is heard
    scale: int                 # times that a lower face is larger than the network's


def read_predictions(data: str, meta: Meta) -> list[Prediction]:
    """What the last inference.py made of this data: one Prediction for each speech.

    PredictionError if there is none, or one is unfinished, damaged or made from other data.
    """
    pred = Path(data) / "pred"
    last = pred / "last.json"
    if not last.is_file():
        raise PredictionError(f"{pred} holds no generated faces")
    content = storage.read_json(last, PredictionError)
    with storage.reading(last, PredictionError):
        names = content["speeches"]
        if not names or any(Path(name).name != name or name == ".." for name in names):
            raise ValueError("it has no valid 'speeches'")
    return [read_prediction(pred / name, meta) for name in names]


def read_prediction(folder: Path, meta: Meta) -> Prediction:
    """The Prediction in a folder of inference.py. PredictionError: see read_predictions."""
    path = folder / "meta.json"
    made = storage.read_json(path, PredictionError)
    with storage.reading(path, PredictionError):
        sound = storage.find_moved(made["sound"], made["sound_sha256"], folder.parents[1])
        order = np.array(made["source_frames"])
        are_numbers = order.ndim == 1 and order.dtype.kind == "i"
        if not are_numbers or order.min() < 0 or order.max() >= meta.frames:
            raise ValueError(f"its 'source_frames' must be whole numbers in 0..{meta.frames - 1}")
        scale = made["scale"]
        if type(scale) is not int or scale not in storage.SCALES:
            raise ValueError("it has no valid 'scale'")
    if made.get("data_id") != meta.id:
        raise PredictionError(
            f"{folder} was made from other data than {folder.parent.parent} now holds"
        )
    if not os.path.isfile(sound):
        raise PredictionError(f"the speech {sound} is gone; put it back, or speak another")
    if storage.identify_source(sound).sha256 != made["sound_sha256"]:
        raise PredictionError(f"{sound} has changed since {folder} was made from it")
    return Prediction(folder, order, sound, scale)


def output_paths(
    args: argparse.Namespace, clip: Path, predictions: list[Prediction]
) -> list[Path]:
    """Path of each prediction's video; UserError if one would overwrite what it is made from."""
    if len(predictions) > 1 and (args.output or args.sound):
        raise PredictionError(
            "--output and --sound are for one speech, but the last inference.py made "
            f"{len(predictions)}; leave them out, or make one alone"
        )
    result = Path(args.data) / "result"
    ending = ".preview.mp4" if args.preview else ".mp4"
    names = [result_name(clip.stem, made.folder.name) for made in predictions]
    paths = [result / f"{name}{ending}" for name in names]
    if args.output:
        paths = [Path(args.output)]
    inputs = {
        "the source video": clip,
        "the speech": predictions[0].sound,
        "the sound": args.sound
    }
    for path in paths:
        found = ["a folder"] if path.is_dir() else []
        if path.is_file():
            found = [name for name, file in inputs.items() if file and path.samefile(file)]
        if found:
            raise UserError(
                f"--output {path} is {found[0]}; name a new mp4 file and run the same command again"
            )
    return paths


def result_name(clip: str, speech: str) -> str:
    """Name of a video, without its ending; parts too long for file systems end in a hash of all."""
    name = f"{clip}--{speech}"
    if len(os.fsencode(name)) <= MOST_NAME_BYTES:
        return name
    return f"{_shortened(clip)}--{_shortened(speech)}"


def _shortened(text):
    content = os.fsencode(text)
    most = MOST_NAME_BYTES // 2 - 1
    if len(content) <= most:
        return text
    digest = hashlib.sha256(content).hexdigest()[:8]
    return content[:most - 9].decode(errors="ignore") + "-" + digest


def as_asked(prediction: Prediction, args: argparse.Namespace) -> Prediction:
    """The prediction with only its first seconds for --preview, and with the sound of --sound.

    UserError if that sound does not last about as long as the speech.
    """
    order = prediction.source_frames
    if args.sound:
        sound = Path(args.sound)
        samples = read_sound(sound, LENGTH_RATE_HZ)
        found = 0 if samples is None else len(samples) / LENGTH_RATE_HZ
        expected = len(order) / FPS
        if not found or abs(found - expected) > SOUND_TOLERANCE_FRAMES / FPS:
            raise UserError(
                f"--sound {sound} lasts {found:.2f} s, but the speech that drove the mouth "
                f"{expected:.2f} s; export both from the same start to the same end, "
                "and run the same command again"
            )
        prediction = prediction._replace(sound=sound)
    if args.preview:
        frames = max(1, round(args.preview * FPS))
        prediction = prediction._replace(source_frames=order[:frames])
    return prediction


def render(
    clip: Path, prediction: Prediction, paste: Paster, output: Path, beside: bool
) -> Path:
    """Write one video; with `beside` the source is on its left and the result on its right.

    Its path is returned: not `output` if that file cannot be replaced.
    Decoding, pasting and encoding run side by side, never more than a few frames in memory.
    """
    order = prediction.source_frames
    first = next(read_frames(clip))
    height, width = first.planes()[0].shape
    size = (2 * width, height) if beside else (width, height)
    sound = open_sound(prediction.sound, len(order))
    output.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(output, size, Quality(CRF, PRESET), sound, like=first) as video:
        decoded = prefetch((frame.copied(), frame.colours) for frame in read_order(clip, order))
        pasted = prefetch(_paste_all(decoded, prediction, paste, beside))
        title = f"pasting {prediction.folder.name}"
        for picture in tqdm(pasted, total=len(order), desc=title, unit="frame"):
            video.write(picture)
    cli.say(f"{len(order) / FPS:.1f} s of video; the mouth in it is AI-generated: "
            "say so where you show it")
    return video.path


def open_sound(path: Path, frames: int) -> SoundTrack:
    """Sound of a file, exactly as long as the frames, in the nearest kind that AAC takes."""
    info = probe(path)
    rate = min(AAC_RATES, key=lambda known: abs(known - info.sample_rate))
    channels = min(2, info.channels)
    blocks = sound_blocks(path, rate, channels)
    fitted = _fit_blocks(blocks, round(frames * rate / FPS), channels)
    return SoundTrack(fitted, rate, channels)


def _fit_blocks(blocks, samples, channels):
    """Blocks of sound (n, channels), cut or padded with silence to exactly that many samples."""
    for block in blocks:
        yield block[:samples]
        samples -= len(block)
        if samples <= 0:
            return
    yield np.zeros((samples, channels), np.float32)


def _paste_all(frames, prediction, paste, beside):
    """Yield each picture with its lower face in it; with `beside`, planes with the source left.

    frames: pairs of a picture, which is written to, and its ColourSpace.
    """
    numbered = zip(prediction.source_frames, frames, strict=True)
    for j, (i, (picture, colours)) in enumerate(numbered):
        planes = planes_of(picture)
        source = [plane.copy() for plane in planes] if beside else []
        paste(planes, colours, i, read_lower_face(prediction, j))
        if beside:
            yield [np.hstack(pair) for pair in zip(source, planes, strict=True)]
        else:
            yield picture


def read_lower_face(prediction: Prediction, j: int) -> np.ndarray:
    """Generated lower face j, (84 S, 168 S, 3) uint8 RGB; PredictionError if it is damaged."""
    path = lower_face_path(prediction.folder, j)
    return read_picture(path, lower_size(prediction.scale), PredictionError)


def main(args: argparse.Namespace):
    """Render the video of each speech of the last inference.py."""
    # 1. what goes where
    meta = storage.read_meta(args.data)
    track = storage.read_track(args.data, meta)
    clip = storage.source_path(meta, args.data)
    predictions = read_predictions(args.data, meta)
    paths = output_paths(args, clip, predictions)
    predictions = [as_asked(prediction, args) for prediction in predictions]

    result = Path(args.data) / "result"
    with cli.write_lock(result):
        # 2. frame by frame: decode, paste, encode
        cv2.setNumThreads(1)  # each stage has a thread already
        for leftover in result.glob("*.tmp"):  # of runs that were killed
            storage.remove_tree(leftover)
        paster = Paster(track)
        written = [
            render(clip, prediction, paster, path, beside=bool(args.preview))
            for prediction, path in zip(predictions, paths, strict=True)
        ]
    print(*written, sep="\n", flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = cli.parser(__doc__, "data")
    parser.add_argument(
        "--preview",
        type=cli.positive(float),
        metavar="SECONDS",
        help="render only the first seconds, source and result side by side"
    )
    parser.add_argument(
        "--sound", metavar="FILE", help="the sound that is heard (default: the speech)"
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="the mp4 to write (default: data/result/<clip>--<speech>.mp4)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
