"""Sound -> mel. One definition for training, inference and evaluation."""

import numpy as np

from utils.contract import (HOP, MEL_FLOOR, MEL_FMAX, MEL_FMIN, N_FFT, N_MELS, ROWS_PER_FRAME, SAMPLE_RATE,
                            WINDOW_ROWS)

BLOCK_ROWS = 3000  # rows computed at a time (30 s): an hour of sound needs no more memory than a minute
SAMPLES_PER_FRAME = HOP * ROWS_PER_FRAME


def frames_of(sound):
    """Return M = round(25 x seconds) for 16 kHz samples: how many pictures the sound lasts, at least 1."""
    return max(1, round(len(sound) / SAMPLES_PER_FRAME))


def fit(sound, frames):
    """Return the samples padded with silence or cut to exactly `frames` pictures."""
    length = frames * SAMPLES_PER_FRAME
    return sound[:length] if len(sound) >= length else np.pad(sound, (0, length - len(sound)))


def log_mel(sound, frames):
    """Return the log-mel of 16 kHz mono float32 samples: float32 (4 x frames, 80), natural log, >= -11.52.

    Row r is centred on sample 160 r, ends are reflected (librosa's centred STFT), magnitudes below MEL_FLOOR
    count as silence. Nothing in it depends on the sound as a whole, so blocks give the rows that the whole
    sound gives. The sound is first padded with silence or cut to `frames` pictures.
    """
    import librosa  # here, because importing it takes seconds that --help should not

    sound = fit(sound, frames)
    rows = frames * ROWS_PER_FRAME
    mel = np.empty((rows, N_MELS), np.float32)
    for first in range(0, rows, BLOCK_ROWS):
        last = min(rows, first + BLOCK_ROWS)
        low, high = first * HOP - N_FFT // 2, (last - 1) * HOP + N_FFT // 2
        piece = np.pad(sound[max(0, low):high].astype(np.float32), (max(0, -low), max(0, high - len(sound))), "reflect")
        power = librosa.feature.melspectrogram(
            y=piece, sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, win_length=N_FFT, center=False, power=1.0,
            n_mels=N_MELS, fmin=MEL_FMIN, fmax=MEL_FMAX)
        mel[first:last] = np.log(np.maximum(power, MEL_FLOOR)).T
    return mel


def windows(mel, frames, first=0, last=None):
    """Return what the network hears for each of `frames`: float32 (B, 64, 80), time first.

    Frame i gets rows [4i+2-32, 4i+2+32): symmetric about its middle. Rows outside [first, last) - the sound's
    ends, or the shot's, where each frame has its own bounds - are repetitions of the edge row.
    """
    frames = np.asarray(frames)
    last = len(mel) if last is None else last
    middle = ROWS_PER_FRAME * frames[:, None] + ROWS_PER_FRAME // 2
    rows = middle + np.arange(-WINDOW_ROWS, WINDOW_ROWS)
    low, high = np.broadcast_to(first, frames.shape)[:, None], np.broadcast_to(last, frames.shape)[:, None] - 1
    return mel[np.clip(rows, low, high)]
