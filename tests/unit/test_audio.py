"""The mel: librosa's, block by block, exactly four rows a frame, and no look at the whole sound."""

import librosa
import numpy as np
import pytest

from utils import audio, contract, sample
from utils.audio import MelWindows


def noise(samples, seed=0):
    """Reproducible noise with a tone in it, float32."""
    seconds = np.arange(samples) / contract.SAMPLE_RATE
    tone = np.sin(2 * np.pi * 440 * seconds)
    hiss = np.random.default_rng(seed).standard_normal(samples)
    return (0.1 * hiss + 0.2 * tone).astype(np.float32)


def counting_rows(rows):
    """A mel (rows, 80) whose rows hold their own number."""
    numbers = np.arange(rows, dtype=np.float32)
    return as_mel(numbers)


def as_mel(rows):
    """A mel whose 80 bands are the same."""
    return np.repeat(rows[:, None], 80, axis=1)


def in_chunks(sound, size):
    """The sound in pieces of that many samples."""
    starts = range(0, len(sound), size)
    return [sound[start : start + size] for start in starts]


# -- the level -------------------------------------------------------------------------------------
def speech(level, seed=3):
    """4 s of the built-in voice at that level, dBFS, with two seconds of digital silence."""
    spoken = sample.synthesise(sample.make_script(4, seed), seed)
    sound = np.concatenate([spoken, np.zeros(2 * contract.SAMPLE_RATE)])
    _, found = audio.usual_level(sound)
    return (sound * 10 ** ((level - found) / 20)).astype(np.float32)


def test_speech_of_a_usual_level_stays_bit_for_bit():
    for level in (-40, -26):
        sound = speech(level)
        heard, found = audio.usual_level(sound)
        assert heard is sound
        assert found == pytest.approx(level, abs=2)


def test_quiet_speech_is_brought_up_as_far_as_its_peak_allows():
    sound = np.tanh(200 * speech(-60)) / 200  # whose peaks leave room
    heard, found = audio.usual_level(sound)
    assert found == pytest.approx(-60, abs=4)
    assert heard.dtype == np.float32
    _, reached = audio.usual_level(heard)
    assert reached == pytest.approx(-26, abs=1)
    peak = np.abs(heard).max()
    assert peak < 1
    np.testing.assert_allclose(heard, peak / np.abs(sound).max() * sound, rtol=1e-5)
    silence = np.log(np.float32(1e-5))
    assert (audio.log_mel(heard, 150)[-120:] == silence).all()

    sound[500] = 0.1
    heard, _ = audio.usual_level(sound)
    assert np.abs(heard).max() == pytest.approx(1)
    sound = np.tile(speech(-60), 100)
    sound[500] = 1.2  # a click in the recording: there is no room
    heard, found = audio.usual_level(sound)
    assert heard is sound
    assert found < audio.QUIET_DB


def test_a_pause_does_not_count_for_the_level():
    sound = speech(-60)
    pause = np.zeros(20 * len(sound), np.float32)
    _, found = audio.usual_level(np.concatenate([pause, sound, pause]))
    assert found == pytest.approx(-60, abs=2)
    room = 1e-5 * np.random.default_rng(0).standard_normal(len(pause))
    _, found = audio.usual_level(np.concatenate([room, speech(-30), room]))
    assert found == pytest.approx(-30, abs=2)


def brown(samples):
    """Noise that falls by 6 dB an octave, without the part below 10 Hz."""
    hiss = np.random.default_rng(1).standard_normal(samples)
    rumble = np.cumsum(hiss)
    rumble -= np.convolve(rumble, np.ones(1601) / 1601, "same")
    return rumble / rumble.std()


QUIET_SOUNDS = {
    "nothing": np.zeros(0),
    "digital silence": np.zeros(16000),
    "one sample above it": np.eye(1, 16000)[0] * 0.9e-4,
    "barely any speech": speech(-26) * 1e-4,
    "the last bit": np.sin(np.arange(80000)) * np.repeat([9e-5, 2e-5], (64000, 16000)),
    "a quiet room": 1e-3 * np.random.default_rng(0).standard_normal(16000 * 5),
    "a lorry outside": 1e-3 * brown(16000 * 5),
    "a hum": 1e-3 * np.sin(np.arange(16000 * 5) * 2 * np.pi * 50 / 16000),
}


@pytest.mark.parametrize("sound", QUIET_SOUNDS.values(), ids=QUIET_SOUNDS)
def test_silence_and_bare_noise_stay_quiet(sound):
    sound = sound.astype(np.float32)
    heard, found = audio.usual_level(sound)
    assert heard is sound
    assert -100 <= found < audio.QUIET_DB


# -- the mel ---------------------------------------------------------------------------------------
def test_log_mel_is_librosas_centred_reflected_log_mel_of_the_whole_sound():
    frames = 60
    sound = noise(frames * 640)
    magnitude = librosa.feature.melspectrogram(
        y=sound,
        sr=16000,
        n_fft=800,
        hop_length=160,
        win_length=800,
        window="hann",
        center=True,
        pad_mode="reflect",
        power=1.0,
        n_mels=80,
        fmin=55,
        fmax=7600,
    )
    expected = np.log(np.maximum(magnitude, 1e-5)).T[: 4 * frames]
    np.testing.assert_allclose(audio.log_mel(sound, frames), expected, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 7, 16, 100])
def test_blocks_give_the_rows_of_the_whole(monkeypatch, rows):
    sound = noise(40 * 640 + 123)
    whole = audio.log_mel(sound, 40)
    monkeypatch.setattr(audio, "BLOCK_ROWS", rows)
    np.testing.assert_allclose(audio.log_mel(sound, 40), whole, atol=1e-6)


@pytest.mark.parametrize("samples", [0, 10, 640, 6399, 6400, 6401, 20000])
@pytest.mark.parametrize("frames", [1, 10])
def test_there_are_exactly_four_rows_a_frame_however_long_the_sound(samples, frames):
    mel = audio.log_mel(noise(samples), frames)
    assert mel.shape == (4 * frames, 80)
    assert mel.dtype == np.float32
    assert np.isfinite(mel).all()


def test_a_longer_sound_is_cut_and_a_shorter_one_padded_with_silence():
    sound = noise(1000)
    cut = audio.fit_length(sound, 1)
    np.testing.assert_array_equal(cut, sound[:640])
    padded = audio.fit_length(sound, 2)
    np.testing.assert_array_equal(padded[:1000], sound)
    assert len(padded) == 1280
    assert not padded[1000:].any()


def test_silence_is_the_log_of_the_floor():
    silence = np.zeros(6400, np.float32)
    floor = np.log(np.float32(1e-5))
    np.testing.assert_array_equal(audio.log_mel(silence, 10), floor)


def test_a_loud_burst_far_away_changes_no_bit_here():
    sound = noise(100 * 640)
    burst = sound.copy()
    burst[80 * 640 : 81 * 640] = 1.0
    without = audio.log_mel(sound, 100)
    with_burst = audio.log_mel(burst, 100)
    before = slice(0, 79 * 4)
    during = slice(80 * 4, 81 * 4)
    np.testing.assert_array_equal(without[before], with_burst[before])
    assert not np.array_equal(without[during], with_burst[during])


@pytest.mark.parametrize("size", [1, 159, 640, 5000, 10**6])
@pytest.mark.parametrize("samples", [0, 300, 959, 961, 20 * 640 + 100])
def test_chunks_of_any_size_give_the_rows_of_the_whole(samples, size):
    sound = noise(samples)
    blocks = list(audio.mel_stream(in_chunks(sound, size)))
    mel = np.concatenate(blocks)
    whole = audio.log_mel(sound, audio.count_frames(sound))
    np.testing.assert_allclose(mel, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "frames"),
    [
        (0, 1),
        (1, 1),
        (640, 1),
        (959, 1),
        (961, 2),
        (1280, 2),
        (16000, 25),
        (16000 + 319, 25),
        (16000 + 321, 26),
    ],
)
def test_the_frames_of_a_sound_are_25_times_its_seconds_rounded(samples, frames):
    assert audio.count_frames(np.zeros(samples, np.float32)) == frames


# -- windows ---------------------------------------------------------------------------------------
def test_a_window_is_symmetric_about_the_middle_of_its_frame():
    [window] = MelWindows(counting_rows(400))[[50]]
    assert window.shape == (64, 80)
    rows = window[:, 0]
    assert rows.mean() == 201.5  # the middle of rows 200..203
    np.testing.assert_array_equal(rows, np.arange(202 - 32, 202 + 32))


def test_edge_rows_are_repeated_at_both_ends():
    windows = MelWindows(counting_rows(40))
    start, end = windows[np.array([0, 9])][:, :, 0]
    np.testing.assert_array_equal(start, np.maximum(np.arange(-30, 34), 0))
    np.testing.assert_array_equal(end, np.minimum(np.arange(6, 70), 39))


def test_a_window_never_reads_across_its_bounds():
    mel = np.full((400, 80), np.nan, np.float32)
    mel[100:200] = np.arange(100, 200)[:, None]
    bounds = np.tile((25, 50), (100, 1))
    windows = MelWindows(mel, bounds)
    for frame in range(25, 50):
        [window] = windows[[frame]]
        rows = 4 * frame + 2 + np.arange(-32, 32)
        np.testing.assert_array_equal(window[:, 0], np.clip(rows, 100, 199))


TWO_SHOTS = np.repeat([(0, 25), (25, 100)], (25, 75), axis=0)


def test_each_frame_of_a_batch_has_its_own_bounds():
    windows = MelWindows(counting_rows(400), TWO_SHOTS)
    first, second, third = windows[[24, 25, 98]]
    assert first.max() == 99
    assert second.min() == 100
    assert third.max() == 399


@pytest.mark.parametrize("bounds", [None, TWO_SHOTS])
def test_windows_that_start_later_are_the_same_windows(bounds):
    windows = MelWindows(counting_rows(400), bounds)
    first = windows[[0]]
    later = windows.starting_at(20)
    np.testing.assert_array_equal(later[[0, 5, 70]], windows[[20, 25, 90]])
    still_later = later.starting_at(10)
    np.testing.assert_array_equal(still_later[[3]], windows[[33]])
    np.testing.assert_array_equal(windows[[0]], first)


@pytest.mark.parametrize("size", [100, 640, 7000, 10**6])
def test_windows_of_sound_that_comes_in_chunks_are_those_of_the_whole(size):
    sound = noise(60 * 640 + 50)
    batches = list(audio.window_stream(in_chunks(sound, size)))
    streamed = np.concatenate(batches)
    whole = MelWindows(audio.log_mel(sound, 60))
    np.testing.assert_allclose(streamed, whole[np.arange(60)], atol=1e-5)


def test_a_window_comes_as_soon_as_its_last_sample_is_there():
    assert audio.LATENCY_MS == 355
    samples_needed = 355 * 16
    received = 0

    def one_by_one():
        nonlocal received
        for chunk in in_chunks(noise(20 * 640), 1):
            received += 1
            yield chunk

    waits = []
    for windows in audio.window_stream(one_by_one()):
        for _ in windows:
            frame = len(waits)
            waits.append(received - 640 * frame)
    assert max(waits) == waits[0] == samples_needed


# -- pauses ----------------------------------------------------------------------------------------
def test_pauses_are_runs_of_quiet_frames():
    level = np.full(100, -3.0)
    level[:10] = -11
    level[40:60] = -11
    level[75:77] = -11  # too short
    mel = as_mel(np.repeat(level, 4))
    found = audio.find_pauses(mel)
    assert found.shape == (100,)
    assert found[1:8].all()
    assert found[43:57].all()
    assert not found[15:36].any()
    assert not found[65:95].any()
