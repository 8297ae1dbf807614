"""Are sound and picture in step? The offset that lip movement and loudness tell, and the correction of the sound."""

from itertools import chain
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

from utils.audio import BLOCK_ROWS, log_mel
from utils.contract import FPS, HOP, ROWS_PER_FRAME, SAMPLE_RATE
from utils.face import shots

SPEECH_BANDS = slice(17, 63)  # mel bands of 0.7-4 kHz, where loudness follows the mouth best (second and third formant:
                              # Chandrasekaran et al. 2009); lower ones hold hum, higher ones an s behind closed teeth
FLOOR = -9.0         # log level below which bands count as silent: a room's noise is no movement
SMOOTHING = 4        # rows, sigma of the Gaussian whose slope is the speed of mouth and loudness
MOST = 80            # rows of offset looked at to either side (800 ms)
SEGMENT = SAMPLE_RATE // HOP  # rows (1 s) of a segment; segments that tell the same make an estimate sure
NEAR = 4             # rows (40 ms) within which two estimates tell the same
RESAMPLINGS = 200
BIAS = -15.0         # ms found where sound and picture are in step: -22, -33 and +9 on three recordings, -30 on the
                     # drawn sample. How far lips move before they are heard differs from voice to voice by as much
WEAK, STRONG = 0.75, 1.25  # height of the peak times the root of the seconds less one. Unrelated sound has 0.6 at any
                         # length, 1.2 in one of a thousand clips; a person's own has 1.2 to 2.3 in 20 s of speech
SURE = 0.8           # confidence from which an estimate may be acted upon
HABIT = 60.0         # ms: less may be the person's own way of speaking, and nobody sees it


def estimate_offset(mel, opening, valid, cuts):
    """Return (milliseconds, confidence): how late the sound is (+100: 100 ms late), and how sure that is, 0..1.

    mel (4N, 80) float32 log-mel; opening (N,) of the mouth; valid (N,) bool; cuts (C,), first frame of each shot.
    Speed of the mouth and of loudness are correlated within shots at every offset up to 800 ms. Confidence is the
    share of bootstrap samples of the clip's seconds that agree within 40 ms, weighted by how far the peak stands
    above what unrelated sound reaches. (0, 0) where nothing moves.
    """
    sums = np.concatenate([_sums(mel[ROWS_PER_FRAME * first:ROWS_PER_FRAME * last], opening[first:last],
                                 valid[first:last]) for first, last in shots(cuts, len(valid))], axis=1).T
    curve = _correlation(sums.sum(axis=0))
    best = int(np.argmax(curve))
    if not 0 < best < 2 * MOST or curve[best] <= 0:
        return 0.0, 0.0
    draws = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLINGS)
    again = _correlation(draws @ sums).argmax(axis=1)
    before, peak, after = curve[best - 1:best + 2]
    strength = (peak * np.sqrt(max(0.0, valid.sum() / FPS - 1)) - WEAK) / (STRONG - WEAK)
    row = best - MOST + (before - after) / max(1e-12, 2 * (before - 2 * peak + after), key=abs)
    milliseconds = 1000 * HOP / SAMPLE_RATE * row - BIAS
    return float(milliseconds), float(np.mean(np.abs(again - best) <= NEAR) * np.clip(strength, 0, 1))


def _sums(mel, opening, valid):
    """Return (2 + offsets, segments) of one shot: sums of mouth squared, loudness squared, mouth x loudness."""
    rows, known = len(mel), np.flatnonzero(valid)
    starts = np.arange(0, max(1, rows - SEGMENT // 2), SEGMENT)
    if not len(known):
        return np.zeros((2 * MOST + 3, len(starts)))
    mouth, loud = (gaussian_filter1d(curve, SMOOTHING, order=1, mode="nearest") for curve in (
        np.interp(np.arange(rows) / ROWS_PER_FRAME, known, opening[known]),
        # block by block: no second copy of the mel of an hour
        np.concatenate([np.maximum(part[:, SPEECH_BANDS], FLOOR).mean(axis=1)
                        for part in np.array_split(mel, 1 + rows // BLOCK_ROWS)])))
    mouth *= np.repeat(valid, ROWS_PER_FRAME)
    later = np.pad(loud, MOST)
    curves = chain((mouth ** 2, loud ** 2), (mouth * later[k:k + rows] for k in range(2 * MOST + 1)))
    return np.stack([np.add.reduceat(curve, starts) for curve in curves])


def _correlation(sums):
    """Return the correlation (..., offsets) of sums (..., 2 + offsets); 0 where nothing moves.

    The squares are those of whole segments at every offset: what leaves the shot counts as unlike, or the few rows
    that are left at its ends would look alike too easily.
    """
    return sums[..., 2:] / np.sqrt(np.maximum(sums[..., :1] * sums[..., 1:2], 1e-20))


class Offset(NamedTuple):
    """late: ms by which the sound comes late, as estimated; confidence: 0..1; applied: ms by which it is moved."""
    late: float
    confidence: float
    applied: int

    def __str__(self):
        """Return what was found and done, for the terminal."""
        found = (f"the sound is {abs(self.late):.0f} ms {'late' if self.late > 0 else 'early'}"
                 if abs(self.late) > HABIT else f"sound and picture are in step ({self.late:+.0f} ms)")
        if self.confidence < SURE:
            found = "whether sound and picture are in step cannot be known from this video"
        done = (f"it was moved {abs(self.applied)} ms {'earlier' if self.applied > 0 else 'later'}" if self.applied else
                "it was left as it is")
        return f"{found}; confidence {self.confidence:.2f}; {done}"


def settle(mel, track, choice="auto"):
    """Return the Offset of a clip with this log-mel and track. choice: "auto", "off" or the ms to apply."""
    late, confidence = estimate_offset(mel, track["shape"][:, 0], track["valid"], track["cuts"])
    if choice == "auto":
        choice = round(late) if confidence >= SURE and abs(late) > HABIT else 0
    return Offset(late, confidence, 0 if choice == "off" else choice)


def in_step(sound, track, choice="auto"):
    """Return the sound (samples,) in step with the picture, its log-mel (4N, 80), and the Offset that was applied."""
    frames = len(track["valid"])
    mel = log_mel(sound, frames)
    offset = settle(mel, track, choice)
    if offset.applied:
        sound = shift(sound, offset.applied)
        mel = log_mel(sound, frames)
    return sound, mel, offset


def shift(sound, milliseconds):
    """Return sound (samples, ...) that is so many whole ms late, moved earlier to be in step: as many samples."""
    late = max(-len(sound), min(len(sound), milliseconds * SAMPLE_RATE // 1000))
    if not late:
        return sound
    moved, quiet = sound[max(0, late):len(sound) + min(0, late)], np.zeros_like(sound[:abs(late)])
    return np.concatenate([moved, quiet] if late > 0 else [quiet, moved])
