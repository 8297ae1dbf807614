"""Interlaced pictures: the combs go, number, times and colours stay; all others are left alone."""

import numpy as np
import pytest
from helpers.videos import make_video

from utils.media.interlaced import deinterlaced
from utils.media.reader import read_frames
from utils.media.streams import Losses, open_media, pick_stream, timed_frames

PICTURES = 30


def bar(moment):
    """A white bar that moves by 8 px in a field."""
    picture = np.full((96, 128, 3), 40, np.uint8)
    left = round(8 * moment)
    picture[:, left % 100 : left % 100 + 20] = 220
    return picture


def interlaced():
    """Yield pictures that hold two moments each."""
    for k in range(PICTURES):
        picture = bar(2 * k)
        picture[1::2] = bar(2 * k + 1)[1::2]
        yield picture


def comb(luma):
    """How much rows differ from their neighbours."""
    luma = luma.astype(float)
    return np.abs(luma[1:-1] - (luma[:-2] + luma[2:]) / 2).mean()


def both(path):
    """The decoded pictures with their times, before and after."""
    with open_media(path) as container:
        before = list(timed_frames(pick_stream(container, "video"), Losses()))
    return before, list(deinterlaced(iter(before)))


FIELDS = {
    "H.264, top field first": ("mp4", {"options": {"x264-params": "tff=1"}}),
    "H.264, bottom field first": ("ts", {"options": {"x264-params": "bff=1"}}),
}


@pytest.mark.parametrize(("ending", "how"), FIELDS.values(), ids=FIELDS)
def test_combs_are_taken_out(tmp_path, ending, how):
    tags = {"colorspace": 1, "color_range": 1}
    path = make_video(tmp_path / f"a.{ending}", interlaced(), **how, tags=tags)
    before, after = both(path)
    assert len(after) == len(before) == PICTURES
    assert [timed[:2] for timed in after] == [timed[:2] for timed in before]
    assert comb(before[5].frame.to_ndarray(format="gray")) > 5
    for timed in after:
        assert comb(timed.frame.to_ndarray(format="gray")) < 1
        assert (timed.frame.colorspace, timed.frame.color_range) == (1, 1)
        assert not timed.frame.interlaced_frame


def test_reading_takes_them_out_in_any_part(tmp_path):
    how = {"options": {"x264-params": "tff=1"}, "gop": 10}
    path = make_video(tmp_path / "a.mp4", interlaced(), **how)
    frames = list(read_frames(path))
    assert len(frames) == PICTURES
    assert all(frame.was_interlaced for frame in frames)
    assert max(comb(frame.planes()[0]) for frame in frames) < 1
    assert comb(next(read_frames(path, 20, 21)).planes()[0]) < 1


def test_other_pictures_are_left_alone(tmp_path):
    path = make_video(tmp_path / "a.mp4", map(bar, range(10)))
    before, after = both(path)
    assert all(one.frame is other.frame for one, other in zip(before, after, strict=True))
    assert not next(read_frames(path)).was_interlaced


def test_interlaced_pictures_may_come_later(tmp_path):
    """Broadcasts change between the two; what comes before is passed on as it is."""
    plain, _ = both(make_video(tmp_path / "a.mp4", map(bar, range(5))))
    how = {"options": {"x264-params": "tff=1"}}
    combed, _ = both(make_video(tmp_path / "b.mp4", interlaced(), **how))
    found = list(deinterlaced(iter(plain + combed)))
    assert len(found) == len(plain) + len(combed)
    assert all(one.frame is other.frame for one, other in zip(plain, found, strict=False))
    assert max(comb(timed.frame.to_ndarray(format="gray")) for timed in found) < 1
