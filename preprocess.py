"""Step 1 of 4: one person's video -> aligned faces and mel features, one of each per frame.

Reads   a video of one person speaking (best 2-5 minutes), any size, codec and frame rate
Writes  data/face/000000.png ...   168x168 RGB, the face with head movement taken out, 25 a second
        data/audio/000000.npy ...  float32 (4, 80), the log-mel of the same 1/25 s; as many as pictures
        data/detail/000123.png ... the lower half of a few frames as large as in the video: beard and pores for the end
        data/track.npz             landmarks, alignment and cuts, for the later steps
        data/report.png            is the footage good to learn from? Its quality, and its worst frames
        data/meta.json             what was made from what; written last: without it the folder is unfinished

A run builds beside the old data and swaps it in at the end, so a video that fails leaves the old data as it was.
Predictions made from the old data are dropped; finished videos in data/result/ stay.

Run     python preprocess.py              the only video in input/
        python preprocess.py VIDEO [--data data] [--face N] [--av-offset MS|auto|off]
Next    python train.py
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils import console, contract, cover, detail, face, media, pixels, quality, sync, tracking
from utils.console import UserError, say

# ------------------------------------------------------------------------------------------------------
FEWEST_FACES = 0.5      # share of frames that must show a face; below it the video is refused
FEW_FACES = 0.9         # share below which a warning is said
QUIET_SOUND = 1e-4      # peak (0..1) below which the sound counts as missing
MOST_OFFSET = 5000      # ms by which --av-offset may move the sound
# ------------------------------------------------------------------------------------------------------


def changes_of_shape(frame):
    """Return what media.Frame does to the shape of the source's pictures, as sentences."""
    turns, flipped = frame.turns
    width, height = frame.picture.width, frame.picture.height
    how = [f"turned by {-90 * turns % 360} degrees"] * bool(turns) + ["mirrored"] * flipped
    odd = " and ".join(["row"] * (height % 2) + ["column"] * (width % 2))
    return ([f"the picture is {' and '.join(how)}, as the file asks"] * bool(how)
            + [f"of {width}x{height} pixels the last {odd} is left out: video needs even sizes"] * bool(odd))


def find_faces(video, number):
    """Return the track of person `number` (see contract.read_track) and the size (width, height) of a frame."""
    losses, size, changes, crowd = media.Losses(), [], [], []

    def pictures():
        bar = tqdm(media.read_frames(video, losses=losses), total=media.probe(video)["frames"],
                   desc="1/3 finding the face", unit="frame")
        for frame in bar:
            rgb = frame.rgb()
            size[:], changes[:] = rgb.shape[1::-1], changes_of_shape(frame)
            yield rgb

    track = tracking.track(pictures(), number, crowd)
    for change in changes:
        say(f"note: {change}")
    frames = len(track["valid"])
    if losses.packets:
        say(f"note: the file is damaged: {losses.packets} packets could not be used and the last "
            f"{losses.seconds:.1f} s are missing; {frames / contract.FPS:.1f} s were saved")
    elif losses.seconds > 0.5:
        say(f"note: the file announces {losses.seconds:.1f} s more than its picture lasts (it was cut short, or its "
            f"sound goes on); {frames / contract.FPS:.1f} s were used")
    if frames < contract.MIN_FRAMES:
        raise UserError(f"{video} has only {frames} frames ({frames / contract.FPS:.2f} s) that can be decoded, "
                        f"at least {contract.MIN_FRAMES} ({contract.MIN_FRAMES / contract.FPS:.0f} s) are needed; "
                        "run: python preprocess.py LONGER_VIDEO")
    found, people = track["valid"].mean(), max(crowd)
    if number > max(1, people):
        raise UserError(f"--face {number} was asked for, but {people} faces are in {video}; "
                        "run: python preprocess.py VIDEO --face N with a lower N")
    if people > 1:
        say(f"note: up to {people} faces are in the picture; number {number} was followed (1 is the largest and "
            "longest seen of each shot); for another run: python preprocess.py VIDEO --face N")
    if found < FEWEST_FACES:
        raise UserError(f"a face was found in {found:.0%} of the frames of {video}, at least "
                        f"{FEWEST_FACES:.0%} are needed; "
                        "take a video in which one face looks at the camera and run: python preprocess.py VIDEO")
    if found < FEW_FACES:
        say(f"note: a face was found in only {found:.0%} of the frames; the others are never trained on")
    return track, tuple(size)


def write_faces(video, track, size, new):
    """Write the aligned face of each frame into new/face/, and the lower halves that lend detail into new/detail/.

    Returns the faces' quality.Looks; where the mouth is covered, (N,) bool (such frames become invalid in the track);
    and the numbers of the frames that lend detail. size: (width, height) of a frame.
    """
    for name in ("face", "detail"):
        (new / name).mkdir()
    looks, scales, lending = quality.Looks(), quality.scales(track), detail.choose(track, size[::-1])
    # One piece of memory: small ones would each settle where a large picture was, and the next finds no room there.
    mouths = np.empty((len(track["valid"]), *cover.SHAPE), np.uint8)
    frames = media.read_frames(video, stop=len(track["valid"]))
    bar = tqdm(zip(frames, track["transform"], strict=True), total=len(track["valid"]),
               desc="2/3 aligning faces", unit="frame")
    for i, (frame, transform) in enumerate(bar):
        rgb = frame.rgb()
        aligned = face.align(rgb, transform)
        looks.add(aligned, scales[i])
        mouths[i] = cover.thumbnail(aligned)
        contract.face_path(new, i).write_bytes(pixels.png(aligned))
        if i in lending:
            top, bottom, left, right = face.lower_box(transform, rgb.shape)
            contract.detail_path(new, i).write_bytes(pixels.png(rgb[top:bottom, left:right]))
    covered = cover.covered(mouths, track)
    track["valid"] &= ~covered
    if covered.any():
        say(f"note: something is in front of the mouth in {covered.sum()} frames (the first at "
            f"{covered.argmax() / contract.FPS:.1f} s); they are neither trained on nor changed")
    return looks, covered, [int(i) for i in lending if not covered[i]]


def hear(sound, track, choice):
    """Return the sound in step with the picture, its log-mel (4 x frames, 80), and the sync.Offset that was applied."""
    frames = len(track["valid"])
    seconds, wanted = len(sound) / contract.SAMPLE_RATE, frames / contract.FPS
    if abs(seconds - wanted) >= 0.5 / contract.FPS:
        what = "was padded with silence" if seconds < wanted else "was cut"
        say(f"note: the sound lasts {seconds:.2f} s, the picture {wanted:.2f} s: the sound {what}")
    sound, mel, offset = sync.in_step(sound, track, choice)
    say(f"note: {offset}")
    return sound, mel, offset


def write_mel(mel, folder):
    """Write the log-mel rows (4, 80) of each frame as folder/000000.npy ..."""
    folder.mkdir(parents=True)
    blocks = mel.reshape(-1, contract.ROWS_PER_FRAME, contract.N_MELS)
    for i, block in enumerate(tqdm(blocks, desc="3/3 writing mel features", unit="frame")):
        np.save(folder / f"{i:06d}.npy", block)


def read_speech(video):
    """Return the video's sound as 16 kHz mono float32, in step with its picture, mapped from a temporary file: that of
    an hour takes 230 MB. UserError if it has none."""
    losses = media.Losses()
    sound = media.read_sound(video, contract.SAMPLE_RATE, video_start=True, losses=losses)
    if sound is None or not len(sound):
        raise UserError(f"{video} has no sound{'' if sound is None else ' that can be decoded'}; "
                        "the mouth is learnt from sound and picture together. "
                        "Take a video with sound and run: python preprocess.py VIDEO")
    if losses.packets:
        say(f"note: the sound is damaged: {losses.packets} packets could not be used, silence stands in their place")
    peak = max(sound.max(), -sound.min())
    if peak < QUIET_SOUND:
        raise UserError(f"the sound of {video} is silent (peak {peak:.6f} of 1); "
                        "take a video in which the person is heard and run: python preprocess.py VIDEO")
    scratch = tempfile.TemporaryFile()  # noqa: SIM115 - it goes when the last reference does
    with console.naming(tempfile.gettempdir()):
        scratch.write(sound.data)
        scratch.flush()
    return np.memmap(scratch, np.float32, "r", shape=len(sound))


def write_report(video, track, looks, covered, mel, sound, offset, new):
    """Write new/report.png and print its table; return {what: [found, verdict]}."""
    rows = quality.findings(track, looks, mel, sound, offset)
    quality.draw(new / "report.png", video.name, rows, quality.worst_frames(track, looks, covered),
                 lambda i: pixels.read_png(contract.face_path(new, i)))
    say(quality.table(video.name, rows))
    return {row.name: [row.found, row.verdict] for row in rows}


def check_ours(data):
    """Raise UserError if `data` holds folders that swap_in would replace but no run of this script has made."""
    theirs = [data / name for name in ("face", "detail", "audio", "pred", "pack") if (data / name).exists()]
    if theirs and not any((data / name).exists() for name in (".lock", "meta.json", "preprocess.new")):
        raise UserError(f"{theirs[0]} was not made by preprocess.py, which would replace it; move it away or run: "
                        "python preprocess.py VIDEO --data ANOTHER_FOLDER")


def swap_in(new, data):
    """Put the finished folder `new` in place of the old data, meta.json out first and in last.

    If that was interrupted, at any moment, calling it again ends it: what is no longer in `new` is in place.
    """
    (data / "meta.json").unlink(missing_ok=True)
    for stale in ("pred", "inference.new", "pack"):
        contract.remove(data / stale)
    for name in ("face", "detail", "audio", "track.npz", "report.png", "meta.json"):
        if (new / name).exists():
            contract.remove(data / name)
            os.replace(new / name, data / name)
    contract.remove(new)


def end_earlier_run(new, data, wanted):
    """Swap in what a run had finished that was interrupted while it swapped in.

    Returns its meta.json if it was made from `wanted` (some of the entries of meta.json), so that nothing is left to
    do, and None otherwise.
    """
    if not (new / "meta.json").is_file():
        return None
    swap_in(new, data)
    meta = contract.read_json(data / "meta.json", contract.remedy_for(data))
    return meta if all(meta.get(key) == value for key, value in wanted.items()) else None


def main():
    args = parse_args()
    data = Path(args.data)

    # 1. which video, and has it picture and sound?
    video = Path(args.video) if args.video else contract.only_file(
        "input", contract.VIDEO_ENDINGS, "video", "python preprocess.py")
    about = media.probe(video)
    if not about["video"]:
        raise UserError(f"{video} has no picture that can be read{', only sound' if about['sound'] else ''}; expected "
                        "a video of one person's face. If it is one, it is damaged: copy it or convert it to mp4 anew. "
                        "Run: python preprocess.py VIDEO")
    sound = read_speech(video)
    check_ours(data)

    with console.writing(data):
        new = data / "preprocess.new"
        wanted = {"source": contract.source_identity(video), "contract": contract.CONTRACT,
                  "options": {key: value for key, value in vars(args).items() if key not in ("video", "data")}}
        if meta := end_earlier_run(new, data, wanted):
            say("the run before this one was interrupted when all was made; it is in place now")
            done(meta["frames"], args.data)
            return
        contract.remove(new)
        new.mkdir()

        # 2. the face in every frame, then the aligned pictures
        track, size = find_faces(video, args.face)
        frames = len(track["valid"])
        looks, covered, lending = write_faces(video, track, size, new)

        # 3. the sound of every frame, in step with the picture
        sound, mel, offset = hear(sound, track, args.av_offset)
        write_mel(mel, new / "audio")
        with open(new / "track.npz", "wb") as file:
            np.savez(file, **track)

        # 4. is it good footage, what was made from what, and into place
        verdicts = write_report(video, track, looks, covered, mel, sound, offset, new)
        name = json.dumps([wanted["source"]["sha256"], contract.CONTRACT])
        contract.write_json(new / "meta.json", {
            **wanted, "frames": frames, "size": size, "id": hashlib.sha256(name.encode()).hexdigest()[:16],
            "av_offset_ms": offset.applied,
            "av_offset_found": {"ms": offset.late, "confidence": offset.confidence}, "quality": verdicts,
            "shots": len(track["cuts"]), "detail": lending,
            "faces_found": float(track["valid"].mean()),
            "eye_distance": float(np.median(contract.EYE_DISTANCE / quality.scales(track)))})
        swap_in(new, data)
    done(frames, args.data)


def done(frames, data):
    """Say what was made and what to run next."""
    say(f"{frames} pictures in {Path(data) / 'face'}, {frames} features in {Path(data) / 'audio'}; "
        f"next: python train.py{console.option('data', data, 'data')}")


def av_offset(text):
    """Return "auto", "off" or whole milliseconds; ValueError for anything else."""
    if text in ("auto", "off"):
        return text
    if abs(int(text)) > MOST_OFFSET:
        raise ValueError
    return int(text)


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("video", nargs="?", metavar="VIDEO", help="the video (default: the only one in input/)")
    parser.add_argument("--data", default="data", help="working folder (default: data)")
    parser.add_argument("--face", type=console.positive(int), default=1, metavar="N",
                        help="which person, if there are several: 1 is the largest and longest seen (default: 1)")
    parser.add_argument("--av-offset", type=av_offset, default="auto", metavar="MS|auto|off",
                        help="100: the sound is 100 ms late and is moved earlier; auto (default): what is found, if "
                             "it is sure; off: nothing is moved")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
