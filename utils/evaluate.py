"""Does the mouth follow the sound, only the sound, and does it look real? Measured on frames never trained on.

Renders pieces of the held-out part (all of the footage, if the checkpoint was trained on another clip), pastes them
into the source frames and finds the landmarks again. Writes report.json and report.png beside the checkpoint.

  follows     correlation over time of the mouth's opening and width with the real mouth that made the sound. Own sound:
              picture and sound of one piece, as trained. Swapped: picture of one, sound of another - what users do.
              lag: frames by which the mouth is late (+) or early (-); error: standard error of the mean over the pieces
    ...       the same for the driving piece's real lower face (the most that can be reached), for one closed mouth, and
              for the mean of the part trained on (what a network that does not listen reaches)
  leak        correlation of the swapped mouth with the one that the picture's own frames had, of which the sound knows
              nothing. chance: with mouths neither seen nor heard; not 0, for all speech begins and ends alike.
              partial: once the driving mouth, the mean curve of other pieces, the head pose, and what is seen of the
              frozen and the mean mouth in that picture (cheeks move too) are taken out of both: 0 is expected
  landmarks   distance of the 40 lip points from the real ones, own sound: px of the aligned face, and eye distances
  picture     PSNR in dB and SSIM (Wang et al. 2004) of the generated lower face, own sound, before it is pasted, in the
              mouth's box: 1st to 99th percentile of the lip points of the part trained on, and 6 px more
  texture     generated over real, own sound, so 1 is right. sharpness: variance of the Laplacian in that box; jitter:
              second difference of opening; seam: gradient of luma across the border of what is pasted;
              grain: variance of the Laplacian just inside that border beside just outside
  silence     mean opening on digital silence, and on the noise of a quiet room; flutter: its standard deviation there.
              0 and 1 are the person's 10th and 90th percentile of opening
  closures    share of p, b and m at which the lips close; ratio: generated over real; any: generated at any moment.
              Needs the optional phoneme recogniser: pip install hama
  voice       first 20 s of each of --voices. movement: standard deviation of opening over the person's own; pauses:
              mean opening in them, as for silence

Run: python -m utils.evaluate [--data data] [--checkpoint checkpoints/best.pth] [--device auto|cpu|cuda|cuda:N]
                              [--against VIDEO] [--voices FILE ...]
     --against: another real video of the person; its sound drives, its mouth is the truth
"""

from collections import defaultdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from utils import audio, checkpoint, console, contract, device, figures, media, report, sync
from utils.console import UserError
from utils.dataset import Footage, noise_floor, split, thin
from utils.stage import LEAST_PIECE, Take, perform, pieces, speeches, video_speech

FOLLOWS = {"swapped": "follows, swapped sound", "own": "follows, own sound", "real": "  real mouth pasted",
           "frozen": "  frozen mouth", "mean": "  mean mouth"}
MOST_PAIRS = 24       # swapped pairs that are rendered
EVEN = 4              # frames, sigma by which the mean curve of the other pieces is smoothed: they may be few
MOST_OTHERS = 60      # other pieces whose real mouths tell what chance is
ROOM = -7.5           # log level of a quiet room's noise floor, as in the pauses of recorded speech
VOICE = 20 * contract.FPS  # frames of each of --voices that are rendered


# -- what is rendered ----------------------------------------------------------------------------------
def plan(footage, references, trained, pairs):
    """Return the takes to perform: each (seen, heard) pair swapped, and the controls of each piece seen."""
    takes, mean = [], footage.lower[thin(trained, 300)].mean(axis=0).round().astype(np.uint8)
    for seen, heard in pairs:
        count, length = min(len(seen.shape), len(heard.shape)), len(seen.shape)
        if all(take.seen is not seen for take in takes):
            noise = noise_floor((1, contract.ROWS_PER_FRAME * length, contract.N_MELS),
                                np.random.default_rng(seen.first), ROOM, ROOM)[0]
            quiet = np.full_like(noise, np.log(contract.MEL_FLOOR))
            takes += [Take("own", seen, seen, seen.hear, length),
                      Take("real", seen, heard, footage.lower[heard.first:heard.first + count], count),
                      Take("frozen", seen, heard, [footage.lower[references[seen.first, 0]]] * count, count),
                      Take("mean", seen, heard, [mean] * count, count),
                      Take("silence", seen, None, partial(audio.windows, quiet), length),
                      Take("noise", seen, None, partial(audio.windows, np.maximum(noise, quiet)), length)]
        takes.append(Take("swapped", seen, heard, heard.hear, count))
    return takes


def voice_takes(path, seen):
    """Return the takes that speak a sound file on the pieces `seen` in turn, and its log-mel."""
    sound = media.read_sound(path, contract.SAMPLE_RATE)
    if sound is None or not len(sound):
        raise UserError(f"--voices {path} has no sound; name files with speech")
    mel, takes, first = audio.log_mel(sound[:, 0], min(VOICE, audio.frames_of(sound))), [], 0
    while count := min(len(seen[len(takes) % len(seen)].shape), len(mel) // contract.ROWS_PER_FRAME - first):
        takes.append(Take(f"voice {path}", seen[len(takes) % len(seen)], None,
                          lambda t, first=first: audio.windows(mel, first + t), count))
        first += count
    return takes, mel


# -- what is made of it --------------------------------------------------------------------------------
def correlations(comparisons, given=lambda take, real: ()):
    """Return the row of comparisons [(take, real Speech), ...]; given: takes both, returns that of figures.alike."""
    by_piece = defaultdict(list)
    for take, real in comparisons:
        by_piece[real].append(figures.alike(take.shape, real.shape, given(take, real)))
    values = [np.mean(some, axis=0) for some in by_piece.values()]
    opening, width = np.mean(values, axis=0).tolist()
    error = np.std(values, axis=0).max() / np.sqrt(max(1, len(values) - 1))
    return {"opening": opening, "width": width, "error": float(error)}


def sync_rows(every, takes, pose):
    """Return the rows about following and leaking of {kind: takes}.

    every: the Speech of all of the footage; pose: (N, 2), its head pose.
    """
    def others(*used):
        return [piece for piece in every if all(piece.apart(one) for one in used)]

    def known(take, real):  # what that explains a likeness without a leak
        rest = [piece.shape[:take.count] for piece in others(take.seen, take.heard, real)]
        rest = [shape for shape in rest if len(shape) == take.count] or [np.zeros((take.count, 2))]
        return (take.heard.shape, gaussian_filter1d(np.mean(rest, axis=0), EVEN, axis=0), pose[take.frames],
                *(still.shape for still in unmoved if still.seen is take.seen and still is not take))

    rows, unmoved = {}, takes["frozen"] + takes["mean"]
    for kind, name in FOLLOWS.items():
        if takes[kind]:
            rows[name] = correlations([(take, take.heard) for take in takes[kind]])
        if kind in ("swapped", "own"):
            rows[name]["lag"] = figures.lag([(take.shape[:, 0], take.heard.shape[:, 0]) for take in takes[kind]])
    old = [(take, take.seen) for take in takes["swapped"]]
    chance = [(take, piece) for take in takes["swapped"] for piece in others(take.seen, take.heard)]
    for name, pairs in (("leak", old), ("  chance", chance)):
        if pairs:
            rows.update({name: correlations(pairs), f"{name}, partial": correlations(pairs, known)})
    return rows


def look_rows(footage, trained, own):
    """Return the rows about what is seen, of takes of kind "own"."""
    rows, columns = figures.mouth_box(footage.track["lips"][trained])
    pairs = [(made[rows, columns], footage.lower[i, rows, columns])
             for take in own for made, i in zip(take.pictures, take.frames, strict=True)]
    off = np.mean([np.linalg.norm(take.lips - footage.track["lips"][take.frames], axis=-1).mean() for take in own])
    made, real = np.mean([list(map(figures.sharpness, pair)) for pair in pairs], axis=0)
    found = {"landmarks": {"px": off, "eyes": off / contract.EYE_DISTANCE},
             "picture": {"psnr": [cv2.PSNR(*pair) for pair in pairs], "ssim": [figures.ssim(*pair) for pair in pairs]},
             "texture": {"sharpness": made / max(1e-9, real),
                         "jitter": [figures.jitter(take.shape[:, 0], take.seen.shape[:, 0]) for take in own],
                         "seam": [np.mean(take.seams, axis=0)[0] for take in own],
                         "grain": [np.median(take.seams, axis=0)[1] for take in own]}}
    return {name: {key: float(np.mean(value)) for key, value in row.items()} for name, row in found.items()}


def sound_rows(footage, takes, voices):
    """Return the rows about silence, noise, closures and voices. voices: {kind: its log-mel}."""
    low, high = np.quantile(footage.opening, (0.1, 0.9))
    opening = {kind: (np.concatenate([take.shape[:, 0] for take in some]) - low) / (high - low)
               for kind, some in takes.items() if some}
    rows = {"silence": {"digital": float(opening["silence"].mean())}}
    if "noise" in opening:
        rows["silence"].update(noise=float(opening["noise"].mean()), flutter=float(opening["noise"].std()))
        rows["closures"] = closures(takes["swapped"] + takes["own"], low, high)
    for kind, mel in voices.items():
        still = figures.pauses(mel)
        rows[kind] = {"movement": float(opening[kind].std() * (high - low) / footage.opening.std()),
                      "pauses": float(opening[kind][still].mean()) if still.any() else None}
    return rows


def closures(takes, low, high):
    """Return the row about lips closing at p, b and m, or None without the phoneme recogniser."""
    try:
        import hama
    except ImportError:
        return None
    recogniser, heard, shares = hama.ASRModel(), {}, []
    for take in takes:
        if take.heard not in heard:
            spans = recogniser.phoneme_spans(recogniser(take.heard.sound, contract.SAMPLE_RATE))
            heard[take.heard] = [int(s.start_ms * contract.FPS / 1000) for s in spans if s.phoneme[0] in "pbm"]
        made, real = (figures.closes(shape[:take.count, 0], low, high) for shape in (take.shape, take.heard.shape))
        shares += [(made[t], real[t], made.mean()) for t in heard[take.heard] if t < take.count]
    if not shares:
        return {"sounds": 0}
    made, real, at_any = np.mean(shares, axis=0).tolist()
    return {"ratio": made / max(real, 1e-9), "generated": made, "real": real, "any": at_any, "sounds": len(shares)}


def sentence(rows):
    """Return what the figures mean, in one sentence."""
    swapped, leak, sharp = rows["follows, swapped sound"], rows["leak, partial"], rows["texture"]["sharpness"]
    follows = ("follows" if swapped["opening"] >= 0.8 else "follows somewhat" if swapped["opening"] >= 0.6 else
               "does not yet follow")
    timing = f", {abs(swapped['lag'])} frames {'late' if swapped['lag'] > 0 else 'early'}" if swapped["lag"] else ""
    chance = rows.get("  chance, partial", {"opening": 0, "width": 0})
    shows = any(leak[key] > max(0, chance[key]) + max(0.1, 2 * leak["error"]) for key in ("opening", "width"))
    looks = "softer than" if sharp < 0.75 else "grainier than" if sharp > 1.25 else "as sharp as"
    rest = "closes" if rows["silence"]["digital"] < 0.15 else "stays open"
    return (f"The mouth {follows} the sound{timing}; the old mouth {'shows' if shows else 'does not show'} through; it "
            f"is {looks} the real one and {rest} in silence.")


# ------------------------------------------------------------------------------------------------------
def evaluate(footage, model, trained_on, where, against=None, voices=(), quick=False):
    """Return ({row: {figure: value} or None}, {kind: takes}) for a model in eval mode on the device `where`.

    trained_on: id of the data it was trained on. quick: four pairs, no controls. UserError without pieces to swap.
    """
    clip, cuts = contract.source_path(footage.meta, footage.data), footage.track["cuts"]
    every, shape = np.arange(footage.frames), footage.track["shape"]
    trained, held = split(footage.frames) if trained_on == footage.meta["id"] else (every, every)
    sound = media.read_sound(clip, contract.SAMPLE_RATE, video_start=True)[:, 0]
    sound = sync.shift(sound, footage.meta["av_offset_ms"])
    seen = speeches(pieces(held, cuts), footage.windows, shape, audio.fit(sound, footage.frames))
    others = speeches(thin(np.array(pieces(every, cuts)), MOST_OTHERS), footage.windows, shape, sound)
    heard = video_speech(against) if against else seen
    pairs = [(p, s) for p in seen for s in heard if p is not s]
    if not pairs:
        raise UserError(f"{footage.data} has no two held-out pieces of {LEAST_PIECE} frames or more to swap; "
                        f"run: python -m utils.evaluate{console.option('data', footage.data, 'data')} "
                        "--against ANOTHER_VIDEO")
    order = np.random.default_rng(0).permutation(len(pairs))[:4 if quick else MOST_PAIRS]
    references, mels = footage.references(), {}
    takes = [take for take in plan(footage, references, trained, [pairs[k] for k in order])
             if (take.kind in ("swapped", "own", "silence") or not quick) and (take.kind != "real" or not against)]
    for path in dict.fromkeys(voices):
        spoken, mel = voice_takes(path, seen)
        takes, mels[spoken[0].kind] = takes + spoken, mel
    takes = perform(footage, model, where, references, takes)
    return {**sync_rows(others, takes, footage.pose), **look_rows(footage, trained, takes["own"]),
            **sound_rows(footage, takes, mels)}, takes


def brief(footage, model, where):
    """Return a line on the held-out part of the footage that `model`, in eval mode on `where`, was trained on."""
    try:
        rows, _ = evaluate(footage, model, footage.meta["id"], where, quick=True)
    except UserError as error:
        return f"not measured: {error}"
    opening = [rows[name]["opening"] for name in ("follows, swapped sound", "follows, own sound", "leak, partial")]
    return ("mouth opening follows {:.2f} with swapped sound, {:.2f} with its own; partial leak {:.2f}; "
            "sharpness {:.2f}; open on silence {:.2f}").format(
                *opening, rows["texture"]["sharpness"], rows["silence"]["digital"])


def main():
    args = parse_args()
    footage, folder = Footage(args.data), Path(args.checkpoint).parent
    model, saved = checkpoint.load(args.checkpoint, contract.train_command(args.data, folder))
    where = device.resolve(args.device)
    model = model.to(where, memory_format=torch.channels_last)
    rows, takes = evaluate(footage, model, saved["data"].get("id"), where, args.against, args.voices)
    title = (f"{Path(footage.meta['source']['path']).name}, {args.checkpoint}, epoch {saved['epoch']}, "
             f"{len(takes['swapped'])} swapped pairs")
    print(title)
    for name, row in rows.items():
        cells = [f"{key:>10} " + ("-" if value is None else f"{value:.2f}" if isinstance(value, float) else f"{value}")
                 for key, value in (row or {"skipped:": "pip install hama"}).items()]
        print(f"{name:24}" + "".join(f"{cell:18}" for cell in cells).rstrip())
    print(sentence(rows))
    contract.write_json(folder / "report.json", {"of": title, "rows": rows, "meaning": sentence(rows)})
    report.draw(folder / "report.png", footage, takes["own"], takes["swapped"])
    console.say(f"look at {folder / 'report.png'}")


def parse_args():
    parser = console.parser(__doc__)
    parser.add_argument("--data", default="data", help="working folder of preprocess.py (default: data)")
    parser.add_argument("--checkpoint", default="checkpoints/best.pth",
                        help="from train.py (default: checkpoints/best.pth)")
    parser.add_argument("--against", metavar="VIDEO", help="another real video of the same person")
    parser.add_argument("--voices", metavar="FILE", nargs="+", default=[], help="speech of other people")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser.parse_args()


if __name__ == "__main__":
    console.run(main)
