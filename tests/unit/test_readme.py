"""The READMEs: each command is one that its script takes and that a test runs, each file is there.

A command is read by the parser of its own script, so a renamed option fails here.
"""

import ast
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache

import pytest
from helpers.layout import ROOT, SCRIPTS
from torch.distributed.run import get_args_parser

READMES = ("README.md", "README.zh-CN.md")
TOOLS = tuple(f"utils.{name}" for name in ("evaluate", "export", "benchmark", "sample", "pretrain"))
STARTS = ("python ", "pip ", "bash ", "torchrun ")

INGEST = "tests/robustness/test_ingest.py::"
CHAIN = "tests/pipeline/test_chain.py::"
PREPROCESS = "tests/pipeline/test_preprocess.py::"
TRAIN = "tests/pipeline/test_train.py::"
RENDER = "tests/pipeline/test_render.py::"

# Command: where it is run, as FILE::TEST; of files that are no Python: FILE::TEXT.
RUN_BY = {
    "pip install -r requirements.txt": ".ci/run::-r requirements.txt",
    "pip install -r requirements.txt -r tests/requirements.txt":
        ".ci/run::-r requirements.txt -r tests/requirements.txt",
    "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu":
        ".github/workflows/test.yml::--index-url https://download.pytorch.org/whl/cpu",
    "pip install onnxscript onnxruntime": "tests/requirements.txt::onnxscript",
    "pip install hama": "tests/requirements.txt::hama",
    "bash .ci/run": ".ci/run::set -euo pipefail",
    "python -m pytest": ".ci/run::python -m pytest",
    "python -m pytest -m slow": ".ci/run::python -m pytest -m slow",
    "python preprocess.py": f"{CHAIN}test_first_run_of_a_newcomer",
    "python preprocess.py VIDEO": ".ci/run::python preprocess.py",
    "python preprocess.py VIDEO --face 2":
        "tests/pipeline/test_tracking.py::test_another_person_is_prepared_if_asked_and_said",
    "python preprocess.py VIDEO ANOTHER_VIDEO --take 2":
        f"{INGEST}test_several_takes_are_learned_from_and_one_is_rendered",
    "python preprocess.py VIDEO --sound FILE":
        f"{INGEST}test_sound_that_was_recorded_apart_is_put_in_step",
    "python preprocess.py VIDEO --av-offset 100": f"{PREPROCESS}test_a_number_is_applied_as_given",
    "python preprocess.py VIDEO --av-offset off":
        f"{PREPROCESS}test_late_sound_of_a_video_is_moved",
    "python -m utils.pretrain FOLDER":
        "tests/pipeline/test_pretrain.py::test_a_base_is_learned_and_trained_from",
    "python train.py": f"{TRAIN}test_loss_falls_and_everything_is_written",
    "python train.py --max-minutes 3": f"{CHAIN}test_first_run_of_a_newcomer",
    "python train.py --max-minutes 2": f"{TRAIN}test_max_minutes_ends_in_time_with_the_rate_down",
    "python train.py --resume": f"{TRAIN}test_killed_at_a_random_moment_it_resumes",
    "python train.py --lr 0.0003": f"{TRAIN}test_resume_keeps_the_settings_it_is_not_given",
    "torchrun --nproc_per_node=2 train.py":
        "tests/pipeline/test_distributed.py::test_two_processes_train_as_one",
    "python inference.py": f"{CHAIN}test_first_run_of_a_newcomer",
    "python inference.py AUDIO": ".ci/run::python inference.py",
    "python inference.py AUDIO ANOTHER_AUDIO --start 4":
        f"{CHAIN}test_several_speeches_one_longer_than_the_footage",
    "python inference.py FOLDER": f"{CHAIN}test_several_speeches_one_longer_than_the_footage",
    "python reapply_faces.py": f"{CHAIN}test_first_run_of_a_newcomer",
    "python reapply_faces.py --preview 5": f"{RENDER}test_a_preview_leaves_the_full_result_alone",
    "python reapply_faces.py --sound FILE": f"{RENDER}test_another_sound_is_heard",
    "python -m utils.sample": f"{CHAIN}test_first_run_of_a_newcomer",
    "python -m utils.evaluate": ".ci/run::python -m utils.evaluate",
    "python -m utils.evaluate --against ANOTHER_VIDEO": f"{CHAIN}test_evaluate_prints_its_table",
    "python -m utils.evaluate --voices AUDIO": f"{CHAIN}test_evaluate_prints_its_table",
    "python -m utils.benchmark": "tests/unit/test_benchmark.py::test_all_is_timed",
    "python -m utils.export": "tests/unit/test_export.py::test_the_file_draws_what_pytorch_draws",
}


# -- reading a README ------------------------------------------------------------------------------
def read(name: str) -> str:
    """Text of a file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """Commands of a README: lines of bash blocks, and inline code that begins like one.

    `a && b` are two commands.
    """
    lines = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        lines += block.splitlines()
    lines += [code for code in inline_code(text) if code.startswith(STARTS)]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def inline_code(text: str) -> list[str]:
    """What stands in single backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))


# -- reading a command -----------------------------------------------------------------------------
def check_command(command: str) -> None:
    """Read a command as it would be run. Raises ValueError with the reason if it would not run."""
    program, *words = shlex.split(command)
    if program == "python" and words[0] == "-m":
        check_module(words[1], words[2:])
    elif program == "python":
        check_script(words[0], words[1:])
    elif program == "torchrun":
        given = parse_quietly(get_args_parser().parse_args, words)
        check_script(given.training_script, given.training_script_args)
    elif program == "pip":
        check_packages(words)
    elif program != "bash" or not (ROOT / words[0]).is_file():
        raise ValueError(f"unknown: {command}")


def check_script(file: str, words: list[str]) -> None:
    """Raise ValueError unless `file` is one of the four scripts and takes these words."""
    name = file.removesuffix(".py")
    if name not in SCRIPTS or name == file:
        raise ValueError(f"no script {file}")
    parse_quietly(importlib.import_module(name).parse_args, words)


def check_module(name: str, words: list[str]) -> None:
    """Raise ValueError unless `python -m name` takes these words."""
    if name == "pytest":
        markers = read(".pytest.ini").partition("markers =")[2]
        known = words == [] or (words[0] == "-m" and f"\n    {words[1]}: " in markers)
        if not known:
            raise ValueError(f"unknown to pytest: {words}")
    elif name in TOOLS:
        parse_quietly(tool_parser(name), words)
    else:
        raise ValueError(f"no module {name}")


def tool_parser(name: str):
    """parse_args of a module that `python -m` runs, a package's __main__ included."""
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    return module.parse_args


def parse_quietly(parse, words: list[str]):
    """What a parser makes of the words. Raises ValueError with its last line if it exits."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse(words)
    except SystemExit as error:
        raise ValueError(said.getvalue().splitlines()[-1]) from error


def check_packages(words: list[str]) -> None:
    """Raise ValueError unless `pip install` names files and packages that the project knows."""
    if words[0] != "install":
        raise ValueError(f"unknown to pip: {words[0]}")
    known = read("requirements.txt") + read("tests/requirements.txt")
    rest = iter(words[1:])
    for word in rest:
        if word == "-r":
            read(next(rest))
        elif word == "--index-url":
            next(rest)
        elif not re.search(rf"^{re.escape(word)}([=<>].*)?(\s|$)", known, re.M):
            raise ValueError(f"{word} is in no requirements.txt")


@pytest.mark.parametrize(
    "command",
    [
        "python train.py --max-minuets 10",
        "python train.py --max-minutes soon",
        "python trane.py",
        "python train",
        "python -m utils.evaluation",
        "python -m utils.benchmark --memory",
        "python -m pytest -m slwo",
        "torchrun --nproc_per_node=2 train.py --pochs 3",
        "torchrun --nprocs=2 train.py",
        "pip install onnxscript onnxrumtime",
        "pip uninstall torch",
        "bash .ci/walk",
        "rm data",
    ],
)
def test_a_wrong_command_is_noticed(command):
    with pytest.raises((ValueError, OSError)):
        check_command(command)


def test_commands_are_found():
    text = "`a b`, `python x.py`\n```bash\npip y && python z.py --n 1\n\n```\n```\npip no\n```\n"
    assert commands(text) == ["pip y", "python z.py --n 1", "python x.py"]


# -- each command ----------------------------------------------------------------------------------
@pytest.mark.parametrize("command", sorted({c for name in READMES for c in commands(read(name))}))
def test_every_command_is_understood_and_run_somewhere(command):
    check_command(command)
    file, _, place = RUN_BY[command].partition("::")
    assert place in places(file)


@cache
def places(file: str) -> set[str] | str:
    """Names of the tests in a Python file; the text of any other."""
    text = read(file)
    if not file.endswith(".py"):
        return text
    return {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def test_no_command_is_listed_in_vain():
    used = {command for name in READMES for command in commands(read(name))}
    assert set(RUN_BY) == used


@pytest.mark.parametrize("name", READMES)
def test_a_newcomer_finds_each_step(name):
    found = commands(read(name))
    assert found[0] == "pip install -r requirements.txt"
    for script in SCRIPTS:
        assert f"python {script}.py" in found


# -- options, files, constants ---------------------------------------------------------------------
def option_names(text: str) -> set[str]:
    """Options that inline code names: `--batch-size 4`."""
    return {code.split()[0] for code in inline_code(text) if code.startswith("--")}


@cache
def known_options() -> str:
    """What all scripts, tools and torchrun print for --help."""
    parsers = [importlib.import_module(name).parse_args for name in SCRIPTS]
    parsers += [tool_parser(name) for name in TOOLS]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for parse in parsers:
            with contextlib.suppress(SystemExit):
                parse(["--help"])
    return said.getvalue() + get_args_parser().format_help()


@pytest.mark.parametrize("name", READMES)
def test_options_are_known(name):
    names = {re.split(r"[= ]", option)[0] for option in option_names(read(name))}
    assert not [option for option in names if not re.search(rf"{option}\b", known_options())]


def file_names(text: str) -> list[str]:
    """Paths of Python files of ours, wherever in the text."""
    return re.findall(r"\b(?:models|utils|tests)/[\w/]+\.py\b", text)


def constants(text: str) -> Iterator[tuple[str, str]]:
    """(file, constant) of table rows as | `train.py` | `EPOCHS`, `LR`: ... |."""
    for file, rest in re.findall(r"^\| `([\w/]+\.py)` \|(.*)$", text, re.M):
        for constant in re.findall(r"`([A-Z][A-Z_0-9]+)`", rest):
            yield file, constant


@pytest.mark.parametrize("name", READMES)
def test_files_are_there(name):
    assert file_names("see `utils/media/reader.py`, models/unet.py.") == [
        "utils/media/reader.py",
        "models/unet.py",
    ]
    assert not [path for path in file_names(read(name)) if not (ROOT / path).is_file()]


def test_constants_worth_editing_are_there():
    listed = list(constants(read("README.md")))
    assert len(listed) > 10
    for file, constant in listed:
        assert re.search(rf"^\s*{constant}\b.* = ", read(file), re.M), (file, constant)


@pytest.mark.parametrize("name", READMES)
def test_pictures_are_there(name):
    for picture in re.findall(r"!\[.*?\]\((.+?)\)", read(name)):
        assert (ROOT / picture).is_file(), picture
