"""Draw and speak the built-in sample: a face whose mouth is known, for the first run and for tests.

    input/sample.mp4         about 20 s, 512x512, 25 fps: a drawn face that speaks
    input/sample_speech.wav  about 6 s of different speech by the same voice, to drive it with

Nothing is downloaded and nothing is a recording: the voice is a small formant synthesiser (after Klatt, JASA
1980: a pulse train or noise through resonators in series), the face a few blurred ellipses.

Run: python -m utils.sample [--input input] [--seconds 20] [--speech-seconds 6]
"""

import os
from pathlib import Path

import cv2
import numpy as np
import soundfile
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter
from tqdm import tqdm

from utils import console
from utils.contract import FPS
from utils.media import VideoWriter
from utils.pixels import rgb_to_yuv, to_uint8

RATE = 16000       # Hz
SIZE = 512         # px, the drawn picture
SCALE = 2          # drawn this much larger, then shrunk: smooth edges
PITCH = 120        # Hz, about which the voice moves
CURVE_RATE = 1000  # Hz at which the mouth is planned, before it is read off at 25 fps
MOUTH_SIGMA = 35   # ms over which the mouth moves from one sound to the next

# sound: (first three formants in Hz, mouth opening 0..1, mouth width 0..1, voice, noise)
SOUNDS = {
    "a": ((750, 1250, 2500), 1.00, 0.55, 1.0, 0.0),
    "e": ((480, 1900, 2600), 0.55, 0.80, 1.0, 0.0),
    "i": ((290, 2300, 3000), 0.30, 1.00, 1.0, 0.0),
    "o": ((480, 850, 2500), 0.65, 0.20, 1.0, 0.0),
    "u": ((310, 750, 2300), 0.28, 0.00, 1.0, 0.0),
    "m": ((250, 1000, 2200), 0.00, 0.45, 0.35, 0.0),
    "b": ((200, 800, 2200), 0.00, 0.45, 0.10, 0.0),
    "p": ((200, 800, 2200), 0.00, 0.45, 0.00, 0.0),
    "s": ((4500, 5500, 6500), 0.15, 0.75, 0.0, 0.35),
    "f": ((1500, 4000, 6000), 0.08, 0.55, 0.0, 0.15),
    "l": ((360, 1300, 2700), 0.40, 0.55, 0.7, 0.0),
    "_": ((500, 1500, 2500), 0.00, 0.45, 0.0, 0.0),  # a pause
}
SKIN, LIP, MOUTH, TEETH = (224, 182, 158), (178, 88, 88), (70, 22, 26), (238, 234, 226)
HAIR, BROW, BACKGROUND, SHIRT = (62, 44, 34), (78, 56, 42), (150, 164, 172), (70, 92, 128)


def script(seconds, seed):
    """Return [(sound, seconds), ...]: words of 1 to 3 syllables with pauses between, about `seconds` long."""
    rng = np.random.default_rng(seed)
    said, total = [("_", 0.40)], 0.40
    while total < seconds - 0.9:
        word = []
        for _ in range(rng.integers(1, 4)):
            word.append((str(rng.choice(list("mbpsfl"))), float(rng.uniform(0.07, 0.12))))
            word.append((str(rng.choice(list("aeiou"))), float(rng.uniform(0.12, 0.26))))
        word.append(("_", float(rng.choice([0.06, 0.15, 0.5]))))
        said += word
        total += sum(length for _, length in word)
    return [*said, ("_", max(0.0, seconds - total))]


def _track(said, values):
    """Lay one value per sound out at CURVE_RATE."""
    return np.concatenate([np.full(round(length * CURVE_RATE), values[sound], np.float64) for sound, length in said])


def mouth_curve(said):
    """Return (N, 2) float64 at 25 fps: the mouth's opening and width, each 0..1, that the drawn face shows."""
    curves = [gaussian_filter1d(_track(said, {s: v[k] for s, v in SOUNDS.items()}), MOUTH_SIGMA) for k in (1, 2)]
    frames = round(len(curves[0]) / CURVE_RATE * FPS)
    middle = np.minimum(((np.arange(frames) + 0.5) * CURVE_RATE / FPS).astype(int), len(curves[0]) - 1)
    return np.stack(curves, axis=1)[middle]


def speak(said, seed):
    """Return the sound of a script: float32 mono at 16 kHz, peak about 0.5, over a faint noise floor."""
    rng = np.random.default_rng(seed)
    step = RATE // CURVE_RATE
    values = {name: (*formants, voice, noise) for name, (formants, _, _, voice, noise) in SOUNDS.items()}
    control = {name: np.repeat(gaussian_filter1d(_track(said, {s: v[k] for s, v in values.items()}), 12), step)
               for k, name in enumerate(("f1", "f2", "f3", "voice", "noise"))}
    n = len(control["f1"])
    wander = gaussian_filter1d(rng.standard_normal(n // 160 + 2), 25)
    pitch = PITCH * (1 + 0.6 * np.interp(np.arange(n) / 160, np.arange(len(wander)), wander))
    phase = np.cumsum(pitch / RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    voice = lfilter([1.0, -1.0], [1.0, -0.9], pulses) * control["voice"]  # the pulse as it leaves the lips
    for name, bandwidth in (("f1", 80), ("f2", 110), ("f3", 160)):
        voice = _resonate(voice, control[name], bandwidth)
    breath = _resonate(rng.standard_normal(n) * control["noise"], control["f1"], 900)
    voice, breath = (part / max(np.abs(part).max(), 1e-9) for part in (voice, breath))  # a script may lack either
    sound = 0.5 * voice + 0.1 * breath
    return (sound + 1e-4 * rng.standard_normal(n)).astype(np.float32)


def _resonate(sound, frequency, bandwidth, block=80):
    """Filter by a two-pole resonator of unit gain at 0 Hz whose frequency moves, held for 5 ms at a time."""
    out, state, radius = np.empty_like(sound), np.zeros(2), np.exp(-np.pi * bandwidth / RATE)
    for first in range(0, len(sound), block):
        poles = [1.0, -2 * radius * np.cos(2 * np.pi * frequency[first] / RATE), radius ** 2]
        out[first:first + block], state = lfilter([sum(poles)], poles, sound[first:first + block], zi=state)
    return out


def draw(opening, width, moment):
    """Return the RGB picture (512, 512, 3) uint8 of the face at `moment` seconds, mouth as given (0..1 each)."""
    side = SIZE * SCALE
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = BACKGROUND
    sway = np.array((7 * np.sin(0.9 * moment), 4 * np.sin(1.3 * moment + 1)))
    nod = 3 * np.sin(0.7 * moment + 2)

    def oval(x, y, half_width, half_height, colour, angles=(0, 360)):
        centre = tuple(int(v * SCALE) for v in np.array((256 + x, 236 + y)) + sway)
        axes = (max(1, round(half_width * SCALE)), max(1, round(half_height * SCALE)))
        cv2.ellipse(picture, centre, axes, 0, *angles, colour, -1, cv2.LINE_AA)

    def shade(colour, by):
        return tuple(int(np.clip(c + by, 0, 255)) for c in colour)

    chin = 14 * opening
    oval(0, 300, 190, 130, SHIRT)
    oval(0, 170, 62, 90, shade(SKIN, -26))          # neck
    oval(0, -40, 150, 168, HAIR)
    oval(0, 8 + chin / 2, 128, 172 + chin / 2, SKIN)
    oval(0, -118, 118, 60, HAIR)
    for side_x in (-1, 1):
        oval(side_x * 62, 70, 34, 26, shade(SKIN, -9))      # cheek
        blink = 0.12 if (moment + 0.4) % 3.1 < 0.16 else 1.0
        oval(side_x * 50, -28 + nod, 25, 12 * blink, (250, 248, 246))
        oval(side_x * 50, -28 + nod, 11, 11 * blink, (82, 96, 66))
        oval(side_x * 50, -28 + nod, 5, 5 * blink, (18, 16, 16))
        oval(side_x * 50, -55 + nod, 31, 7, BROW)
    oval(0, 22 + nod, 10, 42, shade(SKIN, 12))              # nose
    oval(0, 58 + nod, 22, 12, shade(SKIN, -18))
    for side_x in (-1, 1):
        oval(side_x * 10, 62 + nod, 5, 3, shade(SKIN, -80))
    half, gap, top = 34 + 18 * width, 22 * opening, 104.0
    oval(0, top + gap, half, 9 + gap + 3 * (1 - width), LIP)
    oval(0, top + gap, half - 7, max(0.8, gap), MOUTH)
    if gap > 3:
        oval(0, top + gap - 0.35 * gap, (half - 7) * 0.8, 0.42 * gap, TEETH)
    oval(0, top + 2 * gap + 30, 26, 8, shade(SKIN, -8))     # the shadow under the lower lip
    small = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 1.6).astype(np.float32)
    light = np.linspace(1.06, 0.90, SIZE, dtype=np.float32)[None, :, None]  # from the left
    grain = np.random.default_rng(round(moment * FPS)).normal(0, 1.5, (SIZE, SIZE, 1)).astype(np.float32)
    return np.clip(small * light + grain, 0, 255).astype(np.uint8)


def write_clip(path, seconds, seed):
    """Write a clip of the drawn face speaking script(seconds, seed)."""
    said = script(seconds, seed)
    sound = speak(said, seed)
    curve = mouth_curve(said)
    with VideoWriter(path, SIZE, SIZE, crf=16, preset="veryfast", sound=iter([sound[:, None]]), rate=RATE,
                     comment="Drawn and spoken by Easy_Human.") as video:
        for i, (opening, width) in enumerate(tqdm(curve, desc=f"drawing {Path(path).name}", unit="frame")):
            rgb = draw(opening, width, i / FPS).astype(np.float32)
            planes = rgb_to_yuv(rgb, (0.299, 0.114, False))
            sizes = [(SIZE, SIZE)] + [(SIZE // 2, SIZE // 2)] * 2
            planes = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p, size in zip(planes, sizes, strict=True)]
            video.write([to_uint8(plane) for plane in planes])


def write_speech(path, seconds, seed):
    """Write the sound of script(seconds, seed) as 16-bit wav."""
    temporary = Path(path).with_name(Path(path).name + ".tmp")
    soundfile.write(temporary, speak(script(seconds, seed), seed), RATE, format="WAV", subtype="PCM_16")
    os.replace(temporary, path)


CLIP_SEED, SPEECH_SEED = 1, 2


def main():
    args = parse_args()
    folder = Path(args.input)
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(folder / "sample.mp4", args.seconds, CLIP_SEED)
    write_speech(folder / "sample_speech.wav", args.speech_seconds, SPEECH_SEED)
    console.say(f"wrote {folder / 'sample.mp4'} and {folder / 'sample_speech.wav'}; next: python preprocess.py")


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("--input", default="input", help="folder to write to")
    parser.add_argument("--seconds", type=console.positive(float), default=20.0, help="length of the clip")
    parser.add_argument("--speech-seconds", type=console.positive(float), default=6.0,
                        help="length of the driving speech")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
