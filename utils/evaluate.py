"""Does the mouth follow the sound, and only the sound? Measured on frames that were never trained on.

Renders pieces of the held-out part (all of the footage, if the checkpoint was trained on another clip), pastes them
into the source frames, finds the landmarks again and correlates the mouth's opening and width over time:

  follows   with the real mouth that made the sound. Own sound: picture and sound of one piece, as trained.
            Swapped: picture of one piece, sound of another - what users do.
  lag       frames by which the generated mouth is late (+) or early (-) where it follows best
  leak      with the mouth that the picture's own frames had, which the sound knows nothing of; partial: what is
            left of it, given the mouth of the sound
  chance    the same with the mouths of pieces that were neither seen nor heard: all speech begins and ends alike.
            An honest network leaks no more than chance.
  frozen    a mouth that never moves, measured alike
  silence   mouth opening on digital silence, 0 = closed, 1 = the person's own 90th percentile of opening

Run: python -m utils.evaluate [--data data] [--checkpoint checkpoints/best.pth] [--against VIDEO] [--device auto]
     --against: another real video of the person; its sound drives, its mouth is the truth
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from utils import audio, checkpoint, console, contract, device, face, media
from utils.console import UserError
from utils.dataset import Footage, split
from utils.generate import lowers
from utils.paste import Paster

PIECE = 75            # frames of a piece at most (3 s): about one utterance
LEAST_PIECE = 25      # frames: shorter ones tell nothing
MOST_PAIRS = 24       # swapped pairs that are rendered
LAGS = range(-5, 6)   # frames looked at
AROUND = 0.5          # of the face's size: what is seen of the frame around it when landmarks are found


@dataclass
class Speech:
    """A piece of real speech: how to hear frame t of it, and the real mouth's shape (T, 2) over time."""
    hear: callable
    shape: np.ndarray


def pieces(frames, cuts):
    """Cut rising frame numbers into runs [(first, last + 1), ...] of LEAST_PIECE..PIECE that cross no cut."""
    most = min(PIECE, len(frames) // 2)
    found = []
    for first, last in face.shots(cuts, frames[-1] + 1 if len(frames) else 0):
        first = max(first, frames[0])
        while last - first >= LEAST_PIECE:
            found.append((first, min(last, first + most)))
            first += most
    return found


def clip_speech(footage, spans):
    """Return the Speech of spans of a prepared clip."""
    return [Speech(lambda t, first=first: footage.windows(first + t), footage.track["shape"][first:last])
            for first, last in spans]


def video_speech(path):
    """Return the Speech pieces of another video, found as preprocess.py finds them."""
    total = media.probe(path)["frames"]
    track = face.track(frame.rgb() for frame in tqdm(media.read_frames(path), total=total, desc=f"reading {path}"))
    sound = media.read_sound(path, contract.SAMPLE_RATE, video_start=True)
    count = len(track["valid"])
    if sound is None or not track["valid"].any():
        raise UserError(f"--against {path} needs a face and sound; name another video of the person")
    mel = audio.log_mel(sound[:, 0], count)
    rows = face.shot_bounds(track["cuts"], count) * contract.ROWS_PER_FRAME
    return [Speech(lambda t, first=first: audio.windows(mel, first + t, *rows[first]), track["shape"][first:last])
            for first, last in pieces(np.arange(count), track["cuts"])]


class Stage:
    """One piece of footage, decoded once, onto which mouths are pasted and measured."""

    def __init__(self, footage, paste, clip, first, last):
        self.footage, self.paste, self.order = footage, paste, np.arange(first, last)
        self.frames = [(frame.planes(), frame.colours) for frame in media.read_frames(clip, first, last)]
        corners = contract.FACE_SIZE * np.array([(x, y) for x in (-AROUND, 1 + AROUND) for y in (-AROUND, 1 + AROUND)])
        points = np.concatenate([corners @ back[:, :2].T + back[:, 2] for back in
                                 map(cv2.invertAffineTransform, footage.track["transform"][first:last])])
        height, width = self.frames[0][0][0].shape
        left, top = np.maximum(0, points.min(axis=0).astype(int) // 2 * 2)
        right, bottom = np.minimum((width, height), points.max(axis=0).astype(int) // 2 * 2)
        self.box = slice(top, bottom), slice(left, right)
        self.half = slice(top // 2, bottom // 2), slice(left // 2, right // 2)

    def measure(self, pictures):
        """Paste the lower faces and return the mouth's shape (T, 2) that the landmarker then sees."""
        return face.track(self.show(pictures))["shape"]

    def show(self, pictures):
        """Yield the RGB surroundings of the face with each lower face pasted."""
        for i, (planes, colours), lower in zip(self.order, self.frames, pictures, strict=False):
            planes = [plane.copy() for plane in planes]
            self.paste(planes, colours, i, lower)
            y, u, v = planes[0][self.box], planes[1][self.half], planes[2][self.half]
            u, v = (cv2.resize(c, y.shape[::-1], interpolation=cv2.INTER_LINEAR) for c in (u, v))
            yield media.to_uint8(media.yuv_to_rgb(y, u, v, colours))


# -- figures -----------------------------------------------------------------------------------------
def correlate(a, b):
    """Return the Pearson correlation of two curves, 0 where one of them is flat."""
    a, b = a - a.mean(), b - b.mean()
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 1e-12 else 0.0


def partial_correlation(a, b, given):
    """Return the correlation of a and b that is left once `given` is accounted for in both."""
    ab, ag, bg = correlate(a, b), correlate(a, given), correlate(b, given)
    return (ab - ag * bg) / max(1e-6, np.sqrt((1 - ag ** 2) * (1 - bg ** 2)))


def lagged(generated, real):
    """Return the correlation at each of LAGS: positive where the generated mouth is late."""
    n = len(real)
    return [correlate(generated[max(0, k):n + min(0, k)], real[max(0, -k):n - max(0, k)]) for k in LAGS]


def follow(results):
    """Return (opening, width, best lag) of [(generated shape, real shape), ...], means over the pieces."""
    curves = [(g[:min(len(g), len(r))], r[:min(len(g), len(r))]) for g, r in results]
    by_lag = np.mean([lagged(g[:, 0], r[:, 0]) for g, r in curves], axis=0)
    return (*(float(np.mean([correlate(g[:, k], r[:, k]) for g, r in curves])) for k in (0, 1)),
            LAGS[int(np.argmax(by_lag))])


def leak(results):
    """Return partial leak (opening, width) of [(generated, picture's own, sound's own), ...]."""
    values = []
    for generated, own, heard in results:
        n = min(len(generated), len(own), len(heard))
        values.append([partial_correlation(generated[:n, k], own[:n, k], heard[:n, k]) for k in (0, 1)])
    return np.mean(values, axis=0)


# ------------------------------------------------------------------------------------------------------
def evaluate(footage, model, trained_on, where, against=None):
    """Return the table: {row: (opening, width, lag or None)} and the silence figure under "silence"."""
    held = split(footage.frames)[1] if trained_on == footage.meta["id"] else np.arange(footage.frames)
    spans = pieces(held, footage.track["cuts"])
    speeches = video_speech(against) if against else clip_speech(footage, spans)
    pairs = [(p, s) for p in range(len(spans)) for s in range(len(speeches)) if against or p != s]
    if not pairs:
        raise UserError(f"{footage.data} has no two held-out pieces of {LEAST_PIECE} frames or more to swap; "
                        f"run: python -m utils.evaluate{console.option('data', footage.data, 'data')} "
                        "--against ANOTHER_VIDEO")
    pairs = [pairs[k] for k in np.random.default_rng(0).permutation(len(pairs))[:MOST_PAIRS]]
    paste, references = Paster(footage.track), footage.references()
    clip = contract.source_path(footage.meta, footage.data)
    swap, own, frozen, silent, unrelated = [], [], [], [], []
    real = [footage.track["shape"][first:last] for first, last in spans]
    for p in tqdm(sorted({p for p, _ in pairs}), desc="rendering and measuring", unit="piece"):
        stage = Stage(footage, paste, clip, *spans[p])

        def say(hear, count, stage=stage):
            return stage.measure(lowers(model, footage, references, stage.order[:count], hear, where))

        still = say(lambda t: np.full((len(t), 2 * contract.WINDOW_ROWS, contract.N_MELS), np.log(contract.MEL_FLOOR)),
                    len(stage.order))
        silent.append(still[:, 0])
        ice = stage.measure([footage.lower[references[spans[p][0], 0]]] * len(stage.order))
        if not against:
            own.append((say(speeches[p].hear, len(stage.order)), real[p]))
        for s in (s for q, s in pairs if q == p):
            drawn = say(speeches[s].hear, min(len(stage.order), len(speeches[s].shape)))
            swap.append((drawn, real[p], speeches[s].shape))
            frozen.append((ice, speeches[s].shape))
            unrelated += [(drawn, other.shape, speeches[s].shape) for k, other in enumerate(speeches)
                          if k != s and (against or k != p)]
    low, high = np.quantile(footage.opening, (0.1, 0.9))
    silence = float((np.mean(np.concatenate(silent)) - low) / (high - low))
    return {"follows, swapped sound": follow([(g, heard) for g, _, heard in swap]),
            **({"follows, own sound": follow(own)} if own else {}),
            "frozen mouth": (*follow(frozen)[:2], None),
            "leak of the old mouth": (*follow([(g, o) for g, o, _ in swap])[:2], None),
            **({"  chance": (*follow([(g, u) for g, u, _ in unrelated])[:2], None)} if unrelated else {}),
            "leak, partial": (*leak(swap), None),
            **({"  chance, partial": (*leak(unrelated), None)} if unrelated else {})}, silence, len(swap)


def main():
    args = parse_args()
    footage = Footage(args.data)
    train = contract.train_command(args.data, Path(args.checkpoint).parent)
    model, saved = checkpoint.load(args.checkpoint, train)
    where = device.resolve(args.device)
    model = model.to(where, memory_format=torch.channels_last)
    table, silence, count = evaluate(footage, model, saved["data"].get("id"), where, args.against)
    clip = Path(footage.meta["source"]["path"]).name
    print(f"{clip}, {args.checkpoint}, epoch {saved['epoch']}, {count} swapped pairs")
    print(f"{'':24}{'opening':>10}{'width':>10}{'lag':>6}")
    for name, (opening, width, lag) in table.items():
        print(f"{name:24}{opening:10.2f}{width:10.2f}{'' if lag is None else lag:>6}")
    print(f"{'opening on silence':24}{silence:10.2f}")
    opening, _, lag = table["follows, swapped sound"]
    follows = "follows" if opening >= 0.8 else "follows somewhat" if opening >= 0.6 else "does not yet follow"
    timing = f", {abs(lag)} frames {'late' if lag > 0 else 'early'}" if lag else ""
    chance = table.get("  chance, partial")
    if chance is None:
        seen = "there are too few pieces to tell whether the old mouth shows through"
    else:
        shown = any(table["leak, partial"][k] > chance[k] + 0.1 for k in (0, 1))
        seen = f"the old mouth {'shows' if shown else 'does not show'} through"
    print(f"The mouth {follows} the sound{timing}; {seen}.")


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("--data", default="data", help="working folder of preprocess.py (default: data)")
    parser.add_argument("--checkpoint", default="checkpoints/best.pth",
                        help="from train.py (default: checkpoints/best.pth)")
    parser.add_argument("--against", metavar="VIDEO", help="another real video of the same person")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
