"""Is this footage good to learn from? What preprocess.py found, a verdict on each, and what to do about it."""

import io
from typing import NamedTuple

import cv2
import numpy as np

from utils import sync
from utils.contract import FACE_SIZE, FPS, SAMPLE_RATE, write_whole
from utils.figures import pauses

# -- where good and usable end ("good", "usable"); beyond the second it will hurt ----------------------------
LENGTH = 90, 20          # s that can be used: at 20 s a head that moves has too few frames of each pose
USABLE = 0.95, 0.80      # share of the frames
SIZE = 150, 90           # px of the source that the side of an aligned face covers: it is learnt at 168
SHARPNESS = 0.030, 0.012  # variance of the Laplacian over that of the luma: good recordings have 0.1; blurred by 1 px
                         # 0.03, by 2 px 0.01. What is drawn gets no sharper than what it was learnt from
GREY, LIGHT = 0.52, (0.28, 0.38)  # mean luma of the face, and how far from it: in shadow or glare the lips have no edge
CLIPPED = 0.02, 0.10     # share of the face that is black or white: there is nothing to be learnt there
TURN = 25, 45            # degrees to the side that 95 % of the frames stay below: beyond 45 a corner of the mouth hides
VISIBLE = 0.97, 0.85     # share of the frames in which the mouth is seen
SPEECH = 0.40, 0.20      # share of the frames in which somebody speaks: in the others there is nothing to hear
PAUSES = 0.02            # share of pauses from which silence can be learnt
NOISE = 25, 12           # dB from the noise floor to speech: a quiet room has 40, a fan beside the microphone 15
OVERDRIVEN = 0.0005, 0.005  # share of the sound's samples within 2 % of the loudest: speech has 0.0001

DEGREES = 148            # of turn per eye distance of track["pose"]: so it is on two recordings, by the depth of the
                         # eye corners (correlation 0.98 and 0.99)
BLACK, WHITE = 12, 250   # luma
BLURRED = 0.4            # of the clip's median sharpness: such a frame was moving
SHOWN = 6                # worst frames of each kind, a second apart at least
COLOURS = {"good": "#2e7d32", "usable": "#b26a00", "will hurt": "#c62828"}


class Finding(NamedTuple):
    """A line of the report. verdict: "good", "usable" or "will hurt"; advice: what to do about it, "" if good."""
    name: str
    found: str
    verdict: str
    advice: str


class Looks:
    """What is gathered of each aligned face while it is written: three numbers, never the picture."""

    def __init__(self):
        self.rows = []

    def add(self, face, scale):
        """Take in an aligned face (168, 168, 3) uint8; scale: its pixels per source pixel."""
        grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[FACE_SIZE // 4:-FACE_SIZE // 20, FACE_SIZE // 5:-FACE_SIZE // 5]
        luma = grey.mean() / 255
        clipped = (grey <= BLACK).mean() + (grey >= WHITE).mean()
        if scale > 1:  # enlarged: the source's own pixels tell how sharp it is
            grey = cv2.resize(grey, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        detail = cv2.Laplacian(grey, cv2.CV_32F).var() / (grey.var() + 1)
        self.rows.append((detail, luma, clipped))

    def curves(self):
        """Return (3, N): sharpness, mean luma 0..1, share that is black or white."""
        return np.array(self.rows).T


def head_turn(track):
    """Return (N,) degrees by which the face is turned to the side, either way."""
    return DEGREES * np.abs(track["pose"][:, 0])


def scales(track):
    """Return (N,) pixels of the aligned face per pixel of the source."""
    return np.hypot(*track["transform"][:, :, 0].T)


def _verdict(value, limits):
    """Return the verdict on a value for (good, usable); whether more or less is better, their order tells."""
    good, usable = limits
    sign = 1 if good > usable else -1
    return "good" if sign * value >= sign * good else "usable" if sign * value >= sign * usable else "will hurt"


def _worse(*verdicts):
    return max(verdicts, key=list(COLOURS).index)


def findings(track, looks, mel, sound, offset):
    """Return the report's lines, a list of Finding.

    looks: Looks of every frame; mel (4N, 80); sound (samples,) float32; offset: sync.Offset.
    """
    rows = [*_picture(track, looks), *_sound(mel, sound), _step(offset)]
    return [Finding(name, found, verdict, "" if verdict == "good" else advice) for name, found, verdict, advice in rows]


def _picture(track, looks):
    """Yield the lines about what is seen."""
    valid, turn, (sharp, luma, clipped) = track["valid"], head_turn(track), looks.curves()
    usable = valid & (turn < TURN[1]) & (sharp > BLURRED * np.median(sharp[valid]))
    seconds, share = usable.sum() / FPS, usable.mean()
    yield ("length", f"{len(valid) / FPS:.0f} s", _verdict(seconds, LENGTH),
           "film 2-5 minutes, if a network is to learn from it")
    yield ("usable frames", f"{share:.0%}", _verdict(share, USABLE),
           "cut out where no steady, open face is seen; see the worst frames")
    side = float(np.median(FACE_SIZE / scales(track)[valid]))
    yield ("face size", f"{side:.0f} px (good from {SIZE[0]})", _verdict(side, SIZE),
           "go nearer, or film with more pixels")
    sharpness = float(np.median(sharp[valid]))
    yield ("sharpness", f"{sharpness:.3f} (good from {SHARPNESS[0]})", _verdict(sharpness, SHARPNESS),
           "mind focus, light and data rate; do not enlarge or smooth the video")
    bright, lost = float(np.median(luma[valid])), float(clipped[valid].mean())
    yield ("exposure", f"{bright:.0%} bright, {lost:.1%} clipped", _worse(_verdict(abs(bright - GREY), LIGHT), _verdict(
           lost, CLIPPED)), "more light from the front" if bright < GREY else "less light, or a shorter exposure")
    turned = float(np.quantile(turn[valid], 0.95))
    yield "head turn", f"up to {turned:.0f} degrees", _verdict(turned, TURN), "look at the camera while speaking"
    yield ("mouth visible", f"{valid.mean():.0%} of the frames", _verdict(valid.mean(), VISIBLE),
           "keep hands and microphone off the mouth, the face in the picture")


def _sound(mel, sound):
    """Yield the lines about what is heard."""
    speech = 1 - pauses(mel).mean()
    still = speech > 1 - PAUSES
    yield ("speech", f"{speech:.0%} of the time", _worse("usable" if still else "good", _verdict(speech, SPEECH)),
           "leave pauses with the mouth closed" if still else "cut out where nobody speaks")
    room = noise_distance(sound)
    yield ("noise", f"{room:.0f} dB below the speech", _verdict(room, NOISE),
           "bring the microphone nearer; no music, no fan, no echo")
    peak = 0.98 * max(sound.max(), -sound.min())
    pieces = np.array_split(sound, 1 + len(sound) // 10 ** 6)  # no second copy of an hour of sound
    loud = sum(np.count_nonzero(np.abs(piece) >= peak) for piece in pieces) / len(sound)
    yield ("overdriven", f"{loud:.2%} of the sound", _verdict(loud, OVERDRIVEN),
           "lower the recording level; what was cut off cannot be restored")


def _step(offset):
    """Return the line about sound and picture being in step."""
    rest = offset.late - offset.applied
    moved = f", {offset.applied:+d} ms corrected" if offset.applied else ""
    if offset.confidence < sync.SURE:
        return ("sound offset", f"cannot be known{moved}", "usable",
                "look whether lips and sound match; --av-offset MS moves the sound")
    return ("sound offset", f"{offset.late:+.0f} ms{moved}", "good" if abs(rest) <= sync.HABIT else "will hurt",
            "leave --av-offset at auto, or name another number of milliseconds")


def noise_distance(sound):
    """Return the dB from the noise floor to the speech: 5th to 95th percentile of the level of 40 ms pieces.

    Digital silence, as editors put between pieces, is no floor and left out.
    """
    step = SAMPLE_RATE // FPS
    pieces = sound[:len(sound) // step * step].reshape(-1, step)
    level = np.sqrt(np.einsum("ij,ij->i", pieces, pieces) / step)  # no copy of the sound, which may last an hour
    level = 20 * np.log10(level[level > 1e-5])
    return float(np.subtract(*np.quantile(level, (0.95, 0.05)))) if len(level) else 0.0


def worst_frames(track, looks, covered):
    """Return {kind: [(frame number, caption), ...]} of the worst frames of each kind, kinds without any left out.

    covered: (N,) bool, in which of the invalid frames something is in front of the mouth.
    """
    valid, turn, (sharp, luma, clipped) = track["valid"], head_turn(track), looks.curves()
    sharp = sharp / max(1e-9, np.median(sharp[valid]))
    kinds = {"least sharp frames": (np.where(valid, -sharp, -np.inf), lambda i: f"{sharp[i]:.0%} of the usual"),
             "worst exposed frames": (np.where(valid, clipped + np.abs(luma - GREY) / 10, -np.inf),
                               lambda i: f"{luma[i]:.0%} bright, {clipped[i]:.0%} clipped"),
             "most turned frames": (np.where(valid, turn, -np.inf), lambda i: f"{turn[i]:.0f} degrees"),
             "frames without the mouth": (np.where(valid, -np.inf, 0.0),
                                          lambda i: "covered" if covered[i] else "no face")}
    return {kind: chosen for kind, (badness, caption) in kinds.items()
            if (chosen := [(i, caption(i)) for i in _apart(badness)])}


def _apart(badness):
    """Return the frame numbers of the SHOWN highest values, a second apart at least; -inf is never taken."""
    left, chosen = badness.copy(), []
    while len(chosen) < SHOWN and np.isfinite(left).any():
        i = int(np.argmax(left))
        chosen.append(i)
        left[max(0, i - FPS + 1):i + FPS] = -np.inf
    return chosen


def table(title, rows):
    """Return the report as lines of text for a terminal."""
    lines = [f"{row.name:14} {row.found:24} {row.verdict:9}  {row.advice}".rstrip() for row in rows]
    return "\n".join([f"quality of {title}:", *(f"  {line}" for line in lines)])


def draw(path, title, rows, worst, picture):
    """Write the report as a PNG: its lines, and below the worst frames. picture: takes a frame number, returns RGB."""
    from matplotlib.figure import Figure  # here, because importing it takes a second that --help should not

    head, strip = 0.30 * len(rows) + 0.75, 1.95  # inches
    figure = Figure(figsize=(11, head + strip * len(worst)), dpi=100, facecolor="white")
    top = figure.get_figheight()

    def write(x, y, text, **style):  # inches from the top left corner
        figure.text(x / 11, 1 - y / top, text, va="center", parse_math=False, **style)

    title = title.encode("latin-1", "replace").decode("latin-1")  # all that Matplotlib's own font surely has
    write(0.35, 0.35, title, size=13, weight="bold")
    for k, row in enumerate(rows):
        y = 0.80 + 0.30 * k
        write(0.35, y, row.name, size=10, color="0.35")
        write(1.75, y, row.found, size=10)
        write(4.55, y, "● " + row.verdict, size=10, color=COLOURS[row.verdict])
        write(5.65, y, row.advice, size=10)
    for j, (kind, frames) in enumerate(worst.items()):
        y = head + strip * j
        write(0.35, y + 0.15, kind, size=10, weight="bold")
        for k, (i, caption) in enumerate(frames):
            axes = figure.add_axes(((0.35 + 1.74 * k) / 11, 1 - (y + 1.58) / top, 1.3 / 11, 1.3 / top))
            axes.imshow(picture(i), interpolation="bicubic")
            axes.set(xticks=[], yticks=[])
            write(0.35 + 1.74 * k, y + 1.70, f"{i}: {caption}", size=8, color="0.25")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())
