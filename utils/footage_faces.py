"""The faces of footage: found in every frame, then written, aligned."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from utils import contract
from utils.cli import DataError, UserError, say
from utils.contract import FPS, MIN_FRAMES
from utils.dataset.references import choose_kept
from utils.face.geometry import Affine, Box, align, is_wide, source_box
from utils.face.occlusion import THUMBNAIL_SHAPE, mouth_thumbnail, occluded_frames
from utils.face.tracking import track_face
from utils.footage_report import FaceStatistics, face_scales
from utils.media.pixels import encode_png
from utils.media.reader import Frame, Losses, probe, read_frames
from utils.shots import seconds_of
from utils.storage import SCALES, Track
from utils.usable_frames import unlike_frames

FEWEST_FACES_SHARE = 0.5  # of the frames must show a face, or the video is refused
FEW_FACES_SHARE = 0.9     # of the frames: if fewer show a face, a note says so
RATE_TOLERANCE = 0.1      # pictures a second: containers that count milliseconds are not exact
SAID_LOSS_S = 0.5         # a longer piece missing at the end is worth a note
MOST_ENLARGED = 1.2       # times, when a lower face is pasted: more would be soft


class WrittenFaces(NamedTuple):
    """The aligned faces, and what was noted while they were written."""

    track: Track  # occluded frames are not valid any more
    size: tuple[int, int]  # (width, height) of a source frame, px
    statistics: FaceStatistics
    occluded: np.ndarray  # (N,) bool: something is in front of the mouth
    references: list[int]  # frames whose lower half was kept in full size
    scale: int  # times that it is larger than the network's


def find_faces(video: Path, number: int) -> Track:
    """The face of person `number` in each frame of the video.

    Raises DataError if the video is too short or shows too few faces, UserError if it does not
    show so many people.
    """
    about = probe(video)
    losses = Losses()
    frames = read_frames(video, losses=losses)
    bar = tqdm(frames, total=about.frames, desc="1/3 finding the face", unit="frame")
    track, people = track_face((frame.rgb() for frame in bar), number)
    seconds = len(track) / FPS
    say_changes(next(read_frames(video, stop=1)), about.has_alpha)
    if about.rate and abs(about.rate - FPS) > RATE_TOLERANCE:
        say(f"note: the video has {about.rate:.4g} pictures a second; the result will have {FPS}")
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


def say_changes(frame: Frame, has_alpha: bool):
    """Say what reading does to the source's pictures, of which `frame` is one."""
    quarters, flipped = frame.turns
    turned = [f"turned by {-90 * quarters % 360} degrees"] * bool(quarters)
    changes = turned + ["mirrored"] * flipped
    if changes:
        say(f"note: the picture is {' and '.join(changes)}, as the file asks")
    if frame.was_interlaced:
        say("note: the picture is interlaced; it is deinterlaced, here and in the result (bwdif)")
    picture = frame.picture
    odd = ["row"] * (picture.height % 2) + ["column"] * (picture.width % 2)
    if odd:
        say(f"note: of {picture.width}x{picture.height} pixels the last {' and '.join(odd)} is "
            "left out: video needs even sizes")
    bits = max(component.bits for component in picture.format.components)
    if bits > 8:
        say(f"note: the {bits} bits of each colour become 8 in the result; its tags are kept")
    if has_alpha:
        say("note: the picture is transparent in places; the result is not")


def say_losses(losses: Losses, seconds: float):
    """Say what of the source was lost; seconds: what was read."""
    if losses.packets:
        say(f"note: the file is damaged: {losses.packets} packets could not be used and the last "
            f"{losses.seconds:.1f} s are missing; {seconds:.1f} s were saved")
    elif losses.seconds > SAID_LOSS_S:
        say(f"note: the file announces {losses.seconds:.1f} s more than its picture lasts (it was "
            f"cut short, or its sound goes on); {seconds:.1f} s were used")


def write_faces(video: Path, track: Track, new: Path, start: int) -> WrittenFaces:
    """Write the aligned face of each frame to new/face/, numbered from `start` on.

    Of the take that begins with frame 0, and is rendered, also a few lower halves in full size to
    new/reference/.
    """
    frames = len(track)
    previous = next(read_frames(video)).rgb()
    height, width, _ = previous.shape
    kept = choose_kept(track) if start == 0 else np.empty(0, int)
    scales = face_scales(track)
    scale = choose_scale(scales[track.valid])
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
        contract.face_path(new, start + i).write_bytes(encode_png(aligned))
        box = source_box(affine, rgb.shape)
        statistics.add(aligned, scales[i], change_in(box, rgb, previous))
        previous = rgb
        thumbnails[i] = mouth_thumbnail(aligned)
        if i in kept:
            to_large = affine.to_lower_half().upscaled(scale)
            large = align(rgb, to_large, contract.lower_size(scale))
            contract.reference_path(new, i).write_bytes(encode_png(large))

    occluded = occluded_frames(thumbnails, track)
    if occluded.any():
        say(f"note: something is in front of the mouth in {occluded.sum()} frames (the first at "
            f"{occluded.argmax() / FPS:.1f} s); they are neither trained on nor changed")
    track = replace(track, valid=track.valid & ~occluded)
    unlike = unlike_frames(track, thumbnails)
    if unlike.any():
        say(f"note: at {seconds_of(unlike)} the face has other proportions and colours than in the "
            "rest: is it somebody else? A network learns one person: cut the others out. (--face N "
            "chooses between people who are seen at the same time, in each shot anew)")
    kept = kept[~occluded[kept]]
    return WrittenFaces(track, (width, height), statistics, occluded, kept.tolist(), scale)


def choose_scale(scales: np.ndarray) -> int:
    """How many times larger than the network's the lower faces are drawn.

    scales (N,): of the maps from the source to the aligned face.
    """
    wanted = 1 / np.median(scales) / MOST_ENLARGED
    return int(np.clip(np.ceil(wanted), SCALES[0], SCALES[-1]))


def change_in(box: Box, rgb: np.ndarray, previous: np.ndarray) -> float:
    """Mean difference of two pictures in a box, in every second row and column, grey levels."""
    if not is_wide(box):
        return 255.0
    part = slice(box.top, box.bottom, 2), slice(box.left, box.right, 2)
    return float(cv2.absdiff(rgb[part], previous[part]).mean())
