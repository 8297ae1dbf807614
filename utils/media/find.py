"""Videos and sounds in a folder: what FFmpeg opens counts, not the ending."""

from pathlib import Path

from utils.cli import UserError
from utils.contract import SOUND_ENDINGS, VIDEO_ENDINGS
from utils.media.streams import open_media, pick_stream

STILLS = ("image2", "tty")  # FFmpeg's names of photos and of text, beside those that end in "_pipe"


def kind_of(path: Path) -> str:
    """What a file is: "video", "sound" or "". If FFmpeg cannot open it, its ending says so."""
    try:
        with open_media(path) as container:
            if container.format.name.endswith(("_pipe", *STILLS)):
                return ""
            if pick_stream(container, "video"):
                return "video"
            return "sound" if pick_stream(container, "audio") else ""
    except UserError:
        ending = path.suffix.lower()
        return "video" if ending in VIDEO_ENDINGS else "sound" if ending in SOUND_ENDINGS else ""


def find_media(folder: Path, kind: str) -> list[Path]:
    """The files of a kind, "video" or "sound", in a folder, sorted. Hidden ones are passed over."""
    paths = [path for path in sorted(folder.glob("*")) if not path.name.startswith(".")]
    return [path for path in paths if path.is_file() and kind_of(path) == kind]
