"""Videos written: they play everywhere, say that they are generated, and are whole or not there."""

import errno
import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.videos import coded, make_video

from utils.media.reader import probe, read_frames, read_sound
from utils.media.writer import AAC_RATES, Quality, SoundTrack, VideoWriter

RATE = 48000
QUALITY = Quality(crf=18, preset="veryfast")
GREYS = [np.full((24, 32), 128, np.uint8)] * 2


def click(seconds, at):
    """Silence (n, 1) with a click of 2 ms at `at` s."""
    sound = np.zeros((round(seconds * RATE), 1), np.float32)
    sound[round(at * RATE):round((at + 0.002) * RATE)] = 0.9
    return sound


def track(*blocks, rate=RATE, channels=1):
    """SoundTrack of these blocks."""
    return SoundTrack(iter(blocks), rate, channels)


def write(path, frames, sound=None, like=None, fail=False):
    """Write pictures of rising grey; raise in the middle if asked."""
    with VideoWriter(path, (64, 48), QUALITY, sound=sound, like=like) as video:
        for k in range(frames):
            if fail and k == frames // 2:
                raise RuntimeError("in the middle")
            video.write([np.full((48, 64), 40 + k, np.uint8), *GREYS])


def boxes(path):
    """Names of an mp4's top-level boxes in their order."""
    content = path.read_bytes()
    names = []
    at = 0
    while at < len(content):
        size, name = struct.unpack(">I4s", content[at:at + 8])
        names.append(name.decode())
        at += size
    return names


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def test_a_video_plays_everywhere_and_says_that_it_is_generated(tmp_path):
    path = tmp_path / "a.mp4"
    write(path, 50, track(*np.array_split(click(2, 1), 37)))
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height) == (64, 48)
        assert (video.frames, video.average_rate) == (50, 25)
        sound = container.streams.audio[0]
        assert (sound.codec_context.name, sound.rate, sound.channels) == ("aac", RATE, 1)
        assert "AI-generated" in container.metadata["comment"]
    order = boxes(path)
    assert order.index("moov") < order.index("mdat")
    assert names_in(tmp_path) == ["a.mp4"]
    grey = [frame.planes()[0].mean() for frame in read_frames(path)]
    np.testing.assert_allclose(grey, np.arange(40, 90), atol=1)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_sound_shorter_or_longer_than_the_picture_is_written_whole(tmp_path, seconds):
    path = tmp_path / "a.mp4"
    sound = click(seconds, 0.25)
    write(path, 25, track(*np.array_split(sound, 5)))
    assert sum(1 for _ in read_frames(path)) == 25
    back = read_sound(path, RATE, video_start=True)[:, 0]
    assert abs(len(back) - len(sound)) <= 2048
    assert abs(np.argmax(back) / RATE - 0.25) < 0.01


def test_a_sound_without_samples_leaves_the_picture_whole(tmp_path):
    write(tmp_path / "a.mp4", 25, track())
    assert sum(1 for _ in read_frames(tmp_path / "a.mp4")) == 25


@pytest.mark.parametrize("rate", AAC_RATES)
def test_every_rate_and_two_channels_can_be_written(tmp_path, rate):
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (rate, 2)).astype(np.float32)
    write(tmp_path / "a.mp4", 25, track(sound, rate=rate, channels=2))
    info = probe(tmp_path / "a.mp4")
    assert (info.sample_rate, info.channels, info.frames) == (rate, 2, 25)


def test_a_failed_run_leaves_the_earlier_video_and_nothing_else(tmp_path):
    path = tmp_path / "a.mp4"
    write(path, 10)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="in the middle"):
        write(path, 20, track(click(1, 0.5)), fail=True)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == ["a.mp4"]


def test_a_video_that_cannot_be_replaced_leaves_the_new_one_under_another_name(
    tmp_path, monkeypatch, capsys
):
    """As on Windows while a player shows the old one."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"shown")
    (tmp_path / "a-2.mp4").write_bytes(b"of another run")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "replace", refuse)
    with VideoWriter(path, (64, 48), QUALITY) as video:
        video.write([np.full((48, 64), 40, np.uint8), *GREYS])
    assert video.path == tmp_path / "a-3.mp4"
    assert probe(video.path).frames == 1
    assert sorted(names_in(tmp_path)) == ["a-2.mp4", "a-3.mp4", "a.mp4"]
    assert path.read_bytes() == b"shown"
    assert f"the new video is {video.path}" in capsys.readouterr().err


@pytest.mark.parametrize("ratio", [Fraction(64, 45), Fraction(45, 64), Fraction(4, 3)])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_the_shape_of_pixels_is_kept(tmp_path, ratio, ending):
    tags = {"sample_aspect_ratio": ratio}
    source = make_video(tmp_path / f"a.{ending}", map(coded, range(3)), tags=tags)
    write(tmp_path / "b.mp4", 3, like=next(read_frames(source)))
    assert probe(tmp_path / "b.mp4").pixel_ratio == ratio


@pytest.mark.parametrize(("space", "span"), [(1, 1), (5, 2), (9, 1)])
def test_the_colour_description_of_the_source_is_kept(tmp_path, space, span):
    tags = {"colorspace": space, "color_range": span}
    source = make_video(tmp_path / "a.mp4", map(coded, range(3)), tags=tags)
    first = next(read_frames(source))
    write(tmp_path / "b.mp4", 3, like=first)
    assert next(read_frames(tmp_path / "b.mp4")).colours == first.colours
