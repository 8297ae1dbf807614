"""The seams between the scripts: meta.json, track.npz, the source, and what a user reads when one is wrong."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT, one_line
from utils import console, contract
from utils.console import UserError

COMMAND = "python preprocess.py"


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the prepared folder, to be damaged."""
    return shutil.copytree(tiny_data, tmp_path / "data")


def change_meta(data, **changes):
    """Rewrite meta.json with some values changed, or left out if the value is ...; return it."""
    meta = {**json.loads((data / "meta.json").read_text()), **changes}
    meta = {key: value for key, value in meta.items() if value is not ...}
    contract.write_json(data / "meta.json", meta)
    return meta


def refused(data, read=contract.read_meta):
    """Return the one-line message with which reading fails, after checking that it names the next command."""
    with pytest.raises(UserError) as error:
        read(data)
    message = one_line(error)
    assert COMMAND in message and str(data) in message
    return message


# -- meta.json ---------------------------------------------------------------------------------------
def test_what_preprocess_wrote_is_read_back(tiny_data, tiny_clip):
    meta = contract.read_meta(tiny_data)
    track = contract.read_track(tiny_data, meta)
    assert meta["frames"] == 150 and meta["size"] == [512, 512] and meta["contract"] == contract.CONTRACT
    assert contract.source_path(meta, tiny_data) == tiny_clip.resolve()
    assert track["transform"].dtype == np.float32 and track["cuts"].tolist() == [0]
    assert np.load(contract.mel_path(tiny_data, 149)).shape == (4, 80)
    assert not (tiny_data / "preprocess.new").exists()


def test_json_survives_a_round_trip(tmp_path):
    content = {"name": "Zoë 你好", "numbers": [1, 2.5, None, True], "deep": {"a": {}}}
    contract.write_json(tmp_path / "a.json", content)
    assert contract.read_json(tmp_path / "a.json", "") == content and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("key", ["frames", "source", "size", "id", "contract"])
@pytest.mark.parametrize("value", [..., None, 1.5, "x"])
def test_a_missing_or_wrong_key_is_named(data, key, value):
    change_meta(data, **{key: 7 if key == "id" and value == "x" else value})
    assert f"'{key}'" in refused(data)


@pytest.mark.parametrize("key", ["path", "bytes", "mtime", "sha256"])
def test_a_source_without_its_identity_is_refused(data, key):
    meta = change_meta(data)
    del meta["source"][key]
    change_meta(data, source=meta["source"])
    refused(data, lambda data: contract.source_path(contract.read_meta(data), data))


@pytest.mark.parametrize("size", [[], [512], [512, 512, 3], [512, "x"]])
def test_a_size_that_is_not_two_numbers_is_refused(data, size):
    change_meta(data, size=size)
    assert "'size'" in refused(data)


@pytest.mark.parametrize("key", sorted(contract.CONTRACT))
def test_data_of_other_constants_is_refused(data, key):
    change_meta(data, contract={**contract.CONTRACT, key: 17})
    assert f"{key} = 17" in refused(data)


@pytest.mark.parametrize("name", ["face/000149.png", "face/000007.png", "audio/000000.npy"])
def test_a_missing_picture_or_feature_is_counted(data, name):
    (data / name).unlink()
    assert "149" in refused(data)


def test_a_picture_too_many_is_counted(data):
    shutil.copy(contract.face_path(data, 0), contract.face_path(data, 150))
    assert "151" in refused(data)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe\x00", b'{"frames": 150'])
def test_a_meta_that_is_no_json_object_is_refused(data, content):
    (data / "meta.json").write_bytes(content)
    refused(data)


def test_a_truncated_meta_is_refused(data):
    whole = (data / "meta.json").read_bytes()
    (data / "meta.json").write_bytes(whole[:len(whole) // 2])
    refused(data)


def test_a_folder_without_meta_counts_as_unfinished(data):
    (data / "meta.json").unlink()
    assert "finished" in refused(data)
    refused(data / "not there")


# -- track.npz ---------------------------------------------------------------------------------------
def read_all(data):
    return contract.read_track(data, contract.read_meta(data))


def change_track(data, **changes):
    """Rewrite track.npz with some arrays changed, or left out if ... is given."""
    with np.load(data / "track.npz") as archive:
        track = {**archive, **changes}
    np.savez(data / "track.npz", **{key: value for key, value in track.items() if value is not ...})


def test_a_damaged_track_is_refused(data):
    whole = (data / "track.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xff
    for content in (b"", b"no archive", whole[:len(whole) // 2], bytes(flipped), b"\x93NUMPY"):
        (data / "track.npz").write_bytes(content)
        refused(data, read_all)
    (data / "track.npz").unlink()
    refused(data, read_all)


@pytest.mark.parametrize("key", ["transform", "landmarks", "valid", "lips", "pose", "shape", "cuts"])
def test_a_track_without_one_of_its_arrays_is_refused(data, key):
    change_track(data, **{key: ...})
    assert key in refused(data, read_all)


@pytest.mark.parametrize("key", ["transform", "landmarks", "valid", "lips", "pose", "shape"])
def test_a_track_of_another_length_or_shape_is_refused(data, key):
    array = read_all(data)[key]
    for wrong in (array[:-1], array[..., None], array[:0]):
        change_track(data, **{key: wrong})
        assert key in refused(data, read_all)


@pytest.mark.parametrize("cuts", [[], [1], [0, 0], [0, 9, 5], [0, 150], [-1, 3], [[0]]])
def test_cuts_that_do_not_rise_from_0_are_refused(data, cuts):
    change_track(data, cuts=np.array(cuts, np.int64))
    assert "cuts" in refused(data, read_all)


# -- the source --------------------------------------------------------------------------------------
@pytest.fixture
def source(tmp_path):
    """A source file and the meta that knows it."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"film" * 1000)
    return path, {"source": contract.source_identity(path)}


def test_an_unchanged_or_only_touched_source_is_accepted(source):
    path, meta = source
    assert contract.source_path(meta, "data") == path.resolve()
    os.utime(path, (1, 1))
    assert contract.source_path(meta, "data") == path.resolve()


def test_a_source_that_is_gone_is_named(source):
    path, meta = source
    path.unlink()
    with pytest.raises(UserError) as error:
        contract.source_path(meta, "data")
    assert str(path) in one_line(error) and COMMAND in str(error.value)


@pytest.mark.parametrize("content", [b"film" * 999, b"Film" + b"film" * 999])
def test_a_source_that_has_changed_is_refused_also_at_the_same_size(source, content):
    path, meta = source
    path.write_bytes(content)
    os.utime(path, (1, 1))
    with pytest.raises(UserError) as error:
        contract.source_path(meta, "data")
    assert "changed" in one_line(error) and COMMAND in str(error.value)


# -- files -------------------------------------------------------------------------------------------
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    contract.write_whole(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        contract.write_whole(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_only_file_is_found_whatever_its_case(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "Clip.MP4").touch()
    assert contract.only_file(tmp_path, contract.VIDEO_ENDINGS, "video", COMMAND) == tmp_path / "Clip.MP4"


def test_without_a_file_the_message_says_what_to_put_where(tmp_path):
    with pytest.raises(UserError) as error:
        contract.only_file(tmp_path, contract.VIDEO_ENDINGS, "video", COMMAND)
    message = one_line(error)
    assert "no video" in message and str(tmp_path) in message and COMMAND in message and "utils.sample" in message


def test_with_two_files_the_message_has_the_command_for_each(tmp_path):
    for name in ("a b.mp4", "c.mov"):
        (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        contract.only_file(tmp_path, contract.VIDEO_ENDINGS, "video", COMMAND)
    message = one_line(error)
    assert f"{COMMAND} '{tmp_path / 'a b.mp4'}'" in message and f"{COMMAND} {tmp_path / 'c.mov'}" in message


def test_remove_takes_files_folders_and_nothing_but_never_what_a_link_points_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name in ("link", "folder", "not there"):
        contract.remove(tmp_path / name)
    assert os.listdir(tmp_path) == ["kept"] and (tmp_path / "kept" / "file").is_file()


# -- one writer, one line ----------------------------------------------------------------------------
WRITER = """
import sys
from utils import console
def main():
    with console.writing(sys.argv[1]):
        print("writing", flush=True)
        sys.stdin.read()
console.run(main)
"""


def writer(folder):
    """Start another process that writes `folder` until its input is closed."""
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_second_writer_is_refused_in_one_line_and_admitted_afterwards(tmp_path):
    with console.writing(tmp_path / "new"):
        second = writer(tmp_path / "new")
        out, err = second.communicate(timeout=60)
        assert second.returncode == 1 and not out and err.count("\n") == 1 and "another run" in err
    third = writer(tmp_path / "new")
    out, err = third.communicate(timeout=60)
    assert (third.returncode, out, err) == (0, "writing\n", "")


def test_a_writer_that_was_killed_does_not_lock_the_folder(tmp_path):
    other = writer(tmp_path)
    assert other.stdout.readline() == "writing\n"
    with pytest.raises(UserError, match="another run"), console.writing(tmp_path):
        pass
    other.kill()
    other.communicate(timeout=60)
    with console.writing(tmp_path):
        assert tmp_path.is_dir()


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"), console.writing(tmp_path / "file"):
        pass


@pytest.mark.parametrize(("raised", "code", "said"), [
    (UserError("found a cat; run: python preprocess.py VIDEO"), 1, "error: found a cat; run: python preprocess.py"),
    (OSError(errno.ENOSPC, "No space left on device", "data/face"), 1, "No space left on device: data/face"),
    (PermissionError(errno.EACCES, "Permission denied", "data"), 1, "Permission denied: data"),
    (MemoryError(), 1, "out of memory"),
    (KeyboardInterrupt(), 130, "interrupted")])
def test_what_a_user_can_mend_ends_in_one_line_and_an_exit_code(capsys, raised, code, said):
    def main():
        raise raised

    with pytest.raises(SystemExit) as end:
        console.run(main)
    out, err = capsys.readouterr()
    assert end.value.code == code and said in err and not out
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_a_programming_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        console.run(lambda: 1 / 0)
