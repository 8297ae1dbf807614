"""Step 3 of 4: new speech -> generated lower faces.

Reads   checkpoints/best.pth       from train.py
        data/                      from preprocess.py: the footage to speak; any clip of the person trained on
        a sound or video file      the speech
Writes  data/pred/<speech>/000000.png ...  168x84 RGB, one per 1/25 s of speech
        data/pred/<speech>/meta.json       the source frame of each, and what they were made from; written last
        data/pred/last.json                names the newest, which reapply_faces.py renders

Where the speech is longer than the footage, the footage runs forward and back.

Run     python inference.py               the only sound file in input/
        python inference.py [AUDIO] [--data data] [--checkpoint checkpoints/best.pth] [--device auto|cpu|cuda|cuda:N]
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
from utils.generate import lowers, pingpong

# ------------------------------------------------------------------------------------------------------
BATCH_SIZE = 16         # pictures at a time
# ------------------------------------------------------------------------------------------------------


def read_speech(path):
    """Return the file's sound as 16 kHz mono float32; UserError if it has none."""
    sound = media.read_sound(path, contract.SAMPLE_RATE)
    if sound is None or not len(sound):
        raise UserError(f"{path} has no sound; expected speech. Run: python inference.py AUDIO")
    return sound[:, 0]


def main():
    args = parse_args()

    # 1. the speech, the footage, the network
    speech = Path(args.audio) if args.audio else contract.only_file(
        "input", contract.SOUND_ENDINGS, "sound", "python inference.py")
    sound = read_speech(speech)
    footage = Footage(args.data)
    train = contract.train_command(args.data, Path(args.checkpoint).parent)
    model, saved = checkpoint.load(args.checkpoint, train)
    where = device.resolve(args.device)
    model = model.to(where, memory_format=torch.channels_last)
    if saved["data"]["id"] != footage.meta["id"]:
        say(f"note: trained on {saved['data']['clip']!r}, speaking on {Path(footage.meta['source']['path']).name}; "
            "that works if it is the same person")

    # 2. what is heard, and on which frames it is spoken
    count = audio.frames_of(sound)
    mel = audio.log_mel(sound, count)
    order = pingpong(count, footage.frames)

    with console.writing(args.data):
        # 3. draw, beside what was there before
        new, pred = Path(args.data) / "inference.new", Path(args.data) / "pred"
        final = pred / (speech.stem.strip(".") and speech.stem or "speech")  # of "...wav" the stem is ".."
        contract.remove(new)
        new.mkdir()
        pictures = lowers(model, footage, footage.references(), order, partial(audio.windows, mel), where, BATCH_SIZE)
        for j, lower in enumerate(tqdm(pictures, total=count, desc="drawing lower faces", unit="picture")):
            contract.lower_path(new, j).write_bytes(pixels.png(lower))

        # 4. what was made from what, and into place: until it is whole, last.json names nothing
        heard = contract.source_identity(speech)
        contract.write_json(new / "meta.json", {
            "frames": count, "source_frames": order.tolist(), "sound": heard["path"], "sound_sha256": heard["sha256"],
            "data_id": footage.meta["id"],
            "checkpoint": {"path": str(Path(args.checkpoint).resolve()), "epoch": saved["epoch"]}})
        pred.mkdir(exist_ok=True)
        contract.remove(pred / "last.json")
        contract.remove(final)
        os.replace(new, final)
        contract.write_json(pred / "last.json", {"speech": final.name})
    say(f"{count} lower faces in {final}; next: python reapply_faces.py"
        + console.option("data", args.data, "data"))


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("audio", nargs="?", metavar="AUDIO",
                        help="sound or video file (default: the only sound in input/)")
    parser.add_argument("--data", default="data", help="working folder of preprocess.py (default: data)")
    parser.add_argument("--checkpoint", default="checkpoints/best.pth",
                        help="from train.py (default: checkpoints/best.pth)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
