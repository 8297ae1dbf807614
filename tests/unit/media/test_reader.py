"""Videos and sounds read: 25 frames a second by time, sound where it belongs, damage survived."""

import functools
import gc
import re
import struct
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from helpers.films import MATRICES, Sound, film
from helpers.messages import one_line
from helpers.videos import coded, make_video, number_of

from utils.cli import UserError
from utils.media import reader
from utils.media.pixels import ColourSpace, yuv_to_rgb
from utils.media.reader import Losses, MediaInfo, probe, read_frames, read_order, read_sound

FRAMES = 1732
RATE = 48000
PICTURE_BYTES = 64 * 48 * 3 // 2  # of a coded picture


def numbers(frames):
    """Numbers that frames of `coded` pictures carry."""
    return [number_of(frame.rgb()) for frame in frames]


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Numbered pictures at 25 fps with few key frames."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return make_video(path, map(coded, range(FRAMES)), gop=120)


# -- 25 pictures a second --------------------------------------------------------------------------
def test_25_fps_stays_as_it_is(long_video):
    assert numbers(read_frames(long_video)) == list(range(FRAMES))
    seconds = pytest.approx(69.28)
    found = MediaInfo(True, False, seconds, FRAMES, sample_rate=0, channels=0, rate=25.0)
    assert probe(long_video) == found


@pytest.mark.parametrize(
    ("rate", "pictures", "frames"),
    [(30, 300, 250), (50, 200, 100), (24, 120, 125), (15, 60, 100), ("30000/1001", 300, 250)],
)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_other_rates_keep_their_timing(tmp_path, rate, pictures, frames, ending):
    path = make_video(tmp_path / f"a.{ending}", map(coded, range(pictures)), rate=rate)
    shown = numbers(read_frames(path))
    assert len(shown) == frames
    duration = float(1 / Fraction(rate))
    for k, number in enumerate(shown):
        moment = k / 25 + reader.EARLY_S
        assert number * duration <= moment + 1e-3
        assert (number + 1) * duration >= moment - 1e-3 or number == pictures - 1


def test_a_variable_rate_keeps_its_timing(tmp_path):
    gaps = np.random.default_rng(3).choice([0.02, 0.033, 0.04, 0.1, 0.5], 60)
    times = np.concatenate([[0], np.cumsum(gaps)])
    path = make_video(tmp_path / "a.mkv", map(coded, range(61)), times=times)
    shown = numbers(read_frames(path))
    moments = np.arange(int(times[-1] * 25)) / 25 + reader.EARLY_S
    assert 0 <= len(shown) - len(moments) <= 3
    for moment, number in zip(moments, shown, strict=False):
        if min(abs(times - moment)) > 2e-3:  # else rounding decides
            assert number == np.flatnonzero(times <= moment)[-1]


def test_a_picture_that_starts_late_is_frame_0(tmp_path):
    times = [7.3 + k / 25 for k in range(50)]
    path = make_video(tmp_path / "a.mkv", map(coded, range(50)), times=times)
    assert numbers(read_frames(path)) == list(range(50))
    assert numbers(read_frames(path, 45, 50)) == [45, 46, 47, 48, 49]


# -- any part of it --------------------------------------------------------------------------------
PARTS = [
    (0, 3), (1, 2), (49, 53), (51, 52), (119, 122), (120, 121), (239, 243), (1000, 1010),
    (1731, 1732), (1725, None),
]


@pytest.mark.parametrize(("start", "stop"), PARTS)
def test_a_part_equals_the_slice_of_the_whole(long_video, start, stop):
    expected = list(range(FRAMES))[start:stop]
    assert numbers(read_frames(long_video, start, stop)) == expected


@pytest.mark.parametrize(("rate", "ending"), [(30, "mp4"), (24, "mkv"), (50, "ts")])
def test_a_part_equals_the_slice_at_other_rates_and_in_other_containers(tmp_path, rate, ending):
    pictures = map(coded, range(8 * rate))
    path = make_video(tmp_path / f"a.{ending}", pictures, rate=rate, gop=70)
    whole = numbers(read_frames(path))
    for start in (2, 51, 60, 77, 120, 196):
        assert numbers(read_frames(path, start, start + 3)) == whole[start:start + 3], start


ORDERS = [
    [*range(100, 140), *range(138, 90, -1), *range(92, 100)],
    [5],
    [5, 6],
    [6, 5],
    [3, 2, 1, 0, 1, 2],
    [0, 1, 0, 1, 0],
    [*range(1700, FRAMES), *range(1730, 1690, -1)],
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("held_bytes", [reader.REVERSE_BYTES, 1, 5 * PICTURE_BYTES])
def test_read_order_gives_the_pictures_in_that_order(long_video, monkeypatch, order, held_bytes):
    monkeypatch.setattr(reader, "REVERSE_BYTES", held_bytes)
    assert numbers(read_order(long_video, order)) == order


def test_footage_that_runs_backwards_is_held_in_pieces(long_video, monkeypatch):
    """No more than five pictures live at a time, in groups of 120."""
    alive = weakref.WeakSet()
    counts = []
    real = reader.Frame

    @functools.wraps(real)
    def noted(*arguments):
        frame = real(*arguments)
        alive.add(frame)
        counts.append(len(alive))
        return frame

    monkeypatch.setattr(real, "__hash__", object.__hash__)
    monkeypatch.setattr(reader, "Frame", noted)
    monkeypatch.setattr(reader, "REVERSE_BYTES", 5 * PICTURE_BYTES)
    order = list(range(160, 100, -1))
    assert numbers(read_order(long_video, order)) == order
    assert max(counts) <= 5 + 2


def pictures_in_memory():
    return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())


def test_no_decoder_keeps_its_memory_after_a_run(long_video):
    """Without the garbage collector only one picture of the twelve runs stays: the first look's."""
    gc.collect()
    gc.disable()
    try:
        before = pictures_in_memory()
        order = [*range(10), *range(8, 0, -1)] * 6
        assert sum(1 for _ in read_order(long_video, order)) == len(order)
        assert pictures_in_memory() <= before + 1
    finally:
        gc.enable()


def test_what_lies_between_key_frames_is_decoded_once_if_it_fits(long_video, monkeypatch):
    """300 pictures backwards from the middle of the third group: two whole groups and the part."""
    real = reader.timed_frames
    decoded = []

    def noted(*arguments):
        for timed in real(*arguments):
            decoded.append(timed)
            yield timed

    monkeypatch.setattr(reader, "timed_frames", noted)
    order = list(range(299, -1, -1))
    assert numbers(read_order(long_video, order)) == order
    assert len(decoded) <= 300 + 3 * 3  # and a few to find where a picture ends


# -- sound in time ---------------------------------------------------------------------------------
def click(seconds, at):
    """`seconds` of silence with a click of 2 ms at `at` s."""
    sound = np.zeros(round(seconds * RATE), np.float32)
    sound[round(at * RATE):round((at + 0.002) * RATE)] = 0.9
    return sound


def flash(frames, at):
    """Black pictures with a white one at frame `at`."""
    return [np.full((48, 64, 3), 235 if k == at else 16, np.uint8) for k in range(frames)]


def lateness(path):
    """Seconds from the flash to the click."""
    light = [frame.rgb().mean() for frame in read_frames(path)]
    sound = np.abs(read_sound(path, 16000, video_start=True)[:, 0])
    assert max(light) > 150
    assert sound.max() > 0.1
    return np.argmax(sound) / 16000 - np.argmax(light) / 25


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("mp4", "aac"),
        ("mkv", "aac"),
        ("mkv", "pcm_s16le"),
        ("ts", "aac"),
        ("mov", "pcm_s16le"),
    ],
)
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_click_stays_with_its_flash(tmp_path, ending, codec, start):
    sound = click(4 - start, 2 - start)
    settings = {"sound": sound, "sound_start": start, "sound_codec": codec}
    path = make_video(tmp_path / f"a.{ending}", flash(100, 50), **settings)
    assert abs(lateness(path)) < 0.02


def test_a_click_stays_with_its_flash_where_the_picture_starts_late(tmp_path):
    times = [1 + k / 25 for k in range(75)]
    path = make_video(tmp_path / "a.mkv", flash(75, 25), times=times, sound=click(4, 2))
    assert abs(lateness(path)) < 0.02


def test_sound_that_starts_late_is_led_in_by_silence(tmp_path):
    tone = (0.5 * np.sin(np.arange(RATE) * 0.05)).astype(np.float32)
    settings = {"sound": tone, "sound_start": 0.5, "sound_codec": "pcm_s16le"}
    path = make_video(tmp_path / "a.mkv", flash(50, 0), **settings)
    sound = read_sound(path, 16000, video_start=True)[:, 0]
    assert abs(len(sound) - 24000) <= 160
    assert np.abs(sound[:7800]).max() < 1e-3
    assert np.abs(sound[8200:23000]).max() > 0.4


def test_sound_is_mixed_and_resampled(tmp_path):
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    path = make_video(tmp_path / "a.mov", flash(25, 0), sound=tone, sound_codec="pcm_s16le")
    sound = read_sound(path, 16000, channels=2)
    assert sound.shape == (16000, 2)
    assert sound.dtype == np.float32
    assert np.argmax(np.abs(np.fft.rfft(sound[:, 0]))) == 440


def test_a_video_without_sound_has_none(long_video):
    assert read_sound(long_video, 16000) is None


VOICE = np.random.default_rng(4).normal(0, 0.1, 4 * 16000).astype(np.float32)
NOISE = np.random.default_rng(5).normal(0, 0.1, len(VOICE)).astype(np.float32)
FIRST_HALF = np.arange(len(VOICE)) < len(VOICE) // 2


@pytest.mark.parametrize(
    ("right", "seconds"),
    [
        (-VOICE, 4),
        (-0.7 * VOICE, 4),
        (-VOICE + 0.2 * NOISE, 4),
        (np.where(FIRST_HALF, VOICE, -VOICE), 2),
        (VOICE, 0),
        (0 * VOICE, 0),
        (NOISE, 0),
        (-0.3 * VOICE, 0),
    ],
)
def test_of_channels_that_cancel_each_other_one_is_taken(tmp_path, right, seconds):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([VOICE, right], axis=1), 16000, subtype="FLOAT")
    losses = Losses()
    sound = read_sound(path, 16000, losses=losses)[:, 0]
    assert losses.opposed == pytest.approx(seconds, abs=0.1)
    assert bool(losses.sound_notes()) == bool(seconds)
    likeness = np.abs([np.corrcoef(sound[at], VOICE[at])[0, 1] for at in (FIRST_HALF, ~FIRST_HALF)])
    assert likeness.min() > 0.6
    assert 0.04 < sound.std() < 0.2


def test_samples_that_are_no_numbers_are_silence_and_counted(tmp_path):
    path = tmp_path / "a.wav"
    damaged = VOICE.copy()
    damaged[1000] = np.nan
    damaged[2000:2010] = np.inf
    damaged[3000] = -1e30
    for subtype in ("FLOAT", "DOUBLE"):
        soundfile.write(path, damaged, 16000, subtype=subtype)
        losses = Losses()
        sound = read_sound(path, 16000, losses=losses)[:, 0]
        assert losses.samples == 12
        assert "no numbers were silenced (12)" in losses.sound_notes()[0]
        wrong = np.flatnonzero(~(np.abs(damaged) < 1))
        assert not sound[wrong].any()
        np.testing.assert_allclose(np.delete(sound, wrong), np.delete(VOICE, wrong), atol=1e-6)


JOINED = {
    "wav": "pcm_s16le",
    "aiff": "pcm_s16be",
    "flac": "flac",
    "ogg": "libopus",
    "webm": "libopus",
    "mka": "libopus",
    "m4a": "aac",
    "mp3": "libmp3lame",
    "aac": "aac",
}


@pytest.mark.parametrize("ending", JOINED)
def test_of_several_files_joined_to_one_all_is_heard(tmp_path, ending):
    """As speech services stream them: a file for each sentence."""
    path = film(tmp_path / f"a.{ending}", pictures=(), sounds=[Sound(codec=JOINED[ending])])
    one = len(read_sound(path, 16000))
    path.write_bytes(path.read_bytes() * 3)
    assert len(read_sound(path, 16000)) == pytest.approx(3 * one, abs=0.1 * 16000)


def test_joined_files_may_state_wrong_lengths_and_differ_in_kind(tmp_path):
    parts = []
    for rate in (16000, 24000):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, VOICE[:2 * rate], rate)
        content = path.read_bytes()
        at = content.index(b"data") + 4
        parts.append(content[:at] + b"\xff\xff\xff\xff" + content[at + 4:])
    joined = tmp_path / "joined.wav"
    joined.write_bytes(b"".join(parts))
    sound = read_sound(joined, 16000)[:, 0]
    assert len(sound) == 4 * 16000
    np.testing.assert_allclose(sound[:32000], VOICE[:32000], atol=1e-4)


def test_a_joined_video_is_its_first_part(tmp_path):
    """Picture and sound stay together."""
    tone = (0.5 * np.sin(np.arange(RATE) * 0.05)).astype(np.float32)
    path = make_video(tmp_path / "a.mp4", flash(25, 0), sound=tone)
    path.write_bytes(path.read_bytes() * 2)
    assert len(read_sound(path, 16000)) == pytest.approx(16000, abs=100)


# -- damage ----------------------------------------------------------------------------------------
def test_a_file_that_was_cut_gives_what_is_left_and_says_what_is_not(tmp_path):
    whole = make_video(tmp_path / "a.mkv", map(coded, range(500)), gop=50).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[:len(whole) * 6 // 10])
    losses = Losses()
    shown = numbers(read_frames(path, losses=losses))
    assert 200 < len(shown) < 400
    assert shown[:-5] == list(range(len(shown) - 5))
    assert losses.seconds == pytest.approx(20 - len(shown) / 25, abs=0.1)


@pytest.mark.parametrize(("ending", "header"), [("mkv", 12), ("mp4", 0)])
def test_damage_in_the_middle_costs_only_the_pictures_about_it(tmp_path, ending, header):
    path = make_video(tmp_path / f"a.{ending}", map(coded, range(300)), gop=25)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[130:140]:
        first, last = packet.pos + header, packet.pos + packet.size
        content[first:last] = b"\xff" * (last - first)
    path.write_bytes(content)
    losses = Losses()
    shown = numbers(read_frames(path, losses=losses))
    assert len(shown) == 300
    assert shown[:120] == list(range(120))
    assert shown[-145:] == list(range(155, 300))
    assert shown != list(range(300))
    assert losses.packets > 0
    assert losses.seconds < 0.05


def test_an_undamaged_file_has_no_losses(long_video):
    losses = Losses()
    assert sum(1 for _ in read_frames(long_video, 1600, losses=losses)) == 132
    assert losses.packets == 0
    assert losses.seconds < 0.05


def read_all(path):
    """Read the pictures and then the sound of a file."""
    list(read_frames(path))
    read_sound(path, 16000)


@pytest.mark.parametrize("kind", ["text", "empty", "folder", "missing", "no index"])
@pytest.mark.parametrize("read", [probe, read_all, lambda path: read_sound(path, 16000)])
def test_what_is_no_video_is_refused_in_one_line(tmp_path, kind, read):
    path = tmp_path / "a.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "no index":
        whole = make_video(tmp_path / "b.mp4", map(coded, range(50)))
        path.write_bytes(whole.read_bytes()[:800])
    elif kind == "text":
        path.write_bytes(b"a letter\n" * 500)
    elif kind == "empty":
        path.write_bytes(b"")
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in one_line(error)


def test_sound_alone_is_no_video(tiny_speech):
    assert not probe(tiny_speech).has_video
    with pytest.raises(UserError) as error:
        list(read_frames(tiny_speech))
    assert "no picture" in one_line(error)


# -- size and orientation --------------------------------------------------------------------------
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p"])
def test_odd_sizes_lose_their_last_row_and_column(tmp_path, pix_fmt):
    pictures = [coded(k, 64, 48)[:47, :63] for k in range(3)]
    path = make_video(tmp_path / "a.mkv", pictures, codec="ffv1", pix_fmt=pix_fmt)
    for frame in read_frames(path):
        rgb = frame.rgb()
        assert rgb.shape == (46, 62, 3)
        assert rgb.dtype == np.uint8
        assert rgb.flags["C_CONTIGUOUS"]
        planes = frame.planes()
        assert [plane.shape for plane in planes] == [(46, 62), (23, 31), (23, 31)]
        assert all(plane.dtype == np.uint8 for plane in planes)


def test_planes_are_a_copy(long_video):
    frame = next(read_frames(long_video))
    for plane in frame.planes():
        plane[:] = 0
    assert all(plane.any() for plane in frame.planes())


def turned_by(path, degrees):
    """Have an mp4 ask to be turned."""
    content = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in MATRICES[degrees])
    at = content.index(b"tkhd") + 44
    content[at:at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize("degrees", [0, *MATRICES])
def test_pixels_that_are_not_square_turn_with_the_picture(tmp_path, degrees):
    tags = {"sample_aspect_ratio": Fraction(64, 45)}
    path = make_video(tmp_path / "a.mp4", map(coded, range(3)), tags=tags)
    if degrees:
        turned_by(path, degrees)
    ratio = Fraction(45, 64) if degrees in (90, 270) else Fraction(64, 45)
    assert next(read_frames(path)).pixel_ratio == ratio


@pytest.mark.parametrize("tag", [0, 3, 77])
def test_colour_tags_that_mean_nothing_are_undefined(tmp_path, tag):
    """As in the frame headers of ProRes that some cameras write."""
    drawn = np.full((48, 64, 3), (200, 120, 60), np.uint8)
    path = make_video(
        tmp_path / "a.mov", [drawn] * 2, codec="prores_ks", pix_fmt="yuv422p10le"
    )
    path.write_bytes(re.sub(
        rb"(icpf.{14})...", lambda found: found[1] + bytes([tag] * 3), path.read_bytes(),
        flags=re.DOTALL,
    ))
    frame = next(read_frames(path))
    picture = frame.yuv
    assert (picture.colorspace, picture.color_primaries, picture.color_trc) == (2, 2, 2)
    np.testing.assert_allclose(frame.rgb()[24, 32], (200, 120, 60), atol=3)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "ending"),
    [
        ("libx264rgb", "rgb24", "mkv"),
        ("ffv1", "bgr0", "mkv"),
        ("ffv1", "gbrp10le", "mkv"),
        ("qtrle", "argb", "mov"),
        ("png", "rgba", "mov"),
    ],
)
def test_rgb_becomes_what_its_tags_say(tmp_path, codec, pix_fmt, ending):
    drawn = np.full((48, 64, 3), (200, 120, 60), np.uint8)
    path = make_video(tmp_path / f"a.{ending}", [drawn] * 2, codec=codec, pix_fmt=pix_fmt)
    frame = next(read_frames(path))
    assert (frame.yuv.colorspace, frame.yuv.color_range) == (1, 1)
    assert frame.colours == ColourSpace(0.2126, 0.0722, full_range=False)
    y, u, v = frame.planes()
    rgb = yuv_to_rgb(y[24, 32], u[12, 16], v[12, 16], frame.colours)
    np.testing.assert_allclose(rgb, (200, 120, 60), atol=2)
    np.testing.assert_allclose(frame.rgb()[24, 32], (200, 120, 60), atol=1)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "ending", "has_alpha"),
    [
        ("prores_ks", "yuva444p10le", "mov", True),
        ("qtrle", "argb", "mov", True),
        ("libvpx-vp9", "yuva420p", "webm", True),
        ("libvpx-vp9", "yuv420p", "webm", False),
        ("ffv1", "bgr0", "mkv", False),
    ],
)
def test_transparency_is_noticed(tmp_path, codec, pix_fmt, ending, has_alpha):
    path = make_video(
        tmp_path / f"a.{ending}", map(coded, range(3)), codec=codec, pix_fmt=pix_fmt
    )
    assert probe(path).has_alpha == has_alpha


@pytest.mark.parametrize("degrees", MATRICES)
def test_a_turned_picture_is_stood_upright(tmp_path, degrees):
    """The matrix is what a phone writes into the track header of a film that was held upright."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :24] = 255  # a mark at the upper left before it is turned
    path = make_video(tmp_path / "a.mp4", [picture] * 3)
    turned_by(path, degrees)
    frame = next(read_frames(path))
    expected = np.rot90(picture, -degrees // 90)
    np.testing.assert_allclose(frame.rgb(), expected, atol=60, strict=True)
    luma = frame.planes()[0]
    assert luma.shape == expected.shape[:2]
    assert ((luma > 120) == (expected[..., 1] > 120)).mean() > 0.98
