"""Files from strangers: whatever is wrong with one, the end is the project's own one-line error, or success.

Each case changes a right file at random (see mutate.py) and reads it as the scripts do, and what was accepted is used.
"""

import ast
import shutil
import struct
import zipfile
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

import mutate
import reapply_faces
from conftest import make_video
from test_layout import PRODUCT, tree
from utils import detail, contract, media, paste, pixels
from utils.console import UserError
from utils.dataset import Footage
from utils.face import CARRIED

MANY, MORE = 60, 1500  # mutations of a kind of file: by default, and with -m slow
BLEND = (0.299, 0.114, False)
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
how_many = pytest.mark.parametrize("count", [MANY, pytest.param(MORE, marks=pytest.mark.slow)])


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the prepared folder with a prediction of three frames in it, to be damaged."""
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("pred", "result", "pack"))
    (data / "pred" / "speech").mkdir(parents=True)
    sound = contract.source_identity(contract.source_path(contract.read_meta(data), data))
    contract.write_json(data / "pred" / "speech" / "meta.json", {
        "frames": 3, "source_frames": [4, 3, 2], "sound": sound["path"], "sound_sha256": sound["sha256"],
        "data_id": contract.read_meta(data)["id"], "checkpoint": {"path": "x", "epoch": 1}})
    contract.write_json(data / "pred" / "last.json", {"speeches": ["speech"]})
    for j in range(3):
        contract.lower_path(data / "pred" / "speech", j).write_bytes(pixels.png(np.full((84, 168, 3), 90, np.uint8)))
    return data


def outcome(read, *arguments):
    """Return what reading gave, or the UserError, which must be one line that a terminal can show."""
    try:
        return read(*arguments)
    except UserError as error:
        message = str(error)
        assert message.isprintable() and "run" in message, message
        return error


def fuzz(path, change, seed, count, read, least=0.3):
    """Change the file `count` times and read it; at least this share of the changes must have been refused."""
    right, refused = path.read_bytes(), 0
    for k, rng in enumerate(mutate.generators(seed, count)):
        path.write_bytes(change(right, rng))
        try:
            refused += isinstance(outcome(read), UserError)
        except Exception as error:
            shutil.copy(path, path.with_name(path.name + ".failed"))
            raise AssertionError(f"{path.name}, mutation {k} of {seed}: {type(error).__name__}: {error}") from error
    path.write_bytes(right)
    assert not isinstance(outcome(read), UserError)
    assert refused >= least * count


def read_prepared(data):
    """Read meta.json, the source's path and the track, as every later step does."""
    meta = contract.read_meta(data)
    contract.source_path(meta, data)
    return meta, contract.read_track(data, meta, CARRIED)


# -- meta.json, predictions --------------------------------------------------------------------------
@how_many
def test_meta(data, count):
    fuzz(data / "meta.json", mutate.json_of, "meta", count, lambda: read_prepared(data))


@how_many
@pytest.mark.parametrize("name", ["last.json", "speech/meta.json"])
def test_predictions(data, name, count):
    meta = contract.read_meta(data)

    def read():
        for folder, made in reapply_faces.read_predictions(data, meta):
            assert folder.parent == data / "pred"
            assert all(type(i) is int and 0 <= i < meta["frames"] for i in made["source_frames"])

    fuzz(data / "pred" / name, mutate.json_of, name, count, read)


@pytest.mark.parametrize("name", ["..", ".", "", "/", "../pred/speech", "/etc", "speech/", "speech/../speech", 5, None,
                                  ["speech"], "\0", "n" * 300])
def test_a_prediction_lies_inside_its_folder(data, name):
    """last.json may only name a folder in pred/."""
    for names in ([name], ["speech", name], []):
        contract.write_json(data / "pred" / "last.json", {"speeches": names})
        assert isinstance(outcome(reapply_faces.read_predictions, data, contract.read_meta(data)), UserError)


@pytest.mark.parametrize("change", [
    {"frames": 0}, {"frames": -150}, {"frames": True}, {"frames": 150.0}, {"frames": 10 ** 30}, {"size": [0, 0]},
    {"size": [512, 511]}, {"size": [-2, 2]}, {"size": [True, 512]}, {"size": [2 ** 40, 2]}, {"id": 7},
    {"source": {"path": 5, "bytes": 1, "mtime": 1.0, "sha256": ""}},
    {"source": {"path": "n" * 300, "bytes": 1, "mtime": 1.0, "sha256": ""}},
    {"source": {"path": "a\0b", "bytes": 1, "mtime": 1.0, "sha256": ""}}])
def test_a_meta_of_impossible_values(data, change):
    contract.write_json(data / "meta.json", {**contract.read_json(data / "meta.json", ""), **change})
    assert isinstance(outcome(read_prepared, data), UserError)


def test_no_frames_and_no_files_is_no_clip(tmp_path, tiny_data):
    """A meta.json that announces nothing, and nothing there, agree; there is still nothing to read."""
    (tmp_path / "face").mkdir()
    contract.write_json(tmp_path / "meta.json", {**contract.read_json(tiny_data / "meta.json", ""), "frames": 0})
    assert isinstance(outcome(contract.read_meta, tmp_path), UserError)


# -- track.npz ---------------------------------------------------------------------------------------
def use_track(track, planes):
    """Paste into a frame with that track, with and without the detail of kept frames."""
    lent = detail.Detail("", {"frames": 150, "detail": [], "size": [512, 512]}, track)
    rgb, here = np.full((40, 40, 3), 99, np.uint8), np.eye(2, 3)
    lent.kept, lent.serving = {0: detail.Kept(rgb, here, (512, 512))}, [np.zeros(150, int)]
    for i, paster in ((0, paste.Paster(track)), (75, paste.Paster(track, lent)), (149, paste.Paster(track, lent))):
        paster([plane.copy() for plane in planes], BLEND, i, np.zeros((84, 168, 3), np.uint8))


def track_of(content, rng):
    """Return the bytes of an npz with an array or two changed, left out, or written as what it is not."""
    import io
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    file, lying, kind = io.BytesIO(), rng.random() < 0.2, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    wrong = rng.sample(sorted(arrays), rng.choice((1, 1, 2)))
    with zipfile.ZipFile(file, "w", kind) as archive:
        for key, array in arrays.items():
            if key not in wrong or rng.random() < 0.95:
                right = mutate.npy(array)
                archive.writestr(f"{key}.npy", right if key not in wrong else mutate.lying_npy(array, rng) if lying else
                                 mutate.npy(mutate.array_of(array, rng)))
    return file.getvalue()


@how_many
@pytest.mark.parametrize("change", [mutate.bytes_of, track_of])
def test_track(data, tiny_clip, change, count):
    meta, planes = contract.read_meta(data), next(media.read_frames(tiny_clip)).planes()
    fuzz(data / "track.npz", change, f"track {change.__name__}", count if change is track_of else count // 3,
         lambda: use_track(contract.read_track(data, meta, CARRIED), planes))


@pytest.mark.parametrize(("key", "value"), [
    ("transform", np.nan), ("transform", 0), ("transform", 1e4), ("landmarks", np.inf), ("landmarks", 1e9),
    ("lips", np.nan), ("pose", -np.inf), ("shape", 1e30)])
def test_a_track_of_impossible_values(data, key, value):
    with np.load(data / "track.npz") as archive:
        track = dict(archive)
    track[key][140, ..., 0] = value
    np.savez(data / "track.npz", **track)
    error = outcome(read_prepared, data)
    assert isinstance(error, UserError) and key in str(error)


def test_landmarks_are_read_in_part_as_in_whole(tiny_data):
    """Only those asked for are kept, the same values."""
    meta = contract.read_meta(tiny_data)
    whole, part = contract.read_track(tiny_data, meta), contract.read_track(tiny_data, meta, CARRIED)
    with np.load(tiny_data / "track.npz") as archive:
        assert all(np.array_equal(archive[key], whole[key]) and archive[key].dtype == whole[key].dtype for key in whole)
    np.testing.assert_array_equal(part["landmarks"], whole["landmarks"][:, CARRIED])


# -- pictures, features, pack ------------------------------------------------------------------------
def png_of(content, rng):
    """Return the bytes of a PNG of another size or kind, or with another size in its header."""
    how = rng.randrange(4)
    if how == 0:
        head = struct.pack(">II", *rng.choices((0, 1, 168, 65535, 2 ** 31 - 1, 2 ** 32 - 1, rng.randrange(400)), k=2))
        return content[:16] + head + content[24:]
    if how == 1:
        shape = rng.choice(((168, 168), (168, 168, 4), (84, 168, 3), (1, 1, 3), (168, 167, 3)))
        kind = rng.choice((np.uint8, np.uint16))
        return cv2.imencode(rng.choice((".png", ".jpg", ".bmp")), np.zeros(shape, kind))[1].tobytes()
    return mutate.bytes_of(content, rng)


@how_many
def test_pictures_of_faces(data, count):
    fuzz(contract.face_path(data, 7), png_of, "face", count // 5, lambda: Footage(data))


@how_many
def test_generated_pictures(data, count):
    folder = data / "pred" / "speech"
    fuzz(contract.lower_path(folder, 0), png_of, "lower", count, lambda: reapply_faces.read_lower(folder, 0, "run: x"))


def test_a_picture_that_would_fill_the_memory_is_not_decoded(tmp_path, monkeypatch):
    content = pixels.png(np.zeros((84, 168, 3), np.uint8))
    (tmp_path / "000000.png").write_bytes(content[:16] + struct.pack(">II", 30000, 30000) + content[24:])
    monkeypatch.setattr(cv2, "imdecode", None)
    assert pixels.read_png(tmp_path / "000000.png") is None


def npy_of(content, rng):
    """Return the bytes of an npy file of another array, another header or no array at all."""
    import io
    array, how = np.load(io.BytesIO(content)), rng.randrange(4)
    if how == 0:
        return mutate.bytes_of(content, rng)
    if how == 1:
        return mutate.lying_npy(array, rng)
    if how == 2 and rng.random() < 0.2:  # what numpy also opens: an archive, named npy
        file = io.BytesIO()
        np.savez(file, array)
        return file.getvalue()
    return mutate.npy(mutate.array_of(array, rng))


@how_many
def test_features(data, count):
    fuzz(contract.mel_path(data, 7), npy_of, "mel", count // 5, lambda: Footage(data))


@how_many
def test_features_alone(data, count):
    path = contract.mel_path(data, 7)

    def read():
        try:
            assert contract.read_array(path, np.float32, (4, 80)).shape == (4, 80)
        except (OSError, ValueError) as error:
            raise UserError(f"run: {error}") from error

    fuzz(path, npy_of, "mel alone", 3 * count, read)


@pytest.mark.parametrize("name", ["lower", "mel"])
def test_a_pack_that_is_none_is_made_anew(data, name):
    """data/pack/ is only a copy: damaged or of another shape, it is replaced."""
    right = Footage(data)
    lower, mel = np.array(right.lower), right.mel.copy()
    path, = (data / "pack").glob(f"{name}-*.npy")
    content = path.read_bytes()
    for k, rng in enumerate(mutate.generators(name, 8)):
        path.write_bytes((content[:300], mutate.npy(np.full((2, 2), np.nan)), mutate.lying_npy(mel[:4], rng), b"",
                          mutate.npy(np.full_like(mel, np.nan)))[k % 5])
        again = Footage(data)
        np.testing.assert_array_equal(again.lower, lower)
        np.testing.assert_array_equal(again.mel, mel)


def test_an_array_that_would_fill_the_memory_is_not_loaded(tmp_path, monkeypatch):
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(ValueError, match="it holds"):
        contract.read_array(tmp_path / "a.npy", np.float32, (4, 80))


# -- video and sound ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def films(tmp_path_factory, tiny_speech):
    """A wav file and small films in four containers."""
    folder = tmp_path_factory.mktemp("films")
    noise = np.random.default_rng(0)
    pictures = [noise.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(15)]
    sound = noise.uniform(-0.3, 0.3, 24000).astype(np.float32)
    shutil.copy(tiny_speech, folder / "film.wav")
    for name, options in (("mp4", {}), ("mkv", {}), ("ts", {}), ("avi", {"sound_codec": "mp3"})):
        make_video(folder / f"film.{name}", pictures, sound=sound, **options)
    return folder


def read_media(path):
    """Read a film or sound as the scripts do; at most 20 seconds of it."""
    about = media.probe(path)
    assert about["frames"] >= 0
    if about["video"]:
        for frame in islice(media.read_frames(path), 500):
            frame.planes(), frame.rgb()
    if about["sound"]:
        media.read_sound(path, contract.SAMPLE_RATE, video_start=about["video"])
        for _ in islice(reapply_faces.open_sound(path, "run: x")[0], 500):
            pass


@how_many
@pytest.mark.parametrize("name", ["film.wav", "film.mp4", "film.mkv", "film.ts", "film.avi"])
def test_films(films, tmp_path, name, count):
    path = Path(shutil.copy(films / name, tmp_path / name))
    fuzz(path, mutate.bytes_of, name, count // 5, lambda: read_media(path), least=0)


# -- the code ----------------------------------------------------------------------------------------
SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
UNSAFE = {"os.system", "os.popen", "eval", "exec", "pickle", "marshal", "shelve", "np.fromregex", "compile", "yaml"}


def calls(path):
    """Yield (the name that is called, the call) for each call in a file, and (module, None) for each import."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, None), *((alias.name, None) for alias in node.names))


def test_no_file_can_run_code():
    """Nothing is unpickled, no string is given to a shell, and what is loaded says so."""
    seen = set()
    for path in PRODUCT:
        for name, call in calls(path):
            assert name not in UNSAFE, (path, name)
            given = {word.arg: ast.unparse(word.value) for word in call.keywords} if call else {}
            assert "shell" not in given, (path, name)
            if name in SAFE:
                key, value = SAFE[name]
                assert given.get(key) == str(value), (path, call.lineno)
                seen.add(name)
            if name.startswith("subprocess."):
                assert call is None or not isinstance(call.args[0], ast.JoinedStr | ast.Constant), (path, call.lineno)
    assert seen == set(SAFE)
