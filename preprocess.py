"""Step 1 of 4: one person's video -> aligned faces and mel features, one of each per frame.

Reads   a video of one person speaking (best 2-5 minutes), any size, codec and frame rate; or
        several takes, all to learn from and one to be rendered
Writes  data/face/000000.png ...   168x168 RGB, the face without head movement, 25 a second
        data/audio/000000.npy ...  float32 (4, 80), the log-mel of the same 1/25 s; one per picture
        data/reference/000123.png ...  a few lower halves as large as in the video: lips and beard
        data/track.npz             landmarks, alignment and cuts, for the later steps
        data/report.png            is the footage good to learn from? Its quality, its worst frames
        data/meta.json             what was made from what; last: without it data/ is unfinished

A run builds beside the old data and swaps it in at the end: a video that fails leaves the old data
as it was. Predictions made from the old data are dropped; finished videos in data/result/ stay.

Run     python preprocess.py              the only video in input/
        python preprocess.py VIDEO ... [--data data] [--face N] [--take N] [--sound FILE]
                             [--track N] [--av-offset MS|auto|off]
Next    python train.py
"""

import argparse
import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from utils import cli, contract, footage_report, storage
from utils.audio import fit_length
from utils.av_sync import Synchronised
from utils.cli import DataError, UserError, say
from utils.contract import CONTRACT, ROWS_PER_FRAME
from utils.footage_faces import WrittenFaces, find_faces, write_faces
from utils.footage_report import FaceStatistics, Finding, face_scales
from utils.footage_sound import on_disk, read_speech, synchronise
from utils.media.find import find_media
from utils.media.reader import probe
from utils.storage import Source, remove_tree
from utils.usable_frames import (
    Flaws,
    cut_off_frames,
    frozen_frames,
    unrecorded_frames,
)

# --------------------------------------------------------------------------------------------------
MOST_OFFSET_MS = 5000     # by which --av-offset may move the sound
# --------------------------------------------------------------------------------------------------


class Take(NamedTuple):
    """What one video gives, or several of them one after the other."""

    faces: WrittenFaces
    synchronised: Synchronised
    flaws: Flaws


# -- 1. the video ----------------------------------------------------------------------------------
def choose_videos(args: argparse.Namespace) -> list[Path]:
    """The takes to learn from, the one that is rendered first. UserError if that cannot be."""
    videos = [Path(video) for video in args.video]
    if not videos:
        found = find_media(Path("input"), "video")
        videos = [storage.only_file(found, "input", "video", "python preprocess.py")]
    if args.take > len(videos):
        raise UserError(f"--take {args.take} was asked for, but {len(videos)} videos were named; "
                        "run: python preprocess.py VIDEO VIDEO --take N with a lower N")
    if args.sound and len(videos) > 1:
        raise UserError("--sound is for one video, but several were named; put the sound into "
                        "each of them, and run: python preprocess.py VIDEO VIDEO")
    videos.insert(0, videos.pop(args.take - 1))
    return videos


def check_picture(video: Path):
    """Raise DataError if the file has no picture."""
    about = probe(video)
    if not about.has_video:
        sound = ", only sound" if about.has_sound else ""
        raise DataError(f"{video} has no picture that can be read{sound}; expected a video of one "
                        "person's face. If it is one, it is damaged: copy it again or convert it "
                        "to mp4")


def check_replaceable(data: Path):
    """Raise UserError if `data` holds folders that a run would replace but none has made."""

    def existing(*names):
        return [data / name for name in names if (data / name).exists()]

    found = existing("face", "reference", "audio", "pred", "pack")
    if found and not existing(".lock", "meta.json", "preprocess.new"):
        raise UserError(f"{found[0]} was not made by preprocess.py, which would replace it; "
                        "move it away or run: python preprocess.py VIDEO --data ANOTHER_FOLDER")


# -- 2. faces and sound ----------------------------------------------------------------------------
def prepare(
    video: Path, sound: np.ndarray, args: argparse.Namespace, new: Path, start: int
) -> Take:
    """Faces and sound of a video whose frames are numbered from `start` on."""
    track = find_faces(video, args.face)
    faces = write_faces(video, track, new, start)
    track = faces.track
    synchronised = synchronise(sound, track, args.av_offset, video if args.sound else None)
    *_, changes = faces.statistics.curves()
    flaws = Flaws(
        unrecorded=unrecorded_frames(synchronised.sound, len(track)),
        frozen=frozen_frames(changes),
        cut_off=cut_off_frames(track, faces.size)
    )
    flaws.say(track.valid)
    track = replace(track, usable=track.valid & ~np.any(flaws, axis=0))
    return Take(faces._replace(track=track), synchronised, flaws)


def join(takes: list[Take]) -> Take:
    """The takes one after the other. Only the first one is rendered."""
    if len(takes) == 1:
        return takes[0]
    faces, synchronised, flaws = zip(*takes, strict=True)
    tracks = [one.track for one in faces]
    statistics = FaceStatistics()
    for one in faces:
        statistics.rows += one.statistics.rows
    sounds = [fit_length(one.sound, len(one.mel) // ROWS_PER_FRAME) for one in synchronised]
    return Take(
        faces[0]._replace(
            track=storage.join_tracks(tracks),
            statistics=statistics,
            occluded=np.concatenate([one.occluded for one in faces])
        ),
        Synchronised(
            on_disk(sounds),
            np.concatenate([one.mel for one in synchronised]),
            synchronised[0].offset
        ),
        Flaws(*map(np.concatenate, zip(*flaws, strict=True)))
    )


def write_mel(mel: np.ndarray, new: Path):
    """Write the log-mel rows (4, 80) of each frame to new/audio/."""
    blocks = mel.reshape(-1, contract.ROWS_PER_FRAME, contract.N_MELS)
    for i, block in enumerate(tqdm(blocks, desc="3/3 writing mel features", unit="frame")):
        np.save(contract.mel_path(new, i), block)


# -- 3. meta.json, into place ----------------------------------------------------------------------
def describe(
    args: argparse.Namespace,
    sources: list[Source],
    take: Take,
    shown_frames: int,
    report: list[Finding]
) -> dict:
    """Content of meta.json: what storage.Meta reads, and what a curious person may want.

    sources: of the takes. shown_frames: of the first of them.
    """
    faces = take.faces
    track = faces.track
    offset = take.synchronised.offset
    sound = storage.identify_source(Path(args.sound)) if args.sound else None
    source, *others = [one.sha256 for one in [*sources, sound] if one]
    made_of = json.dumps([source, CONTRACT, *others])
    return {
        "source": asdict(sources[0]),
        "other_takes": [asdict(one) for one in sources[1:]],
        "sound": asdict(sound) if sound else None,
        "track": args.track,
        "contract": CONTRACT,
        "options": {"face": args.face, "av_offset": args.av_offset},
        "frames": len(track),
        "shown_frames": shown_frames,
        "usable": int(track.usable.sum()),
        "size": faces.size,
        "id": hashlib.sha256(made_of.encode()).hexdigest()[:16],
        "av_offset_ms": offset.applied_ms,
        "av_offset_found": {"ms": offset.late_ms, "confidence": offset.confidence},
        "quality": {row.name: [row.found, row.verdict] for row in report},
        "shots": len(track.cuts),
        "references": faces.references,
        "scale": faces.scale,
        "faces_found": float(track.valid.mean()),
        "eye_distance": float(np.median(contract.EYE_DISTANCE_PX / face_scales(track)))
    }


def swap_in(new: Path, data: Path):
    """Put the finished folder `new` in place of the old data.

    meta.json goes out first and comes in last: an interruption leaves a folder without one, which
    no step takes for data.
    """
    for name in ("meta.json", "pred", "inference.new", "pack", "detail"):
        remove_tree(data / name)
    for name in ("face", "reference", "audio", "track.npz", "report.png", "meta.json"):
        remove_tree(data / name)
        os.replace(new / name, data / name)
    remove_tree(new)


def main(args: argparse.Namespace):
    """Prepare the video in four steps."""
    data = Path(args.data)

    # 1. which video, and has it picture and sound?
    videos = choose_videos(args)
    for video in videos:
        check_picture(video)
    sounds = [read_speech(video, args.sound, args.track) for video in videos]
    check_replaceable(data)

    with cli.write_lock(data):
        sources = [storage.identify_source(video) for video in videos]
        new = data / "preprocess.new"
        remove_tree(new)  # what an interrupted run has left
        for name in ("face", "reference", "audio"):
            (new / name).mkdir(parents=True)

        # 2. the face in every frame, the aligned pictures, the sound moved to where it belongs
        takes: list[Take] = []
        for video, sound in zip(videos, sounds, strict=True):
            start = sum(len(take.faces.track) for take in takes)
            takes.append(prepare(video, sound, args, new, start))
        take = join(takes)
        faces, synchronised, flaws = take

        # 3. the files of every frame
        storage.write_track(new / "track.npz", faces.track)
        write_mel(synchronised.mel, new)

        # 4. is it good footage, what was made from what, and into place
        report = footage_report.findings(faces.track, faces.statistics, synchronised, flaws)
        worst = footage_report.worst_frames(faces.track, faces.statistics, faces.occluded)
        title = ", ".join(video.name for video in videos)
        footage_report.draw(new, title, report, worst)
        say(footage_report.table(title, report))
        meta = describe(args, sources, take, len(takes[0].faces.track), report)
        storage.write_json(new / "meta.json", meta)
        swap_in(new, data)

    frames = len(faces.track)
    say(f"{frames} pictures in {data / 'face'}, {frames} features in {data / 'audio'}; "
        f"next: python train.py{cli.option('data', args.data, cli.DATA)}")


def av_offset(text: str) -> str | int:
    """An argparse type: "auto", "off" or whole milliseconds; ValueError for anything else."""
    if text in ("auto", "off"):
        return text
    ms = int(text)
    if abs(ms) > MOST_OFFSET_MS:
        raise ValueError
    return ms


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = cli.parser(__doc__, "data")
    parser.add_argument(
        "video",
        nargs="*",
        metavar="VIDEO",
        help="the video, or several takes of the person (default: the only one in input/)"
    )
    parser.add_argument(
        "--face",
        type=cli.positive(int),
        default=1,
        metavar="N",
        help="which person, if there are several: 1 is the largest and longest seen (default: 1)"
    )
    parser.add_argument(
        "--take",
        type=cli.positive(int),
        default=1,
        metavar="N",
        help="which of several videos is rendered; the others are only learned from (default: 1)"
    )
    parser.add_argument(
        "--sound", metavar="FILE", help="the sound, if it was recorded apart from the picture"
    )
    parser.add_argument(
        "--track",
        type=cli.positive(int),
        metavar="N",
        help="which sound track, if there are several (default: the first with a voice)"
    )
    parser.add_argument(
        "--av-offset",
        type=av_offset,
        default="auto",
        metavar="MS|auto|off",
        help="100: the sound is 100 ms late and is moved earlier; auto (default): what is found, "
             "if it is sure; off: nothing is moved"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
