"""Step 4 of 4: paste the generated lower faces into the source video, with the new sound: the final mp4.

Reads   data/pred/                what the last inference.py on this data wrote
        data/                     from preprocess.py, and the source video it names
Writes  data/result/<clip>--<speech>.mp4   source size, 25 fps, H.264 + AAC, the original speech file's sound

Only the region around mouth, jaw and chin changes, with a soft edge and its colour matched to the frame. The path
of the video is the last line on standard output.

Run     python reapply_faces.py [--data data] [--output PATH]
"""

from pathlib import Path

from tqdm import tqdm

from utils import console, contract, media, pixels
from utils.console import UserError, say
from utils.detail import Detail
from utils.face import CARRIED
from utils.paste import Paster

# ------------------------------------------------------------------------------------------------------
CRF = 18                # quality of the H.264: lower is better and larger, 18 looks like the source
PRESET = "veryfast"     # of libx264: slower presets make smaller files
# ------------------------------------------------------------------------------------------------------

LAST = {"speech": lambda name: contract.text(name) and name == Path(name).name != ".."}  # a folder in pred/, not beyond


def remedy(data):
    """Return the end of an error line: the command that makes a new prediction."""
    return f"run: python inference.py AUDIO{console.option('data', data, 'data')}"


def read_prediction(data, meta):
    """Return (folder, its meta.json) of the newest prediction, checked against the data.

    Raises UserError if there is none, it is unfinished or it was made from other data.
    """
    again = remedy(data)
    pred = Path(data) / "pred"
    if not (pred / "last.json").is_file():
        raise UserError(f"{pred} holds no generated faces; {again}")
    last = contract.read_json(pred / "last.json", again)
    contract.check(last, LAST, f"{pred}/last.json", again)
    folder = pred / last["speech"]
    made = contract.read_json(folder / "meta.json", again)
    known = contract.whole(0, meta["frames"] - 1)
    contract.check(made, {"source_frames": lambda order: type(order) is list and order and all(map(known, order)),
                          "sound": contract.text}, f"{folder}/meta.json", again)
    if made.get("data_id") != meta["id"]:
        raise UserError(f"{folder} was made from other data than {data} now holds; {again}")
    if not contract.is_file(made["sound"]):
        raise UserError(f"the speech {made['sound']} is gone; put it back or {again}")
    if contract.source_identity(made["sound"])["sha256"] != made.get("sound_sha256"):
        raise UserError(f"{made['sound']} has changed since {folder} was made from it; {again}")
    return folder, made


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


def main():
    args = parse_args()

    # 1. what goes where
    meta = contract.read_meta(args.data)
    track = contract.read_track(args.data, meta, CARRIED)
    clip = contract.source_path(meta, args.data)
    folder, made = read_prediction(args.data, meta)
    order, again = made["source_frames"], remedy(args.data)
    result = Path(args.data) / "result"
    output = Path(args.output) if args.output else result / f"{clip.stem}--{folder.name}.mp4"
    inputs = {"the source video": clip, "the speech": Path(made["sound"])}
    taken = [name for name, path in inputs.items() if output.exists() and output.samefile(path)]
    if output.is_dir() or taken:
        what = taken[0] if taken else "a folder"
        raise UserError(f"--output {output} is {what}; name a new mp4 file and run the same command again")

    with console.writing(result):
        # 2. frame by frame: decode, paste, encode; never more than a few frames in memory
        for left in result.glob("*.tmp"):  # by runs that were killed
            contract.remove(left)
        output.parent.mkdir(parents=True, exist_ok=True)
        paste = Paster(track, Detail(args.data, meta, track))
        sound, rate, channels = open_sound(made["sound"], again)
        first = next(media.read_frames(clip))
        height, width = first.planes()[0].shape
        with media.VideoWriter(output, width, height, CRF, PRESET, sound, rate, channels, like=first.picture) as video:
            frames = media.read_order(clip, order)
            for j, (i, frame) in enumerate(zip(order, tqdm(frames, total=len(order), desc="pasting", unit="frame"),
                                               strict=True)):
                planes = frame.planes()
                paste(planes, frame.colours, i, read_lower(folder, j, again))
                video.write(planes)
    seconds = len(order) / contract.FPS
    say(f"{seconds:.1f} s of video; the mouth in it is AI-generated: say so where you show it")
    print(output, flush=True)


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("--data", default="data", help="working folder of preprocess.py (default: data)")
    parser.add_argument("--output", metavar="PATH", help="the mp4 to write (default: data/result/<clip>--<speech>.mp4)")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
