"""Draw and speak the built-in sample: a face whose mouth is known, for the first run and for tests.

    input/sample.mp4         about 20 s, 512x512, 25 fps: a drawn face that speaks
    input/sample_speech.wav  about 6 s of different speech by the same voice, to drive it with

Nothing is downloaded and nothing is a recording: the voice is a small formant synthesiser (a pulse
train or noise through resonators in series, after Klatt, JASA 1980), the face a few blurred ovals.

Run: python -m utils.sample [--input input] [--seconds 20] [--speech-seconds 6]
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import soundfile
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter
from tqdm import tqdm

from utils import cli
from utils.contract import FPS, SAMPLE_RATE
from utils.media.writer import Quality, SoundTrack, VideoWriter

CLIP_SEED = 1
SPEECH_SEED = 2

SIDE_PX = 512  # of the drawn picture, a square
SUPERSAMPLING = 2  # the picture is drawn this much larger, then shrunk: smooth edges

CONSONANT_S = (0.07, 0.12)  # s, shortest and longest
VOWEL_S = (0.12, 0.26)
PAUSES_S = (0.06, 0.15, 0.5)
CURVE_RATE_HZ = 1000  # mouth and voice are planned at this rate: a step is a millisecond
MOUTH_SIGMA_MS = 35  # the mouth takes about this long to move from one sound to the next
VOICE_SIGMA_MS = 12  # the voice changes faster than the lips

PITCH_HZ = 120  # the pitch of the voice moves about this frequency
PITCH_STEP_SAMPLES = 160  # the pitch is drawn at random every 10 ms and interpolated between
RESONATOR_BLOCK_SAMPLES = 80  # a resonator's frequency is held for 5 ms at a time

# Colours, RGB
SKIN = (224, 182, 158)
LIP = (178, 88, 88)
MOUTH = (70, 22, 26)
TEETH = (238, 234, 226)
HAIR = (62, 44, 34)
BROW = (78, 56, 42)
EYE_WHITE = (250, 248, 246)
IRIS = (82, 96, 66)
PUPIL = (18, 16, 16)
BACKGROUND = (150, 164, 172)
SHIRT = (70, 92, 128)

Script = list[tuple[str, float]]


class Sound(NamedTuple):
    """A speech sound: three formants in Hz; opening and width of the mouth, voice, noise: 0..1.

    A vowel is all voice and no noise.
    """

    formant1: float
    formant2: float
    formant3: float
    opening: float
    width: float
    voice: float = 1.0
    noise: float = 0.0


SOUNDS = {
    "a": Sound(750, 1250, 2500, 1.00, 0.55),
    "e": Sound(480, 1900, 2600, 0.55, 0.80),
    "i": Sound(290, 2300, 3000, 0.30, 1.00),
    "o": Sound(480, 850, 2500, 0.65, 0.20),
    "u": Sound(310, 750, 2300, 0.28, 0.00),
    "m": Sound(250, 1000, 2200, 0.00, 0.45, 0.35),
    "b": Sound(200, 800, 2200, 0.00, 0.45, 0.10),
    "p": Sound(200, 800, 2200, 0.00, 0.45, 0.00),
    "s": Sound(4500, 5500, 6500, 0.15, 0.75, 0.0, 0.35),
    "f": Sound(1500, 4000, 6000, 0.08, 0.55, 0.0, 0.15),
    "l": Sound(360, 1300, 2700, 0.40, 0.55, 0.7),
    "_": Sound(500, 1500, 2500, 0.00, 0.45, 0.0),  # a pause
}
CONSONANTS = list("mbpsfl")
VOWELS = list("aeiou")


# -- what is said ----------------------------------------------------------------------------------
def make_script(seconds: float, seed: int) -> Script:
    """Script of about `seconds`: [(name of a sound, its seconds), ...].

    Words of 1 to 3 syllables, consonant and vowel, with pauses between them.
    """
    rng = np.random.default_rng(seed)

    def choose(names, seconds):
        return rng.choice(names), rng.uniform(*seconds)

    total = 0.40
    script = [("_", total)]
    while total < seconds - 0.9:
        word = []
        for _ in range(rng.integers(1, 4)):
            word += [choose(CONSONANTS, CONSONANT_S), choose(VOWELS, VOWEL_S)]
        word.append(("_", rng.choice(PAUSES_S)))
        script += word
        total += sum(length for _, length in word)
    return [*script, ("_", max(0.0, seconds - total))]


def _over_time(script, sigma_ms):
    """Script as a Sound whose fields are curves (T,) float64 at CURVE_RATE_HZ, smoothed."""
    sounds = [SOUNDS[name] for name, _ in script]
    counts = [round(length * CURVE_RATE_HZ) for _, length in script]
    steps = np.repeat(sounds, counts, axis=0)
    return Sound(*gaussian_filter1d(steps, sigma_ms, axis=0).T)


def mouth_curve(script: Script) -> np.ndarray:
    """Opening and width of the drawn mouth in each frame: (N, 2) float64 at 25 fps, each 0..1."""
    curves = _over_time(script, MOUTH_SIGMA_MS)
    mouth = np.stack([curves.opening, curves.width], axis=1)
    step = CURVE_RATE_HZ // FPS
    return mouth[step // 2 :: step]


# -- the voice -------------------------------------------------------------------------------------
def synthesise(script: Script, seed: int) -> np.ndarray:
    """Sound of a script: float32 mono at 16 kHz, peak about 0.5, over a faint noise floor."""
    rng = np.random.default_rng(seed)
    curves = np.repeat(_over_time(script, VOICE_SIGMA_MS), SAMPLE_RATE // CURVE_RATE_HZ, axis=1)
    control = Sound(*curves)
    samples = curves.shape[1]

    voice = _glottal_pulses(samples, rng) * control.voice
    voice = _resonate(voice, control.formant1, 80)
    voice = _resonate(voice, control.formant2, 110)
    voice = _resonate(voice, control.formant3, 160)

    breath = rng.standard_normal(samples) * control.noise
    breath = _resonate(breath, control.formant1, 900)

    sound = 0.5 * _normalised(voice) + 0.1 * _normalised(breath)
    floor = 1e-4 * rng.standard_normal(samples)
    return (sound + floor).astype(np.float32)


def _glottal_pulses(samples, rng):
    """Pulse train of a pitch that wanders, as it leaves the lips: (samples,) float64."""
    wander = gaussian_filter1d(rng.standard_normal(samples // PITCH_STEP_SAMPLES + 2), 25)
    moments = np.arange(samples) / PITCH_STEP_SAMPLES
    wander = np.interp(moments, np.arange(len(wander)), wander)
    pitch = PITCH_HZ * (1 + 0.6 * wander)
    pulses = np.diff(np.floor(np.cumsum(pitch / SAMPLE_RATE)), prepend=0.0)
    return lfilter([1.0, -1.0], [1.0, -0.9], pulses)


def _resonate(sound, frequencies, bandwidth):
    """Sound through a two-pole resonator of unit gain at 0 Hz; frequencies (samples,), in Hz."""
    filtered = np.empty_like(sound)
    state = np.zeros(2)
    radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
    for first in range(0, len(sound), RESONATOR_BLOCK_SAMPLES):
        block = slice(first, first + RESONATOR_BLOCK_SAMPLES)
        angle = 2 * np.pi * frequencies[first] / SAMPLE_RATE
        poles = [1.0, -2 * radius * np.cos(angle), radius**2]
        filtered[block], state = lfilter([sum(poles)], poles, sound[block], zi=state)
    return filtered


def _normalised(sound):
    """Sound with a peak of 1; one that is silent throughout stays so."""
    return sound / max(np.abs(sound).max(), 1e-9)


# -- the face --------------------------------------------------------------------------------------
class _Canvas:
    """RGB picture of a swaying face, made of ovals. Lengths are px of the finished picture."""

    def __init__(self, moment: float):
        side = SIDE_PX * SUPERSAMPLING
        self.picture = np.full((side, side, 3), BACKGROUND, np.uint8)
        self.sway_x = 7 * np.sin(0.9 * moment)
        self.sway_y = 4 * np.sin(1.3 * moment + 1)

    def oval(self, y, half_width, half_height, colour, x=0):
        """Fill an oval whose middle lies y below and x beside the middle of the face."""
        x = 256 + x + self.sway_x
        y = 236 + y + self.sway_y
        centre = int(x * SUPERSAMPLING), int(y * SUPERSAMPLING)
        axes = round(half_width * SUPERSAMPLING), round(half_height * SUPERSAMPLING)
        cv2.ellipse(self.picture, centre, axes, 0, 0, 360, colour, cv2.FILLED, cv2.LINE_AA)

    def pair(self, x, y, half_width, half_height, colour):
        """Fill an oval on either side of the face, x from its middle."""
        for side in (-x, x):
            self.oval(y, half_width, half_height, colour, side)


def _skin(lighter):
    """Skin that is lighter by some grey levels, darker if the number is negative."""
    return tuple(channel + lighter for channel in SKIN)


def draw_face(opening: float, width: float, moment: float) -> np.ndarray:
    """RGB picture (512, 512, 3) uint8 of the face at `moment` seconds.

    opening and width: of the mouth, each 0..1. The head sways and the eyes blink by the moment.
    """
    canvas = _Canvas(moment)
    chin = 7 * opening
    canvas.oval(300, 190, 130, SHIRT)
    canvas.oval(170, 62, 90, _skin(-26))  # neck
    canvas.oval(-40, 150, 168, HAIR)
    canvas.oval(8 + chin, 128, 172 + chin, SKIN)
    canvas.oval(-118, 118, 60, HAIR)

    nod = 3 * np.sin(0.7 * moment + 2)
    eye = nod - 28
    blinks = (moment + 0.4) % 3.1 < 0.16
    lids = 0.12 if blinks else 1.0  # how far the eyes are open
    canvas.pair(62, 70, 34, 26, _skin(-9))  # cheeks
    canvas.pair(50, eye, 25, 12 * lids, EYE_WHITE)
    canvas.pair(50, eye, 11, 11 * lids, IRIS)
    canvas.pair(50, eye, 5, 5 * lids, PUPIL)
    canvas.pair(50, nod - 55, 31, 7, BROW)

    canvas.oval(22 + nod, 10, 42, _skin(12))  # nose
    canvas.oval(58 + nod, 22, 12, _skin(-18))
    canvas.pair(10, 62 + nod, 5, 3, _skin(-80))  # nostrils

    half = 34 + 18 * width
    gap = 22 * opening
    upper_lip = 104.0
    middle = upper_lip + gap
    canvas.oval(middle, half, 9 + gap + 3 * (1 - width), LIP)
    canvas.oval(middle, half - 7, max(0.8, gap), MOUTH)
    if gap > 3:
        canvas.oval(middle - 0.35 * gap, (half - 7) * 0.8, 0.42 * gap, TEETH)
    canvas.oval(upper_lip + 2 * gap + 30, 26, 8, _skin(-8))  # shadow under the lower lip
    return _photograph(canvas.picture, moment)


def _photograph(picture, moment):
    """Drawing at its final size, softened, lit from the left, with the grain of a camera."""
    small = cv2.resize(picture, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), 1.6)
    light = np.linspace(1.06, 0.90, SIDE_PX, dtype=np.float32)
    rng = np.random.default_rng(round(moment * FPS))
    grain = rng.normal(0, 1.5, (SIDE_PX, SIDE_PX, 1))
    lit = soft * light[:, None] + grain.astype(np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8)


# -- the files -------------------------------------------------------------------------------------
def write_clip(path: Path, seconds: float, seed: int):
    """Write a clip of the drawn face that speaks make_script(seconds, seed)."""
    script = make_script(seconds, seed)
    samples = synthesise(script, seed)
    sound = SoundTrack(iter([samples[:, None]]), SAMPLE_RATE)
    quality = Quality(16, "veryfast")
    comment = "Drawn and spoken by Easy_Human."
    bar = tqdm(mouth_curve(script), desc=f"drawing {path.name}", unit="frame")
    with VideoWriter(path, (SIDE_PX, SIDE_PX), quality, sound, comment=comment) as video:
        for i, (opening, width) in enumerate(bar):
            picture = av.VideoFrame.from_ndarray(draw_face(opening, width, i / FPS))
            video.write(picture.reformat(format="yuv420p"))


def write_speech(path: Path, seconds: float, seed: int):
    """Write the sound of make_script(seconds, seed) as a 16-bit wav."""
    temporary = path.with_name(path.name + ".tmp")
    sound = synthesise(make_script(seconds, seed), seed)
    soundfile.write(temporary, sound, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    os.replace(temporary, path)


def main(args: argparse.Namespace):
    """Write both files and name the next command."""
    folder = Path(args.input)
    folder.mkdir(parents=True, exist_ok=True)
    clip = folder / "sample.mp4"
    speech = folder / "sample_speech.wav"
    write_clip(clip, args.seconds, CLIP_SEED)
    write_speech(speech, args.speech_seconds, SPEECH_SEED)
    cli.say(f"wrote {clip} and {speech}; next: python preprocess.py")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    seconds = cli.positive(float)
    parser = cli.parser(__doc__)
    parser.add_argument("--input", default="input", help="folder to write to")
    parser.add_argument("--seconds", type=seconds, default=20.0, help="length of the clip")
    parser.add_argument(
        "--speech-seconds", type=seconds, default=6.0, help="length of the driving speech"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
