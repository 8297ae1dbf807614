"""Videos and sounds of a folder: what FFmpeg opens counts, not the ending; nothing hidden."""

import av
import cv2
import numpy as np
import pytest
from helpers.films import Sound, film
from helpers.videos import coded, make_video

from utils.media.find import find_media, kind_of

RATES = {"amr": 8000, "weba": 48000, "oga": 48000, "webm": 48000}
SOUNDS = {
    "wav": "pcm_s16le",
    "aiff": "pcm_s16be",
    "aif": "pcm_s16be",
    "caf": "pcm_s16le",
    "au": "pcm_s16be",
    "amr": "libopencore_amrnb",
    "mka": "pcm_s16le",
    "m4a": "aac",
    "3gp": "aac",
    "mp4": "aac",
    "oga": "libopus",
    "weba": "libopus",
    "webm": "libopus",
}
MUXERS = {"aif": "aiff", "oga": "ogg", "weba": "webm", "MTS": "mpegts", "m2ts": "mpegts"}
VIDEOS = {
    "MTS": "libx264",
    "m2ts": "libx264",
    "3gp": "libx264",
    "mxf": "mpeg2video",
    "vob": "mpeg2video",
    "ogv": "libvpx",
    "dv": "dvvideo",
    "gif": "gif",
}


def moved(make, folder, ending):
    """A file that `make` writes in the container that belongs to an ending, then renamed."""
    muxer = MUXERS.get(ending, ending)
    return make(folder / f"made.{'ts' if muxer == 'mpegts' else muxer}").rename(
        folder / f"file.{ending}"
    )


@pytest.mark.parametrize("ending", SOUNDS)
def test_sounds_of_all_kinds_are_found_whatever_their_ending(tmp_path, ending):
    sound = Sound(codec=SOUNDS[ending], rate=RATES.get(ending, 16000))
    path = moved(lambda path: film(path, pictures=(), sounds=[sound]), tmp_path, ending)
    assert find_media(tmp_path, "sound") == [path]
    bare = path.rename(tmp_path / "without an ending")
    assert find_media(tmp_path, "sound") == [bare]
    assert find_media(tmp_path, "video") == []


def write_video(path, codec):
    """Five pictures, of the size and format that DV and GIF ask for."""
    rgb = np.full((576, 720, 3), 90, np.uint8)
    pix_fmt = {"gif": "rgb8"}.get(codec, "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = rgb.shape[:2]
        stream.pix_fmt = pix_fmt
        for _ in range(5):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            container.mux(stream.encode(picture.reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("ending", VIDEOS)
def test_videos_of_all_kinds_are_found_whatever_their_ending(tmp_path, ending):
    path = moved(lambda path: write_video(path, VIDEOS[ending]), tmp_path, ending)
    assert find_media(tmp_path, "video") == [path]
    assert find_media(tmp_path, "sound") == []


def test_photos_texts_and_hidden_files_are_neither(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for ending in ("jpg", "png", "bmp", "tiff", "webp"):
        cv2.imwrite(str(tmp_path / f"photo.{ending}"), picture)
    for name in ("notes.txt", "a.nfo", "desktop.ini", "a.srt"):
        (tmp_path / name).write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n" * 20)
    make_video(tmp_path / ".hidden.mp4", map(coded, range(5)))
    (tmp_path / "._clip.mp4").write_bytes(b"\x00\x05\x16\x07" + bytes(200))
    (tmp_path / "folder.mp4").mkdir()
    assert find_media(tmp_path, "video") == find_media(tmp_path, "sound") == []


@pytest.mark.parametrize(("name", "kind"), [("a.MP4", "video"), ("a.amr", "sound"), ("a", "")])
def test_a_file_that_cannot_be_opened_is_what_its_ending_says(tmp_path, name, kind):
    """So that the error is about that file."""
    (tmp_path / name).write_bytes(b"cut")
    assert kind_of(tmp_path / name) == kind
