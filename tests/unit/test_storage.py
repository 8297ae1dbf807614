"""The files of data/: what was written is read back, what is wrong with one is said in one line."""

import errno
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.messages import one_line

from utils import storage
from utils.cli import CheckpointError, DataError, UserError
from utils.contract import CONTRACT, face_path, mel_path
from utils.media.find import find_media
from utils.storage import Meta, Track

FRAMES = 20
COMMAND = "python preprocess.py"


# -- a prepared folder, without preprocess.py ------------------------------------------------------
@pytest.fixture
def clip(tmp_path):
    """A file that stands for the source video."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"film" * 1000)
    return path


@pytest.fixture
def meta(clip):
    """What meta.json says of the folder `data`."""
    return Meta(
        frames=FRAMES,
        id="0123456789abcdef",
        size=(512, 288),
        source=storage.identify_source(clip),
        av_offset_ms=-40,
        references=[3, 17],
        scale=2,
    )


@pytest.fixture
def track():
    """A track of two shots, with values that a face may have."""
    rng = np.random.default_rng(0)

    def numbers(*shape):
        return rng.uniform(-300, 300, (FRAMES, *shape)).astype(np.float32)

    transform = np.tile(np.float32([[0.6, 0, 5], [0, 0.6, 5]]), (FRAMES, 1, 1))
    valid = np.ones(FRAMES, bool)
    valid[7] = False
    return Track(
        transform=transform,
        landmarks=numbers(65, 2),
        valid=valid,
        cuts=np.array([0, 12]),
        lips=numbers(40, 2),
        pose=numbers(2),
        mouth=numbers(2),
    )


@pytest.fixture
def data(tmp_path, meta, track):
    """The folder that preprocess.py would have made, its pictures and features empty."""
    data = tmp_path / "data"
    for name in ("face", "audio"):
        (data / name).mkdir(parents=True)
    for i in range(FRAMES):
        face_path(data, i).touch()
        mel_path(data, i).touch()
    storage.write_track(data / "track.npz", track)
    storage.write_json(data / "meta.json", {"contract": CONTRACT, **asdict(meta)})
    return data


def change_meta(data, **changes):
    """Rewrite meta.json with some values changed, or left out if the value is ...."""
    found = {**storage.read_json(data / "meta.json"), **changes}
    kept = {key: value for key, value in found.items() if value is not ...}
    storage.write_json(data / "meta.json", kept)


def change_track(data, **changes):
    """Rewrite track.npz with some arrays changed, or left out if the value is ...."""
    with np.load(data / "track.npz") as archive:
        arrays = {**archive, **changes}
    kept = {key: value for key, value in arrays.items() if value is not ...}
    np.savez(data / "track.npz", **kept)


def read_both(data):
    return storage.read_track(data, storage.read_meta(data))


def refused(data, read=storage.read_meta):
    """The one-line message with which reading fails, after checking that it names the command."""
    with pytest.raises(DataError) as error:
        read(data)
    assert COMMAND in one_line(error)
    assert str(data) in str(error.value)
    return str(error.value)


# -- meta.json -------------------------------------------------------------------------------------
def test_meta_is_read_back(data, meta):
    assert storage.read_meta(data) == meta
    assert storage.read_meta(str(data)) == meta


def test_what_preprocess_wrote_is_read_back(tiny_data, tiny_clip):
    meta = storage.read_meta(tiny_data)
    track = storage.read_track(tiny_data, meta)
    assert meta.frames == len(track) == 150
    assert meta.size == (512, 512)
    assert storage.source_path(meta) == tiny_clip.resolve()
    assert track.transform.dtype == np.float32
    assert track.shots() == [(0, 150)]
    assert np.load(mel_path(tiny_data, 149)).shape == (4, 80)
    assert not (tiny_data / "preprocess.new").exists()


def test_json_survives_a_round_trip(tmp_path):
    content = {"name": "Zoë 你好", "numbers": [1, 2.5, None, True], "deep": {"a": {}}}
    storage.write_json(tmp_path / "a.json", content)
    assert storage.read_json(tmp_path / "a.json") == content
    assert os.listdir(tmp_path) == ["a.json"]


META_KEYS = ["frames", "source", "size", "id", "contract", "av_offset_ms", "references", "scale"]


@pytest.mark.parametrize("key", META_KEYS)
def test_a_missing_key_is_named(data, key):
    change_meta(data, **{key: ...})
    assert f"'{key}'" in refused(data)


@pytest.mark.parametrize("key", META_KEYS)
@pytest.mark.parametrize("value", [None, 1.5, 7, "x", [], {}, ["x"]])
def test_a_value_of_another_kind_is_refused(data, key, value):
    right = [("av_offset_ms", 7), ("id", "x"), ("references", []), ("references", {})]
    if (key, value) not in right:  # 7 frames are refused, for there are more
        change_meta(data, **{key: value})
        refused(data)


IMPOSSIBLE = [
    *({"frames": value} for value in (0, -20, True, 20.0)),
    *({"size": value} for value in ([512], [512, 512, 512], [512, "x"], [512, 511], [0, 0])),
    *({"size": value} for value in ([-2, 2], [2**40, 2], [True, 512])),
    *({"references": value} for value in ([-1], [1.5], [True], [FRAMES])),
    *({"scale": value} for value in (0, 5, 2.0, True)),
    {"av_offset_ms": "100"},
    {"source": {"path": 5, "bytes": 1, "mtime": 1.0, "sha256": ""}},
]


@pytest.mark.parametrize("changes", IMPOSSIBLE)
def test_impossible_values_are_named(data, changes):
    change_meta(data, **changes)
    [key] = changes
    assert f"'{key}'" in refused(data)


@pytest.mark.parametrize("key", ["path", "bytes", "mtime", "sha256"])
def test_a_source_without_its_identity_is_refused(data, meta, key):
    source = asdict(meta.source)
    del source[key]
    change_meta(data, source=source)
    assert f"'{key}'" in refused(data)


def test_no_frames_and_no_files_is_no_clip(tmp_path, data):
    empty = tmp_path / "empty"
    (empty / "face").mkdir(parents=True)
    (data / "meta.json").rename(empty / "meta.json")
    change_meta(empty, frames=0)
    refused(empty)


@pytest.mark.parametrize("key", sorted(CONTRACT))
def test_data_of_other_constants_is_refused(data, key):
    change_meta(data, contract={**CONTRACT, key: 17})
    assert f"{key} = 17, but utils/contract.py has" in refused(data)


def test_data_of_the_first_version_is_refused_before_anything_else(data):
    first = dict(list(CONTRACT.items())[1:])
    change_meta(data, contract={**first, "hop": 17}, frames=None, references=...)
    (data / "track.npz").unlink()
    assert "was made with version = 1, but utils/contract.py has 3" in refused(data)


@pytest.mark.parametrize("name", ["face/000019.png", "face/000007.png", "audio/000000.npy"])
def test_a_missing_picture_or_feature_is_counted(data, name):
    (data / name).unlink()
    assert "19" in refused(data).split("but has")[1]


def test_a_picture_too_many_is_counted(data):
    face_path(data, FRAMES).touch()
    assert "but has 21 and 20" in refused(data)


NO_OBJECTS = [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe\x00", b'{"frames": 20', b"[" * 100_000]


@pytest.mark.parametrize("content", NO_OBJECTS)
def test_a_meta_that_is_no_json_object_is_refused(data, content):
    (data / "meta.json").write_bytes(content)
    refused(data)


def test_a_folder_without_meta_counts_as_unfinished(data):
    (data / "meta.json").unlink()
    assert "finished" in refused(data)
    refused(data / "not there")


# -- track.npz -------------------------------------------------------------------------------------
def test_a_track_is_read_back(data, track):
    again = read_both(data)
    for name, array in vars(track).items():
        np.testing.assert_array_equal(getattr(again, name), array)


def test_a_track_from_before_is_usable_where_it_is_valid(data, track):
    change_track(data, usable=...)
    assert np.array_equal(read_both(data).usable, track.valid)
    for wrong in (track.valid[1:], track.valid.astype(int)):
        change_track(data, usable=wrong)
        assert "usable" in refused(data, read_both)


def test_a_meta_from_before_has_one_take_with_its_own_sound(data):
    change_meta(data, shown_frames=..., sound=..., track=...)
    meta = storage.read_meta(data)
    assert (meta.shown_frames, meta.sound, meta.track) == (FRAMES, None, None)


@pytest.mark.parametrize("changes", [
    {"shown_frames": 21}, {"shown_frames": -1}, {"shown_frames": "x"}, {"track": 0}, {"track": "1"},
    {"sound": {"path": 5}}, {"sound": "a.wav"},
])
def test_an_impossible_take_or_sound_is_refused(data, changes):
    change_meta(data, **changes)
    refused(data)


def test_joined_tracks_have_a_cut_between_them(track):
    track.usable = track.valid & (np.arange(FRAMES) < 15)
    joined = storage.join_tracks([track, track])
    assert joined.cuts.tolist() == [0, 12, 20, 32]
    assert np.array_equal(joined.usable, np.tile(track.usable, 2))
    assert np.array_equal(joined.mouth[FRAMES:], track.mouth)


def test_a_track_knows_its_length_its_shots_and_its_opening(track):
    assert len(track) == FRAMES
    assert track.shots() == [(0, 12), (12, FRAMES)]
    assert track.shot_bounds().tolist() == [[0, 12]] * 12 + [[12, 20]] * 8
    np.testing.assert_array_equal(track.opening, track.mouth[:, 0])


def test_a_damaged_track_is_refused(data):
    content = (data / "track.npz").read_bytes()
    flipped = bytearray(content)
    flipped[9000] ^= 0xFF
    for damaged in (b"", b"no archive", content[:999], bytes(flipped), b"\x93NUMPY"):
        (data / "track.npz").write_bytes(damaged)
        assert "track.npz cannot be used" in refused(data, read_both)
    with open(data / "track.npz", "wb") as file:  # what numpy also opens: one array
        np.save(file, np.zeros(3))
    refused(data, read_both)
    (data / "track.npz").unlink()
    refused(data, read_both)


@pytest.mark.parametrize("name", [*storage.TRACK_ARRAYS, "cuts"])
def test_a_track_without_one_of_its_arrays_is_refused(data, name):
    change_track(data, **{name: ...})
    assert name in refused(data, read_both)


@pytest.mark.parametrize("name", storage.TRACK_ARRAYS)
def test_a_track_of_another_length_shape_or_kind_is_refused(data, track, name):
    array = getattr(track, name)
    for other in (array[:-1], array[..., None], array[:0], array.astype(np.float16)):
        change_track(data, **{name: other})
        assert name in refused(data, read_both)
    change_track(data, **{name: array.astype(object)})
    assert "allow_pickle=False" in refused(data, read_both)


def test_landmarks_of_all_478_points_are_of_an_older_version(data):
    change_track(data, landmarks=np.zeros((FRAMES, 478, 3), np.float32))
    assert "landmarks" in refused(data, read_both)


@pytest.mark.parametrize("cuts", [[], [1], [0, 0], [0, 9, 5], [0, FRAMES], [-1, 3], [[0]]])
def test_cuts_that_do_not_rise_from_0_are_refused(data, cuts):
    change_track(data, cuts=np.array(cuts, np.int64))
    assert "cuts" in refused(data, read_both)


def test_cuts_are_whole_numbers(data):
    change_track(data, cuts=np.array([0.0, 5.0]))
    assert "cuts" in refused(data, read_both)


IMPOSSIBLE_NUMBERS = [
    *(("transform", value) for value in (np.nan, 0, 1e4)),
    *(("landmarks", value) for value in (np.inf, 1e9)),
    ("lips", np.nan),
    ("pose", -np.inf),
    ("mouth", 1e30),
]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE_NUMBERS)
def test_impossible_numbers_in_a_track_are_refused(data, track, name, value):
    array = getattr(track, name).copy()
    array[17, ..., 0] = value
    change_track(data, **{name: array})
    assert name in refused(data, read_both)


# -- the source ------------------------------------------------------------------------------------
def test_the_identity_of_a_file_is_its_size_time_and_content(clip):
    source = storage.identify_source(clip)
    assert source.bytes == 4000
    assert source.mtime == clip.stat().st_mtime
    assert Path(source.path) == clip.resolve()
    assert len(source.sha256) == 64


def test_an_unchanged_or_only_touched_source_is_accepted(clip, meta):
    assert storage.source_path(meta) == clip.resolve()
    os.utime(clip, (1, 1))
    assert storage.source_path(meta) == clip.resolve()


def test_a_source_that_is_gone_is_named(clip, meta):
    clip.unlink()
    with pytest.raises(DataError) as error:
        storage.source_path(meta)
    assert str(clip) in one_line(error)
    assert f"{COMMAND} VIDEO" in str(error.value)


@pytest.mark.parametrize("place", ["project/input", "project", "elsewhere/input"])
@pytest.mark.parametrize("old", ["{}", "C:\\Users\\Zoë\\Videos\\clip.mp4"])
def test_a_moved_source_is_found_by_name_and_content(tmp_path, clip, meta, monkeypatch, place, old):
    """In input/ of the project or of the folder one is in, or beside data/; not another file."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = tmp_path / "project" / "data"
    data.mkdir(parents=True)
    content = clip.read_bytes()
    clip.unlink()
    path = old.format(clip)
    moved = replace(meta, source=replace(meta.source, path=path))
    new = tmp_path / place / "clip.mp4"
    new.parent.mkdir(exist_ok=True)
    new.write_bytes(content[::-1])
    with pytest.raises(DataError, match="is gone; put it back or into input/"):
        storage.source_path(moved, data)
    new.write_bytes(content)
    assert storage.source_path(moved, data).resolve() == new
    assert storage.find_moved(path, meta.source.sha256, data).resolve() == new


@pytest.mark.parametrize("path", ["n" * 300, "a\0b"])
def test_a_source_that_no_file_can_be_is_gone(meta, path):
    impossible = replace(meta, source=replace(meta.source, path=path))
    with pytest.raises(DataError, match="is gone"):
        storage.source_path(impossible)


@pytest.mark.parametrize("content", [b"film" * 999, b"Film" + b"film" * 999])
def test_a_source_that_has_changed_is_refused_also_at_the_same_size(clip, meta, content):
    clip.write_bytes(content)
    os.utime(clip, (1, 1))
    with pytest.raises(DataError) as error:
        storage.source_path(meta)
    assert "changed" in one_line(error)
    assert f"{COMMAND} {clip}" in str(error.value)


# -- reading and writing ---------------------------------------------------------------------------
@pytest.mark.parametrize("raised", [KeyError("x"), ValueError("x"), OSError(5, "x"), MemoryError()])
def test_whatever_goes_wrong_while_reading_names_the_file(raised):
    with pytest.raises(CheckpointError) as error, storage.reading("a/b.pth", CheckpointError):
        raise raised
    assert f"a/b.pth cannot be used ({type(raised).__name__}" in one_line(error)
    assert error.value.__cause__ is raised


@pytest.mark.parametrize("raised", [UserError("clear already"), KeyboardInterrupt()])
def test_what_is_clear_already_passes(raised):
    with pytest.raises(type(raised)) as error, storage.reading("a"):
        raise raised
    assert error.value is raised


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    storage.write_atomically(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        storage.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


# -- files and folders -----------------------------------------------------------------------------
def test_files_are_found_whatever_their_case_but_not_hidden_ones(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "Clip.MP4").touch()
    (tmp_path / "._Clip.MP4").touch()
    found = find_media(tmp_path, "video")
    assert found == [tmp_path / "Clip.MP4"]
    assert storage.only_file(found, tmp_path, "video", COMMAND) == tmp_path / "Clip.MP4"


def test_without_a_file_the_message_says_what_to_put_where(tmp_path):
    with pytest.raises(UserError) as error:
        storage.only_file([], tmp_path, "video", COMMAND)
    for part in ("no video", str(tmp_path), COMMAND, "utils.sample"):
        assert part in one_line(error)


def test_with_two_files_the_message_has_the_command_for_each(tmp_path):
    found = [tmp_path / "a b.mp4", tmp_path / "c.mov"]
    with pytest.raises(UserError) as error:
        storage.only_file(found, tmp_path, "video", COMMAND)
    assert f"{COMMAND} '{tmp_path / 'a b.mp4'}'" in one_line(error)
    assert f"{COMMAND} {tmp_path / 'c.mov'}" in str(error.value)


def test_removing_takes_files_and_folders_but_never_what_a_link_points_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name in ("link", "folder", "not there"):
        storage.remove_tree(tmp_path / name)
    assert list(tmp_path.rglob("*")) == [tmp_path / "kept", tmp_path / "kept" / "file"]
