"""What utils.evaluate measures: pieces of speech, and takes that render, paste and measure each mouth once."""

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from utils import audio, contract, face, figures, media, pixels, sync, tracking
from utils.console import UserError
from utils.detail import Detail, smoothly
from utils.generate import lowers
from utils.paste import Paster

PIECE = 75            # frames of a piece at most (3 s): about one utterance
LEAST_PIECE = 25      # frames: shorter ones tell nothing
AROUND = 0.5          # of the face's size: what is seen of the frame around it when landmarks are found
SEAM_STEP = 5         # frames from one whose seam and grain are measured to the next
BAND = contract.FACE_SIZE / 28  # px of the face: how far from the border the grain is looked at


@dataclass(eq=False)
class Speech:
    """A piece of real speech: its first frame, how to hear its moments t (mel windows), its mouth (T, 2), its sound."""
    first: int
    hear: callable
    shape: np.ndarray
    sound: np.ndarray

    def apart(self, other):
        """True if they share no frame number."""
        return self.first + len(self.shape) <= other.first or other.first + len(other.shape) <= self.first


@dataclass(eq=False)
class Take:
    """One rendering. source: takes moments t and returns mel windows for the network, or lower faces to paste as is.

    `perform` fills in frames (T,), pictures (kind "own" only), shape (T, 2), lips (T, 40, 2) in face pixels, seams.
    """
    kind: str
    seen: Speech
    heard: Speech | None
    source: object
    count: int  # frames
    frames = pictures = shape = lips = seams = None


def pieces(frames, cuts):
    """Cut rising frame numbers into runs [(first, last + 1), ...] that cross no cut.

    Each has PIECE frames, or half of them all if they are few, and is cut from what still has LEAST_PIECE.
    """
    most = min(PIECE, len(frames) // 2)
    found = []
    for first, last in face.shots(cuts, frames[-1] + 1 if len(frames) else 0):
        first = max(first, frames[0])
        while last - first >= LEAST_PIECE:
            found.append((first, min(last, first + most)))
            first += most
    return found


def speeches(spans, hear, shape, sound):
    """Return the Speech of spans of a video. hear: takes its frame numbers; shape, sound: of all of it."""
    step = audio.SAMPLES_PER_FRAME
    return [Speech(first, lambda t, first=first: hear(first + t), shape[first:last], sound[first * step:last * step])
            for first, last in spans]


def video_speech(path):
    """Return the Speech pieces of another video, found as preprocess.py finds them."""
    total = media.probe(path)["frames"]
    track = tracking.track(frame.rgb() for frame in tqdm(media.read_frames(path), total=total, desc=f"reading {path}"))
    sound = media.read_sound(path, contract.SAMPLE_RATE, video_start=True)
    count = len(track["valid"])
    if sound is None or not track["valid"].any():
        raise UserError(f"--against {path} needs a face and sound; name another video of the person")
    sound, mel, _ = sync.in_step(sound[:, 0], track)
    rows = face.shot_bounds(track["cuts"], count) * contract.ROWS_PER_FRAME
    return speeches(pieces(np.arange(count), track["cuts"]), lambda i: audio.windows(mel, i, *rows[i].T),
                    track["shape"], audio.fit(sound, count))


class Stage:
    """One piece of footage, decoded once, onto which mouths are pasted and measured."""

    def __init__(self, footage, paste, clip, first, last):
        self.paste, self.order, self.transform = paste, np.arange(first, last), footage.track["transform"][first:last]
        self.frames = [(frame.planes(), frame.colours) for frame in media.read_frames(clip, first, last)]
        corners = contract.FACE_SIZE * np.array([(x, y) for x in (-AROUND, 1 + AROUND) for y in (-AROUND, 1 + AROUND)])
        points = np.concatenate([corners @ back[:, :2].T + back[:, 2] for back in
                                 map(cv2.invertAffineTransform, self.transform)])
        height, width = self.frames[0][0][0].shape
        self.corner = left, top = np.maximum(0, points.min(axis=0).astype(int) // 2 * 2)
        right, bottom = np.minimum((width, height), points.max(axis=0).astype(int) // 2 * 2)
        self.box = slice(top, bottom), slice(left, right)
        self.half = slice(top // 2, bottom // 2), slice(left // 2, right // 2)

    def show(self, pictures, seams):
        """Yield the RGB surroundings of the face with each lower face pasted; append the seam and grain of some."""
        for k, ((real, colours), lower) in enumerate(zip(self.frames, pictures, strict=False)):
            planes = [plane.copy() for plane in real]
            self.paste(planes, colours, self.order[k], lower)
            y, u, v = planes[0][self.box], planes[1][self.half], planes[2][self.half]
            if k % SEAM_STEP == 0:
                here = face.to_lower(face.within(self.transform[k], *self.corner[::-1]))  # box pixels -> lower pixels
                mask = smoothly(self.paste.mask(self.order[k]), here, y.shape[::-1])
                seams.append((figures.seam(y, real[0][self.box], mask),
                              figures.grain(y, real[0][self.box], mask, BAND / face.zoom(here))))
            u, v = (cv2.resize(c, y.shape[::-1], interpolation=cv2.INTER_LINEAR) for c in (u, v))
            yield pixels.to_uint8(pixels.yuv_to_rgb(y, u, v, colours))


def perform(footage, model, where, references, takes):
    """Render, paste and measure each take; return {kind: takes}, in the order given.

    model: in eval mode, on the device `where`.
    """
    paste = Paster(footage.track, Detail(footage.data, footage.meta, footage.track))
    clip = contract.source_path(footage.meta, footage.data)
    scenes, kinds = defaultdict(list), defaultdict(list)
    for take in takes:
        scenes[take.seen].append(take)
        kinds[take.kind].append(take)
    with tqdm(total=len(takes), desc="rendering and measuring", unit="take", leave=False) as bar:
        for seen, scene in scenes.items():
            stage = Stage(footage, paste, clip, seen.first, seen.first + len(seen.shape))
            for take in scene:
                take.frames, pictures = stage.order[:take.count], take.source
                if callable(take.source):
                    pictures = list(lowers(model, footage, references, take.frames, take.source, where))
                take.pictures, take.seams = pictures if take.kind == "own" else None, []
                track = tracking.track(stage.show(pictures, take.seams))
                if not track["valid"].any():
                    raise UserError(f"no face is found in the generated frames from {seen.first} on; train longer: "
                                    "python train.py --resume")
                lips = track["landmarks"][:, face.LIPS, :2] + stage.corner
                take.shape, take.lips = track["shape"], face.to_face(lips, stage.transform[:take.count])
                bar.update()
    return kinds
