"""Is this footage good to learn from? What preprocess.py found, a verdict on each, and advice."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils.audio import piece_power
from utils.av_sync import HABIT_MS, SURE_CONFIDENCE, Synchronised
from utils.contract import FACE_SIZE, FPS, face_path
from utils.media.pixels import read_png
from utils.storage import Track
from utils.usable_frames import (
    Flaws,
    moving_frames,
    moving_share,
    picture_rate,
    spoken_frames,
)

COLOURS = {"good": "#2e7d32", "usable": "#b26a00", "will hurt": "#c62828"}
VERDICTS = list(COLOURS)  # from the best to the worst


class Limits(NamedTuple):
    """Where "good" and "usable" end. Their order shows whether more or less is better."""

    good: float
    usable: float

    def verdict(self, value: float) -> str:
        """One of VERDICTS."""
        share = (value - self.usable) / (self.good - self.usable)
        if share >= 1:
            return "good"
        return "usable" if share >= 0 else "will hurt"


# -- limits ----------------------------------------------------------------------------------------
# That can be used. One speaker's mouth follows with 0.71 after 10 s of footage, 0.75 after 20,
# 0.82 after 60 and 0.86 after 120.
LENGTH_S = Limits(60, 10)
USABLE_SHARE = Limits(0.95, 0.80)  # of the frames
SIDE_PX = Limits(150, 90)  # of the source under the side of an aligned face, which has 168
# Variance of the Laplacian over that of the luma. Good recordings have 0.1; blurred by 1 px 0.03,
# by 2 px 0.01. What is drawn gets no sharper than what it was learnt from.
SHARPNESS = Limits(0.030, 0.012)
FACE_LUMA = 0.52  # mean luma of a well lit face, 0..1
LUMA_OFF = Limits(0.28, 0.38)  # from FACE_LUMA: in shadow or glare the lips have no edge
CLIPPED_SHARE = Limits(0.02, 0.10)  # of the face, black or white: nothing can be learnt there
TURN_DEGREES = Limits(25, 45)  # of 95 % of the frames: beyond 45 a corner of the mouth is hidden
VISIBLE_SHARE = Limits(0.97, 0.85)  # of the frames: the mouth is seen in them
INSIDE_SHARE = Limits(0.97, 0.85)  # of the frames with a face: lips and chin are in the picture
# Different pictures a second: with fewer, lips jump from one sound to the next. 24 are found as 23.
PICTURE_RATE = Limits(22, 20)
RECORDED_SHARE = Limits(0.97, 0.80)  # of the time: there is any sound
MOVING_SHARE = Limits(0.90, 0.80)  # of the speech: the mouth moves. Of 18 people 0.94 and more
SPEECH_SHARE = Limits(0.40, 0.20)  # of the time: the rest of it teaches nothing about sounds
NOISE_DB = Limits(25, 12)  # below the speech: a quiet room has 40, a fan near the microphone 15
OVERDRIVEN_SHARE = Limits(0.0005, 0.005)  # of the samples within 2 % of the peak: speech has 0.0001
PAUSE_SHARE = 0.02  # of the time: with less, silence cannot be learnt

# Turn in degrees per eye distance of Track.pose: so it is on two recordings, by the depth of the
# eye corners (correlation 0.98 and 0.99).
DEGREES_PER_POSE = 148
BLACK_LUMA = 12  # of 255, and below
WHITE_LUMA = 250  # of 255, and above
BLURRED_SHARE = 0.4  # of the clip's median sharpness: a frame with less shows motion blur
SHOWN_FRAMES = 6  # worst ones of each kind, at least a second apart

# -- layout of report.png, in inches ---------------------------------------------------------------
PAGE_WIDTH = 11
MARGIN = 0.35
HEAD_HEIGHT = 0.75  # the title
ROW_HEIGHT = 0.30
STRIP_HEIGHT = 1.95  # a heading, the pictures of one kind, their captions
PICTURE_SIDE = 1.3
PICTURE_STEP = 1.74
COLUMNS = (MARGIN, 2.15, 4.75, 5.85)  # of a Finding's four texts


# -- what is gathered ------------------------------------------------------------------------------
class FaceNumbers(NamedTuple):
    """What the report needs of an aligned face, instead of the picture."""

    sharpness: float  # variance of the Laplacian over that of the luma
    luma: float  # mean, 0..1
    clipped: float  # share of the pixels that are black or white, 0..1
    change: float = 255.0  # mean difference to the same place of the frame before, grey levels


class FaceStatistics:
    """FaceNumbers of the frames of a clip, gathered while the faces are written."""

    def __init__(self):
        self.rows: list[FaceNumbers] = []

    def add(self, face: np.ndarray, scale: float, change: float = 255.0):
        """Take in an aligned face (168, 168, 3) uint8; scale: its pixels per source pixel.

        change: of FaceNumbers.
        """
        skin = face[FACE_SIZE // 4 : -FACE_SIZE // 20, FACE_SIZE // 5 : -FACE_SIZE // 5]
        grey = cv2.cvtColor(skin, cv2.COLOR_RGB2GRAY)
        luma = grey.mean() / 255
        clipped = (grey <= BLACK_LUMA).mean() + (grey >= WHITE_LUMA).mean()
        if scale > 1:  # enlarged: the source's own pixels show how sharp it is
            shrink = 1 / scale
            grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        sharpness = cv2.Laplacian(grey, cv2.CV_32F).var() / (grey.var() + 1)
        self.rows.append(FaceNumbers(sharpness, luma, clipped, change))

    def curves(self) -> np.ndarray:
        """Sharpness, luma, clipped share and change over time: (4, N) float64."""
        return np.array(self.rows).T


def head_turn(track: Track) -> np.ndarray:
    """Degrees by which the face is turned to the side, either way, in each frame: (N,)."""
    return DEGREES_PER_POSE * np.abs(track.pose[:, 0])


def face_scales(track: Track) -> np.ndarray:
    """Pixels of the aligned face per pixel of the source, in each frame: (N,)."""
    return np.hypot(*track.transform[:, :, 0].T)


# -- what is found ---------------------------------------------------------------------------------
class Finding(NamedTuple):
    """A line of the report. advice: what to do about it, "" where the verdict is "good"."""

    name: str
    found: str
    verdict: str
    advice: str


def findings(
    track: Track, statistics: FaceStatistics, synchronised: Synchronised, flaws: Flaws
) -> list[Finding]:
    """Lines of the report. statistics: of every frame."""
    sound, mel, offset = synchronised
    rows = [
        *_picture_findings(track, statistics, flaws.cut_off),
        *_speech_findings(track, mel, ~flaws.unrecorded),
        *_sound_findings(sound, offset)
    ]
    return [row._replace(advice="") if row.verdict == "good" else row for row in rows]


def _picture_findings(track, statistics, cut_off):
    """Yield how much of the footage can be used, and how well the face is seen in it."""
    valid = track.valid
    turn = head_turn(track)
    sharpness, luma, clipped, change = statistics.curves()
    usual_sharpness = np.median(sharpness[valid])
    steady = sharpness > BLURRED_SHARE * usual_sharpness
    usable = track.usable & steady & (turn < TURN_DEGREES.usable)
    yield Finding(
        "length",
        f"{len(track) / FPS:.0f} s",
        LENGTH_S.verdict(usable.sum() / FPS),
        "film 2-5 minutes; README says what 10 s to 2 min bring"
    )
    yield Finding(
        "usable frames",
        f"{usable.mean():.0%}",
        USABLE_SHARE.verdict(usable.mean()),
        "cut out where no steady, open face is seen; see the worst frames"
    )
    side = np.median(FACE_SIZE / face_scales(track)[valid])
    yield Finding(
        "face size",
        f"{side:.0f} px (good from {SIDE_PX.good})",
        SIDE_PX.verdict(side),
        "go nearer, or film with more pixels"
    )
    yield Finding(
        "sharpness",
        f"{usual_sharpness:.3f} (good from {SHARPNESS.good})",
        SHARPNESS.verdict(usual_sharpness),
        "mind focus, light and data rate; do not enlarge or smooth the video"
    )
    yield _exposure_finding(np.median(luma[valid]), clipped[valid].mean())
    most_turn = np.quantile(turn[valid], 0.95)
    yield Finding(
        "head turn",
        f"up to {most_turn:.0f} degrees",
        TURN_DEGREES.verdict(most_turn),
        "look at the camera while speaking"
    )
    yield Finding(
        "mouth visible",
        f"{valid.mean():.0%} of the frames",
        VISIBLE_SHARE.verdict(valid.mean()),
        "keep hands and microphone off the mouth, the face in the picture"
    )
    inside = 1 - cut_off[valid].mean()
    yield Finding(
        "face inside the picture",
        f"{inside:.0%} of the frames",
        INSIDE_SHARE.verdict(inside),
        "leave room around the chin"
    )
    yield _rate_finding(picture_rate(change[moving_frames(track)]))


def _rate_finding(rate):
    return Finding(
        "frame rate",
        f"{rate:.0f} pictures a second",
        PICTURE_RATE.verdict(rate),
        "film with 25 or more, in more light"
    )


def _exposure_finding(luma, clipped):
    verdicts = LUMA_OFF.verdict(abs(luma - FACE_LUMA)), CLIPPED_SHARE.verdict(clipped)
    return Finding(
        "exposure",
        f"{luma:.0%} bright, {clipped:.1%} clipped",
        max(verdicts, key=VERDICTS.index),
        "more light from the front" if luma < FACE_LUMA else "less light, or a shorter exposure"
    )


def _speech_findings(track, mel, recorded):
    """Yield how much of the time there is sound, and speech, and a mouth that moves with it."""
    covered = recorded.mean()
    yield Finding(
        "sound covers",
        f"{covered:.0%} of the time",
        RECORDED_SHARE.verdict(covered),
        "look for the rest of the sound, or cut the video to it"
    )
    speech = spoken_frames(mel, recorded)[recorded].mean() if covered else 0.0
    breathless = speech > 1 - PAUSE_SHARE
    yield Finding(
        "speech",
        f"{speech:.0%} of the time",
        "usable" if breathless else SPEECH_SHARE.verdict(speech),
        "leave pauses with the mouth closed" if breathless else "cut out where nobody speaks"
    )
    moving = moving_share(track, mel, recorded)
    yield Finding(
        "mouth moves",
        f"in {moving:.0%} of the speech",
        MOVING_SHARE.verdict(moving),
        "cut out where somebody else speaks, or the picture stands"
    )


def _sound_findings(sound, offset):
    """Yield how well the speech is recorded, and whether it fits the picture."""
    noise = noise_distance(sound)
    yield Finding(
        "noise",
        f"{noise:.0f} dB below the speech",
        NOISE_DB.verdict(noise),
        "bring the microphone nearer; no music, no fan, no echo"
    )
    limit = 0.98 * max(sound.max(), -sound.min())  # np.abs would copy an hour of sound
    overdriven = (sound >= limit).mean() + (sound <= -limit).mean()
    yield Finding(
        "overdriven",
        f"{overdriven:.2%} of the sound",
        OVERDRIVEN_SHARE.verdict(overdriven),
        "lower the recording level; what was cut off cannot be restored"
    )
    yield _offset_finding(*offset)


def noise_distance(sound: np.ndarray) -> float:
    """From the noise floor to the speech, in dB; sound (samples,).

    5th to 95th percentile of the level of 40 ms pieces. Digital silence is no floor and is left
    out; 0 if there is nothing else.
    """
    decibels = 10 * np.log10(piece_power(sound))
    if not len(decibels):
        return 0.0
    return float(np.ptp(np.quantile(decibels, (0.05, 0.95))))


def _offset_finding(late_ms, confidence, applied_ms):
    moved = f", {applied_ms:+d} ms corrected" if applied_ms else ""
    if confidence < SURE_CONFIDENCE:
        return Finding(
            "sound offset",
            f"cannot be known{moved}",
            "usable",
            "look whether lips and sound match; --av-offset MS moves the sound"
        )
    return Finding(
        "sound offset",
        f"{late_ms:+.0f} ms{moved}",
        "good" if abs(late_ms - applied_ms) <= HABIT_MS else "will hurt",
        "leave --av-offset at auto, or name another number of milliseconds"
    )


# -- the worst frames ------------------------------------------------------------------------------
WorstFrames = dict[str, list[tuple[int, str]]]  # by kind: frame number and caption, worst first


def worst_frames(track: Track, statistics: FaceStatistics, occluded: np.ndarray) -> WorstFrames:
    """Worst frames of each kind, without the kinds that have none.

    occluded (N,) bool: in which of the invalid frames something is in front of the mouth.
    """
    valid = track.valid
    turn = head_turn(track)
    sharpness, luma, clipped, _ = statistics.curves()
    sharpness = sharpness / max(1e-9, np.median(sharpness[valid]))
    exposure = clipped + np.abs(luma - FACE_LUMA) / 10
    missing = ~valid
    worst = {
        "least sharp frames": [
            (i, f"{sharpness[i]:.0%} of the usual") for i in _highest(-sharpness, valid)
        ],
        "worst exposed frames": [
            (i, f"{luma[i]:.0%} bright, {clipped[i]:.0%} clipped")
            for i in _highest(exposure, valid)
        ],
        "most turned frames": [(i, f"{turn[i]:.0f} degrees") for i in _highest(turn, valid)],
        "frames without the mouth": [
            (i, "covered" if occluded[i] else "no face") for i in _highest(missing, missing)
        ]
    }
    return {kind: frames for kind, frames in worst.items() if frames}


def _highest(values, allowed):
    """Yield the SHOWN_FRAMES allowed frames of highest value, at least a second apart."""
    left = np.where(allowed, values, -np.inf)
    for _ in range(SHOWN_FRAMES):
        i = left.argmax()
        if np.isinf(left[i]):
            return
        yield i
        left[max(0, i - FPS + 1) : i + FPS] = -np.inf


# -- the report ------------------------------------------------------------------------------------
def table(title: str, rows: list[Finding]) -> str:
    """The report as lines of text for a terminal."""
    lines = [f"quality of {title}:"]
    lines += [f"  {row.name:23} {row.found:24} {row.verdict:9}  {row.advice}" for row in rows]
    return "\n".join(map(str.rstrip, lines))


def draw(data: Path, title: str, rows: list[Finding], worst: WorstFrames):
    """Write data/report.png: the lines, and below them the worst frames out of data/face/.

    Everything is placed in inches from the upper left corner of the page.
    """
    from matplotlib.figure import Figure  # importing it takes a second that --help should not

    head = HEAD_HEIGHT + ROW_HEIGHT * len(rows)
    height = head + STRIP_HEIGHT * len(worst)
    page = Figure(figsize=(PAGE_WIDTH, height), dpi=100)

    def write(x, y, text, **style):
        page.text(x / PAGE_WIDTH, 1 - y / height, text, va="center", parse_math=False, **style)

    def show(x, y, picture):
        size = PICTURE_SIDE / PAGE_WIDTH, PICTURE_SIDE / height
        axes = page.add_axes((x / PAGE_WIDTH, 1 - y / height, *size))
        axes.imshow(picture, interpolation="bicubic")
        axes.set(xticks=[], yticks=[])

    title = title.encode("latin-1", "replace").decode("latin-1")  # all that the font surely has
    write(MARGIN, 0.35, title, size=13, weight="bold")
    for k, row in enumerate(rows):
        texts = row._replace(verdict=f"● {row.verdict}")
        colours = ("0.35", "black", COLOURS[row.verdict], "black")
        for x, text, colour in zip(COLUMNS, texts, colours, strict=True):
            write(x, 0.80 + ROW_HEIGHT * k, text, color=colour)
    for j, (kind, frames) in enumerate(worst.items()):
        top = head + STRIP_HEIGHT * j
        write(MARGIN, top + 0.15, kind, weight="bold")
        for k, (i, caption) in enumerate(frames):
            left = MARGIN + PICTURE_STEP * k
            show(left, top + 1.58, read_png(face_path(data, i)))
            write(left, top + 1.70, f"{i}: {caption}", size=8, color="0.25")
    page.savefig(data / "report.png")
