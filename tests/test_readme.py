"""Every command in both READMEs is one that the tests or .ci/run run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTALL = "pip install -r requirements.txt"

# command: where it is run
RUN_BY = {
    f"{INSTALL} && python -m utils.sample && python preprocess.py && python train.py --max-minutes 5 && "
    "python inference.py && python reapply_faces.py": "test_chain.test_first_run_of_a_newcomer; install: .ci/run",
    f"{INSTALL} -r tests/requirements.txt && python -m pytest": ".ci/run",
    "python preprocess.py": "test_chain.test_first_run_of_a_newcomer",
    "python preprocess.py VIDEO": "conftest.tiny_data, .ci/run",
    "python preprocess.py VIDEO --face 2": "test_tracking.test_another_person_is_prepared_if_asked_and_said",
    "python preprocess.py VIDEO --av-offset 100": "test_sync.test_a_number_is_applied_as_given with 200",
    "python preprocess.py VIDEO --av-offset off": "test_sync.test_late_sound_of_a_video_is_moved",
    "python train.py": "test_train with a number of epochs",
    "python train.py --max-minutes 10": "test_train.test_max_minutes_ends_in_time_with_the_rate_down",
    "python train.py --max-minutes 22": "the same with fewer",
    "torchrun --nproc_per_node=2 train.py": "test_together.test_two_processes_are_as_good_as_one",
    "python train.py --resume": "test_train.test_killed_at_a_random_moment_it_resumes",
    "python train.py --lr 0.0003": "test_train.test_a_new_training_keeps_the_old_one with another rate",
    "python inference.py": "test_chain.test_first_run_of_a_newcomer",
    "python inference.py AUDIO": "test_chain, .ci/run",
    "python inference.py AUDIO ANOTHER_AUDIO --start 4": "test_chain.test_several_speeches with a folder and a file",
    "python inference.py FOLDER": "the same",
    "python reapply_faces.py --preview 5": "test_render.test_a_preview_leaves_the_full_result_alone",
    "python reapply_faces.py --sound FILE": "test_render.test_another_sound_is_heard",
    "python reapply_faces.py": "test_chain.test_first_run_of_a_newcomer",
    "python -m utils.evaluate": ".ci/run",
    "python -m utils.evaluate --against ANOTHER_VIDEO": "test_chain.test_evaluate_prints_its_table",
    "python -m utils.evaluate --voices AUDIO": "the same",
    "python -m utils.benchmark": "test_benchmark",
    "python -m utils.export": "test_export",
    "pip install onnxscript onnxruntime": "tests/requirements.txt, .ci/run",
    "pip install hama": "tests/requirements.txt, .ci/run",
    "python -m pytest -m slow": ".ci/run",
    "bash .ci/run": "itself",
    "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu": "not run: needs the internet",
}


def commands(text):
    """Return the commands of a README: lines of bash blocks, and inline code that begins like a command."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    starts = ("python ", "pip ", "bash ", "torchrun ")
    return [line for block in blocks for line in block.splitlines() if line] + \
        [code for code in inline if code.startswith(starts)]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_every_command_is_run_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    found = commands(text)
    assert set(found) <= set(RUN_BY), set(found) - set(RUN_BY)
    for script in ("preprocess.py", "train.py", "inference.py", "reapply_faces.py"):
        assert f"python {script}" in found
    assert [c for c in found if c.startswith(INSTALL)] == list(RUN_BY)[:2]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_pictures_are_there(name):
    for picture in re.findall(r"!\[.*?\]\((.+?)\)", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / picture).is_file(), picture
