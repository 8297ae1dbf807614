"""Step 3 of 4: new speech -> generated lower faces.

Reads   checkpoints/best.pth       from train.py
        data/                      from preprocess.py: the footage to speak; any clip of the person trained on
        sound or video files       the speeches; of a folder all sound files
Writes  data/pred/<speech>/000000.png ...  168x84 RGB, one per 1/25 s of speech
        data/pred/<speech>/meta.json       the source frame of each, and what they were made from; written last
        data/pred/last.json                names those of this run, which reapply_faces.py renders

Where a speech is longer than the footage, the footage runs forward and back; it turns where the face is calm, within a
second of the footage's ends. In silence it goes on, with the mouth closed.

Run     python inference.py               the only sound file in input/
        python inference.py [AUDIO ...] [--start SECOND] [--data data] [--checkpoint checkpoints/best.pth]
                            [--device auto|cpu|cuda|cuda:N]
Next    python reapply_faces.py
"""

import os
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from utils import audio, checkpoint, console, contract, device, media, pixels
from utils.console import UserError, say
from utils.dataset import Footage
from utils.generate import lowers, pingpong, turns
from utils.pipeline import ahead

# ------------------------------------------------------------------------------------------------------
BATCH_SIZE = 16         # pictures at a time
# ------------------------------------------------------------------------------------------------------


def find_speeches(given):
    """Return {name: path} of the speeches in the files and folders given, or of the only sound in input/.

    Raises UserError if there are none, one has no sound or two have one name.
    """
    paths = [] if given else [contract.only_file("input", contract.SOUND_ENDINGS, "sound", "python inference.py")]
    for path in map(Path, given):
        paths += contract.files(path, contract.SOUND_ENDINGS) if path.is_dir() else [path]
    if not paths:
        raise UserError(f"no sound files in {' '.join(given)}; put some there, or name them: python inference.py AUDIO")
    speeches, taken = {}, {"last.json": "the list of predictions"}
    for path in paths:
        name = path.stem.strip(".") and path.stem or "speech"  # of "...wav" the stem is ".."
        other = taken.setdefault(name.lower(), path)
        if other is not path:
            raise UserError(f"{other} and {path} would both be called {name}; rename one and run again")
        if not media.probe(path)["sound"]:
            raise silent(path)
        speeches[name] = path
    return speeches


def silent(path):
    return UserError(f"{path} has no sound; expected speech. Run: python inference.py AUDIO")


def read_speech(path):
    """Return the file's sound as 16 kHz mono float32; UserError if it has none."""
    sound = media.read_sound(path, contract.SAMPLE_RATE)
    if sound is None or not len(sound):
        raise silent(path)
    return sound[:, 0]


def first_frame(second, footage):
    """Return the frame at that second of the footage; UserError if it is beyond it."""
    seconds = footage.frames / contract.FPS
    if not 0 <= second < seconds:
        raise UserError(f"--start {second:g} is outside the footage, which lasts {seconds:.2f} s; name a second in it "
                        "and run the same command again")
    return int(second * contract.FPS)


def main():
    args = parse_args()

    # 1. the speeches, the footage, the network
    speeches = find_speeches(args.audio)
    footage = Footage(args.data)
    start = first_frame(args.start, footage)
    train = contract.train_command(args.data, Path(args.checkpoint).parent)
    model, saved = checkpoint.load(args.checkpoint, train)
    where = device.resolve(args.device)
    model = model.to(where, memory_format=torch.channels_last)
    if saved["data"]["id"] != footage.meta["id"]:
        say(f"note: trained on {saved['data']['clip']!r}, speaking on {Path(footage.meta['source']['path']).name}; "
            "that works if it is the same person")
    references, (low, high) = footage.references(), turns(footage.track)
    new, pred, done = Path(args.data) / "inference.new", Path(args.data) / "pred", []

    with console.writing(args.data):
        for name, speech in speeches.items():
            # 2. what is heard, and on which frames it is spoken
            sound = read_speech(speech)
            count = audio.frames_of(sound)
            mel = audio.log_mel(sound, count)
            order = pingpong(count, footage.frames, start, low, high)

            # 3. draw, beside what was there before
            contract.remove(new)
            new.mkdir()
            pictures = ahead(lowers(model, footage, references, order, partial(audio.windows, mel), where, BATCH_SIZE),
                             2 * BATCH_SIZE)
            for j, lower in enumerate(tqdm(pictures, total=count, desc=f"drawing {name}", unit="picture")):
                contract.lower_path(new, j).write_bytes(pixels.png(lower))

            # 4. what was made from what, and into place: until it is whole, last.json names nothing
            heard = contract.source_identity(speech)
            contract.write_json(new / "meta.json", {
                "frames": count, "source_frames": order.tolist(), "sound": heard["path"],
                "sound_sha256": heard["sha256"], "data_id": footage.meta["id"],
                "checkpoint": {"path": str(Path(args.checkpoint).resolve()), "epoch": saved["epoch"]}})
            pred.mkdir(exist_ok=True)
            contract.remove(pred / "last.json")
            contract.remove(pred / name)
            os.replace(new, pred / name)
            done.append(name)
            contract.write_json(pred / "last.json", {"speeches": done})
            say(f"{count} lower faces in {pred / name}")
    say(f"next: python reapply_faces.py{console.option('data', args.data, 'data')}")


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("audio", nargs="*", metavar="AUDIO",
                        help="sound or video file, or a folder of sound files (default: the only sound in input/)")
    parser.add_argument("--start", type=float, default=0, metavar="SECOND",
                        help="of the footage, at which each speech begins (default: 0)")
    parser.add_argument("--data", default="data", help="working folder of preprocess.py (default: data)")
    parser.add_argument("--checkpoint", default="checkpoints/best.pth",
                        help="from train.py (default: checkpoints/best.pth)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
