"""Does the mouth follow the sound, only the sound, and does it look real? Measured on frames never
trained on.

Renders pieces of the held-out part (all of the footage, if the checkpoint was trained on another
clip), pastes them into the source frames and finds the landmarks again. Writes report.json (the
table as "rows", those of --voices also as "voices" by file name) and report.png beside the
checkpoint.

  follows     correlation over time of the mouth's opening and width with the real mouth that made
              the sound. Own sound: picture and sound of one piece, as trained. Swapped: picture of
              one, sound of another - what users do.
              lag: frames by which the mouth is late (+) or early (-); error: standard error of the
              mean over the pieces
    ...       the same for the driving piece's real lower face (the most that can be reached), for
              one closed mouth, and for the mean of the part trained on (what a network that does
              not listen reaches)
    own minus swapped
              what the mouth gains where picture and sound belong together; 0 where the picture
              tells nothing of what is said
  leak        correlation of the swapped mouth with the one that the picture's own frames had, about
              which the sound knows nothing. chance: with mouths neither seen nor heard; not 0,
              because all speech begins and ends alike.
              partial: once the driving mouth, the mean curve of other pieces, the head pose, and
              what is seen of the frozen and the mean mouth in that picture (cheeks move too) are
              taken out of both: 0 is expected
  landmarks   distance of the 40 lip points from the real ones, own sound: px of the aligned face,
              and eye distances
  picture     PSNR in dB and SSIM (Wang et al. 2004) of the generated lower face, own sound, before
              it is pasted, in the mouth's box: 1st to 99th percentile of the lip points of the part
              trained on, and 6 px more
  texture     generated over real, own sound, so 1 is right. sharpness: variance of the Laplacian in
              that box; jitter: second difference of opening; seam: gradient of luma across the
              border of what is pasted; grain: variance of the Laplacian just inside that border
              beside just outside
  silence     mean opening on digital silence, and on the noise of a quiet room; flutter: its
              standard deviation there. 0 and 1 are the person's 10th and 90th percentile of opening
              lipleak: share of the frames on digital silence in which opening is more than 0.25 of
              width. Bigata et al. 2025, who defined it, report 0.16 for their KeySync and 0.33 for
              LatentSync
  closures    share of p, b and m at which the lips close; ratio: generated over real; any:
              generated at any moment. Needs the optional phoneme recogniser: pip install hama
  voice       first 20 s of each of --voices, helped as inference.py helps them. opening, width,
              lag: as for follows, with the speaker's own mouth, if the file is a video that shows
              it. movement: standard deviation of opening over the person's own; pauses: mean
              opening in them, as for silence
    ..., mean over the files that show their speaker's mouth, if there are several

Run: python -m utils.evaluate [--data data] [--checkpoint checkpoints/best.pth]
                              [--device auto|cpu|cuda|cuda:N] [--against VIDEO] [--voices FILE ...]
     --against: another real video of the person; its sound drives, its mouth is the truth
"""

import argparse
from pathlib import Path

from utils import cli
from utils.dataset.clip import Clip
from utils.evaluate import plots
from utils.evaluate.meter import evaluate, sentence
from utils.evaluate.rows import Row, Rows
from utils.generate import load_speaker
from utils.storage import write_json


def main(args: argparse.Namespace):
    """Measure, print the table and write the report."""
    # 1. the footage and the network
    clip = Clip(args.data)
    speaker, saved = load_speaker(args.checkpoint, clip, args.device, full_size=True)

    # 2. render and measure
    rows, renderings = evaluate(speaker, saved["data"]["id"], args.against, args.voices)

    # 3. the table, and the same as files
    title = (f"{Path(clip.meta.source.path).name}, {args.checkpoint}, epoch {saved['epoch']}, "
             f"{len(renderings['swapped'])} swapped pairs")
    print(title)
    for name, row in rows.items():
        print(table_line(name, row))
    meaning = sentence(rows)
    print(meaning)
    folder = Path(args.checkpoint).parent
    write_json(folder / "report.json", {
        "of": title,
        "rows": rows,
        "voices": voices_by_name(args.voices, rows),
        "meaning": meaning
    })
    plots.draw(folder / "report.png", clip, renderings["own"], renderings["swapped"])
    cli.say(f"look at {folder / 'report.png'}")


def voices_by_name(paths: list[str], rows: Rows) -> dict[str, Row]:
    """Rows of the voices by file name; by the path as given where an earlier file has that name."""
    named: dict[str, Row] = {}
    for path in dict.fromkeys(paths):
        name = Path(path).name
        named[path if name in named else name] = rows[f"voice {path}"]
    return named


def table_line(name: str, row: dict | None) -> str:
    """Line of the table for a row; None is a row that was not measured."""
    line = f"{name:24}"
    for key, value in (row or {"skipped:": "pip install hama"}).items():
        shown = f"{value:.2f}" if isinstance(value, float) else value
        cell = f"{key:>10} {'-' if value is None else shown}"
        line += f"{cell:18}"
    return line.rstrip()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line, or of `argv`."""
    parser = cli.parser(__doc__, "data", "checkpoint", "device")
    parser.prog = "python -m utils.evaluate"  # not "__main__.py"
    parser.add_argument(
        "--against",
        metavar="VIDEO",
        help="another real video of the same person"
    )
    parser.add_argument(
        "--voices",
        nargs="+",
        default=[],
        metavar="FILE",
        help="speech of other people"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, parse_args())
