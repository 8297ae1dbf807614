"""The shape of the project: what lies where, who imports whom, how long things are, what --help says."""

import ast
import runpy
import subprocess
import sys
import tokenize

import pytest

from conftest import ROOT

SCRIPTS = {"preprocess", "train", "inference", "reapply_faces"}
TOP_LEVEL = {f"{name}.py" for name in SCRIPTS} | {
    "models", "utils", "data", "input", "checkpoints", "tests", "requirements.txt", "README.md", "README.zh-CN.md",
    "LICENSE"}
PRODUCT = sorted([*(ROOT / f"{name}.py" for name in SCRIPTS), *ROOT.glob("models/*.py"), *ROOT.glob("utils/*.py")])
WITH_HELP = [str(path.relative_to(ROOT)) for path in PRODUCT if '__name__ == "__main__"' in path.read_text()]
MOST_LINES, MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 3900, 400, 60
SELF_EXPLAINING = {"main", "parse_args", "forward"}
TRIVIAL = 6  # lines: a function that is no longer says what it does

each_file = pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))


def tree(path):
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path):
    """Return the dotted names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def project_files():
    """Return the project's files as git knows them, or all but caches where there is no git."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return {name for name in done.stdout.split("\0") if name and (ROOT / name).exists()}
    return {str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if "__pycache__" not in path.parts}


def test_the_top_level_holds_only_what_it_should():
    top = {name.split("/")[0] for name in project_files()}
    assert {f"{name}.py" for name in SCRIPTS} <= top
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_no_script_is_imported():
    users = {str(path.relative_to(ROOT)): imported(path) & SCRIPTS for path in PRODUCT}
    assert not {path: names for path, names in users.items() if names}


def test_models_need_only_torch():
    for path in ROOT.glob("models/*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert roots <= {"torch", "models"} | sys.stdlib_module_names, path


def test_imports_of_utils_and_models_make_no_circle():
    modules = {f"{path.parent.name}.{path.stem}": path for path in PRODUCT if path.parent != ROOT}
    uses = {name: imported(path) & set(modules) for name, path in modules.items()}
    while free := [name for name, used in uses.items() if not used]:
        uses = {name: used - set(free) for name, used in uses.items() if name not in free}
    assert not uses


@pytest.mark.parametrize("name", WITH_HELP)
def test_help_is_the_docstring(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    out, err = capsys.readouterr()
    assert end.value.code == 0 and not err and out.startswith("usage: ")
    assert ast.get_docstring(tree(ROOT / name)) in out


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_says_what_it_reads_and_writes_and_how_to_run_it(name):
    doc = ast.get_docstring(tree(ROOT / f"{name}.py"))
    for part in ("\nReads ", "\nWrites ", "\nRun ", f"python {name}.py"):
        assert part in doc


@each_file
def test_what_is_public_and_not_trivial_has_a_docstring(path):
    top = tree(path)
    assert ast.get_docstring(top)
    classes = [node for node in top.body if isinstance(node, ast.ClassDef)]
    nodes = top.body + [member for node in classes for member in node.body]
    lack = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_") and node.name not in SELF_EXPLAINING
            and (isinstance(node, ast.ClassDef) or node.end_lineno - node.lineno + 1 > TRIVIAL)
            and not ast.get_docstring(node)]
    assert not lack


@each_file
def test_files_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_A_FILE
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]
    assert not [node.name for node in functions if node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION]


def code_lines(path):
    """Return the numbers of the lines that hold code: what is blank, comment or docstring helps a reader."""
    numbers, idle = set(), {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
                            tokenize.ENDMARKER}
    with open(path, "rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in idle and token.type != tokenize.ENCODING:
                numbers |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            numbers -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return numbers


def test_the_whole_is_short():
    assert sum(len(code_lines(path)) for path in PRODUCT) < MOST_LINES


@each_file
def test_no_bare_except_no_global_no_note_to_self(path):
    nodes = list(ast.walk(tree(path)))
    assert not [node.lineno for node in nodes if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert not [node.lineno for node in nodes if isinstance(node, ast.Global)]
    assert "TODO" not in path.read_text(encoding="utf-8")


@each_file
def test_nothing_changes_the_folder_the_program_runs_in(path):
    assert "chdir" not in path.read_text(encoding="utf-8")
