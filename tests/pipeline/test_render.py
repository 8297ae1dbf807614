"""The final video: sound and picture in time, colours kept, nothing left of a stage that fails."""

import shutil
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from helpers.videos import coded, make_video, number_of

import reapply_faces
from reapply_faces import Prediction
from utils import contract, storage
from utils.cli import UserError
from utils.media.pixels import encode_png
from utils.media.reader import Frame, probe, read_frames, read_sound
from utils.media.writer import VideoWriter

GREY = np.full((contract.LOWER_HEIGHT, contract.FACE_SIZE, 3), 90, np.uint8)
LOWER_FACES = 75
HALF_SECOND = 13  # frames


def bursts(seconds, rate, channels=1):
    """Sound (samples, channels) float32: bursts of noise, the first at the very start."""
    rng = np.random.default_rng(7)
    sound = rng.uniform(-0.5, 0.5, (round(seconds * rate), 1))
    burst = np.arange(len(sound)) // (rate // 50) % 7 == 0
    sound *= burst[:, None]
    return np.repeat(sound, channels, axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """100 numbered pictures."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return make_video(path, map(coded, range(100)), gop=30)


@pytest.fixture
def folder(tmp_path):
    """A folder of lower faces, as inference.py writes them."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for j in range(LOWER_FACES):
        contract.lower_face_path(folder, j).write_bytes(encode_png(GREY))
    return folder


@pytest.fixture
def render(tmp_path, folder, long_clip):
    """Call it to render numbered pictures, pasting nothing; it returns the video's path."""

    def make(order, sound, clip=long_clip, beside=False, paste=lambda *_: None):
        output = tmp_path / "out.mp4"
        prediction = Prediction(folder, np.array(order), sound, 1)
        reapply_faces.render(clip, prediction, paste, output, beside)
        return output

    return make


# -- sound and picture ---------------------------------------------------------------------------
def played(path, rate):
    """Sound as a player gives it, with FFmpeg's edit list: samples by their time from 0 on."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    with av.open(str(path)) as container:
        blocks = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    first = blocks[0].pts * blocks[0].time_base
    assert first >= 0
    samples = [block.to_ndarray()[0] for block in blocks]
    return np.concatenate([np.zeros(round(first * rate)), *samples])


def delay(found, wanted):
    """Samples by which `found` is later than `wanted`, by cross-correlation; at most 2**16."""
    length = 1 << 17
    spectrum = np.fft.rfft(found, length) * np.fft.rfft(wanted, length).conj()
    late = int(np.argmax(np.fft.irfft(spectrum)))
    return late if late < length // 2 else late - length


def durations(path):
    """Seconds of picture and sound."""
    with av.open(str(path)) as container:
        assert all(stream.start_time == 0 for stream in container.streams)
        return [float(stream.duration * stream.time_base) for stream in container.streams]


SOUNDS = [
    (16000, 1, "wav"),
    (48000, 2, "wav"),
    (44100, 1, "flac"),
    (8000, 1, "m4a"),
    (22050, 1, "m4a"),
    (96000, 2, "wav"),
]


@pytest.mark.parametrize(("rate", "channels", "ending"), SOUNDS)
def test_sound_and_picture_begin_and_end_together(render, tmp_path, rate, channels, ending):
    """To the millisecond at the start, within a picture at the end: AAC's lead-in is not heard."""
    speech = tmp_path / f"speech.{ending}"
    sound = bursts(2.011, rate, channels)
    if ending == "m4a":
        make_video(speech, [], sound=sound[:, 0], sound_rate=rate)
    else:
        soundfile.write(speech, sound, rate)
    path = render(range(50), speech)
    wanted = read_sound(speech, 48000)[:48000, 0]
    found = played(path, 48000)[:48000 + 4800]
    assert abs(delay(found, wanted)) <= 48
    picture_s, sound_s = durations(path)
    assert picture_s == 2
    assert abs(sound_s - picture_s) <= 1 / 25


@pytest.mark.parametrize("seconds", [1.9, 2.1])
def test_sound_that_is_a_little_shorter_or_longer_ends_with_the_picture(render, tmp_path, seconds):
    speech = tmp_path / "speech.wav"
    soundfile.write(speech, bursts(seconds, 16000), 16000)
    assert durations(render(range(50), speech)) == [2, 2]


@pytest.mark.parametrize(("space", "span"), [(1, 1), (5, 2), (9, 1)])
def test_colours_are_described_as_in_the_source(render, tmp_path, tiny_speech, space, span):
    tags = {"colorspace": space, "color_range": span, "color_primaries": space, "color_trc": 1}
    clip = make_video(tmp_path / "clip.mp4", map(coded, range(5)), tags=tags)
    path = render(range(5), tiny_speech, clip)
    with av.open(str(path)) as made:
        context = made.streams.video[0].codec_context
        assert {key: int(getattr(context, key)) for key in tags} == tags


def test_tags_of_hdr_are_kept(render, tmp_path, tiny_speech):
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 18}
    settings = {"codec": "libx265", "pix_fmt": "yuv420p10le", "tags": tags}
    clip = make_video(tmp_path / "clip.mp4", map(coded, range(5)), **settings)
    with av.open(str(render(range(5), tiny_speech, clip))) as made:
        context = made.streams.video[0].codec_context
        assert {key: int(getattr(context, key)) for key in tags} == tags


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264rgb", "rgb24"), ("ffv1", "bgr0")])
def test_the_result_of_an_rgb_recording_has_its_colours(
    render, tmp_path, tiny_speech, codec, pix_fmt
):
    """With a matrix that players know: "gbr" on 4:2:0 would be shown in false colours."""
    quarters = [[[200, 40, 40], [40, 180, 60]], [[50, 60, 210], [220, 200, 90]]]
    drawn = np.kron(np.array(quarters, np.uint8), np.ones((32, 32, 1), np.uint8))
    settings = {"codec": codec, "pix_fmt": pix_fmt, "options": {"crf": "0"}}
    clip = make_video(tmp_path / "clip.mkv", [drawn] * 5, **settings)
    path = render(range(5), tiny_speech, clip)
    with av.open(str(path)) as made:
        context = made.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.pix_fmt) == (1, 1, "yuv420p")
    middles = (slice(8, None, 32), slice(8, None, 32))
    shown = next(read_frames(path)).rgb()[middles].astype(int)
    assert np.abs(shown - drawn[middles]).max() <= 3


@pytest.mark.parametrize("beside", [False, True])
def test_pixels_keep_their_shape(render, tmp_path, tiny_speech, beside):
    tags = {"sample_aspect_ratio": Fraction(64, 45)}
    clip = make_video(tmp_path / "clip.mp4", map(coded, range(5)), tags=tags)
    path = render(range(5), tiny_speech, clip, beside=beside)
    assert probe(path).pixel_ratio == Fraction(64, 45)


def test_the_order_is_that_of_the_prediction(render, tiny_speech):
    order = [*range(60, 75), *range(73, 20, -1)]
    frames = read_frames(render(order, tiny_speech))
    assert [number_of(frame.rgb()) for frame in frames] == order


def test_side_by_side_is_the_source_and_the_result(render, tiny_speech):
    def paste(planes, colours, i, lower_face):
        planes[0][:] = 235

    path = render(range(5), tiny_speech, beside=True, paste=paste)
    pictures = [frame.rgb() for frame in read_frames(path)]
    assert [number_of(rgb[:, :64]) for rgb in pictures] == list(range(5))
    for rgb in pictures:
        assert rgb.shape == (48, 128, 3)
        assert rgb[:, 64:].min() > 200


# -- failures ------------------------------------------------------------------------------------
STAGES = {
    "decode": (Frame, "copied"),
    "read": (reapply_faces, "read_lower_face"),
    "encode": (VideoWriter, "write"),
}


@pytest.mark.parametrize("stage", ["decode", "read", "paste", "encode"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, MemoryError])
def test_a_stage_that_fails_ends_the_others(render, tiny_speech, monkeypatch, stage, error):
    """The earlier video stays, nothing temporary does, and no thread."""
    output = render(range(5), tiny_speech)
    before = output.read_bytes()
    threads = threading.active_count()

    def broken(real):
        calls = []

        def call(*arguments):
            calls.append(arguments)
            if len(calls) > 20:
                raise error("broken")
            return real(*arguments)

        return call

    def nothing(*_):
        return None

    paste = broken(nothing) if stage == "paste" else nothing
    if stage in STAGES:
        place, name = STAGES[stage]
        monkeypatch.setattr(place, name, broken(getattr(place, name)))
    with pytest.raises(error, match="broken"):
        render(range(LOWER_FACES), tiny_speech, paste=paste)
    assert output.read_bytes() == before
    assert not list(output.parent.glob("*.tmp"))
    assert threading.active_count() == threads


# -- the script ----------------------------------------------------------------------------------
@pytest.fixture
def data(tiny_data, folder, tmp_path):
    """A copy of tiny_data with a prediction of half a second."""
    ignored = shutil.ignore_patterns("pred", "result", "pack")
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=ignored)
    sound = tmp_path / "half.wav"
    soundfile.write(sound, bursts(0.52, 16000), 16000)
    source = storage.identify_source(sound)
    meta = {
        "source_frames": list(range(HALF_SECOND)),
        "scale": 1,
        "sound": source.path,
        "sound_sha256": source.sha256,
        "data_id": storage.read_meta(data).id,
    }
    (data / "pred").mkdir()
    made = folder.rename(data / "pred" / "half")
    storage.write_json(made / "meta.json", meta)
    storage.write_json(data / "pred" / "last.json", {"speeches": ["half"]})
    return data


@pytest.fixture
def spoken(data, run_script):
    """Run reapply_faces.py with these options; return what it printed."""

    def run(*options):
        result = run_script("reapply_faces", "--data", data, *options)
        assert result.code == 0, result.err
        return result.out

    return run


def test_a_preview_leaves_the_full_result_alone(spoken, data, tiny_clip):
    result = data / "result" / f"{tiny_clip.stem}--half.mp4"
    preview = result.with_suffix(".preview.mp4")
    assert spoken() == f"{result}\n"
    assert probe(result).frames == HALF_SECOND
    before = result.read_bytes()
    assert spoken("--preview", 0.2) == f"{preview}\n"
    assert result.read_bytes() == before
    spoken("--preview", 100, "--output", preview)
    assert probe(preview).frames == HALF_SECOND


def test_a_preview_shows_source_and_result_side_by_side(spoken, data, tiny_clip):
    preview = spoken("--preview", 0.2).strip()
    frames = [frame.rgb() for frame in read_frames(preview)]
    assert len(frames) == 5
    assert frames[0].shape == (512, 1024, 3)
    assert len(read_sound(preview, 16000)) == 3200
    left = frames[4][:, :512].astype(int)
    right = frames[4][:, 512:]
    source = next(read_frames(tiny_clip, 4, 5)).rgb()
    difference = np.abs(left - right)
    assert np.abs(left - source).mean() < 3
    assert difference[:200].mean() < 3
    assert difference[256:].max() > 50


def test_another_sound_is_heard(spoken, tmp_path):
    """The full mix, stereo at its own rate, up to two pictures longer than the speech."""
    mix = tmp_path / "mix.wav"
    soundfile.write(mix, bursts(0.58, 44100, 2), 44100)
    output = tmp_path / "mixed.mp4"
    assert spoken("--sound", mix, "--output", output) == f"{output}\n"
    info = probe(output)
    assert (info.sample_rate, info.channels, info.frames) == (44100, 2, HALF_SECOND)


@pytest.mark.parametrize("seconds", [0.3, 0.7])
def test_a_sound_of_another_length_is_refused(data, run_script, tmp_path, seconds):
    mix = tmp_path / "mix.wav"
    soundfile.write(mix, bursts(seconds, 44100, 2), 44100)
    result = run_script("reapply_faces", "--data", data, "--sound", mix)
    assert result.code == 1
    assert f"lasts {seconds:.2f} s, but" in result.err
    assert "0.52 s" in result.err
