"""Preparing the clips of many speakers, once."""

import numpy as np
import pytest
from helpers.messages import one_line

from utils import storage
from utils.cli import UserError
from utils.dataset.clip import Clip
from utils.pretrain import prepare
from utils.pretrain.voices import Voice


def test_speakers_are_named_by_the_files(tmp_path):
    for name in ("anna_1.mp4", "anna_b_2.mp4", "anna_2.mkv", "_3.mp4", "ben.mp4", "anna_4.txt"):
        (tmp_path / name).touch()
    found = prepare.speakers_of(tmp_path)
    assert {name: [path.name for path in paths] for name, paths in found.items()} == {
        "anna": ["anna_1.mp4", "anna_2.mkv"], "anna_b": ["anna_b_2.mp4"]}


def test_a_folder_without_such_files_is_refused(tmp_path):
    (tmp_path / "film.mp4").touch()
    with pytest.raises(UserError, match="<speaker>_<clip>") as error:
        prepare.speakers_of(tmp_path)
    assert one_line(error)


def test_tracks_become_shots_of_one(tiny_data):
    track = Clip(tiny_data).track
    joined = storage.join_tracks([track, track, track])
    assert len(joined) == 3 * len(track)
    assert joined.shots() == [(k * len(track), (k + 1) * len(track)) for k in range(3)]
    assert np.array_equal(joined.mouth[len(track):2 * len(track)], track.mouth)


def test_each_speaker_is_prepared_once(tiny_clip, tiny_data, tmp_path, monkeypatch):
    """As preprocess.py prepares the clip; what is no clip of one person is left out."""
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "anna_1.mp4").symlink_to(tiny_clip)
    (clips / "anna_2.mp4").write_text("no video")
    found = prepare.speakers_of(clips)
    prepared = tmp_path / "prepared"
    prepare.prepare(found, prepared)

    voice = Voice(prepared / "anna")
    clip = Clip(tiny_data)
    assert voice.frames == clip.frames
    assert np.array_equal(voice.lower_faces, clip.lower_faces)
    assert np.array_equal(voice.track.landmarks, clip.track.landmarks)
    assert np.abs(voice.mel - clip.mel).max() < 1e-3
    about = storage.read_json(prepared / "anna" / "speaker.json")
    assert (about["used"], list(about["left_out"])) == (1, ["anna_2.mp4"])

    def fail(*arguments):
        raise AssertionError("it was prepared already")

    monkeypatch.setattr(prepare, "ProcessPoolExecutor", fail)
    prepare.prepare(found, prepared)
    (clips / "anna_3.mp4").symlink_to(tiny_clip)
    with pytest.raises(AssertionError):
        prepare.prepare(prepare.speakers_of(clips), prepared)
