"""Step 3 of 4: new speech -> generated lower faces.

Reads   checkpoints/best.pth       from train.py
        data/                      from preprocess.py: the footage to speak; any clip of the person
                                   trained on
        sound or video files       the speeches; of a folder all sound files
Writes  data/pred/<speech>/000000.png ...  168x84 RGB, one per 1/25 s of speech
        data/pred/<speech>/meta.json       the source frame of each, and what they were made from;
                                           written last
        data/pred/last.json                names those of this run, which reapply_faces.py renders

Where a speech is longer than the footage, the footage runs forward and back; it turns where the
face is calm, within a second of the footage's ends. In silence it goes on, with the mouth closed.

Run     python inference.py               the only sound file in input/
        python inference.py [AUDIO ...] [--start SECOND] [--data data]
                            [--checkpoint checkpoints/best.pth] [--device auto|cpu|cuda|cuda:N]
Next    python reapply_faces.py
"""

import argparse
import os
from pathlib import Path

from tqdm import tqdm

from utils import audio, cli, storage
from utils.cli import UserError, say
from utils.contract import FPS, SOUND_ENDINGS, lower_face_path
from utils.dataset.clip import Clip
from utils.generate import (
    generate_lower_faces,
    load_speaker,
    pingpong,
    read_driving,
    turning_points,
)
from utils.media.pixels import encode_png
from utils.media.reader import probe
from utils.prefetch import prefetch

# ------------------------------------------------------------------------------------------------
BATCH_SIZE = 16         # pictures that the network draws at a time
# ------------------------------------------------------------------------------------------------


def find_speeches(given: list[str]) -> dict[str, Path]:
    """Speeches {name: path} of the files and folders given, or of the only sound in input/.

    Raises UserError if there are none, one has no sound or two have one name.
    """
    paths = []
    for path in map(Path, given):
        paths += storage.find_files(path, SOUND_ENDINGS) if path.is_dir() else [path]
    if not given:
        paths = [storage.only_file("input", SOUND_ENDINGS, "sound", "python inference.py")]
    if not paths:
        raise UserError(f"no sound files in {' '.join(given)}; put some there, or name them: "
                        "python inference.py AUDIO")

    speeches = {}
    owners: dict[str, object] = {"last.json": "the list of predictions"}  # of names in pred/
    for path in paths:
        name = path.stem if path.stem.strip(".") else "speech"  # the stem of "...wav" is ".."
        owner = owners.setdefault(name.lower(), path)
        if owner is not path:
            raise UserError(f"{owner} and {path} would both be called {name}; "
                            "rename one and run again")
        if not probe(path).has_sound:
            raise _no_sound(path)
        speeches[name] = path
    return speeches


def _no_sound(path):
    """Error for a file that was expected to hold speech."""
    return UserError(f"{path} has no sound; expected speech. Run: python inference.py AUDIO")


def _read_mel(path):
    """Log-mel (4 M, 80) of a speech that lasts M pictures. Raises UserError if it has no sound."""
    sound = read_driving(path)
    if not len(sound):
        raise _no_sound(path)
    return audio.log_mel(sound, audio.count_frames(sound))


def _draw(speaker, order, mel, folder, name):
    """Write a lower face for each moment of the speech into a new folder."""
    storage.remove_tree(folder)  # of a run that was killed
    folder.mkdir()
    lower_faces = generate_lower_faces(speaker, order, audio.MelWindows(mel), BATCH_SIZE)
    # The network draws in a thread of its own, up to two batches ahead of the files.
    drawn = prefetch(lower_faces, 2 * BATCH_SIZE)
    drawn = tqdm(drawn, total=len(order), desc=f"drawing {name}", unit="picture")
    for j, lower_face in enumerate(drawn):
        lower_face_path(folder, j).write_bytes(encode_png(lower_face))


def main(args: argparse.Namespace):
    """Speak every speech: draw its lower faces and write down what they are for."""
    # 1. the speeches, the footage to speak on, and the network that learned this person's mouth
    speeches = find_speeches(args.audio)
    clip = Clip(args.data)
    seconds = clip.frames / FPS
    if not 0 <= args.start < seconds:
        raise UserError(f"--start {args.start:g} is outside the footage, which lasts "
                        f"{seconds:.2f} s; name a second in it and run the same command again")
    speaker, saved = load_speaker(args.checkpoint, clip, args.device)
    if saved["data"]["id"] != clip.meta.id:
        footage = Path(clip.meta.source.path).name
        say(f"note: trained on {saved['data']['clip']!r}, speaking on {footage}; "
            "that works if it is the same person")
    network = {"path": str(Path(args.checkpoint).resolve()), "epoch": saved["epoch"]}
    low, high = turning_points(clip.track)

    unfinished = clip.data / "inference.new"
    pred = clip.data / "pred"
    done = []
    with cli.write_lock(args.data):
        for name, speech in speeches.items():
            # 2. the sound as the network hears it, and the source frames on which it is spoken
            mel = _read_mel(speech)
            count = len(mel) // audio.ROWS_PER_FRAME
            order = pingpong(count, clip.frames, int(args.start * FPS), low, high)

            # 3. a mouth for each of them, in a folder beside what was there before
            _draw(speaker, order, mel, unfinished, name)
            source = storage.identify_source(speech)
            storage.write_json(unfinished / "meta.json", {
                "frames": count,
                "source_frames": order.tolist(),
                "sound": source.path,
                "sound_sha256": source.sha256,
                "data_id": clip.meta.id,
                "checkpoint": network
            })

            # 4. into place: until the new folder is there, no list names it
            pred.mkdir(exist_ok=True)
            storage.remove_tree(pred / "last.json")
            storage.remove_tree(pred / name)
            os.replace(unfinished, pred / name)
            done.append(name)
            storage.write_json(pred / "last.json", {"speeches": done})
            say(f"{count} lower faces in {pred / name}")
    say(f"next: python reapply_faces.py{cli.option('data', args.data, 'data')}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line, or of `argv`."""
    parser = cli.parser(__doc__, "data", "checkpoint", "device")
    parser.add_argument(
        "audio",
        nargs="*",
        metavar="AUDIO",
        help="sound or video file, or a folder of sound files (default: the only sound in input/)"
    )
    parser.add_argument(
        "--start",
        type=float,
        default=0,
        metavar="SECOND",
        help="of the footage, at which each speech begins (default: 0)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
