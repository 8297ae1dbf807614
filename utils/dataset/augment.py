"""Augmentation in training: other rooms, microphones, voices and light than those recorded.

Log-mel values are natural logarithms of magnitudes: +0.69 is twice as loud.
"""

import numpy as np
import torch
from torch import Tensor

# -- edit these: how much sound and light vary in training ----------------------------------------
SILENT_SHARE = 0.12         # of the samples hear only a noise floor and are shown a closed mouth
AS_RECORDED_SHARE = 0.2     # of the other samples hear the sound as it was recorded
GAIN_LOG = (-2.0, 1.2)      # range of the loudness: -17 to +10 dB
TILT_LOG = 0.8              # most change from the lowest to the highest band: other microphones
SHIFT_BANDS = 2.0           # most shift of the spectrum: shorter and longer vocal tracts
PACE_LOG = 0.15             # most change of pace: 16 % faster or slower
MASKED_BANDS = 16           # bands flattened at most: no band is relied on (SpecAugment, Park 2019)
NOISE_LOG = (-12.5, -4.5)   # range of the noise floor: from digital silence to a loud fan
SILENCE_LOG = (-12.5, -6.5)  # the same in silent samples
LIGHT_SHARE = 0.15          # most change of each colour, the same in references and wanted picture
POSE_NOISE = 0.004          # eye distances: keeps the exact head pose from naming the frame
# -------------------------------------------------------------------------------------------------
COLOUR_LOG = 1.5            # most tilt of a noise floor's spectrum
FLUTTER_LOG = 0.3           # standard deviation of a noise floor from row to row
OVERLAP_ROWS = 5            # spectra overlap by 4/5, so that neighbouring rows are similar


def augment_mel(windows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log-mel windows (B, T, 80) as another voice, pace, room or microphone would give them."""
    windows = _shift_bands(windows, rng)
    windows = _change_pace(windows, rng)
    windows = windows + _gain_and_tilt(windows, rng)
    windows = _flatten_bands(windows, rng)
    noise = noise_floor(windows.shape, rng, *NOISE_LOG)
    # magnitudes add as powers: logaddexp(2 a, 2 b) / 2, which would take five times as long
    louder = np.maximum(windows, noise)
    distance = np.abs(windows - noise)
    return louder + 0.5 * np.log1p(np.exp(-2 * distance))


def noise_floor(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    lowest: float,
    highest: float,
) -> np.ndarray:
    """Log-mel windows (B, T, 80) of steady noise, each with a level of its own from `lowest` to
    `highest` and a spectrum of its own.
    """
    batch, rows, bands = shape
    level = rng.uniform(lowest, highest, (batch, 1, 1))
    colour = rng.uniform(-COLOUR_LOG, COLOUR_LOG, (batch, 1, 1))
    spectrum = level + colour * _ramp(bands)
    # float32 from here on takes half the time
    flutter = rng.standard_normal((batch, rows + OVERLAP_ROWS - 1, bands), np.float32)
    flutter *= np.float32(FLUTTER_LOG / np.sqrt(OVERLAP_ROWS))
    floor = spectrum.astype(np.float32)
    for k in range(OVERLAP_ROWS):
        floor = floor + flutter[:, k:k + rows]
    return floor


def interpolate_rows(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values (B, L, C) interpolated at fractional places (B, K) of their second axis: (B, K, C).

    Beyond the ends the end is repeated.
    """
    length = values.shape[1]
    places = np.clip(places, 0, length - 1)
    low = np.minimum(places.astype(int), length - 2)
    share = places - low
    share = share[..., None].astype(np.float32)
    each = np.arange(len(values))[:, None]
    return values[each, low] * (1 - share) + values[each, low + 1] * share


def disturb_pose(pose: Tensor, rng: np.random.Generator) -> Tensor:
    """Head pose (B, 2) with a little noise."""
    noise = POSE_NOISE * rng.standard_normal(pose.shape)
    return pose + torch.from_numpy(noise.astype(np.float32))


def random_light(count: int, rng: np.random.Generator) -> np.ndarray:
    """Factors (count, 1, 1, 3) for the colours of pictures."""
    return rng.uniform(1 - LIGHT_SHARE, 1 + LIGHT_SHARE, (count, 1, 1, 3))


def relight(pictures: Tensor, light: np.ndarray) -> Tensor:
    """uint8 pictures (..., 3) with each colour multiplied by `light`, which is broadcast."""
    factor = torch.from_numpy(light.astype(np.float32))
    return (pictures * factor).clamp_(0, 255).byte()


def _shift_bands(windows, rng):
    batch, _, bands = windows.shape
    shift = rng.uniform(-SHIFT_BANDS, SHIFT_BANDS, (batch, 1))
    by_band = windows.transpose(0, 2, 1)
    return interpolate_rows(by_band, np.arange(bands) + shift).transpose(0, 2, 1)


def _change_pace(windows, rng):
    batch, rows, _ = windows.shape
    pace = np.exp(rng.uniform(-PACE_LOG, PACE_LOG, (batch, 1)))
    middle = (rows - 1) / 2
    from_middle = np.arange(rows) - middle
    return interpolate_rows(windows, middle + from_middle * pace)


def _gain_and_tilt(windows, rng):
    batch, _, bands = windows.shape
    gain = rng.uniform(*GAIN_LOG, (batch, 1, 1))
    tilt = rng.uniform(-TILT_LOG, TILT_LOG, (batch, 1, 1))
    change = gain + tilt * _ramp(bands)
    return change.astype(np.float32)


def _flatten_bands(windows, rng):
    """The windows with some neighbouring bands replaced by their mean over time and band."""
    batch, rows, bands = windows.shape
    first = rng.integers(0, bands, (batch, 1, 1))
    count = rng.integers(0, MASKED_BANDS, (batch, 1, 1))
    band = np.arange(bands)
    masked = (band >= first) & (band < first + count)                            # (B, 1, 80)
    values = np.maximum(1, rows * masked.sum(axis=2, keepdims=True))
    total = (windows * masked).sum(axis=(1, 2), keepdims=True)
    mean = (total / values).astype(np.float32)
    return np.where(masked, mean, windows)


def _ramp(bands):
    return np.linspace(-0.5, 0.5, bands)
