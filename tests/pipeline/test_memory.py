"""What training and pasting need does not grow with the film."""

import sys

import pytest
from helpers.memory import peak_mb

from utils import benchmark, sample

LENGTHS_S = (10, 40)
MOST_GROWTH = 1.2  # of the longer film's memory over the shorter one's

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TAKE_200_MB = """
import mmap, time
reserved = mmap.mmap(-1, 2 << 30)
block = b"x" * (200 << 20)
time.sleep(0.3)
"""


def test_the_peak_is_what_a_program_writes_to(tmp_path):
    """200 MB that are written to for a moment count, and 2 GB that are only reserved do not."""
    script = tmp_path / "script.py"
    script.write_text(TAKE_200_MB)
    assert 200 < peak_mb(script) < 300


def test_a_program_that_fails_is_named():
    with pytest.raises(RuntimeError, match="ended with 3"):
        peak_mb("-c", "raise SystemExit(3)")


@pytest.fixture(scope="module")
def folders(run_script, tmp_path_factory):
    """The data folders of a short and of a longer clip."""
    made = []
    for seconds in LENGTHS_S:
        folder = tmp_path_factory.mktemp(f"clip{seconds}")
        sample.write_clip(folder / "clip.mp4", seconds, sample.CLIP_SEED)
        result = run_script("preprocess", folder / "clip.mp4", "--data", folder / "data")
        assert result.code == 0, result.err
        made.append(folder / "data")
    return made


@pytest.mark.slow
def test_memory_of_training_does_not_grow_with_the_film(folders, tmp_path):
    limits = ("--epochs", 20, "--max-minutes", 0.3)  # both for as long: steps need memory too
    peaks = []
    for data in folders:
        checkpoints = tmp_path / data.parent.name
        command = ("train.py", "--data", data, "--checkpoints", checkpoints, *limits)
        # the smaller of two: the peak of one run differs by a fifth, as memory is given back
        peaks.append(min(peak_mb(*command) for _ in range(2)))
    assert peaks[1] < MOST_GROWTH * peaks[0], peaks


@pytest.mark.slow
def test_memory_of_pasting_does_not_grow_with_the_film(folders):
    peaks = []
    for data in folders:
        benchmark.write_prediction(data)
        peaks.append(peak_mb("reapply_faces.py", "--data", data))
    assert peaks[1] < MOST_GROWTH * peaks[0], peaks
