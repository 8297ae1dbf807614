"""Sound -> log-mel -> windows: one definition for training, inference, evaluation and live."""

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import binary_opening, uniform_filter1d

from utils.contract import (
    HOP,
    MEL_FLOOR,
    MEL_FMAX,
    MEL_FMIN,
    N_FFT,
    N_MELS,
    ROWS_PER_FRAME,
    SAMPLE_RATE,
    WINDOW_ROWS,
)

SAMPLES_PER_FRAME = HOP * ROWS_PER_FRAME  # 640
BLOCK_ROWS = 3000  # rows (30 s) computed at a time: an hour of sound needs no more memory than that
EDGE_SAMPLES = N_FFT // 2  # samples that a row needs to either side of its centre

_HISTORY_FRAMES = WINDOW_ROWS // ROWS_PER_FRAME + 1  # before its own, enough for a window
_AHEAD_ROWS = ROWS_PER_FRAME // 2 + WINDOW_ROWS  # from a frame's first row to its window's end
_AHEAD_SAMPLES = (_AHEAD_ROWS - 1) * HOP + EDGE_SAMPLES
LATENCY_MS = 1000 * _AHEAD_SAMPLES / SAMPLE_RATE  # from a frame's start to the last sample it needs

QUIET_SHARE = 0.25  # a pause is below this share of the way from the quietest to the loudest frames
PAUSE_FRAMES = 5    # a shorter quiet moment is no pause

QUIET_DB = -45.0        # dBFS: speech below it is brought up
USUAL_DB = -26.0        # dBFS: to this
SILENT_DB = -100.0      # dBFS: editors put less between pieces, no room does
SILENT_PEAK = 1e-4      # of 1: a sound that never gets louder is silence
PAUSE_POWER = 0.1       # of the mean: pieces with less are pauses (the gate of ITU-R BS.1770)
SPEECH_TO_NOISE = 10.0  # power of speech over that of the quietest pieces: with less it is noise


# -- the level -------------------------------------------------------------------------------------
def piece_power(sound: np.ndarray) -> np.ndarray:
    """Mean square (n,) of the 40 ms pieces of 16 kHz samples that are not digital silence."""
    count = len(sound) // SAMPLES_PER_FRAME
    pieces = sound[: count * SAMPLES_PER_FRAME].reshape(count, SAMPLES_PER_FRAME)
    # einsum makes no copy of the sound, which may last an hour
    power = np.einsum("ij,ij->i", pieces, pieces) / SAMPLES_PER_FRAME
    return power[power > 10 ** (SILENT_DB / 10)]


def usual_level(sound: np.ndarray) -> tuple[np.ndarray, float]:
    """16 kHz speech as loud as the network knows it, and the level that was found, dBFS.

    The level is that of the pieces in which somebody speaks. Speech below QUIET_DB is brought up to
    USUAL_DB, as far as its peak allows. All else is returned as it is, the same array: louder
    speech, silence, and noise from which no piece stands out.
    """
    power = piece_power(sound)
    if not len(power):
        return sound, SILENT_DB
    level = float(10 * np.log10(_speech_power(power)))
    peak = float(max(sound.max(), -sound.min()))
    if level >= QUIET_DB or not has_voice(sound) or peak >= 1:
        return sound, level
    return sound * min(10 ** ((USUAL_DB - level) / 20), 1 / peak), level


def _speech_power(power):
    return power[power > PAUSE_POWER * power.mean()].mean()


def has_voice(sound: np.ndarray) -> bool:
    """Whether anything stands out of 16 kHz samples (n,), as speech does: not of hum or silence."""
    power = piece_power(sound)
    if not len(power) or max(sound.max(), -sound.min()) < SILENT_PEAK:
        return False
    return bool(_speech_power(power) >= SPEECH_TO_NOISE * np.quantile(power, 0.05))


# -- the mel ---------------------------------------------------------------------------------------
def _log_mel_rows(samples):
    """Log-mel (n, 80) of float32 samples that hold n windows of N_FFT, one every HOP samples."""
    import librosa  # takes seconds to import, which --help should not

    spectra = librosa.stft(samples, n_fft=N_FFT, hop_length=HOP, win_length=N_FFT, center=False)
    mel = _mel_filters() @ np.abs(spectra)
    return np.ascontiguousarray(np.log(np.maximum(mel, MEL_FLOOR)).T)


@cache
def _mel_filters():
    """Mel filters (80, 401). To make them takes longer than to use them on a short chunk."""
    import librosa

    return librosa.filters.mel(
        sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=MEL_FMIN, fmax=MEL_FMAX
    )


def log_mel(sound: np.ndarray, frames: int) -> np.ndarray:
    """Log-mel (4 x frames, 80) float32 of 16 kHz mono samples, see mel_stream.

    The sound is first padded with silence or cut to `frames` pictures.
    """
    sound = fit_length(sound, frames)
    block = BLOCK_ROWS * HOP
    blocks = (sound[first:first + block] for first in range(0, len(sound), block))
    return np.concatenate(list(mel_stream(blocks)))


def mel_stream(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the log-mel (n, 80) float32 of 16 kHz mono samples that come in chunks of any size.

    Natural log of magnitudes, at least log(MEL_FLOOR) = -11.51. Row r is centred on sample 160 r
    and the ends are reflected (librosa's centred STFT). Nothing depends on the sound as a whole:
    each row comes as soon as its last sample is there. When the chunks end, the sound is padded
    with silence or cut to count_frames() pictures, so there are 4 rows for each.
    """
    buffer = np.empty(0, np.float32)  # from the first sample that row number `done` needs
    received = 0  # samples
    done = 0      # rows
    for chunk in _pad_last_picture(chunks):
        buffer = np.concatenate([buffer, chunk], dtype=np.float32)
        received += len(chunk)
        if done == 0:
            if received <= EDGE_SAMPLES:
                continue
            buffer = np.pad(buffer, (EDGE_SAMPLES, 0), "reflect")
        # Samples beyond the last whole picture may be cut off in the end: they have to wait.
        certain = min(received, _frames_in(received) * SAMPLES_PER_FRAME)
        usable = buffer[:certain + EDGE_SAMPLES - done * HOP]
        if len(usable) >= N_FFT:
            rows = _log_mel_rows(usable)
            yield rows
            buffer = buffer[len(rows) * HOP:]
            done += len(rows)
    left = _frames_in(received) * ROWS_PER_FRAME - done
    rest = buffer[:left * HOP + EDGE_SAMPLES]
    yield _log_mel_rows(np.pad(rest, (0, EDGE_SAMPLES - HOP), "reflect"))


def _pad_last_picture(chunks):
    """Yield the chunks, then the silence that the last picture lacks."""
    received = 0
    for chunk in chunks:
        received += len(chunk)
        yield chunk
    missing = _frames_in(received) * SAMPLES_PER_FRAME - received
    yield np.zeros(max(0, missing), np.float32)


def _frames_in(samples):
    return max(1, round(samples / SAMPLES_PER_FRAME))


def count_frames(sound: np.ndarray) -> int:
    """Pictures that 16 kHz samples last: round(25 x seconds), at least 1."""
    return _frames_in(len(sound))


def fit_length(sound: np.ndarray, frames: int) -> np.ndarray:
    """The samples padded with silence or cut to exactly `frames` pictures."""
    import librosa

    return librosa.util.fix_length(sound, size=frames * SAMPLES_PER_FRAME)


# -- windows ---------------------------------------------------------------------------------------
class MelWindows:
    """What the network gets of the sound for each frame: windows[frames] -> (B, 64, 80).

    Time comes first. Frame i gets rows [4i+2-32, 4i+2+32): symmetric about its middle. Rows outside
    the sound, or outside the frame's bounds, are repetitions of the edge row.
    """

    def __init__(self, mel: np.ndarray, bounds: np.ndarray | None = None):
        """mel (4N, 80) float32. bounds (N, 2): first frame and one after the last, per frame."""
        self.mel = mel
        self.bounds = bounds
        self._first = 0

    def __getitem__(self, frames: ArrayLike) -> np.ndarray:
        frames = self._first + np.asarray(frames)[:, None]
        middle = ROWS_PER_FRAME * frames + ROWS_PER_FRAME // 2
        rows = middle + np.arange(-WINDOW_ROWS, WINDOW_ROWS)
        if self.bounds is None:
            return self.mel[np.clip(rows, 0, len(self.mel) - 1)]
        first_row = ROWS_PER_FRAME * self.bounds[frames, 0]
        stop_row = ROWS_PER_FRAME * self.bounds[frames, 1]
        return self.mel[np.clip(rows, first_row, stop_row - 1)]

    def starting_at(self, first: int) -> "MelWindows":
        """The same windows, counted from frame `first`: frame t is frame first + t of these."""
        windows = MelWindows(self.mel, self.bounds)
        windows._first = self._first + first
        return windows


def window_stream(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the mel windows (B, 64, 80) of the next B pictures of sound that comes in chunks.

    Each comes as soon as its last sample is there: LATENCY_MS after the picture's own first one.
    No more is held than that needs. In all there are count_frames() windows.
    """
    mel = np.empty((0, N_MELS), np.float32)
    done = 0  # frames of `mel` whose window has been yielded
    for rows in mel_stream(chunks):
        mel = np.concatenate([mel, rows])
        ready = (len(mel) - _AHEAD_ROWS) // ROWS_PER_FRAME + 1
        if ready > done:
            yield MelWindows(mel)[np.arange(done, ready)]
            past = max(0, ready - _HISTORY_FRAMES)
            mel = mel[past * ROWS_PER_FRAME:]
            done = ready - past
    frames = len(mel) // ROWS_PER_FRAME
    yield MelWindows(mel)[np.arange(done, frames)]  # the edge row is repeated


def find_pauses(mel: np.ndarray, quiet_share: float = QUIET_SHARE) -> np.ndarray:
    """Where speech with the log-mel (4T, 80) pauses: (T,) bool, runs of at least PAUSE_FRAMES."""
    per_frame = mel.reshape(-1, ROWS_PER_FRAME * N_MELS)
    level = uniform_filter1d(per_frame.mean(axis=1), PAUSE_FRAMES, mode="nearest")
    quietest, loudest = np.quantile(level, (0.02, 0.9))
    quiet = level < quietest + quiet_share * (loudest - quietest)
    return binary_opening(quiet, np.ones(PAUSE_FRAMES))
