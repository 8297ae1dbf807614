"""Finding and following a face: which of the people, in which frames, and its landmarks."""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from collections import deque
from pathlib import Path

import cv2
import numpy as np

from utils.console import UserError
from utils.face import measure, shots

MODEL = Path(__file__).parent / "assets" / "face_landmarker.task"
MODEL_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
POINTS = 478            # landmarks of a face

MAX_SIDE = 640          # px: larger pictures are shrunk for the landmarker, which works on 256 px anyway
CROP = 3.0              # side of the crop in which a face is followed, in face sizes
STRAY = 0.6             # face sizes that a face may stray from the middle of its crop before the crop is moved
SURVEY = 12             # frames from one look at the whole picture to the next: who is new?
MOST_PEOPLE = 4         # who are followed at once
LOST = 3                # frames after which somebody who appears elsewhere may be the one who is missed
BYSTANDER = 0.1         # share of a shot's frames in which somebody has to be seen to count
CUT_RATIO, CUT_LEAST = 4.0, 2.0  # a cut: a change this many times its neighbours', and this many grey levels
CUT_NEIGHBOURS = 3      # frames on either side


# -- one picture -------------------------------------------------------------------------------------
@contextlib.contextmanager
def _quiet():
    """Silence the notes that MediaPipe's C++ side prints while it starts; errors still come as exceptions."""
    keep, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(keep, 2)
        os.close(keep)
        os.close(null)


@functools.cache
def _model():
    content = MODEL.read_bytes() if MODEL.is_file() else b""
    if hashlib.sha256(content).hexdigest() != MODEL_SHA256:
        raise UserError(f"{MODEL} is missing or damaged (its SHA-256 is not the expected one); "
                        "restore it from the project and run again")
    return content


class Landmarker:
    """478 landmarks of each face in a picture (MediaPipe FaceLandmarker).

    people = 1: pictures of one shot in order, with one face that is followed (video mode: steadier and faster).
    people > 1: pictures on their own, with so many faces at most.
    """

    def __init__(self, people=1):
        import mediapipe  # here, because importing it takes seconds that --help should not
        from mediapipe.tasks.python import BaseOptions, vision

        mode = vision.RunningMode.VIDEO if people == 1 else vision.RunningMode.IMAGE
        options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_buffer=_model()),
                                               running_mode=mode, num_faces=people)
        with _quiet():
            landmarker = vision.FaceLandmarker.create_from_options(options)
            self.find = landmarker.detect_for_video if people == 1 else lambda picture, time: landmarker.detect(picture)
            self.close = landmarker.close
            self.picture = lambda rgb: mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)
            self.time = 0
            self(np.zeros((64, 64, 3), np.uint8))

    def __call__(self, rgb):
        """Return the landmarks of each face of an RGB uint8 picture: a list of (478, 3) float32 in its pixels."""
        height, width = rgb.shape[:2]
        shrink = MAX_SIDE / max(height, width)
        small = cv2.resize(rgb, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else rgb
        self.time += 40  # ms; video mode wants timestamps that rise
        found = self.find(self.picture(np.ascontiguousarray(small)), self.time).face_landmarks
        size = np.array((width, height, width), np.float32)
        return [np.array([(p.x, p.y, p.z) for p in points], np.float32) * size for points in found]


def place_of(points):
    """Return (x, y, size) of a face in pixels: the middle and the longer side of its box."""
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    return np.array((*(low + high) / 2, (high - low).max()))


def alike(a, b):
    """True if two places may be those of one face, a moment apart."""
    return np.hypot(*(a - b)[:2]) < 0.7 * max(a[2], b[2]) and 0.5 < a[2] / b[2] < 2


def look(rgb, find, closely):
    """Return the places of the faces in a picture. With `closely`, faces that are too small for the detector are
    looked for in enlarged parts of the picture if there are no others."""
    height, width = rgb.shape[:2]
    short = min(height, width)
    for side in (max(height, width), short, short // 2) if closely else (max(height, width),):
        found = []
        for top in range(0, max(1, height - side // 2), max(1, side // 2)):
            for left in range(0, max(1, width - side // 2), max(1, side // 2)):
                for points in find(rgb[top:top + side, left:left + side]):
                    place = place_of(points + (left, top, 0))
                    if not any(alike(place, other) for other in found):
                        found.append(place)
        if found:
            return found
    return []


# -- one shot ----------------------------------------------------------------------------------------
def _scratch():
    return tempfile.TemporaryFile()  # noqa: SIM115 - it goes when the last reference does


class Follower:
    """Follows one person through a shot, in a crop about the face: so small faces are large enough, and others stay
    out of sight. The landmarks go to a temporary file, because those of an hour need half a gigabyte."""

    def __init__(self, place, size, before):
        self.rows, self.seen, self.missing, self.weight = _scratch(), [], 0, 0.0
        self.landmarker = None
        for _ in range(before):
            self._note(None)
        self.turn_to(place, size)

    def turn_to(self, place, size):
        """Look about a place from now on; size: (height, width) of the frames."""
        self.close()
        self.place, self.middle, self.missing = place, place, 0
        low = np.maximum(0, place[:2] - CROP / 2 * place[2]).astype(int)
        high = np.minimum(size[::-1], place[:2] + CROP / 2 * place[2]).astype(int) + 1
        self.left, self.top = low
        self.crop = slice(low[1], high[1]), slice(low[0], high[0])
        self.landmarker = Landmarker()

    def __call__(self, rgb):
        """Look at the next frame."""
        points = next((points + np.float32((self.left, self.top, 0)) for points in self.landmarker(rgb[self.crop])
                       ), None)
        if points is not None and not alike(place_of(points), self.place):
            points = None  # it is somebody else, further away
        self._note(points)
        if points is None:
            self.missing += 1
            return
        self.place, self.missing = place_of(points), 0
        self.weight += self.place[2]
        strayed = np.hypot(*(self.place - self.middle)[:2]) / self.middle[2]
        if strayed > STRAY or not 0.6 < self.place[2] / self.middle[2] < 1.6:
            self.turn_to(self.place, rgb.shape[:2])

    def _note(self, points):
        self.seen.append(points is not None)
        self.rows.write((np.full((POINTS, 3), np.nan, np.float32) if points is None else points).tobytes())

    def close(self):
        if self.landmarker is not None:
            self.landmarker.close()
            self.landmarker = None


class Shot:
    """The people of one shot and their followers. find: a Landmarker of several people."""

    def __init__(self, find):
        self.find, self.people, self.frames = find, [], 0

    def __call__(self, rgb):
        """Look at the next frame."""
        if self.frames % SURVEY == 0:
            self._meet(rgb)
        for person in self.people:
            person(rgb)
        self.frames += 1

    def _meet(self, rgb):
        present = [person for person in self.people if not person.missing]
        for place in look(rgb, self.find, closely=not present):
            if any(alike(place, person.place) for person in present):
                continue
            missed = [person for person in self.people if person.missing >= LOST]
            if missed:
                missed[0].turn_to(place, rgb.shape[:2])
            elif len(self.people) < MOST_PEOPLE:
                self.people.append(Follower(place, rgb.shape[:2], self.frames))

    def ranked(self):
        """Return the people who count, the largest and longest seen first."""
        count = [person for person in self.people if sum(person.seen) >= BYSTANDER * self.frames]
        return sorted(count, key=lambda person: -person.weight)

    def choose(self, number, before):
        """Return the follower of person `number` (1 is the first in rank), or None. One who is where the chosen one
        of the shot `before` (a place, or None) was last seen, and not much smaller than the first, is taken first."""
        ranked = self.ranked()
        there = [person for person in ranked if before is not None and alike(person.place, before)
                 and (number > 1 or person.weight > ranked[0].weight / 2)]
        return (there or ranked[number - 1:] or [None])[0]

    def close(self):
        for person in self.people:
            person.close()
            person.rows.close()


# -- the whole clip ----------------------------------------------------------------------------------
def find_cuts(frames):
    """Yield (rgb, is_cut) for RGB pictures: True where a new shot, or another recording, begins.

    A cut is a change of the whole picture that stands out from those of the frames around it, so motion and
    noise are none. Holds CUT_NEIGHBOURS pictures.
    """
    waiting, changes, before, count = deque(), [], None, 0

    def judge(k):
        near = changes[max(1, k - CUT_NEIGHBOURS):k] + changes[k + 1:k + 1 + CUT_NEIGHBOURS]
        return k == 0 or (changes[k] > CUT_LEAST and changes[k] > CUT_RATIO * max(near, default=np.inf))

    for rgb in frames:
        step = max(1, min(rgb.shape[:2]) // 256)  # of a large picture every so many pixels will do
        small = cv2.resize(rgb[::step, ::step], (64, 64), interpolation=cv2.INTER_AREA)
        small = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        small = small.astype(np.float32)
        changes.append(0.0 if before is None else float(np.abs(small - before).mean()))
        before = small
        waiting.append(rgb)
        if len(waiting) > CUT_NEIGHBOURS:
            yield waiting.popleft(), judge(count)
            count += 1
    for rgb in waiting:
        yield rgb, judge(count)
        count += 1


def track(frames, number=1, crowd=None):
    """Find the face in each RGB picture and measure it.

    number: which person, 1 being the largest and longest seen of each shot. crowd: a list to which the number of
    people in each shot is appended. Returns a dict of arrays as `contract.read_track` describes them (landmarks:
    mapped from a temporary file). Frames without the face get landmarks interpolated between their neighbours and
    valid False. `landmarks` and `valid` are empty without pictures.
    """
    find, rows, valid, cuts = Landmarker(MOST_PEOPLE), _scratch(), [], []
    shot, place = Shot(find), None

    def finish():
        chosen = shot.choose(number, place)
        if crowd is not None and shot.frames:
            crowd.append(len(shot.ranked()))
        if chosen is None:
            valid.extend([False] * shot.frames)
            rows.write(np.full((shot.frames, POINTS, 3), np.nan, np.float32).tobytes())
        else:
            valid.extend(chosen.seen)
            chosen.rows.seek(0)
            shutil.copyfileobj(chosen.rows, rows, 1 << 20)
        shot.close()
        return place if chosen is None else chosen.place

    try:
        for i, (rgb, is_cut) in enumerate(find_cuts(frames)):
            if is_cut:
                place, shot = finish(), Shot(find)
                cuts.append(i)
            shot(rgb)
        finish()
    finally:
        shot.close()
        find.close()
    rows.flush()
    valid, cuts = np.array(valid, bool), np.array(cuts, np.int64)
    if not valid.any():
        return {"landmarks": np.full((len(valid), POINTS, 3), np.nan, np.float32), "valid": valid, "cuts": cuts}
    landmarks = np.memmap(rows, np.float32, "r+", shape=(len(valid), POINTS, 3))
    interpolate(landmarks, valid, cuts)
    return measure(landmarks, valid, cuts)


def interpolate(landmarks, valid, cuts):
    """Fill in the landmarks (N, 478, 3) of invalid frames, in place: on the line between the nearest valid frames of
    the same shot, or of any shot if it has none."""
    for first, last in shots(cuts, len(valid)):
        known = first + np.flatnonzero(valid[first:last])
        if not len(known):  # a shot without any face: never shown, so another shot's will do
            known = np.flatnonzero(valid)
        for i in first + np.flatnonzero(~valid[first:last]):
            after = np.searchsorted(known, i)
            a, b = known[max(0, after - 1)], known[min(after, len(known) - 1)]
            share = (i - a) / (b - a) if a < i < b else float(i >= b)
            landmarks[i] = landmarks[a] + share * (landmarks[b] - landmarks[a])
