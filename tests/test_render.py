"""The final video: sound and picture begin and end together, colours stay, a stage that fails leaves nothing behind."""

import shutil
import sys
import threading

import av
import numpy as np
import pytest
import soundfile

import reapply_faces
from conftest import coded, make_video, number_of
from utils import contract, media, pixels
from utils.console import UserError

LOWER = np.full((84, 168, 3), 90, np.uint8)


def bursts(seconds, rate, channels=1):
    """Return sound (samples, channels): bursts of noise, the first at the very start."""
    rng = np.random.default_rng(7)
    sound = rng.uniform(-0.5, 0.5, (round(seconds * rate), 1))
    sound *= (np.arange(len(sound)) // (rate // 50) % 7 == 0)[:, None]
    return np.repeat(sound, channels, axis=1).astype(np.float32)


@pytest.fixture
def prediction(tmp_path):
    """A folder with 75 lower faces."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for j in range(75):
        contract.lower_path(folder, j).write_bytes(pixels.png(LOWER))
    return folder


@pytest.fixture
def render(tmp_path, prediction, long_clip):
    """Call reapply_faces.render with a paste that does nothing, on numbered pictures; return the video's path."""
    def make(order, sound, clip=long_clip, beside=False, paste=lambda *_: None, name="out.mp4"):
        reapply_faces.render(clip, list(order), prediction, paste, sound, tmp_path / name, beside, "run: x")
        return tmp_path / name
    return make


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """100 numbered pictures."""
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", map(coded, range(100)), gop=30)


def decoded(path, rate):
    """Return the sound as a player gives it (FFmpeg applies the edit list): samples by their time, from 0 on."""
    with av.open(str(path)) as container:
        resampler, blocks = av.AudioResampler(format="flt", layout="mono", rate=rate), []
        for frame in container.decode(audio=0):
            blocks += [(out.pts * out.time_base, out.to_ndarray()[0]) for out in resampler.resample(frame)]
    first = blocks[0][0]
    assert first >= 0
    return np.concatenate([np.zeros(round(first * rate)), *(block for _, block in blocks)])


@pytest.mark.parametrize(("rate", "channels", "ending"), [
    (16000, 1, "wav"), (48000, 2, "wav"), (44100, 1, "flac"), (8000, 1, "m4a"), (22050, 1, "m4a"), (96000, 2, "wav")])
def test_sound_and_picture_begin_and_end_together(render, tmp_path, rate, channels, ending):
    """To the millisecond at the start, within a picture at the end: AAC's lead-in and filling are not heard."""
    speech, sound = tmp_path / f"speech.{ending}", bursts(2.011, rate, channels)
    if ending == "m4a":
        make_video(speech, [], sound=sound[:, 0], sound_rate=rate)
    else:
        soundfile.write(speech, sound, rate)
    path = render(range(50), speech)
    wanted = media.read_sound(speech, 48000)[:48000, 0]
    heard = decoded(path, 48000)[:48000 + 4800]
    lags = np.fft.irfft(np.fft.rfft(heard, 1 << 17) * np.fft.rfft(wanted, 1 << 17).conj())
    late = int(np.argmax(lags))
    assert min(late, (1 << 17) - late) <= 48
    with av.open(str(path)) as container:
        ends = [float(stream.duration * stream.time_base) for stream in container.streams]
        assert ends[0] == 2 and abs(ends[1] - ends[0]) <= 1 / 25
        assert all(stream.start_time == 0 for stream in container.streams)


@pytest.mark.parametrize("seconds", [1.9, 2.1])
def test_sound_that_is_a_little_shorter_or_longer_ends_with_the_picture(render, tmp_path, seconds):
    soundfile.write(tmp_path / "speech.wav", bursts(seconds, 16000), 16000)
    with av.open(str(render(range(50), tmp_path / "speech.wav"))) as container:
        assert [float(stream.duration * stream.time_base) for stream in container.streams] == [2, 2]


@pytest.mark.parametrize(("space", "span"), [(1, 1), (5, 2), (9, 1)])
def test_colours_are_described_as_in_the_source(render, tmp_path, tiny_speech, space, span):
    tags = {"colorspace": space, "color_range": span, "color_primaries": space, "color_trc": 1}
    clip = make_video(tmp_path / "clip.mp4", map(coded, range(5)), tags=tags)
    path = render(range(5), tiny_speech, clip)
    with av.open(str(path)) as made:
        context = made.streams.video[0].codec_context
        assert {key: int(getattr(context, key)) for key in tags} == tags


def test_the_order_is_that_of_the_prediction(render, tiny_speech):
    order = [*range(60, 75), *range(73, 20, -1)]
    assert [number_of(frame.rgb()) for frame in media.read_frames(render(order, tiny_speech))] == order


def test_side_by_side_is_the_source_and_the_result(render, tiny_speech):
    def paste(planes, colours, i, lower):
        planes[0][:] = 235

    frames = list(media.read_frames(render(range(5), tiny_speech, beside=True, paste=paste)))
    assert [number_of(frame.rgb()[:, :64]) for frame in frames] == list(range(5))
    assert all(frame.rgb()[:, 64:].min() > 200 and frame.rgb().shape == (48, 128, 3) for frame in frames)


@pytest.mark.parametrize("stage", ["decode", "paste", "lower", "encode"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, MemoryError])
def test_a_stage_that_fails_ends_the_others(render, prediction, tiny_speech, monkeypatch, stage, error):
    """The earlier video stays, nothing temporary does, and no thread."""
    output, threads = render(range(5), tiny_speech), threading.active_count()
    before = output.read_bytes()

    def broken(real, at=[0]):  # noqa: B006
        def call(*arguments):
            at[0] += 1
            if at[0] > 20:
                raise error("broken")
            return real(*arguments)
        return call

    paste = broken(lambda *_: None) if stage == "paste" else lambda *_: None
    if stage == "decode":
        monkeypatch.setattr(media.Frame, "copied", broken(media.Frame.copied, [-1]))
    elif stage == "lower":
        monkeypatch.setattr(reapply_faces, "read_lower", broken(reapply_faces.read_lower, [0]))
    elif stage == "encode":
        monkeypatch.setattr(media.VideoWriter, "write", broken(media.VideoWriter.write, [0]))
    with pytest.raises(error, match="broken"):
        render(range(75), tiny_speech, paste=paste)
    assert output.read_bytes() == before and not list(output.parent.glob("*.tmp"))
    assert threading.active_count() == threads


# -- the script --------------------------------------------------------------------------------------
@pytest.fixture
def data(tiny_data, prediction, tmp_path):
    """A copy of tiny_data with a prediction of half a second."""
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("pred", "result", "pack"))
    folder, sound = data / "pred" / "half", tmp_path / "half.wav"
    folder.parent.mkdir()
    prediction.rename(folder)
    soundfile.write(sound, bursts(0.52, 16000), 16000)
    known = contract.source_identity(sound)
    contract.write_json(folder / "meta.json", {
        "source_frames": list(range(13)), "sound": known["path"], "sound_sha256": known["sha256"],
        "data_id": contract.read_meta(data)["id"]})
    contract.write_json(data / "pred" / "last.json", {"speeches": ["half"]})
    return data


@pytest.fixture
def spoken(data, monkeypatch, capsys):
    """Call reapply_faces.py with these arguments: what it printed."""
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["reapply_faces.py", "--data", str(data), *map(str, words)])
        reapply_faces.main()
        return capsys.readouterr().out
    return run


def test_a_preview_leaves_the_full_result_alone(spoken, data, tiny_clip):
    result = data / "result" / f"{tiny_clip.stem}--half.mp4"
    assert spoken() == f"{result}\n" and media.probe(result)["frames"] == 13
    before, preview = result.read_bytes(), result.with_suffix(".preview.mp4")
    assert spoken("--preview", 0.2) == f"{preview}\n" and result.read_bytes() == before
    frames = [frame.rgb() for frame in media.read_frames(preview)]
    assert len(frames) == 5 and frames[0].shape == (512, 1024, 3)
    assert len(media.read_sound(preview, 16000)) == 3200
    left, right = frames[4][:, :512].astype(int), frames[4][:, 512:]
    source = list(media.read_frames(tiny_clip, 4, 5))[0].rgb()
    assert np.abs(left - source).mean() < 3 and np.abs(left - right)[:200].mean() < 3
    assert np.abs(left - right)[256:].max() > 50
    spoken("--preview", 100, "--output", preview)
    assert media.probe(preview)["frames"] == 13


def test_another_sound_is_heard(spoken, tmp_path):
    """The full mix, stereo at its own rate, up to two pictures longer than the speech."""
    soundfile.write(tmp_path / "mix.wav", bursts(0.58, 44100, 2), 44100)
    output = tmp_path / "mixed.mp4"
    assert spoken("--sound", tmp_path / "mix.wav", "--output", output) == f"{output}\n"
    about = media.probe(output)
    assert (about["rate"], about["channels"], about["frames"]) == (44100, 2, 13)
    for seconds in (0.3, 0.7):
        soundfile.write(tmp_path / "mix.wav", bursts(seconds, 44100, 2), 44100)
        with pytest.raises(UserError, match=rf"lasts {seconds:.2f} s, but .* 0\.52 s"):
            spoken("--sound", tmp_path / "mix.wav")
