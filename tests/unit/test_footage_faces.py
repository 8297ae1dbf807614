"""The faces of footage: how large they are drawn, and what of them is kept in full size."""

import cv2
import numpy as np
import pytest

from utils import storage
from utils.contract import FACE_SIZE, LOWER_HEIGHT, LOWER_TOP, face_path, reference_path
from utils.face.geometry import Affine, align
from utils.footage_faces import MOST_ENLARGED, choose_scale
from utils.media.pixels import read_png
from utils.media.reader import read_frames
from utils.storage import SCALES


# -- the scale -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("face_px", "scale"), [(130, 1), (190, 1), (279, 2), (464, 3), (640, 4), (1500, 4)]
)
def test_a_face_is_drawn_about_as_large_as_it_is(face_px, scale):
    scales = FACE_SIZE / np.full(50, face_px)
    assert choose_scale(scales) == scale
    scales[:10] /= 20  # a few frames do not count
    assert choose_scale(scales) == scale
    assert type(choose_scale(scales)) is int


def test_no_face_is_enlarged_much_nor_drawn_larger_than_it_must():
    for face_px in range(20, int(FACE_SIZE * SCALES[-1] * MOST_ENLARGED)):
        scale = choose_scale(np.array([FACE_SIZE / face_px]))
        assert scale in SCALES
        assert face_px / (FACE_SIZE * scale) <= MOST_ENLARGED + 1e-9
        assert scale == 1 or face_px / (FACE_SIZE * (scale - 1)) > MOST_ENLARGED - 1e-9


# -- what is kept ----------------------------------------------------------------------------------
def test_what_was_kept_is_the_source_in_full_size(tiny_data, tiny_clip):
    meta = storage.read_meta(tiny_data)
    track = storage.read_track(tiny_data, meta)
    files = sorted((tiny_data / "reference").iterdir())
    assert [int(path.stem) for path in files] == meta.references
    assert meta.scale == 3
    size = (FACE_SIZE * 3, LOWER_HEIGHT * 3)
    for i in meta.references[::10]:
        kept = read_png(reference_path(tiny_data, i))
        source = next(read_frames(tiny_clip, i, i + 1)).rgb()
        to_large = Affine(track.transform[i]).to_lower_half().upscaled(3)
        assert np.array_equal(kept, align(source, to_large, size))
        small = cv2.resize(kept, (FACE_SIZE, LOWER_HEIGHT), interpolation=cv2.INTER_AREA)
        seen = read_png(face_path(tiny_data, i))[LOWER_TOP:]
        assert np.abs(small.astype(int) - seen).mean() < 2
