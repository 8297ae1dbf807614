"""The mel definition: librosa's, block by block, exactly four rows a frame, and no look at the file as a whole."""

import librosa
import numpy as np
import pytest

from utils import audio, contract


def noise(samples, seed=0):
    """Return reproducible noise with a tone in it."""
    tone = np.sin(2 * np.pi * 440 * np.arange(samples) / contract.SAMPLE_RATE)
    return (0.1 * np.random.default_rng(seed).standard_normal(samples) + 0.2 * tone).astype(np.float32)


def test_log_mel_is_librosas_centred_reflected_log_mel_of_the_whole_sound():
    frames = 60
    sound = noise(frames * 640)
    power = librosa.feature.melspectrogram(
        y=sound, sr=16000, n_fft=800, hop_length=160, win_length=800, window="hann", center=True,
        pad_mode="reflect", power=1.0, n_mels=80, fmin=55, fmax=7600)
    expected = np.log(np.maximum(power, 1e-5)).T[:4 * frames]
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
    assert mel.shape == (4 * frames, 80) and mel.dtype == np.float32 and np.isfinite(mel).all()


def test_a_longer_sound_is_cut_and_a_shorter_one_padded_with_silence():
    np.testing.assert_array_equal(audio.fit(noise(1000), 1), noise(1000)[:640])
    padded = audio.fit(noise(1000), 2)
    np.testing.assert_array_equal(padded[:1000], noise(1000))
    assert len(padded) == 1280 and not padded[1000:].any()


def test_silence_is_the_log_of_the_floor():
    np.testing.assert_array_equal(audio.log_mel(np.zeros(6400, np.float32), 10), np.float32(np.log(np.float32(1e-5))))


def test_a_loud_burst_far_away_changes_no_bit_here():
    sound = noise(100 * 640)
    burst = sound.copy()
    burst[80 * 640:81 * 640] = 1.0
    here, there = audio.log_mel(sound, 100), audio.log_mel(burst, 100)
    np.testing.assert_array_equal(here[:79 * 4], there[:79 * 4])
    assert not np.array_equal(here[80 * 4:81 * 4], there[80 * 4:81 * 4])


@pytest.mark.parametrize(("samples", "frames"), [(0, 1), (1, 1), (640, 1), (959, 1), (961, 2), (1280, 2), (16000, 25),
                                                 (16000 + 319, 25), (16000 + 321, 26)])
def test_frames_of_rounds_25_times_the_seconds(samples, frames):
    assert audio.frames_of(np.zeros(samples, np.float32)) == frames


def test_a_window_is_symmetric_about_the_middle_of_its_frame():
    mel = np.arange(400, dtype=np.float32)[:, None].repeat(80, axis=1)
    window = audio.windows(mel, [50])[0]
    assert window.shape == (64, 80)
    assert window[:, 0].mean() == 4 * 50 + 1.5  # the middle of rows 200..203
    np.testing.assert_array_equal(window[:, 0], np.arange(4 * 50 + 2 - 32, 4 * 50 + 2 + 32))


def test_edge_rows_are_repeated_at_both_ends():
    mel = np.arange(40, dtype=np.float32)[:, None].repeat(80, axis=1)
    start, end = audio.windows(mel, [0, 9])[:, :, 0]
    np.testing.assert_array_equal(start, np.maximum(np.arange(-30, 34), 0))
    np.testing.assert_array_equal(end, np.minimum(np.arange(6, 70), 39))


def test_a_window_never_reads_across_its_bounds():
    mel = np.full((400, 80), np.nan, np.float32)
    mel[100:200] = np.arange(100, 200)[:, None]
    for frame in range(25, 50):
        window = audio.windows(mel, [frame], 100, 200)[0, :, 0]
        np.testing.assert_array_equal(window, np.clip(4 * frame + 2 + np.arange(-32, 32), 100, 199))


def test_each_frame_of_a_batch_has_its_own_bounds():
    mel = np.arange(400, dtype=np.float32)[:, None].repeat(80, axis=1)
    windows = audio.windows(mel, [24, 25, 60], np.array([0, 100, 100]), np.array([100, 400, 250]))[:, :, 0]
    assert windows[0].max() == 99 and windows[1].min() == 100 and windows[2].max() == 249
