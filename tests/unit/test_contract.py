"""The constants fit each other, and each file has one place."""

import json
from pathlib import Path

from utils import contract


def test_the_version_comes_first():
    assert next(iter(contract.CONTRACT)) == "version"
    assert contract.CONTRACT["version"] == contract.VERSION


def test_the_contract_survives_json():
    again = json.loads(json.dumps(contract.CONTRACT))
    assert repr(again) == repr(contract.CONTRACT)


def test_four_rows_of_mel_belong_to_a_frame_exactly():
    assert contract.ROWS_PER_FRAME == 4
    assert contract.ROWS_PER_FRAME * contract.HOP * contract.FPS == contract.SAMPLE_RATE


def test_what_speech_does_not_move_lies_in_the_upper_half():
    rows = [y * contract.FACE_SIZE for _, y in contract.TEMPLATE.values()]
    assert max(rows) < contract.LOWER_TOP
    assert contract.LOWER_TOP + contract.LOWER_HEIGHT == contract.FACE_SIZE


def test_files_sort_in_the_order_of_their_frames():
    names = [contract.face_path("data", i).name for i in (0, 9, 10, 99999, 100000)]
    assert names == sorted(names)
    assert contract.face_path("data", 7) == Path("data/face/000007.png")
    assert contract.reference_path("data", 7) == Path("data/reference/000007.png")
    assert contract.mel_path("data", 7) == Path("data/audio/000007.npy")
    assert contract.lower_face_path(Path("data/pred/x"), 7) == Path("data/pred/x/000007.png")
