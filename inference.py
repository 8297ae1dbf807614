"""Step 3 of 4: new speech -> generated lower faces.

Reads   checkpoints/best.pth       from train.py
        data/                      from preprocess.py: the footage to speak; any clip of the person
                                   trained on
        sound or video files       the speeches; of a folder all sounds, or all videos if it has
                                   none, but not the footage itself
Writes  data/pred/<speech>/000000.png ...  RGB, one per 1/25 s of speech: 168x84, or 2, 3 or 4
                                           times as large, as sharp as the footage is
        data/pred/<speech>/meta.json       the source frame of each, and what they were made from;
                                           written last
        data/pred/last.json                names those of this run, which reapply_faces.py renders

Where a speech is longer than the footage, the footage runs forward and back; it turns where the
face is calm, within a second of the footage's ends. In silence it goes on, with the mouth closed.

--scale 1     draw 168x84 whatever the footage has: softer where the face is larger
--strength X  how far the mouth moves: 1 as usual, 1.3 livelier, 0.7 calmer, 0 not at all. A voice
              that moves it less than the footage does is helped before

Run     python inference.py               the only sound file in input/
        python inference.py [AUDIO ...] [--start SECOND] [--data data]
                            [--checkpoint checkpoints/best.pth] [--device auto|cpu|cuda|cuda:N]
                            [--scale 1] [--strength X]
Next    python reapply_faces.py
"""

import argparse
import os
from collections.abc import Collection
from pathlib import Path

from tqdm import tqdm

from utils import audio, cli, storage
from utils.cli import UserError, say
from utils.contract import FPS, lower_face_path
from utils.dataset.clip import Clip
from utils.generate import (
    generate_lower_faces,
    load_speaker,
    pingpong,
    read_driving,
    seen_span,
    turning_points,
    voice_gain,
)
from utils.media.find import find_media
from utils.media.pixels import encode_png
from utils.media.reader import probe
from utils.prefetch import prefetch

# ------------------------------------------------------------------------------------------------
BATCH_SIZE = 16         # pictures that the network draws at a time
PNG_COMPRESSION = 0     # of the pictures, 0..9: 0 writes fastest; 1 takes half the disk space
MOST_STRENGTH = 2.0     # of --strength: beyond it no mouth looks human
# ------------------------------------------------------------------------------------------------


def find_speeches(given: list[str], footage: Collection[str]) -> dict[str, Path]:
    """Speeches {name: path} of the files and folders given, or of the only sound in input/.

    footage: names of the files that data/ was made from, which may lie in input/ too and are no
    speech. Raises UserError if there are none, one has no sound or two have one name.
    """
    paths = []
    for path in map(Path, given):
        paths += _speeches_in(path, footage) if path.is_dir() else [path]
    if not given:
        found = _speeches_in(Path("input"), footage)
        paths = [storage.only_file(found, "input", "sound", "python inference.py")]
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


def _speeches_in(folder, footage):
    """The sounds in a folder, or the videos if it has none, without the footage."""
    for kind in ("sound", "video"):
        found = [path for path in find_media(folder, kind) if path.name not in footage]
        if found:
            break
    return found


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
        lower_face_path(folder, j).write_bytes(encode_png(lower_face, PNG_COMPRESSION))


def main(args: argparse.Namespace):
    """Speak every speech: draw its lower faces and write down what they are for."""
    # 1. the footage to speak on, the speeches, and the network that learned this person's mouth
    clip = Clip(args.data)
    speeches = find_speeches(args.audio, clip.meta.files)
    start, last = seen_span(clip.track, clip.meta.shown_frames)
    seconds = clip.meta.shown_frames / FPS
    if args.start is not None:
        start = int(args.start * FPS) if 0 <= args.start < seconds else -1
    if start < 0:
        raise UserError(f"--start {args.start:g} is outside the footage, which lasts "
                        f"{seconds:.2f} s; name a second in it and run the same command again")
    if not 0 <= args.strength <= MOST_STRENGTH:
        raise UserError(f"--strength {args.strength:g}: expected 0 to {MOST_STRENGTH:g}; run the "
                        "same command with another")
    speaker, saved = load_speaker(args.checkpoint, clip, args.device, full_size=args.scale is None)
    if saved["data"]["id"] != clip.meta.id:
        footage = Path(clip.meta.source.path).name
        say(f"note: trained on {saved['data']['clip']!r}, speaking on {footage}; "
            "that works if it is the same person")
    network = {"path": str(Path(args.checkpoint).resolve()), "epoch": saved["epoch"]}
    low, high = turning_points(clip.track, clip.meta.shown_frames)

    unfinished = clip.data / "inference.new"
    pred = clip.data / "pred"
    done = []
    with cli.write_lock(args.data):
        for name, speech in speeches.items():
            # 2. the sound as the network hears it, and the source frames on which it is spoken
            mel = _read_mel(speech)
            count = len(mel) // audio.ROWS_PER_FRAME
            order = pingpong(count, last, start, low, high)
            unseen = count - clip.track.valid[order].sum()
            if unseen:
                say(f"note: {unseen / FPS:.1f} s of {name} fall on frames in which no mouth is "
                    "seen; they stay as they are")

            # 3. a mouth for each of them, in a folder beside what was there before
            speaker.strength = min(MOST_STRENGTH, args.strength * voice_gain(speaker, mel))
            _draw(speaker, order, mel, unfinished, name)
            source = storage.identify_source(speech)
            storage.write_json(unfinished / "meta.json", {
                "frames": count,
                "scale": speaker.large.scale if speaker.large else 1,
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
        metavar="SECOND",
        help="of the footage, at which each speech begins (default: where the face is first seen)"
    )
    parser.add_argument(
        "--scale",
        type=int,
        choices=(1,),
        help="draw no larger than the network does (default: as large as the footage)"
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="X",
        help="how far the mouth moves: 1 as usual, 0 not at all, 2 at most (default: 1)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
