"""Measures of the code: which files there are, how dense they are, who imports whom.

tests/unit/test_layout.py holds the product to them. To see the figures of each file:

    python tests/helpers/layout.py
"""

import ast
import io
import shutil
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("preprocess", "train", "inference", "reapply_faces")
CODE_FOLDERS = ("models", "utils", "tests")
TOP_LEVEL = {
    *(f"{name}.py" for name in SCRIPTS),
    *CODE_FOLDERS,
    *("data", "input", "checkpoints"),
    *("requirements.txt", "README.md", "README.zh-CN.md", "LICENSE"),
}

# From the bottom up: a room may import the rooms below it, and its neighbours where that makes
# no circle.
ROOMS = (
    ("contract",),
    ("cli",),
    ("storage", "shots"),
    ("audio", "prefetch", "media", "face", "usable_frames"),
    ("dataset",),
    ("training",),
    ("compositing",),
    ("generate", "live"),
    ("av_sync", "footage_report", "footage_faces", "footage_sound", "sample"),
    ("evaluate",),
    ("benchmark", "export", "pretrain"),
)
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}

NOT_COUNTED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
STRING_STARTS = {getattr(tokenize, f"{kind}STRING_START", None) for kind in "FT"}
STRING_ENDS = {getattr(tokenize, f"{kind}STRING_END", None) for kind in "FT"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)


# -- which files ----------------------------------------------------------------------------------
def project_files(root: Path = ROOT) -> list[Path]:
    """Files of the project, relative to `root`: those git tracks; without git, what is known."""
    if (root / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
        if done.returncode == 0 and done.stdout:
            names = [Path(name) for name in done.stdout.split("\0") if name]
            return sorted(name for name in names if (root / name).exists())
    known = [path for path in root.iterdir() if path.name in TOP_LEVEL and path.is_file()]
    for folder in CODE_FOLDERS:
        known += [path for path in (root / folder).rglob("*") if path.is_file()]
    return sorted(path.relative_to(root) for path in known if "__pycache__" not in path.parts)


def product_files(root: Path = ROOT) -> list[Path]:
    """The Python files that users run: scripts, models/, utils/; relative to `root`."""
    roots = {*(f"{name}.py" for name in SCRIPTS), "models", "utils"}
    files = [path for path in project_files(root) if path.suffix == ".py"]
    return [path for path in files if path.parts[0] in roots]


def files_of_tests(root: Path = ROOT) -> list[Path]:
    """The Python files below tests/, relative to `root`."""
    files = [path for path in project_files(root) if path.suffix == ".py"]
    return [path for path in files if path.parts[0] == "tests"]


def read(path: Path, root: Path = ROOT) -> str:
    """Source text of a file that project_files() has named."""
    return (root / path).read_text(encoding="utf-8")


@cache
def parse(source: str) -> ast.Module:
    """Syntax tree of a source text."""
    return ast.parse(source)


# -- how dense ------------------------------------------------------------------------------------
class Size(NamedTuple):
    """Tokens of a file, and the lines that hold any of them."""

    tokens: int
    lines: int

    @property
    def density(self) -> float:
        """Tokens a code line."""
        return self.tokens / max(1, self.lines)


def measure(source: str) -> Size:
    """Size of a file without comments, docstrings and line ends.

    An f-string is one token whatever it holds, on every Python: from 3.12 on `tokenize` takes it
    apart.
    """
    skipped = _docstring_lines(source)
    tokens = 0
    lines: set[int] = set()
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in NOT_COUNTED or token.start[0] in skipped:
            continue
        lines.update(range(token.start[0], token.end[0] + 1))
        if token.type in STRING_ENDS:
            depth -= 1
        elif depth == 0:
            tokens += 1
        if token.type in STRING_STARTS:
            depth += 1
    return Size(tokens, len(lines))


def _docstring_lines(source: str) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def wide_lines(source: str, columns: int) -> list[int]:
    """Numbers of the lines with more than `columns` characters."""
    lines = source.splitlines()
    return [number for number, line in enumerate(lines, 1) if len(line) > columns]


def crowded_lines(source: str) -> list[int]:
    """Numbers of the lines on which more than one statement begins."""
    seen: set[int] = set()
    crowded: set[int] = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            (crowded if node.lineno in seen else seen).add(node.lineno)
    return sorted(crowded)


def packed_assignments(source: str) -> tuple[list[int], int]:
    """Line numbers of `a, b = x, y`, and the number of all assignments."""
    nodes = [node for node in ast.walk(parse(source)) if isinstance(node, ASSIGNMENTS)]
    packed = [node.lineno for node in nodes if _is_packed(node)]
    return packed, len(nodes)


def _is_packed(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    return any(isinstance(target, ast.Tuple) for target in node.targets)


# -- functions ------------------------------------------------------------------------------------
def functions(source: str) -> Iterator[Function]:
    """Every function and method of a file, nested ones too."""
    for node in ast.walk(parse(source)):
        if isinstance(node, Function):
            yield node


def long_functions(source: str, most: int) -> list[str]:
    """Names of the functions with more than `most` lines."""
    return [node.name for node in functions(source) if node.end_lineno - node.lineno >= most]


def parameters(function: Function) -> list[ast.arg]:
    """Parameters of a function without self, cls and the starred ones."""
    arguments = function.args
    named = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    return [argument for argument in named if argument.arg not in ("self", "cls")]


def many_parameters(source: str, most: int) -> list[str]:
    """Names of the functions with more than `most` parameters."""
    return [node.name for node in functions(source) if len(parameters(node)) > most]


def public_functions(source: str) -> Iterator[Function]:
    """Functions of a module and methods of its classes, without what is private."""
    top = parse(source).body
    classes = [node for node in top if isinstance(node, ast.ClassDef)]
    members = [node.body for node in classes if not node.name.startswith("_")]
    for node in chain(top, *members):
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node


def unhinted(source: str) -> list[str]:
    """Names of the public functions that leave the type of a parameter open, or of a result."""
    return [
        node.name
        for node in public_functions(source)
        if not all(given.annotation for given in parameters(node))
        or (node.returns is None and _has_result(node))
    ]


def _has_result(node: ast.AST) -> bool:
    """Whether a function yields, or returns something but None; nested functions do not count."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Yield | ast.YieldFrom):
            return True
        if isinstance(child, ast.Return) and child.value is not None:
            return True
        if not isinstance(child, Function | ast.Lambda) and _has_result(child):
            return True
    return False


# -- who imports whom -----------------------------------------------------------------------------
def module_name(path: Path) -> str:
    """Dotted name of a file: "utils.face.geometry"; of a package's __init__.py the package."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str) -> set[str]:
    """Dotted names that a file imports, wherever in it; a relative import begins with a dot."""
    names: set[str] = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """For each module, given its source by name, the others among them that it imports.

    `from utils import audio` imports utils.audio; the packages `utils` and `models` hold no code.
    """
    known = set(sources) - {"utils", "models"}
    return {name: imported(source) & known - {name} for name, source in sources.items()}


def room(module: str) -> str:
    """Room of a module: "face" of utils.face.geometry, "models" of models.unet."""
    parts = module.split(".")
    return parts[1] if parts[0] == "utils" and len(parts) > 1 else parts[0]


def room_graph(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph with one node a room."""
    rooms: dict[str, set[str]] = {}
    for module, used in graph.items():
        rooms.setdefault(room(module), set()).update(map(room, used))
    return {name: used - {name} for name, used in rooms.items()}


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Nodes that lie on a circle or lead into one; empty if there is none."""
    left = dict(graph)
    while free := {name for name, used in left.items() if not used & left.keys()}:
        left = {name: used for name, used in left.items() if name not in free}
    return sorted(left)


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports within utils/ that go up, as "cli -> face", and rooms that ROOMS does not list."""
    rooms = {name: used for name, used in room_graph(graph).items() if name in _utils(graph)}
    found = [f"{name} has no place in ROOMS" for name in rooms if name not in LEVELS]
    for name, used in rooms.items():
        higher = [other for other in used if LEVELS.get(other, -1) > LEVELS.get(name, len(ROOMS))]
        found += [f"{name} -> {other}" for other in higher]
    return sorted(found)


def _utils(graph: dict[str, set[str]]) -> set[str]:
    return {room(module) for module in graph if module.startswith("utils.")}


# -- table ----------------------------------------------------------------------------------------
def main() -> None:
    """Print tokens, code lines and tokens a line of every product file, densest last."""
    sizes = {path: measure(read(path)) for path in product_files()}
    for path, size in sorted(sizes.items(), key=lambda item: item[1].density):
        print(f"{path!s:40} {size.tokens:6} tokens {size.lines:5} lines {size.density:6.1f} a line")
    total = Size(*map(sum, zip(*sizes.values(), strict=True)))
    print(f"{'all':40} {total.tokens:6} tokens {total.lines:5} lines {total.density:6.1f} a line")


if __name__ == "__main__":
    main()
