"""Sound -> mel. One definition for training, inference, evaluation and sound that comes as it is spoken."""

from functools import cache
from itertools import chain

import numpy as np

from utils.contract import (HOP, MEL_FLOOR, MEL_FMAX, MEL_FMIN, N_FFT, N_MELS, ROWS_PER_FRAME, SAMPLE_RATE,
                            WINDOW_ROWS)

BLOCK_ROWS = 3000  # rows computed at a time (30 s): an hour of sound needs no more memory than a minute
SAMPLES_PER_FRAME = HOP * ROWS_PER_FRAME
REACH = ROWS_PER_FRAME // 2 + WINDOW_ROWS  # rows from the first of a frame to the end of its window
LATENCY_MS = ((REACH - 1) * HOP + N_FFT // 2) * 1000 / SAMPLE_RATE  # from its start to the last sample it depends on


def frames_of(sound):
    """Return M = round(25 x seconds) for 16 kHz samples: how many pictures the sound lasts, at least 1."""
    return max(1, round(len(sound) / SAMPLES_PER_FRAME))


def fit(sound, frames):
    """Return the samples padded with silence or cut to exactly `frames` pictures."""
    length = frames * SAMPLES_PER_FRAME
    return sound[:length] if len(sound) >= length else np.pad(sound, (0, length - len(sound)))


def log_mel(sound, frames):
    """Return the log-mel of 16 kHz mono samples: float32 (4 x frames, 80), see mel_stream.

    The sound is first padded with silence or cut to `frames` pictures.
    """
    sound, done = fit(sound, frames), 0
    mel = np.empty((frames * ROWS_PER_FRAME, N_MELS), np.float32)
    for rows in mel_stream(sound[k:k + BLOCK_ROWS * HOP] for k in range(0, len(sound), BLOCK_ROWS * HOP)):
        mel[done:done + len(rows)] = rows
        done += len(rows)
    return mel


def mel_stream(chunks):
    """Yield the log-mel of 16 kHz mono samples that come in chunks: float32 (n, 80), natural log, >= -11.52.

    Row r is centred on sample 160 r, ends are reflected (librosa's centred STFT), magnitudes below MEL_FLOOR count as
    silence. Nothing in it depends on the sound as a whole: each row comes as soon as its last sample has. When the
    chunks end, the sound is padded with silence or cut to frames_of() pictures, so there are 4 rows for each.
    """
    edge, held, heard, done = N_FFT // 2, np.empty(0, np.float32), 0, 0  # held: what row number `done` begins with

    def silence():  # asked for at the end, when it is known how much is missing
        yield np.zeros(max(0, frames_of(range(heard)) * SAMPLES_PER_FRAME - heard), np.float32)

    for chunk in chain(chunks, silence()):
        held, heard = np.concatenate([held, chunk], dtype=np.float32), heard + len(chunk)
        if not done:
            if heard <= edge:
                continue
            held = np.pad(held, (edge, 0), "reflect")
        stays = min(heard, frames_of(range(heard)) * SAMPLES_PER_FRAME)  # the rest may be cut off in the end
        sure = held[:stays + edge - done * HOP]
        if len(sure) >= N_FFT:
            rows = _log_spectra(sure)
            yield rows
            held, done = held[len(rows) * HOP:], done + len(rows)
    left = frames_of(range(heard)) * ROWS_PER_FRAME - done
    yield _log_spectra(np.pad(held[:left * HOP + edge], (0, edge - HOP), "reflect"))


def _log_spectra(samples):
    """Return the log-mel (n, 80) of each whole window in float32 samples."""
    import librosa  # here, because importing it takes seconds that --help should not

    magnitude = np.abs(librosa.stft(samples, n_fft=N_FFT, hop_length=HOP, win_length=N_FFT, center=False))
    return np.log(np.maximum(_bands() @ magnitude, MEL_FLOOR)).T


@cache
def _bands():
    """Return the mel filters (80, 401): making them takes longer than using them on a short chunk."""
    import librosa

    return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=MEL_FMIN, fmax=MEL_FMAX)


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


def window_stream(chunks):
    """Yield what windows() returns, (B, 64, 80), for the next B pictures of sound that comes in chunks.

    Each comes as soon as its last sample has: LATENCY_MS after the picture's own first. No more is held than that
    needs. All of them are frames_of() pictures.
    """
    behind = -(-WINDOW_ROWS // ROWS_PER_FRAME)
    mel, first, done = np.empty((0, N_MELS), np.float32), 0, 0  # mel: from frame number `first` on
    for rows in chain(mel_stream(chunks), [None]):
        mel = mel if rows is None else np.concatenate([mel, rows])
        ahead = ROWS_PER_FRAME if rows is None else REACH       # at the end the edge row is repeated
        ready = first + (len(mel) - ahead) // ROWS_PER_FRAME + 1
        if ready > done:
            yield windows(mel, np.arange(done, ready) - first)
            past, done = max(0, ready - behind - first), ready
            mel, first = mel[past * ROWS_PER_FRAME:], first + past
