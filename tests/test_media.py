"""Video and sound, in and out: 25 pictures a second by presentation time, sound in step, damage survived."""

import functools
import gc
import struct
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest

from conftest import coded, make_video, number_of, one_line
from utils import media, pixels
from utils.console import UserError

LONG_GOP = 120


def numbers(frames):
    """Return the numbers that frames of `coded` pictures carry."""
    return [number_of(frame.rgb()) for frame in frames]


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """1732 numbered pictures at 25 fps with few key frames."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return make_video(path, map(coded, range(1732)), gop=LONG_GOP)


# -- 25 pictures a second ----------------------------------------------------------------------------
def test_25_fps_stays_as_it_is(long_video):
    assert numbers(media.read_frames(long_video)) == list(range(1732))
    assert media.probe(long_video) == {"video": True, "sound": False, "seconds": pytest.approx(69.28), "frames": 1732,
                                       "rate": 0, "channels": 0}


@pytest.mark.parametrize(("rate", "pictures", "frames"), [(30, 300, 250), (50, 200, 100), (24, 120, 125),
                                                          (15, 60, 100), ("30000/1001", 300, 250)])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_other_rates_keep_their_timing(tmp_path, rate, pictures, frames, ending):
    path = make_video(tmp_path / f"a.{ending}", map(coded, range(pictures)), rate=rate)
    shown = numbers(media.read_frames(path))
    assert len(shown) == frames
    one = float(1 / Fraction(rate))
    for k, number in enumerate(shown):  # on display at k/25 s, give or take the quarter frame of EARLY
        assert number * one <= k / 25 + media.EARLY + 1e-3
        assert (number + 1) * one >= k / 25 + media.EARLY - 1e-3 or number == pictures - 1


def test_a_variable_rate_keeps_its_timing(tmp_path):
    gaps = np.random.default_rng(3).choice([0.02, 0.033, 0.04, 0.1, 0.5], 60)
    times = np.concatenate([[0], np.cumsum(gaps)])
    path = make_video(tmp_path / "a.mkv", map(coded, range(61)), times=times)
    shown = numbers(media.read_frames(path))
    expected = [int(np.flatnonzero(times <= k / 25 + media.EARLY)[-1]) for k in range(int(times[-1] * 25))]
    wrong = [k for k, (a, b) in enumerate(zip(shown, expected, strict=False)) if a != b
             and min(abs(times - k / 25 - media.EARLY)) > 2e-3]
    assert not wrong and 0 <= len(shown) - len(expected) <= 3


def test_a_picture_that_starts_late_is_frame_0(tmp_path):
    path = make_video(tmp_path / "a.mkv", map(coded, range(50)), times=[7.3 + k / 25 for k in range(50)])
    assert numbers(media.read_frames(path)) == list(range(50))
    assert numbers(media.read_frames(path, 45, 50)) == [45, 46, 47, 48, 49]


# -- any part of it ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("start", "stop"), [(0, 3), (1, 2), (49, 53), (51, 52), (119, 122), (120, 121), (239, 243),
                                             (1000, 1010), (1731, 1732), (1725, None)])
def test_a_part_equals_the_slice_of_the_whole(long_video, start, stop):
    assert numbers(media.read_frames(long_video, start, stop)) == list(range(start, 1732 if stop is None else stop))


@pytest.mark.parametrize(("rate", "ending"), [(30, "mp4"), (24, "mkv"), (50, "ts")])
def test_a_part_equals_the_slice_at_other_rates_and_in_other_containers(tmp_path, rate, ending):
    path = make_video(tmp_path / f"a.{ending}", map(coded, range(8 * rate)), rate=rate, gop=70)
    whole = numbers(media.read_frames(path))
    for start in (2, 51, 60, 77, 120, 196):
        assert numbers(media.read_frames(path, start, start + 3)) == whole[start:start + 3], start


PING_PONG = [*range(100, 140), *range(138, 90, -1), *range(92, 100)]


@pytest.mark.parametrize("order", [PING_PONG, [5], [5, 6], [6, 5], [3, 2, 1, 0, 1, 2], [0, 1, 0, 1, 0],
                                   [*range(1700, 1732), *range(1730, 1690, -1)]])
@pytest.mark.parametrize("held", [media.REVERSE_BYTES, 1, 5 * 64 * 48 * 3 // 2])
def test_read_order_gives_the_pictures_in_that_order(long_video, monkeypatch, order, held):
    monkeypatch.setattr(media, "REVERSE_BYTES", held)
    assert numbers(media.read_order(long_video, order)) == order


def test_footage_that_runs_backwards_is_held_in_pieces(long_video, monkeypatch):
    """No more than five pictures live at a time, in groups of 120."""
    alive, most = weakref.WeakSet(), []
    real = media.Frame

    @functools.wraps(real)
    def noted(*arguments):
        frame = real(*arguments)
        alive.add(frame)
        most.append(len(alive))
        return frame

    monkeypatch.setattr(real, "__hash__", object.__hash__)
    monkeypatch.setattr(media, "Frame", noted)
    monkeypatch.setattr(media, "REVERSE_BYTES", 5 * 64 * 48 * 3 // 2)
    assert numbers(media.read_order(long_video, range(160, 100, -1))) == list(range(160, 100, -1))
    assert max(most) <= 5 + 2


def test_no_decoder_keeps_its_memory_after_a_run(long_video):
    """Without the garbage collector's help no picture of the twelve runs stays but one of the first look."""
    gc.collect()
    gc.disable()
    try:
        before = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
        assert sum(1 for _ in media.read_order(long_video, [*range(10), *range(8, 0, -1)] * 6)) == 108
        assert sum(type(thing) is av.VideoFrame for thing in gc.get_objects()) <= before + 1
    finally:
        gc.enable()


def test_what_lies_between_key_frames_is_decoded_once_if_it_fits(long_video, monkeypatch):
    """300 pictures backwards from the middle of the third group: two whole groups and the part."""
    real, decoded = media._timed, []

    def noted(*arguments):
        for entry in real(*arguments):
            decoded.append(entry)
            yield entry

    monkeypatch.setattr(media, "_timed", noted)
    assert numbers(media.read_order(long_video, range(299, -1, -1))) == list(range(299, -1, -1))
    assert len(decoded) <= 300 + 3 * 3  # and a few to find where a picture ends


# -- sound in step -----------------------------------------------------------------------------------
RATE = 48000


def click(seconds, at):
    """Return `seconds` of silence with a click of 2 ms at `at`."""
    sound = np.zeros(round(seconds * RATE), np.float32)
    sound[round(at * RATE):round((at + 0.002) * RATE)] = 0.9
    return sound


def flash(frames, at):
    """Return black pictures with a white one at frame `at`."""
    return [np.full((48, 64, 3), 235 if k == at else 16, np.uint8) for k in range(frames)]


def difference(path):
    """Return by how many seconds the click is after the flash."""
    light = [frame.rgb().mean() for frame in media.read_frames(path)]
    sound = np.abs(media.read_sound(path, 16000, video_start=True)[:, 0])
    assert max(light) > 150 and sound.max() > 0.1
    return np.argmax(sound) / 16000 - np.argmax(light) / 25


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "aac"), ("mkv", "aac"), ("mkv", "pcm_s16le"), ("ts", "aac"),
                                               ("mov", "pcm_s16le")])
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_click_stays_with_its_flash(tmp_path, ending, codec, start):
    path = make_video(tmp_path / f"a.{ending}", flash(100, 50), sound=click(4 - start, 2 - start), sound_start=start,
                      sound_codec=codec)
    assert abs(difference(path)) < 0.02


def test_a_click_stays_with_its_flash_where_the_picture_starts_late(tmp_path):
    path = make_video(tmp_path / "a.mkv", flash(75, 25), times=[1 + k / 25 for k in range(75)], sound=click(4, 2))
    assert abs(difference(path)) < 0.02


def test_sound_that_starts_late_is_led_in_by_silence(tmp_path):
    tone = (0.5 * np.sin(np.arange(RATE) * 0.05)).astype(np.float32)
    path = make_video(tmp_path / "a.mkv", flash(50, 0), sound=tone, sound_start=0.5, sound_codec="pcm_s16le")
    sound = media.read_sound(path, 16000, video_start=True)[:, 0]
    assert abs(len(sound) - 24000) <= 160
    assert np.abs(sound[:7800]).max() < 1e-3 and np.abs(sound[8200:23000]).max() > 0.4


def test_sound_is_mixed_resampled_and_missing_where_there_is_none(tmp_path, long_video):
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    path = make_video(tmp_path / "a.mov", flash(25, 0), sound=tone, sound_codec="pcm_s16le")
    sound = media.read_sound(path, 16000, channels=2)
    assert sound.shape == (16000, 2) and sound.dtype == np.float32
    assert np.argmax(np.abs(np.fft.rfft(sound[:, 0]))) == 440
    assert media.read_sound(long_video, 16000) is None


# -- damage ------------------------------------------------------------------------------------------
def test_a_file_that_was_cut_gives_what_is_left_and_says_what_is_not(tmp_path):
    whole = make_video(tmp_path / "a.mkv", map(coded, range(500)), gop=50).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[:len(whole) * 6 // 10])
    losses = media.Losses()
    shown = numbers(media.read_frames(tmp_path / "cut.mkv", losses=losses))
    assert 200 < len(shown) < 400 and shown[:-5] == list(range(len(shown) - 5))
    assert losses.seconds == pytest.approx(20 - len(shown) / 25, abs=0.1)


@pytest.mark.parametrize(("ending", "header"), [("mkv", 12), ("mp4", 0)])
def test_damage_in_the_middle_costs_only_the_pictures_about_it(tmp_path, ending, header):
    path = make_video(tmp_path / f"a.{ending}", map(coded, range(300)), gop=25)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for first, size in packets[130:140]:
        content[first + header:first + size] = b"\xff" * max(0, size - header)
    (tmp_path / f"hurt.{ending}").write_bytes(content)
    losses = media.Losses()
    shown = numbers(media.read_frames(tmp_path / f"hurt.{ending}", losses=losses))
    assert len(shown) == 300 and shown[:120] == list(range(120)) and shown[-145:] == list(range(155, 300))
    assert shown != list(range(300)) and losses.packets > 0 and losses.seconds < 0.05


def test_an_undamaged_file_has_no_losses(long_video):
    losses = media.Losses()
    assert sum(1 for _ in media.read_frames(long_video, 1600, losses=losses)) == 132
    assert losses.packets == 0 and losses.seconds < 0.05


def read_all(path):
    """Read the pictures and then the sound of a file."""
    list(media.read_frames(path))
    media.read_sound(path, 16000)


@pytest.mark.parametrize("kind", ["text", "empty", "folder", "missing", "no index"])
@pytest.mark.parametrize("read", [media.probe, read_all, lambda path: media.read_sound(path, 16000)])
def test_what_is_no_video_is_refused_in_one_line(tmp_path, kind, read):
    path = tmp_path / "a.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "no index":
        path.write_bytes(make_video(tmp_path / "b.mp4", map(coded, range(50))).read_bytes()[:800])
    elif kind != "missing":
        path.write_bytes(b"a letter\n" * 500 * (kind == "text"))
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in one_line(error)


def test_sound_alone_is_no_video(tiny_speech):
    assert media.probe(tiny_speech)["video"] is False
    with pytest.raises(UserError) as error:
        list(media.read_frames(tiny_speech))
    assert "no picture" in one_line(error)


# -- colour and size ---------------------------------------------------------------------------------
COLOURS = [(*weights, full) for weights in ((0.299, 0.114), *set(media.LUMA_WEIGHTS.values())) for full in (0, 1)]


@pytest.mark.parametrize("colours", COLOURS)
def test_rgb_to_yuv_and_back_is_the_same_colour(colours):
    rgb = np.random.default_rng(0).uniform(0, 255, (40, 50, 3)).astype(np.float32)
    planes = pixels.rgb_to_yuv(rgb, colours)
    np.testing.assert_allclose(pixels.yuv_to_rgb(*planes, colours), rgb, atol=0.01)
    grey = pixels.rgb_to_yuv(np.full((1, 1, 3), 255, np.float32), colours)
    np.testing.assert_allclose(np.ravel(grey), (255, 128, 128) if colours[2] else (235, 128, 128), atol=0.01)


@pytest.mark.parametrize(("space", "span"), [(1, 1), (1, 2), (5, 1), (5, 2), (9, 1)])
def test_planes_have_the_colours_that_ffmpeg_shows(tmp_path, space, span):
    flat = np.array([[[200, 40, 40], [40, 180, 60]], [[50, 60, 210], [220, 200, 90]]], np.uint8)
    picture = np.kron(flat, np.ones((32, 32, 1), np.uint8))
    path = make_video(tmp_path / "a.mp4", [picture] * 3, tags={"colorspace": space, "color_range": span},
                      options={"crf": "5"})
    frame = next(media.read_frames(path))
    assert frame.colours == (*media.LUMA_WEIGHTS.get(space, (0.299, 0.114)), span == 2)
    y, u, v = frame.planes()
    rgb = pixels.yuv_to_rgb(y, np.kron(u, np.ones((2, 2))), np.kron(v, np.ones((2, 2))), frame.colours)
    for rows, columns in ((slice(8, 24), slice(8, 24)), (slice(8, 24), slice(40, 56)), (slice(40, 56), slice(8, 24)),
                          (slice(40, 56), slice(40, 56))):
        mine, ffmpegs, drawn = (p[rows, columns].reshape(-1, 3).mean(axis=0) for p in (rgb, frame.rgb(), picture))
        np.testing.assert_allclose(mine, ffmpegs, atol=3)
        np.testing.assert_allclose(mine, drawn, atol=5)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("span", [1, 2])
def test_other_sample_formats_keep_their_colours_in_the_planes(tmp_path, pix_fmt, span):
    picture = np.full((48, 64, 3), (200, 120, 60), np.uint8)
    path = make_video(tmp_path / "a.mkv", [picture] * 2, codec="ffv1", pix_fmt=pix_fmt,
                      tags={"colorspace": 1, "color_range": span})
    frame = next(media.read_frames(path))
    assert frame.colours == (0.2126, 0.0722, span == 2)
    y, u, v = frame.planes()
    rgb = pixels.yuv_to_rgb(y[24, 32], u[12, 16], v[12, 16], frame.colours)
    np.testing.assert_allclose(rgb, (200, 120, 60), atol=3)
    np.testing.assert_allclose(frame.rgb()[24, 32], (200, 120, 60), atol=3)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p"])
def test_odd_sizes_lose_their_last_row_and_column(tmp_path, pix_fmt):
    pictures = [coded(k, 64, 48)[:47, :63] for k in range(3)]
    path = make_video(tmp_path / "a.mkv", pictures, codec="ffv1", pix_fmt=pix_fmt)
    for frame in media.read_frames(path):
        rgb, planes = frame.rgb(), frame.planes()
        assert rgb.shape == (46, 62, 3) and rgb.dtype == np.uint8 and rgb.flags["C_CONTIGUOUS"]
        assert [plane.shape for plane in planes] == [(46, 62), (23, 31), (23, 31)]
        assert all(plane.dtype == np.uint8 for plane in planes)
        for plane in planes:
            plane[:] = 0
        assert all(plane.any() for plane in frame.planes())  # they were a copy


# What a phone writes into the track header for a film held upright: by how many degrees to turn it clockwise.
MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("degrees", MATRICES)
def test_a_turned_picture_is_stood_upright(tmp_path, degrees):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :24] = 255  # the mark is at the upper left before it is turned
    content = bytearray(make_video(tmp_path / "a.mp4", [picture] * 3).read_bytes())
    a, b, c, d = (value << 16 for value in MATRICES[degrees])
    at = content.index(b"tkhd") + 44
    content[at:at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(content)
    frame = next(media.read_frames(tmp_path / "a.mp4"))
    expected = np.rot90(picture, -degrees // 90)
    assert frame.rgb().shape == expected.shape
    np.testing.assert_allclose(frame.rgb(), expected, atol=60)
    luma = frame.planes()[0]
    assert luma.shape == expected.shape[:2] and ((luma > 120) == (expected[..., 1] > 120)).mean() > 0.98


# -- writing -----------------------------------------------------------------------------------------
def write(path, frames, sound=None, fail=False, **options):
    """Write `frames` pictures of rising grey by VideoWriter; raise in the middle if asked."""
    with media.VideoWriter(path, 64, 48, crf=18, preset="veryfast", sound=sound, **options) as video:
        for k in range(frames):
            if fail and k == frames // 2:
                raise RuntimeError("in the middle")
            video.write([np.full((48, 64), 40 + k, np.uint8)] + [np.full((24, 32), 128, np.uint8)] * 2)


def boxes(path):
    """Return the names of an mp4's top-level boxes in their order."""
    content, at, names = path.read_bytes(), 0, []
    while at < len(content):
        size, name = struct.unpack(">I4s", content[at:at + 8])
        names.append(name.decode())
        at += size
    return names


def test_a_written_video_plays_everywhere_and_says_that_it_is_generated(tmp_path):
    path = tmp_path / "a.mp4"
    blocks = iter(np.array_split(click(2, 1)[:, None], 37))
    write(path, 50, blocks, rate=RATE)
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt, video.average_rate) == ("h264", "yuv420p", 25)
        assert (video.width, video.height, video.frames) == (64, 48, 50)
        assert (sound.codec_context.name, sound.rate, sound.channels) == ("aac", RATE, 1)
        assert "AI-generated" in container.metadata["comment"]
    names = boxes(path)
    assert names.index("moov") < names.index("mdat") and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    grey = [frame.planes()[0].mean() for frame in media.read_frames(path)]
    np.testing.assert_allclose(grey, np.arange(40, 90), atol=1)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_sound_shorter_or_longer_than_the_picture_is_written_whole_and_in_step(tmp_path, seconds):
    path = tmp_path / "a.mp4"
    sound = click(seconds, 0.25)
    write(path, 25, iter(np.array_split(sound[:, None], 5)), rate=RATE)
    assert sum(1 for _ in media.read_frames(path)) == 25
    back = media.read_sound(path, RATE, video_start=True)[:, 0]
    assert abs(len(back) - len(sound)) <= 2048 and abs(np.argmax(back) / RATE - 0.25) < 0.01


def test_a_sound_without_samples_leaves_the_picture_whole(tmp_path):
    write(tmp_path / "a.mp4", 25, iter([]), rate=RATE)
    assert sum(1 for _ in media.read_frames(tmp_path / "a.mp4")) == 25


@pytest.mark.parametrize("rate", media.AAC_RATES)
def test_every_rate_and_two_channels_can_be_written(tmp_path, rate):
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (rate, 2)).astype(np.float32)
    write(tmp_path / "a.mp4", 25, iter([sound]), rate=rate, channels=2)
    about = media.probe(tmp_path / "a.mp4")
    assert (about["rate"], about["channels"], about["frames"]) == (rate, 2, 25)


def test_a_failed_run_leaves_the_earlier_video_and_nothing_else(tmp_path):
    path = tmp_path / "a.mp4"
    write(path, 10)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="in the middle"):
        write(path, 20, iter([click(1, 0.5)[:, None]]), fail=True)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(("space", "span"), [(1, 1), (5, 2), (9, 1)])
def test_the_colour_description_of_the_source_is_kept(tmp_path, space, span):
    source = make_video(tmp_path / "a.mp4", map(coded, range(3)), tags={"colorspace": space, "color_range": span})
    first = next(media.read_frames(source))
    write(tmp_path / "b.mp4", 3, like=first.picture)
    assert next(media.read_frames(tmp_path / "b.mp4")).colours == first.colours


def test_a_png_holds_the_picture_bit_for_bit(tmp_path):
    import cv2

    rgb = np.random.default_rng(0).integers(0, 256, (84, 168, 3), np.uint8)
    (tmp_path / "a.png").write_bytes(pixels.png(rgb))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[:, :, ::-1], rgb)
