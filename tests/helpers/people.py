"""Pictures of several people, and where a track has found one of them."""

from collections.abc import Iterable

import cv2
import numpy as np

from utils import sample
from utils.storage import Track

SIZE = (360, 640)  # height, width


def scene(
    faces: Iterable[tuple[int, int, int, float]], size: tuple[int, int] = SIZE
) -> np.ndarray:
    """RGB picture with drawn faces in it: (side, left, top, opening of the mouth) each."""
    picture = np.full((*size, 3), 90, np.uint8)
    for side, left, top, opening in faces:
        drawn = sample.draw_face(opening, 0.45, 0.0)
        drawn = cv2.resize(drawn, (side, side), interpolation=cv2.INTER_AREA)
        picture[top : top + side, left : left + side] = drawn
    return picture


def middle(track: Track) -> np.ndarray:
    """The x of the face in each frame, px."""
    return track.landmarks[:, :, 0].mean(axis=1)


def assert_follows(track: Track, expected: float | np.ndarray, tolerance: float = 25) -> None:
    """The face is found in every frame, where it is expected, px."""
    assert track.valid.all()
    assert (np.abs(middle(track) - expected) < tolerance).all()
