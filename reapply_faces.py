"""Step 4 of 4: paste the generated lower faces into the source video, with the new sound: the final mp4.

Reads   data/pred/                what the last inference.py on this data wrote
        data/                     from preprocess.py, and the source video it names
Writes  data/result/<clip>--<speech>.mp4   source size, 25 fps, H.264 + AAC, the original speech file's sound; one for
                                           each speech of that run

Only the region around mouth, jaw and chin changes, with a soft edge and its colour matched to the frame. The paths
of the videos are the last lines on standard output.

--sound    another file is heard than the one that drove the mouth, of the same length: the voice drove, and the full
           mix of voice, music and noises is heard
--preview  only the first seconds, source and result side by side: data/result/<clip>--<speech>.preview.mp4

Run     python reapply_faces.py [--data data] [--preview SECONDS] [--sound FILE] [--output PATH]
"""

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils import console, contract, media, pixels
from utils.console import UserError, say
from utils.detail import Detail
from utils.face import CARRIED
from utils.paste import Paster
from utils.pipeline import ahead

# ------------------------------------------------------------------------------------------------------
CRF = 18                # quality of the H.264: lower is better and larger, 18 looks like the source
PRESET = "veryfast"     # of libx264: slower presets make smaller files
SAME_LENGTH = 2         # frames by which the sound of --sound may be longer or shorter than the speech
# ------------------------------------------------------------------------------------------------------


def named(names):
    """True for what last.json holds: a list of names of folders in pred/, not beyond."""
    return type(names) is list and names and all(contract.text(n) and n == Path(n).name != ".." for n in names)


def remedy(data):
    """Return the end of an error line: the command that makes a new prediction."""
    return f"run: python inference.py AUDIO{console.option('data', data, 'data')}"


def read_predictions(data, meta):
    """Return [(folder, its meta.json), ...] of what the last inference.py made, checked against the data.

    Raises UserError if there is none, one is unfinished or was made from other data.
    """
    again = remedy(data)
    pred = Path(data) / "pred"
    if not (pred / "last.json").is_file():
        raise UserError(f"{pred} holds no generated faces; {again}")
    last = contract.read_json(pred / "last.json", again)
    contract.check(last, {"speeches": named}, f"{pred}/last.json", again)
    return [(pred / name, read_prediction(pred / name, meta, again)) for name in last["speeches"]]


def read_prediction(folder, meta, again):
    """Return the meta.json of a prediction, checked as above."""
    made = contract.read_json(folder / "meta.json", again)
    known = contract.whole(0, meta["frames"] - 1)
    contract.check(made, {"source_frames": lambda order: type(order) is list and order and all(map(known, order)),
                          "sound": contract.text}, f"{folder}/meta.json", again)
    if made.get("data_id") != meta["id"]:
        raise UserError(f"{folder} was made from other data than {folder.parent.parent} now holds; {again}")
    if not contract.is_file(made["sound"]):
        raise UserError(f"the speech {made['sound']} is gone; put it back or {again}")
    if contract.source_identity(made["sound"])["sha256"] != made.get("sound_sha256"):
        raise UserError(f"{made['sound']} has changed since {folder} was made from it; {again}")
    return made


def read_lower(folder, j, again):
    """Return generated lower j, (84, 168, 3) uint8 RGB; UserError, ending in `again`, if it is damaged."""
    path, size = contract.lower_path(folder, j), (contract.FACE_SIZE - contract.LOWER_TOP, contract.FACE_SIZE, 3)
    picture = pixels.read_png(path)
    if picture is None or picture.shape != size:
        raise UserError(f"{path} is missing or no RGB picture of {size[1]}x{size[0]}; {again}")
    return picture


def open_sound(path, again):
    """Return (blocks, rate, channels) of a sound file as AAC takes it: the nearest rate, at most two channels."""
    about = media.probe(path)
    if not about["sound"]:
        raise UserError(f"{path} has no sound any more; {again}")
    rate = min(media.AAC_RATES, key=lambda known: abs(known - about["rate"]))
    channels = min(2, about["channels"])
    return media.sound_blocks(path, rate, channels), rate, channels


def lasting(blocks, samples, channels):
    """Yield blocks of sound, cut or led on by silence to exactly `samples`."""
    for block in blocks:
        yield block[:samples]
        samples -= len(block)
        if samples <= 0:
            return
    yield np.zeros((samples, channels), np.float32)


def check_length(path, frames):
    """Raise UserError unless the sound of a file lasts as long as so many pictures."""
    sound, expected = media.read_sound(path, 1000), frames / contract.FPS  # at 1 kHz an hour of it is small
    found = 0 if sound is None else len(sound) / 1000
    if not found or abs(found - expected) > (SAME_LENGTH + 0.5) / contract.FPS:
        raise UserError(f"--sound {path} lasts {found:.2f} s, but the speech that drove the mouth {expected:.2f} s; "
                        "export both from the same start to the same end, and run the same command again")


def outputs(args, clip, predictions):
    """Return the path of each prediction's video; UserError if one would overwrite what it is made from."""
    ending = ".preview.mp4" if args.preview else ".mp4"
    paths = [Path(args.data) / "result" / f"{clip.stem}--{folder.name}{ending}" for folder, _ in predictions]
    if len(paths) > 1 and (args.output or args.sound):
        raise UserError(f"--output and --sound are for one speech, but the last inference.py made {len(paths)}; "
                        f"leave them out, or make one alone; {remedy(args.data)}")
    paths = [Path(args.output)] if args.output else paths
    inputs = {"the source video": clip, "the speech": predictions[0][1]["sound"], "the sound": args.sound}
    for path in paths:
        taken = [name for name, used in inputs.items() if used and path.exists() and path.samefile(used)]
        if path.is_dir() or taken:
            what = taken[0] if taken else "a folder"
            raise UserError(f"--output {path} is {what}; name a new mp4 file and run the same command again")
    return paths


def pasted(frames, order, folder, paste, again, beside):
    """Yield each picture with its lower face in it; with `beside`, to the right of the source's."""
    for j, (i, (picture, colours)) in enumerate(zip(order, frames, strict=True)):
        planes = pixels.planes_of(picture)
        source = [plane.copy() for plane in planes] if beside else ()
        paste(planes, colours, i, read_lower(folder, j, again))
        yield [np.hstack(pair) for pair in zip(source, planes, strict=True)] if beside else picture


def render(clip, order, folder, paste, sound, output, beside, again):
    """Write one video: decoding, pasting and encoding side by side, never more than a few frames in memory."""
    first = next(media.read_frames(clip))
    height, width = first.planes()[0].shape
    blocks, rate, channels = open_sound(sound, again)
    blocks = lasting(blocks, round(len(order) * rate / contract.FPS), channels)  # sound and picture end together
    output.parent.mkdir(parents=True, exist_ok=True)
    with media.VideoWriter(output, width * (1 + beside), height, CRF, PRESET, blocks, rate, channels,
                           like=first.picture) as video:
        decoded = ahead((frame.copied(), frame.colours) for frame in media.read_order(clip, order))
        finished = ahead(pasted(decoded, order, folder, paste, again, beside))
        for picture in tqdm(finished, total=len(order), desc=f"pasting {folder.name}", unit="frame"):
            video.write(picture)
    seconds = len(order) / contract.FPS
    say(f"{seconds:.1f} s of video; the mouth in it is AI-generated: say so where you show it")


def main():
    args = parse_args()

    # 1. what goes where
    meta = contract.read_meta(args.data)
    track = contract.read_track(args.data, meta, CARRIED)
    clip = contract.source_path(meta, args.data)
    predictions = read_predictions(args.data, meta)
    paths = outputs(args, clip, predictions)
    if args.sound:
        check_length(args.sound, len(predictions[0][1]["source_frames"]))

    result = Path(args.data) / "result"
    with console.writing(result):
        # 2. frame by frame: decode, paste, encode
        cv2.setNumThreads(1)  # each stage has a thread already
        for left in result.glob("*.tmp"):  # by runs that were killed
            contract.remove(left)
        paste = Paster(track, Detail(args.data, meta, track))
        for (folder, made), path in zip(predictions, paths, strict=True):
            order = made["source_frames"]
            if args.preview:
                order = order[:max(1, round(args.preview * contract.FPS))]
            render(clip, order, folder, paste, args.sound or made["sound"], path, bool(args.preview),
                   remedy(args.data))
    print(*paths, sep="\n", flush=True)


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("--data", default="data", help="working folder of preprocess.py (default: data)")
    parser.add_argument("--preview", type=console.positive(float), metavar="SECONDS",
                        help="render only the first seconds, source and result side by side")
    parser.add_argument("--sound", metavar="FILE", help="the sound that is heard (default: the speech)")
    parser.add_argument("--output", metavar="PATH", help="the mp4 to write (default: data/result/<clip>--<speech>.mp4)")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
