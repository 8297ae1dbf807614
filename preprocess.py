"""Step 1 of 4: one person's video -> aligned faces and mel features, one of each per frame.

Reads   a video of one person speaking (best 2-5 minutes), any size, codec and frame rate
Writes  data/face/000000.png ...   168x168 RGB, the face without head movement, 25 a second
        data/audio/000000.npy ...  float32 (4, 80), the log-mel of the same 1/25 s; one per picture
        data/detail/000123.png ... the lower half of a few frames as the video has it, for beard
        data/track.npz             landmarks, alignment and cuts, for the later steps
        data/report.png            is the footage good to learn from? Its quality, its worst frames
        data/meta.json             what was made from what; last: without it data/ is unfinished

A run builds beside the old data and swaps it in at the end: a video that fails leaves the old data
as it was. Predictions made from the old data are dropped; finished videos in data/result/ stay.

Run     python preprocess.py              the only video in input/
        python preprocess.py VIDEO [--data data] [--face N] [--av-offset MS|auto|off]
Next    python train.py
"""

import argparse
import hashlib
import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from utils import av_sync, cli, contract, footage_report, storage
from utils.av_sync import Offset, Synchronised
from utils.cli import DataError, UserError, say
from utils.compositing.detail import choose_detail_frames
from utils.contract import CONTRACT, FPS, MIN_FRAMES, SAMPLE_RATE
from utils.face.geometry import Affine, align, source_box
from utils.face.occlusion import THUMBNAIL_SHAPE, mouth_thumbnail, occluded_frames
from utils.face.tracking import track_face
from utils.footage_report import FaceStatistics, Finding, face_scales
from utils.media.pixels import encode_png
from utils.media.reader import Frame, Losses, probe, read_frames, read_sound
from utils.storage import Source, Track, remove_tree

# --------------------------------------------------------------------------------------------------
FEWEST_FACES_SHARE = 0.5  # of the frames must show a face, or the video is refused
FEW_FACES_SHARE = 0.9     # of the frames: if fewer show a face, a note says so
QUIET_PEAK = 1e-4         # of 1: a sound that never gets louder counts as missing
SAID_LOSS_S = 0.5         # a longer piece missing at the end is worth a note
MOST_OFFSET_MS = 5000     # by which --av-offset may move the sound
# --------------------------------------------------------------------------------------------------


class WrittenFaces(NamedTuple):
    """The aligned faces, and what was noted while they were written."""

    track: Track  # occluded frames are not valid any more
    size: tuple[int, int]  # (width, height) of a source frame, px
    statistics: FaceStatistics
    occluded: np.ndarray  # (N,) bool: something is in front of the mouth
    detail: list[int]  # frames whose lower half was kept at full size


# -- 1. the video ----------------------------------------------------------------------------------
def check_picture(video: Path):
    """Raise DataError if the file has no picture."""
    about = probe(video)
    if not about.has_video:
        sound = ", only sound" if about.has_sound else ""
        raise DataError(f"{video} has no picture that can be read{sound}; expected a video of one "
                        "person's face. If it is one, it is damaged: copy it again or convert it "
                        "to mp4")


def read_speech(video: Path) -> np.ndarray:
    """Sound of the video, (samples,) float32 at 16 kHz, from the moment of its first picture on.

    Mapped from a temporary file: the sound of an hour takes 230 MB. Raises DataError if there is
    none, or nothing but silence.
    """
    losses = Losses()
    sound = read_sound(video, SAMPLE_RATE, video_start=True, losses=losses)
    if sound is None or not len(sound):
        raise DataError(f"{video} has no sound that can be decoded; the mouth is learnt from sound "
                        "and picture together. Take a video with sound")
    if losses.packets:
        say(f"note: the sound is damaged: {losses.packets} packets could not be used, "
            "silence stands in their place")
    peak = max(sound.max(), -sound.min())
    if peak < QUIET_PEAK:
        raise DataError(f"the sound of {video} is silent (peak {peak:.6f} of 1); "
                        "take a video in which the person is heard")
    scratch = tempfile.TemporaryFile()  # noqa: SIM115 - it goes when the last reference does
    with cli.naming_errors(tempfile.gettempdir()):
        scratch.write(sound.data)
        scratch.flush()
    return np.memmap(scratch, np.float32, "r", shape=len(sound))


def check_replaceable(data: Path):
    """Raise UserError if `data` holds folders that a run would replace but none has made."""

    def existing(*names):
        return [data / name for name in names if (data / name).exists()]

    found = existing("face", "detail", "audio", "pred", "pack")
    if found and not existing(".lock", "meta.json", "preprocess.new"):
        raise UserError(f"{found[0]} was not made by preprocess.py, which would replace it; "
                        "move it away or run: python preprocess.py VIDEO --data ANOTHER_FOLDER")


# -- 2. the faces ----------------------------------------------------------------------------------
def find_faces(video: Path, number: int) -> Track:
    """The face of person `number` in each frame of the video.

    Raises DataError if the video is too short or shows too few faces, UserError if it does not
    show so many people.
    """
    losses = Losses()
    frames = read_frames(video, losses=losses)
    bar = tqdm(frames, total=probe(video).frames, desc="1/3 finding the face", unit="frame")
    track, people = track_face((frame.rgb() for frame in bar), number)
    seconds = len(track) / FPS
    say_changes(next(read_frames(video, stop=1)))
    say_losses(losses, seconds)
    if len(track) < MIN_FRAMES:
        raise DataError(f"{video} has only {len(track)} frames ({seconds:.2f} s) that can be "
                        f"decoded, at least {MIN_FRAMES} ({MIN_FRAMES / FPS:.0f} s) are needed",
                        video="LONGER_VIDEO")
    most = max(people)
    if number > max(1, most):
        raise UserError(f"--face {number} was asked for, but {most} faces are in {video}; "
                        "run: python preprocess.py VIDEO --face N with a lower N")
    if most > 1:
        say(f"note: up to {most} faces are in the picture; number {number} was followed (1 is the "
            "largest and longest seen of each shot); for another run: python preprocess.py VIDEO "
            "--face N")
    found = track.valid.mean()
    if found < FEWEST_FACES_SHARE:
        raise DataError(f"a face was found in {found:.0%} of the frames of {video}, at least "
                        f"{FEWEST_FACES_SHARE:.0%} are needed; take a video in which one face "
                        "looks at the camera")
    if found < FEW_FACES_SHARE:
        say(f"note: a face was found in only {found:.0%} of the frames; the others are never "
            "trained on")
    return track


def say_changes(frame: Frame):
    """Say what reading does to the shape of the source's pictures, of which `frame` is one."""
    quarters, flipped = frame.turns
    turned = [f"turned by {-90 * quarters % 360} degrees"] * bool(quarters)
    changes = turned + ["mirrored"] * flipped
    if changes:
        say(f"note: the picture is {' and '.join(changes)}, as the file asks")
    picture = frame.picture
    odd = ["row"] * (picture.height % 2) + ["column"] * (picture.width % 2)
    if odd:
        say(f"note: of {picture.width}x{picture.height} pixels the last {' and '.join(odd)} is "
            "left out: video needs even sizes")


def say_losses(losses: Losses, seconds: float):
    """Say what of the source was lost; seconds: what was read."""
    if losses.packets:
        say(f"note: the file is damaged: {losses.packets} packets could not be used and the last "
            f"{losses.seconds:.1f} s are missing; {seconds:.1f} s were saved")
    elif losses.seconds > SAID_LOSS_S:
        say(f"note: the file announces {losses.seconds:.1f} s more than its picture lasts (it was "
            f"cut short, or its sound goes on); {seconds:.1f} s were used")


def write_faces(video: Path, track: Track, new: Path) -> WrittenFaces:
    """Write the aligned face of each frame to new/face/, and a few lower halves to new/detail/."""
    frames = len(track)
    height, width, _ = next(read_frames(video)).rgb().shape
    detail = choose_detail_frames(track, (height, width))
    scales = face_scales(track)
    statistics = FaceStatistics()
    # One array: small ones would each settle where a large picture was, and the next large picture
    # would find no room there.
    thumbnails = np.empty((frames, *THUMBNAIL_SHAPE), np.uint8)

    pictures = read_frames(video, stop=frames)
    bar = tqdm(pictures, total=frames, desc="2/3 aligning faces", unit="frame")
    for i, frame in enumerate(bar):
        rgb = frame.rgb()
        affine = Affine(track.transform[i])
        aligned = align(rgb, affine)
        contract.face_path(new, i).write_bytes(encode_png(aligned))
        statistics.add(aligned, scales[i])
        thumbnails[i] = mouth_thumbnail(aligned)
        if i in detail:
            box = source_box(affine, rgb.shape)
            contract.detail_path(new, i).write_bytes(encode_png(rgb[box.slices]))

    occluded = occluded_frames(thumbnails, track)
    if occluded.any():
        say(f"note: something is in front of the mouth in {occluded.sum()} frames (the first at "
            f"{occluded.argmax() / FPS:.1f} s); they are neither trained on nor changed")
    track = replace(track, valid=track.valid & ~occluded)
    kept = detail[~occluded[detail]].tolist()
    return WrittenFaces(track, (width, height), statistics, occluded, kept)


# -- 3. the sound ----------------------------------------------------------------------------------
def synchronise(sound: np.ndarray, track: Track, choice: str | int) -> Synchronised:
    """The sound moved to where it belongs, with notes. choice: as --av-offset."""
    seconds = len(sound) / SAMPLE_RATE
    wanted = len(track) / FPS
    if abs(seconds - wanted) >= 0.5 / FPS:
        change = "was padded with silence" if seconds < wanted else "was cut"
        say(f"note: the sound lasts {seconds:.2f} s, the picture {wanted:.2f} s: "
            f"the sound {change}")
    synchronised = av_sync.synchronise(sound, track, choice)
    say(f"note: {synchronised.offset}")
    return synchronised


def write_mel(mel: np.ndarray, new: Path):
    """Write the log-mel rows (4, 80) of each frame to new/audio/."""
    blocks = mel.reshape(-1, contract.ROWS_PER_FRAME, contract.N_MELS)
    for i, block in enumerate(tqdm(blocks, desc="3/3 writing mel features", unit="frame")):
        np.save(contract.mel_path(new, i), block)


# -- 4. meta.json, into place ----------------------------------------------------------------------
def describe(
    args: argparse.Namespace,
    source: Source,
    faces: WrittenFaces,
    offset: Offset,
    report: list[Finding]
) -> dict:
    """Content of meta.json: what storage.Meta reads, and what a curious person may want."""
    track = faces.track
    return {
        "source": asdict(source),
        "contract": CONTRACT,
        "options": {"face": args.face, "av_offset": args.av_offset},
        "frames": len(track),
        "size": faces.size,
        "id": hashlib.sha256(json.dumps([source.sha256, CONTRACT]).encode()).hexdigest()[:16],
        "av_offset_ms": offset.applied_ms,
        "av_offset_found": {"ms": offset.late_ms, "confidence": offset.confidence},
        "quality": {row.name: [row.found, row.verdict] for row in report},
        "shots": len(track.cuts),
        "detail": faces.detail,
        "faces_found": float(track.valid.mean()),
        "eye_distance": float(np.median(contract.EYE_DISTANCE_PX / face_scales(track)))
    }


def swap_in(new: Path, data: Path):
    """Put the finished folder `new` in place of the old data.

    meta.json goes out first and comes in last: an interruption leaves a folder without one, which
    no step takes for data.
    """
    for name in ("meta.json", "pred", "inference.new", "pack"):
        remove_tree(data / name)
    for name in ("face", "detail", "audio", "track.npz", "report.png", "meta.json"):
        remove_tree(data / name)
        os.replace(new / name, data / name)
    remove_tree(new)


def main(args: argparse.Namespace):
    """Prepare the video in four steps."""
    data = Path(args.data)

    # 1. which video, and has it picture and sound?
    if args.video:
        video = Path(args.video)
    else:
        video = storage.only_file("input", contract.VIDEO_ENDINGS, "video", "python preprocess.py")
    check_picture(video)
    sound = read_speech(video)
    check_replaceable(data)

    with cli.write_lock(data):
        source = storage.identify_source(video)
        new = data / "preprocess.new"
        remove_tree(new)  # what an interrupted run has left
        for name in ("face", "detail", "audio"):
            (new / name).mkdir(parents=True)

        # 2. the face in every frame, then the aligned pictures
        track = find_faces(video, args.face)
        faces = write_faces(video, track, new)
        storage.write_track(new / "track.npz", faces.track)

        # 3. the sound of every frame, moved to where it belongs
        synchronised = synchronise(sound, faces.track, args.av_offset)
        write_mel(synchronised.mel, new)

        # 4. is it good footage, what was made from what, and into place
        report = footage_report.findings(faces.track, faces.statistics, synchronised)
        worst = footage_report.worst_frames(faces.track, faces.statistics, faces.occluded)
        footage_report.draw(new, video.name, report, worst)
        say(footage_report.table(video.name, report))
        meta = describe(args, source, faces, synchronised.offset, report)
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
        "video", nargs="?", metavar="VIDEO", help="the video (default: the only one in input/)"
    )
    parser.add_argument(
        "--face",
        type=cli.positive(int),
        default=1,
        metavar="N",
        help="which person, if there are several: 1 is the largest and longest seen (default: 1)"
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
