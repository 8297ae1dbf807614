"""Offset between sound and picture: estimated from lip movement and loudness, and taken out."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import correlate, correlation_lags

from utils.audio import log_mel
from utils.contract import FPS, HOP, ROWS_PER_FRAME, SAMPLE_RATE
from utils.storage import Track

ROW_MS = 1000 * HOP / SAMPLE_RATE  # from one mel row to the next: 10 ms
MOST_ROWS = 80  # offset that is looked at, to either side (800 ms)
OFFSETS = 2 * MOST_ROWS + 1

# Mel bands of 0.7-4 kHz, second and third formant: their loudness follows the mouth best
# (Chandrasekaran et al. 2009). Lower bands hold hum, higher ones an s behind closed teeth.
SPEECH_BANDS = slice(17, 63)
FLOOR_LOG_LEVEL = -9.0  # lower levels count as silence: the noise of a room is no movement
SPEED_SIGMA_ROWS = 4  # of the Gaussian whose slope is the speed of mouth and loudness

SEGMENT_ROWS = SAMPLE_RATE // HOP  # 1 s: the unit of the bootstrap
RESAMPLINGS = 200  # of the bootstrap
AGREE_ROWS = 4  # two estimates agree if they differ by no more than this (40 ms)

# Found where sound and picture are synchronous: -6, -15 and +17 ms on three recordings, -26 ms on
# the drawn sample. How long before a sound the lips move differs as much from voice to voice.
BIAS_MS = -10.0

# Strength of the peak: its height times the root of the clip's seconds less one. Unrelated sound
# has 0.6 at any length, and 1.2 in one of a thousand clips; a person's own sound has 1.2 to 2.3 in
# 20 s of speech.
WEAK_PEAK = 0.75
STRONG_PEAK = 1.25

# Sound recorded apart: its best place is this many times better than any other place. Sound of
# something else reaches 1.2, a person's own 1.3 to 1.7 in 20 s and 3.5 in 2 minutes.
WEAK_LEAD = 1.1
STRONG_LEAD = 1.35
UNSURE_S = (10, 20)  # s of the mouth: with 10 any sound fits somewhere, 20 are enough
LIKELY_CONFIDENCE = 0.5  # from here on it is put there
APART_ROWS = 100  # from the best place to another one (1 s)
LEAST_ENERGY = 0.6  # of the most that the mouth meets anywhere: silence fits by chance

SURE_CONFIDENCE = 0.8  # from here on an estimate may be acted upon
HABIT_MS = 60.0  # a smaller offset may be the person's way of speaking, and nobody sees it


def estimate_offset(
    mel: np.ndarray, opening: np.ndarray, valid: np.ndarray, cuts: np.ndarray
) -> tuple[float, float]:
    """How late the sound is in ms (+100: 100 ms late), and the confidence in that, 0..1.

    mel (4N, 80) float32 log-mel; opening (N,) of the mouth; valid (N,) bool; cuts (C,) first frame
    of each shot. The speeds of mouth and loudness are correlated within shots, at every offset of
    up to 800 ms. The confidence is the share of bootstrap samples of the clip's seconds that agree
    within 40 ms, weighted by how far the peak exceeds what unrelated sound reaches. (0, 0) where
    nothing moves.
    """
    inner_cuts = cuts[1:]
    mels = np.split(mel, ROWS_PER_FRAME * inner_cuts)
    openings = np.split(opening, inner_cuts)
    valids = np.split(valid, inner_cuts)
    sums = np.hstack(list(map(_segment_sums, mels, openings, valids))).T

    correlation = _correlate(sums.sum(axis=0))
    best = correlation.argmax()
    if best in (0, OFFSETS - 1) or correlation[best] <= 0:
        return 0.0, 0.0

    # between the rows: the vertex of a parabola through the peak and its neighbours
    before, peak, after = correlation[best - 1 : best + 2]
    bend = 2 * (before - 2 * peak + after)
    late_rows = best - MOST_ROWS + (before - after) / max(1e-12, bend, key=abs)

    strength = peak * np.sqrt(max(0.0, valid.sum() / FPS - 1))
    confidence = _agreement(sums, best) * np.interp(strength, (WEAK_PEAK, STRONG_PEAK), (0, 1))
    return ROW_MS * late_rows - BIAS_MS, confidence


def _segment_sums(mel, opening, valid):
    """Sums (2 + OFFSETS, segments) of a shot: mouth squared, loudness squared, their products."""
    rows = len(mel)
    starts = np.arange(0, max(1, rows - SEGMENT_ROWS // 2), SEGMENT_ROWS)
    if not valid.any():
        return np.zeros((2 + OFFSETS, len(starts)))

    mouth = _mouth_speed(opening, valid)
    loudness = _loudness_speed(mel)
    padded = np.pad(loudness, MOST_ROWS)

    def products():
        yield mouth**2
        yield loudness**2
        for offset in range(OFFSETS):
            yield mouth * padded[offset : offset + rows]

    return np.stack([np.add.reduceat(product, starts) for product in products()])


def _mouth_speed(opening, valid):
    """Speed (4N,) of the mouth in a shot; 0 where it is not seen."""
    known = np.flatnonzero(valid)
    if not len(known):
        return np.zeros(ROWS_PER_FRAME * len(valid))
    frames = np.arange(ROWS_PER_FRAME * len(valid)) / ROWS_PER_FRAME
    return _speed(np.interp(frames, known, opening[known])) * np.repeat(valid, ROWS_PER_FRAME)


def _loudness_speed(mel):
    return _speed(_audible(mel).mean(axis=1))


def _audible(mel):
    return np.maximum(mel[:, SPEECH_BANDS], FLOOR_LOG_LEVEL)


def _speed(curve):
    return gaussian_filter1d(curve, SPEED_SIGMA_ROWS, order=1, mode="nearest")


def _correlate(sums):
    """Correlation (..., OFFSETS) of sums (..., 2 + OFFSETS); 0 where nothing moves.

    The squares are those of whole segments at every offset. So what leaves the shot counts as
    different: else the few rows that are left at its ends would look similar too easily.
    """
    mouth, loudness, products = np.split(sums, (1, 2), axis=-1)
    return products / np.sqrt(np.maximum(mouth * loudness, 1e-20))


def _agreement(sums, best):
    """Share of bootstrap samples of the segments whose best offset is near `best`."""
    segments = len(sums)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(segments, np.full(segments, 1 / segments), RESAMPLINGS)
    found = _correlate(draws @ sums).argmax(axis=1)
    return np.mean(np.abs(found - best) <= AGREE_ROWS)


def find_apart(
    mel: np.ndarray, track: Track, camera: np.ndarray | None = None
) -> tuple[float, float]:
    """How late sound is in ms that was recorded apart, anywhere in it, and the confidence, 0..1.

    mel (4M, 80): of all of it. camera (4N, 80): log-mel of what the camera heard, if anything: it
    says more than the mouth does. The confidence says how far the best place is ahead of any other.
    To the nearest row; estimate_offset() knows better.
    """
    certainty = 1.0
    if camera is None:
        certainty = np.interp(track.valid.sum() / FPS, UNSURE_S, (0, 1))
        shots = [slice(*shot) for shot in track.shots()]
        parts = [_mouth_speed(track.opening[shot], track.valid[shot]) for shot in shots]
        wanted = np.concatenate(parts)[None]
        heard = _loudness_speed(mel)[None]
    else:
        wanted, heard = (_speed(_audible(sound).T) for sound in (camera, mel))  # of each band
    rows = wanted.shape[1]
    pairs = zip(heard, wanted, strict=True)
    places = np.sum([correlate(*pair, method="fft") for pair in pairs], axis=0)
    energy = correlate((heard**2).sum(axis=0), np.ones(rows), method="fft")  # of what is met there
    places /= np.sqrt(np.maximum(energy, LEAST_ENERGY * max(1e-9, energy.max())))
    best = int(places.argmax())
    others = np.concatenate([places[:max(0, best - APART_ROWS)], places[best + APART_ROWS:]])
    ahead = places[best] / max(1e-9, others.max(initial=0))
    confidence = certainty * np.interp(ahead, (WEAK_LEAD, STRONG_LEAD), (0, 1))
    late_rows = correlation_lags(len(mel), rows)[best]
    return ROW_MS * late_rows, float(confidence)


class Offset(NamedTuple):
    """What was found about sound and picture, and done about it."""

    late_ms: float  # the sound comes later than the picture by this, as estimated
    confidence: float  # 0..1
    applied_ms: int  # the sound is moved earlier by this

    def __str__(self) -> str:
        """Both in words, for the terminal."""
        if self.confidence < SURE_CONFIDENCE:
            found = "whether sound and picture are in step cannot be known from this video"
        elif abs(self.late_ms) <= HABIT_MS:
            found = f"sound and picture are in step ({self.late_ms:+.0f} ms)"
        else:
            side = "late" if self.late_ms > 0 else "early"
            found = f"the sound is {abs(self.late_ms):.0f} ms {side}"
        done = "left as it is"
        if self.applied_ms:
            way = "earlier" if self.applied_ms > 0 else "later"
            done = f"moved {abs(self.applied_ms)} ms {way}"
        return f"{found}; confidence {self.confidence:.2f}; it was {done}"


def choose_offset(mel: np.ndarray, track: Track, choice: str | int) -> Offset:
    """Offset of a clip with this log-mel (4N, 80). choice: "auto", "off" or the ms to apply."""
    late_ms, confidence = estimate_offset(mel, track.opening, track.valid, track.cuts)
    applied_ms = 0 if isinstance(choice, str) else choice
    if choice == "auto" and confidence >= SURE_CONFIDENCE and abs(late_ms) > HABIT_MS:
        applied_ms = round(late_ms)
    return Offset(late_ms, confidence, applied_ms)


class Synchronised(NamedTuple):
    """Sound that belongs to the picture."""

    sound: np.ndarray  # (samples,) float32, 16 kHz
    mel: np.ndarray  # (4N, 80) float32, its log-mel
    offset: Offset  # what was applied


def synchronise(sound: np.ndarray, track: Track, choice: str | int = "auto") -> Synchronised:
    """Sound (samples,) moved to where it belongs. choice: "auto", "off" or the ms to apply."""
    mel = log_mel(sound, len(track))
    offset = choose_offset(mel, track, choice)
    if offset.applied_ms:
        sound = shift_sound(sound, offset.applied_ms)
        mel = log_mel(sound, len(track))
    return Synchronised(sound, mel, offset)


def place_sound(sound: np.ndarray, ms: int) -> np.ndarray:
    """Sound (samples,) moved like shift_sound(), longer where its end would be lost."""
    return shift_sound(np.pad(sound, (0, max(0, -ms) * SAMPLE_RATE // 1000)), ms)


def shift_sound(sound: np.ndarray, ms: int) -> np.ndarray:
    """Sound (samples, ...) moved earlier by `ms`, later if negative; as long as before."""
    samples = ms * SAMPLE_RATE // 1000
    silence = np.zeros_like(sound[:abs(samples)])
    if samples > 0:
        return np.concatenate([sound[samples:], silence])
    return np.concatenate([silence, sound])[:len(sound)]
