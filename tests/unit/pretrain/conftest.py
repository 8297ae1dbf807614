"""A speaker with two clips."""

import copy

import numpy as np
import pytest

from utils import storage
from utils.dataset.clip import Clip


@pytest.fixture
def voice(tiny_data):
    """The tiny clip twice, the second time with the face elsewhere in the picture."""
    clip = Clip(tiny_data)
    moved = copy.deepcopy(clip.track)
    moved.landmarks += np.float32((9, -4))
    track = storage.join_tracks([clip.track, moved])
    clip._fill(track, np.concatenate([clip.lower_faces] * 2), np.concatenate([clip.mel] * 2))
    return clip
