"""Following a face through a video: which person, in which frames, and where."""

import itertools
import math
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from utils.face.geometry import Box, shrink
from utils.face.landmarks import ALL_POINTS, Landmarker, fill_gaps, measure
from utils.storage import TRACK_ARRAYS, Track

# -- following -------------------------------------------------------------------------------------
CROP_FACE_SIZES = 3.0        # side of the crop in which a face is followed
STRAY_FACE_SIZES = 0.6       # a face further than this from its crop's middle gets a new crop
SMALLEST_GROWTH = 0.6        # a face shrunk to this share of its size gets a new crop
LARGEST_GROWTH = 1.6         # a face grown to this share of its size gets a new crop
SAME_FACE_SIZES = 0.7        # a face does not move further than this from one frame to the next
SAME_FACE_RATIO = 2          # a face does not grow or shrink by more from one frame to the next
SURVEY_FRAMES = 12           # from one look at the whole picture, for new people, to the next
MOST_PEOPLE = 4              # who are followed at once: each costs a landmarker's time
LOST_FRAMES = 3              # who has been missing for as long may be who appears elsewhere
BYSTANDER_SHARE = 0.1        # of a shot's frames: who is seen in fewer does not count
COPY_BYTES = 1 << 20         # read at once when landmarks go from one file to another

# -- cuts ------------------------------------------------------------------------------------------
CUT_RATIO = 4.0              # a cut changes the picture this many times as much as its neighbours
CUT_GREY_LEVELS = 2.0        # a cut changes a pixel by at least this much on average
CUT_NEIGHBOUR_FRAMES = 3     # to either side, with whose changes a cut is compared
CUT_THUMBNAIL_PX = 64, 64    # size of the small grey pictures from which a change is measured
CUT_SAMPLED_PX = 256         # pixels a side that are enough of a larger picture

NOT_FOUND = np.full((ALL_POINTS, 2), np.nan, np.float32)


class Place(NamedTuple):
    """Where a face is: the middle (x, y) and the longer side of its box, source px."""

    x: float
    y: float
    size: float

    def distance(self, other: "Place") -> float:
        """Distance from another place, px."""
        return np.hypot(self.x - other.x, self.y - other.y)

    def may_be(self, other: "Place") -> bool:
        """True if the two may be places of one face, a moment apart."""
        reach = SAME_FACE_SIZES * max(self.size, other.size)
        ratio = self.size / other.size
        return self.distance(other) < reach and 1 / SAME_FACE_RATIO < ratio < SAME_FACE_RATIO


class Tracking(NamedTuple):
    """The track of one person, and how many people each shot shows."""

    track: Track
    people: list[int]


# -- one picture -----------------------------------------------------------------------------------
def _place_of(points):
    """Place of the face with these landmarks (478, 2)."""
    low = points.min(axis=0)
    high = points.max(axis=0)
    x, y = (low + high) / 2
    return Place(x, y, size=(high - low).max())


def find_faces(
    rgb: np.ndarray,
    detector: Landmarker,
    closely: bool
) -> list[Place]:
    """Places of the faces in a picture.

    closely: if there are none, look for faces too small for the detector in enlarged tiles.
    """
    shorter, longer = sorted(rgb.shape[:2])
    sides = [longer]
    if closely:
        sides += [shorter, shorter // 2]
    for side in sides:
        places = _find_in_tiles(rgb, detector, side)
        if places:
            return places
    return []


def _find_in_tiles(rgb, detector, side):
    """Places of the faces in square tiles of the picture, which overlap by half."""
    height, width = rgb.shape[:2]
    step = max(1, side // 2)
    tops = range(0, max(1, height - step), step)
    lefts = range(0, max(1, width - step), step)
    places: list[Place] = []
    for top, left in itertools.product(tops, lefts):
        tile = rgb[top : top + side, left : left + side]
        for points in detector(tile):
            place = _place_of(points + np.array((left, top)))
            if not any(place.may_be(other) for other in places):
                places.append(place)
    return places


# -- one shot --------------------------------------------------------------------------------------
class Follower:
    """Follows one person through a shot, in a crop around the face.

    In a crop small faces are large enough, and other people stay out of sight. The landmarks go to
    a temporary file `rows`, because those of an hour take a third of a gigabyte.

    valid: for each frame of the shot, whether the person is found. place: where they were last.
    missing: frames since then. weight: sum of the face's sizes, px.
    """

    def __init__(self, place: Place, frames_before: int):
        """Begin at `place` after `frames_before` frames of the shot without this person."""
        self.rows = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self.valid: list[bool] = []
        self.weight = 0.0
        for _ in range(frames_before):
            self._record(None)
        self._aim(place)

    def move_to(self, place: Place):
        """Look around another place from now on."""
        self.landmarker.close()
        self._aim(place)

    def _aim(self, place):
        reach = CROP_FACE_SIZES / 2 * place.size
        self.crop = Box(  # which may reach beyond the right and lower edge of the frame
            top=int(max(0, place.y - reach)),
            bottom=int(place.y + reach) + 1,
            left=int(max(0, place.x - reach)),
            right=int(place.x + reach) + 1
        )
        self.place = place
        self.crop_place = place
        self.missing = 0
        self.landmarker = Landmarker()

    def add_frame(self, rgb: np.ndarray):
        """Find the person in the next frame."""
        points = self._find(rgb)
        self._record(points)
        if points is None:
            self.missing += 1
            return
        self.place = _place_of(points)
        self.missing = 0
        self.weight += self.place.size
        if self._strays():
            self.move_to(self.place)

    def _find(self, rgb):
        faces = self.landmarker(rgb[self.crop.slices])
        if not faces:
            return None
        points = faces[0] + np.array((self.crop.left, self.crop.top), np.float32)
        if not _place_of(points).may_be(self.place):
            return None  # somebody else, further away
        return points

    def _strays(self):
        """True if the face has moved or grown so much that it needs another crop."""
        crop = self.crop_place
        distance = self.place.distance(crop) / crop.size
        growth = self.place.size / crop.size
        return distance > STRAY_FACE_SIZES or not SMALLEST_GROWTH < growth < LARGEST_GROWTH

    def _record(self, points):
        self.valid.append(points is not None)
        row = NOT_FOUND if points is None else points
        self.rows.write(row.data)

    def close(self):
        """End the landmarker and drop the landmarks."""
        self.landmarker.close()
        self.rows.close()


class Shot:
    """The people of one shot, each with a follower.

    detector: Landmarker for several people. frames: how many were added.
    """

    def __init__(self, detector: Landmarker):
        self.detector = detector
        self.people: list[Follower] = []
        self.frames = 0

    def add_frame(self, rgb: np.ndarray):
        """Find everybody in the next frame; now and then also look for people who are new."""
        if self.frames % SURVEY_FRAMES == 0:
            self._survey(rgb)
        for person in self.people:
            person.add_frame(rgb)
        self.frames += 1

    def _survey(self, rgb):
        present = [person for person in self.people if not person.missing]
        for place in find_faces(rgb, self.detector, closely=not present):
            if any(place.may_be(person.place) for person in present):
                continue
            lost = [person for person in self.people if person.missing >= LOST_FRAMES]
            if lost:
                lost[0].move_to(place)
            elif len(self.people) < MOST_PEOPLE:
                self.people.append(Follower(place, self.frames))

    def ranked(self) -> list[Follower]:
        """The people who count, the largest and longest seen first."""
        fewest = BYSTANDER_SHARE * self.frames
        counting = [person for person in self.people if sum(person.valid) >= fewest]
        return sorted(counting, key=lambda person: person.weight, reverse=True)

    def choose(self, number: int, before: Place | None) -> Follower | None:
        """The follower of person `number` (1 is the first in rank), or None.

        before: where the person chosen in the shot before was last seen. Who is there now, and not
        much smaller than the first in rank, goes before the rank.
        """
        ranked = self.ranked()
        for person in ranked:
            large = number > 1 or person.weight > ranked[0].weight / 2
            stayed = before is not None and person.place.may_be(before)
            if large and stayed:
                return person
        if number > len(ranked):
            return None
        return ranked[number - 1]

    def close(self):
        """End all followers."""
        for person in self.people:
            person.close()


# -- the whole clip --------------------------------------------------------------------------------
def track_face(frames: Iterable[np.ndarray], number: int = 1) -> Tracking:
    """Find one person's face in RGB pictures (height, width, 3) uint8, and measure it.

    number: which person, 1 being the largest and longest seen of each shot. Frames without the face
    get landmarks interpolated between their neighbours, and valid False. Without any face every
    number of the track is NaN.
    """
    with tempfile.TemporaryFile() as rows:
        recording = _Recording(rows, number)
        detector = Landmarker(MOST_PEOPLE)
        shot = Shot(detector)
        try:
            for rgb, is_cut in find_cuts(frames):
                if is_cut and shot.frames:
                    recording.append(shot)
                    shot.close()
                    shot = Shot(detector)
                shot.add_frame(rgb)
            if shot.frames:
                recording.append(shot)
        finally:
            shot.close()
            detector.close()
        return Tracking(recording.measure(), recording.people)


class _Recording:
    """The chosen person of each shot, one shot after another; their landmarks are in `rows`."""

    def __init__(self, rows, number):
        self.rows = rows
        self.number = number
        self.valid: list[bool] = []
        self.cuts: list[int] = []
        self.people: list[int] = []
        self.place: Place | None = None

    def append(self, shot):
        self.cuts.append(len(self.valid))
        self.people.append(len(shot.ranked()))
        person = shot.choose(self.number, self.place)
        if person is None:
            self.valid += [False] * shot.frames
            for _ in range(shot.frames):
                self.rows.write(NOT_FOUND.data)
            return
        self.valid += person.valid
        self.place = person.place
        person.rows.seek(0)
        shutil.copyfileobj(person.rows, self.rows, COPY_BYTES)

    def measure(self):
        valid = np.array(self.valid, bool)
        cuts = np.array(self.cuts, np.int64)
        if not valid.any():
            unknown: dict = {
                name: np.full((len(valid), *shape), np.nan, dtype)
                for name, (dtype, shape) in TRACK_ARRAYS.items()
            }
            return Track(**{**unknown, "valid": valid, "cuts": cuts})
        self.rows.flush()
        shape = len(valid), *NOT_FOUND.shape
        landmarks = np.memmap(self.rows, np.float32, "r+", shape=shape)
        fill_gaps(landmarks, valid, cuts)
        return measure(landmarks, valid, cuts)


# -- cuts ------------------------------------------------------------------------------------------
def find_cuts(frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield (rgb, is_cut) for RGB pictures: True where a new shot, or another recording, begins.

    A cut is a change of the whole picture that stands out from those of the frames around it, so
    motion and noise are none. Holds CUT_NEIGHBOUR_FRAMES pictures.
    """
    waiting: deque[np.ndarray] = deque()
    changes: list[float] = []
    previous = np.zeros(CUT_THUMBNAIL_PX, np.uint8)  # any: the first frame is a cut anyway
    for rgb in frames:
        thumbnail = _thumbnail(rgb)
        change = cv2.absdiff(thumbnail, previous).mean()
        changes.append(change)
        previous = thumbnail
        waiting.append(rgb)
        if len(waiting) > CUT_NEIGHBOUR_FRAMES:
            frame = len(changes) - len(waiting)
            yield waiting.popleft(), _is_cut(changes, frame)
    while waiting:
        frame = len(changes) - len(waiting)
        yield waiting.popleft(), _is_cut(changes, frame)


def _thumbnail(rgb):
    """Small grey picture, uint8."""
    step = max(1, min(rgb.shape[:2]) // CUT_SAMPLED_PX)
    small = shrink(rgb[::step, ::step], CUT_THUMBNAIL_PX)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def _is_cut(changes, frame):
    """True if the change from the frame before to this one is a cut; the first frame's is."""
    if frame == 0:
        return True
    first = max(1, frame - CUT_NEIGHBOUR_FRAMES)
    before = changes[first:frame]
    after = changes[frame + 1 : frame + 1 + CUT_NEIGHBOUR_FRAMES]
    usual = max(before + after, default=math.inf)
    return changes[frame] > max(CUT_GREY_LEVELS, CUT_RATIO * usual)
