"""The shape of the project: what lies where, who imports whom, how dense it is, what --help says.

Each measure is first tried on a small bad example, so that a test which passes could fail.
"""

import ast
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers import layout
from helpers.layout import ROOT, SCRIPTS

MOST_TOKENS = 65_550            # of the whole product: who adds must also subtract
MOST_TOKENS_A_LINE = 9.5        # of the whole product; squeezed code is slow to read
MOST_TOKENS_A_LINE_OF_A_FILE = 12
MOST_COLUMNS = 100
MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 6
MOST_PACKED_SHARE = 0.03        # of all assignments: only values that belong together are packed
MOST_PACKED_OF_A_FILE = 0.06    # a small file may have two in any case

PRODUCT = layout.product_files()
TESTS = layout.files_of_tests()
WITH_HELP = [path for path in PRODUCT if '__name__ == "__main__"' in layout.read(path)]


def offenders(paths, find):
    """What find(source) complains of in each of the files, by name, where it does."""
    found = {str(path): find(layout.read(path)) for path in paths}
    return {name: complaint for name, complaint in found.items() if complaint}


@pytest.fixture(scope="module")
def graph():
    """Who imports whom, of the product."""
    return layout.import_graph({layout.module_name(path): layout.read(path) for path in PRODUCT})


# -- which files ----------------------------------------------------------------------------------
def test_the_top_level_holds_only_what_it_should():
    top = {path.parts[0] for path in layout.project_files()}
    assert {f"{name}.py" for name in SCRIPTS} <= top
    assert {name for name in top if not name.startswith(".")} <= layout.TOP_LEVEL


@pytest.fixture
def small_project(tmp_path):
    """A project of three files, with a stray note beside them."""
    for name in ("train.py", "utils/audio.py", "tests/unit/test_audio.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


OURS = [Path("tests/unit/test_audio.py"), Path("train.py"), Path("utils/audio.py")]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_stray_file_in_the_project_folder_does_no_harm(small_project):
    for command in (["init", "--quiet"], ["add", "train.py", "utils", "tests"]):
        subprocess.run(["git", *command], cwd=small_project, check=True)
    assert layout.project_files(small_project) == OURS


def test_without_git_the_known_files_are_found(small_project):
    cache = small_project / "utils" / "__pycache__"
    cache.mkdir()
    (cache / "audio.pyc").write_text("")
    assert layout.project_files(small_project) == OURS
    assert layout.product_files(small_project) == OURS[1:]
    assert layout.files_of_tests(small_project) == OURS[:1]


# -- how dense ------------------------------------------------------------------------------------
def test_tokens_are_counted_without_what_helps_a_reader():
    source = '"""Docstring of\n\ntwo words."""\n\n# comment\nx = 1\n\n\ndef f(a):\n    return a\n'
    assert layout.measure(source) == (3 + 6 + 2, 3)
    assert layout.measure('x = f"{a + b:.{c}f} and {d}"\n') == (3, 1)
    assert layout.measure("x = '''one\ntwo'''\n") == (3, 2)


def test_the_product_is_small_and_airy():
    sizes = [layout.measure(layout.read(path)) for path in PRODUCT]
    tokens = sum(size.tokens for size in sizes)
    assert tokens <= MOST_TOKENS
    assert tokens / sum(size.lines for size in sizes) <= MOST_TOKENS_A_LINE


def test_no_file_is_squeezed():
    def too_dense(source):
        density = layout.measure(source).density
        return density if density > MOST_TOKENS_A_LINE_OF_A_FILE else None

    assert not offenders(PRODUCT, too_dense)


def test_wide_lines_are_found():
    assert layout.wide_lines("x = 1\ny = 123456\n", columns=6) == [2]


def test_lines_fit_a_window():
    assert not offenders(PRODUCT + TESTS, partial(layout.wide_lines, columns=MOST_COLUMNS))


@pytest.mark.parametrize(
    "source",
    ["a = 1; b = 2", "if a: b = 2", "for a in b: c()", "def f(): return 1", "class A: b = 1"],
)
def test_crowded_lines_are_found(source):
    assert layout.crowded_lines(f"x = 1\n{source}\n") == [2]


def test_a_line_holds_one_statement():
    assert not offenders(PRODUCT + TESTS, layout.crowded_lines)


def test_packed_assignments_are_found():
    source = "a, b = 1, 2\nheight, width = shape\nc = d = 3\ne: int = 4\nf += (1, 2)\n"
    assert layout.packed_assignments(source) == ([1], 5)


def test_few_assignments_are_packed():
    counts = [layout.packed_assignments(layout.read(path)) for path in PRODUCT]
    packed = sum(len(lines) for lines, _ in counts)
    assert packed <= MOST_PACKED_SHARE * sum(total for _, total in counts)


def test_few_assignments_of_a_file_are_packed():
    def too_many(source):
        packed, total = layout.packed_assignments(source)
        return packed if len(packed) > max(2, MOST_PACKED_OF_A_FILE * total) else None

    assert not offenders(PRODUCT, too_many)


# -- functions ------------------------------------------------------------------------------------
BAD_FUNCTIONS = '''
class _Private:
    def method_of_a_private_class(self, a):
        return a


class Public:
    def method(self, a, b: int = 0, *c, d=1) -> int:
        return 1

    def _private(self, a):
        return a


def fine(a: int) -> int:
    return a


def fine_without_a_result(a: int):
    print(a)


def generator(a: int):
    yield a


def bare(a):
    def inner(b):
        return b
    return inner(a)
'''


def test_long_functions_are_found():
    assert layout.long_functions(BAD_FUNCTIONS, most=3) == ["bare"]


def test_functions_with_many_parameters_are_found():
    assert layout.many_parameters(BAD_FUNCTIONS, most=2) == ["method"]


def test_public_functions_without_types_are_found():
    assert layout.unhinted(BAD_FUNCTIONS) == ["generator", "bare", "method"]


def test_files_are_short():
    assert not offenders(PRODUCT, lambda source: source.splitlines()[MOST_FILE_LINES:])


def test_functions_are_short_and_have_few_parameters():
    assert not offenders(PRODUCT, partial(layout.long_functions, most=MOST_FUNCTION_LINES))
    assert not offenders(PRODUCT, partial(layout.many_parameters, most=MOST_PARAMETERS))


def test_public_functions_have_types():
    assert not offenders(PRODUCT, layout.unhinted)


# -- who imports whom -----------------------------------------------------------------------------
GOOD = {
    "train": "from models.unet import LipUNet\nfrom utils import audio\n",
    "models.unet": "import torch\n",
    "utils": "",
    "utils.contract": "import math\n",
    "utils.audio": "from utils.contract import FPS\n",
    "utils.media.reader": "from utils import audio\nfrom utils.media import pixels\n",
    "utils.media.pixels": "import utils.contract\n",
}


def test_imports_are_found_wherever_they_are():
    assert layout.imported("import a.b\nif c:\n    from d import e\n") == {"a.b", "d", "d.e"}
    assert all(name.startswith(".") for name in layout.imported("from . import x\n"))
    assert layout.import_graph(GOOD) == {
        "train": {"models.unet", "utils.audio"},
        "models.unet": set(),
        "utils": set(),
        "utils.contract": set(),
        "utils.audio": {"utils.contract"},
        "utils.media.reader": {"utils.audio", "utils.media.pixels"},
        "utils.media.pixels": {"utils.contract"},
    }


def test_names_of_modules():
    names = ["utils/face/geometry.py", "utils/evaluate/__init__.py", "train.py"]
    modules = [layout.module_name(Path(name)) for name in names]
    assert modules == ["utils.face.geometry", "utils.evaluate", "train"]
    assert [layout.room(module) for module in modules] == ["face", "evaluate", "train"]


def test_circles_are_found_between_modules_and_between_rooms():
    assert not layout.circles(layout.import_graph(GOOD))
    bad = layout.import_graph({**GOOD, "utils.audio": "from utils.media import pixels\n"})
    assert not layout.circles(bad)
    assert layout.circles(layout.room_graph(bad)) == ["audio", "media", "train"]
    bad["utils.media.pixels"].add("utils.audio")
    assert layout.circles(bad) == [
        "train",
        "utils.audio",
        "utils.media.pixels",
        "utils.media.reader",
    ]


def test_imports_that_go_up_and_unknown_rooms_are_found():
    assert not layout.upward(layout.import_graph(GOOD))
    more = {"utils.contract": "from utils import audio\n", "utils.cellar": ""}
    found = layout.upward(layout.import_graph({**GOOD, **more}))
    assert found == ["cellar has no place in ROOMS", "contract -> audio"]


def test_imports_go_down_and_make_no_circle(graph):
    assert not layout.upward(graph)
    assert not layout.circles(graph)
    assert not layout.circles(layout.room_graph(graph))


def test_no_script_is_imported_and_no_import_is_relative():
    def wrong(source):
        names = layout.imported(source)
        return [name for name in names if name in SCRIPTS or name.startswith(".")]

    assert not offenders(PRODUCT, wrong)


def test_models_need_only_torch():
    def others(source):
        roots = {name.split(".")[0] for name in layout.imported(source)}
        return roots - {"torch", "models", *sys.stdlib_module_names}

    assert not offenders([path for path in PRODUCT if path.parts[0] == "models"], others)


def test_no_test_imports_a_test():
    def tests(source):
        modules = {name.split(".")[-1] for name in layout.imported(source)}
        return [name for name in modules if name.startswith("test_") or name == "conftest"]

    assert not offenders(TESTS, tests)


# -- the guide -------------------------------------------------------------------------------------
def test_the_guide_for_contributors_names_every_room_and_limit():
    guide = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [room for room in layout.LEVELS if f"`utils/{room}" not in guide]
    for limits in (
        f"| {MOST_TOKENS:,} |",
        f"| {MOST_TOKENS_A_LINE}, {MOST_TOKENS_A_LINE_OF_A_FILE} |",
        f"| {MOST_COLUMNS} |",
        f"| {MOST_FILE_LINES}, {MOST_FUNCTION_LINES} |",
        f"| {MOST_PARAMETERS} |",
    ):
        assert limits in guide


# -- what --help says -----------------------------------------------------------------------------
@pytest.mark.parametrize("path", WITH_HELP, ids=str)
def test_help_is_the_docstring(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / path), run_name="__main__")
    out, err = capsys.readouterr()
    assert end.value.code == 0
    assert not err
    assert out.startswith("usage: ")
    assert ast.get_docstring(ast.parse(layout.read(path))) in out


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_reads_and_writes_and_how_to_run_it(name):
    doc = ast.get_docstring(ast.parse(layout.read(Path(f"{name}.py"))))
    for part in ("\nReads ", "\nWrites ", "\nRun ", f"python {name}.py"):
        assert part in doc
