"""Rows of the report: figures made from renderings. A row is {figure: value}."""

from collections import defaultdict
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from utils.contract import EYE_DISTANCE_PX
from utils.dataset.clip import Clip
from utils.evaluate import metrics
from utils.evaluate.rendering import Rendering, Renderings, Utterance

# Kind of rendering -> name of the row that says how well it follows the sound.
FOLLOWS = {
    "swapped": "follows, swapped sound",
    "own": "follows, own sound",
    "real": "  real mouth pasted",
    "frozen": "  frozen mouth",
    "mean": "  mean mouth"
}
LIPLEAK_RATIO = 0.25  # of opening to width, above which KeySync calls a mouth open
SMOOTHING_FRAMES = 4  # sigma by which the mean curve of other pieces is smoothed: they may be few

Row = dict[str, Any]
Rows = dict[str, Any]  # by name; a row that could not be measured is None


class OpeningRange(NamedTuple):
    """10th and 90th percentile of the person's mouth opening, eye distances."""

    low: float
    high: float

    def share(self, renderings: list[Rendering]) -> np.ndarray:
        """Opening in all the renderings, one after the other: 0 is `low`, 1 is `high`."""
        opening = np.concatenate([rendering.mouth[:, 0] for rendering in renderings])
        return (opening - self.low) / (self.high - self.low)


def _correlations(comparisons, partial=False):
    """Row of correlations: the mean over the real pieces, and the larger of its standard errors.

    comparisons: (rendering, real utterance, curves that `partial` takes out of both mouths).
    """
    by_piece = defaultdict(list)
    for rendering, real, given in comparisons:
        known = given if partial else ()
        found = metrics.correlate_mouths(rendering.mouth, real.mouth, known)
        by_piece[real].append(found)
    means = [np.mean(found, axis=0) for found in by_piece.values()]
    opening, width = np.mean(means, axis=0).tolist()
    spread = np.std(means, axis=0).max()
    error = spread / np.sqrt(max(1, len(means) - 1))
    return {"opening": opening, "width": width, "error": float(error)}


def follow_rows(renderings: Renderings) -> Rows:
    """Rows about following the sound that drives."""
    rows = {}
    for kind, name in FOLLOWS.items():
        if kind not in renderings:
            continue
        made = renderings[kind]
        rows[name] = _correlations([(one, one.driving, ()) for one in made])
        if kind in ("swapped", "own"):
            openings = [(one.mouth[:, 0], one.driving.mouth[:, 0]) for one in made]
            rows[name]["lag"] = metrics.lag(openings)
    if {"own", "swapped"} <= renderings.keys():
        own = rows[FOLLOWS["own"]]
        swapped = rows[FOLLOWS["swapped"]]
        rows["own minus swapped"] = {key: own[key] - swapped[key] for key in ("opening", "width")}
    return rows


def leak_rows(every: list[Utterance], renderings: Renderings, pose: np.ndarray) -> Rows:
    """Rows about the old mouth showing through where the sound is swapped.

    every: utterances of all of the footage. pose (N, 2): its head pose. The partial figures take
    out what makes mouths resemble each other without a leak: the sound that drives, the course that
    all speech has, the head pose, and what is seen of a mouth that does not move in that picture.
    """
    leak = []
    chance = []
    unmoved = [*renderings.get("frozen", ()), *renderings.get("mean", ())]
    for made in renderings["swapped"]:
        count = len(made.frames)
        others = _without_overlap(every, made.shown, made.driving)
        still = [one.mouth for one in unmoved if one.shown is made.shown]
        known = [made.driving.mouth, pose[made.frames], *still]
        leak.append((made, made.shown, [*known, _mean_mouth(others, count)]))
        for other in others:
            rest = _without_overlap(others, other)
            chance.append((made, other, [*known, _mean_mouth(rest, count)]))

    rows = {}
    for name, comparisons in (("leak", leak), ("  chance", chance)):
        if comparisons:
            rows[name] = _correlations(comparisons)
            rows[f"{name}, partial"] = _correlations(comparisons, partial=True)
    return rows


def _without_overlap(every, *used):
    """Those that share no frame number with any of the used ones."""
    return [one for one in every if not any(one.overlaps(other) for other in used)]


def _mean_mouth(some, frames):
    """Mean mouth (T, 2) of the utterances that are long enough, smoothed; 0 without any."""
    mouths = [one.mouth[:frames] for one in some if len(one) >= frames]
    if not mouths:
        return np.zeros((frames, 2))
    return gaussian_filter1d(np.mean(mouths, axis=0), SMOOTHING_FRAMES, axis=0)


def look_rows(clip: Clip, trained: np.ndarray, own: list[Rendering]) -> Rows:
    """Rows about what is seen, of renderings of kind "own"; trained: frames trained on."""
    box = metrics.mouth_box(clip.track.lips[trained])
    by_picture = []
    by_rendering = []
    for rendering in own:
        for lower_face, frame in zip(rendering.lower_faces, rendering.frames, strict=True):
            made = lower_face[box]
            real = clip.lower_faces[frame][box]
            by_picture.append((
                cv2.PSNR(made, real),
                metrics.ssim(made, real),
                metrics.sharpness(made),
                metrics.sharpness(real)
            ))
        off = rendering.lips - clip.track.lips[rendering.frames]  # (T, 40, 2) px
        distance = np.linalg.norm(off, axis=-1).mean()
        jitter = metrics.jitter(rendering.mouth[:, 0], rendering.shown.mouth[:, 0])
        seams, grains, lips = np.transpose(rendering.borders)
        by_rendering.append((distance, jitter, seams.mean(), np.median(grains), np.median(lips)))
    psnr, ssim, sharpness, sharpness_real = np.mean(by_picture, axis=0).tolist()
    distance, jitter, seam, grain, lips = np.mean(by_rendering, axis=0).tolist()
    return {
        "landmarks": {"px": distance, "eyes": distance / EYE_DISTANCE_PX},
        "picture": {"psnr": psnr, "ssim": ssim},
        "texture": {
            "sharpness": sharpness / max(1e-9, sharpness_real),
            "jitter": jitter,
            "seam": seam,
            "grain": grain,
            "lips": lips
        }
    }


def silence_row(renderings: Renderings, person: OpeningRange) -> Row:
    """Row about how far the mouth stays open where nobody speaks."""
    silent = renderings["silence"]
    opening, width = np.concatenate([rendering.mouth for rendering in silent]).T
    row = {
        "digital": float(person.share(silent).mean()),
        "lipleak": float((opening > LIPLEAK_RATIO * width).mean())
    }
    if "noise" in renderings:
        opening = person.share(renderings["noise"])
        row["noise"] = float(opening.mean())
        row["flutter"] = float(opening.std())
    return row
