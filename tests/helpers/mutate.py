"""Wrong versions of right files: of their bytes, and of what is in them.

All draw from the generator that they are given.
"""

import copy
import io
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

DEEP: Any = "deep"
for _ in range(60):
    DEEP = [DEEP]

# Values that a program has not been waiting for.
NASTY_NUMBERS = [
    0, 1, -1, 7, 0.5, -0.5, 2**31, 2**63, 10**9, 10**12, 10**30, -(10**9),
    1e-300, 1e30, 1e308, math.nan, math.inf, -math.inf,
]
NASTY_TEXTS = [
    "", "x", "1", "150", ".", "..", "../..", "../../etc", "/", "/etc/passwd", "\0", "a\0b",
    "n" * 300, "a" * 70000, "\ud800", "two\nlines \x1b[31m",
]
NASTY_TREES = [
    [], {}, [[]], [None], [0], [0, 0], ["x"] * 3, {"a": {"b": [1]}}, {"": None}, DEEP,
]
NASTY = [None, True, False, *NASTY_NUMBERS, *NASTY_TEXTS, *NASTY_TREES]

OTHER_DTYPES = [
    "f2", "f8", ">f4", "i1", "u1", "i8", "c8", "?", "O", "U3", "M8[s]", [("a", "f4")], "V4",
]


def generators(seed: object, count: int) -> Iterator[random.Random]:
    """Yield that many generators, each with its own numbers."""
    return (random.Random(f"{seed} {k}") for k in range(count))


# -- bytes -----------------------------------------------------------------------------------------
def bytes_of(content: bytes, rng: random.Random) -> bytes:
    """The bytes with some flipped, overwritten, moved, cut off, added or left out."""
    data = bytearray(content)
    size = len(content)
    start = rng.randrange(size)
    length = rng.choice((1, 4, 64, size // 3))
    how = rng.choice(("header", "flip", "cut", "add", "fill", "drop", "insert"))
    if how == "header":
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(min(size, 256))] = rng.randrange(256)
    elif how == "flip":
        for _ in range(rng.randrange(1, 30)):
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[start:]
    elif how == "add":
        data += rng.randbytes(length)
    elif how == "fill":
        data[start : start + length] = rng.choice((b"\0", b"\xff")) * length
    elif how == "drop":
        del data[start : start + length]
    else:
        data[start:start] = data[:length]
    return bytes(data)


# -- nested dicts and lists ------------------------------------------------------------------------
def places(tree: Any, found: tuple = ()) -> Iterator[tuple]:
    """Yield the path of each value in nested dicts and lists."""
    items: Any = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    for key, value in items:
        yield (*found, key)
        yield from places(value, (*found, key))


def at(tree: Any, path: tuple) -> Any:
    """The value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def tree_of(tree: Any, rng: random.Random, nasty: list = NASTY) -> Any:
    """Nested dicts and lists with a value or two replaced, deleted, added, swapped or wrapped."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2))):
        paths = list(places(tree))
        if not paths:
            return rng.choice(nasty)
        # each depth as often as any other, else the many leaves would take all
        depth = rng.choice(sorted({len(path) for path in paths}))
        path = rng.choice([path for path in paths if len(path) == depth])
        _change_entry(at(tree, path[:-1]), path[-1], rng, nasty)
    return tree


def _change_entry(holder, key, rng, nasty):
    how = rng.randrange(10)
    value = holder[key]
    if how < 6:
        holder[key] = copy.deepcopy(rng.choice(nasty))
    elif how == 6:
        del holder[key]
    elif how == 7 and isinstance(holder, dict):
        twice = key * 2 if isinstance(key, str) else -1
        holder[rng.choice(["x", "", 5, twice])] = rng.choice(nasty)
    elif how == 8:
        holder[key] = rng.choice(([value], {"x": value}, str(value)[:100]))
    else:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        other = rng.choice(keys)
        holder[key], holder[other] = holder[other], holder[key]


def json_of(content: bytes, rng: random.Random) -> bytes:
    """JSON bytes with something else in them: other values or other letters."""
    if rng.random() < 0.25:
        return bytes_of(content, rng)
    if rng.random() < 0.03:
        return b"[" * 100_000
    tree = tree_of(json.loads(content), rng)
    return json.dumps(tree, skipkeys=True).encode()


# -- arrays ----------------------------------------------------------------------------------------
def array_of(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """The array with other values, another dtype or another shape."""
    how = rng.randrange(10)
    if how < 3:
        return _other_values(array.copy(), rng)
    if how < 5:
        try:
            return array.astype(np.dtype(rng.choice(OTHER_DTYPES)))
        except (TypeError, ValueError):
            return array.astype(object)
    wrong = [
        array[:-1],
        array[:0],
        array[..., None],
        array[None],
        np.concatenate([array, array]),
        array.T.copy(),
        array.reshape(-1),
        array.sum(),
        np.asfortranarray(array),
        array[::-1],
        np.array("x"),
    ]
    return wrong[rng.randrange(len(wrong))]


def _other_values(array, rng):
    values = (np.nan, np.inf, -np.inf, 1e30, -1e30, 1e8, -1, 0, 2**40)
    with np.errstate(all="ignore"):
        value = np.array(rng.choice(values)).astype(array.dtype)
    first = rng.randrange(max(1, array.size))
    count = rng.choice((1, 2, 6, array.size))
    array.reshape(-1)[first : first + count] = value
    return array


def npy(array: np.ndarray) -> bytes:
    """The bytes of an npy file, pickled if need be."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def lying_npy(array: np.ndarray, rng: random.Random) -> bytes:
    """The bytes of an npy file whose header says something else than what follows."""
    shapes = [
        (10**12,), (10**9, 10**9), (-1, 80), (2**63, 2), (0,), (4, 80, 0), (),
        array.shape, (1.5, 2), "x",
    ]
    kinds = [
        "<f4", "|O", "<f8", "|V1000000000", "<U1000000", "junk", None, [("a", "<f4")], 5,
    ]
    fields = {
        "descr": rng.choice(kinds),
        "fortran_order": rng.choice((False, True, 1, "x")),
        "shape": rng.choice(shapes),
    }
    right = repr(fields)
    wrong = [right[:-5], "(" * 300, right.replace("'", '"'), "__import__('os')", right + "\0"]
    head = rng.choice([right, right, *wrong]).encode().ljust(117) + b"\n"
    version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x09\x09"))
    return b"\x93NUMPY" + version + len(head).to_bytes(2, "little") + head + array.tobytes()


# -- tensors ---------------------------------------------------------------------------------------
def tensors() -> list[torch.Tensor]:
    """What may stand in place of a tensor: other dtypes, layouts, devices, a view of one number."""
    return [
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(3, 3),
        torch.full((5,), math.nan),
        torch.zeros(5).long(),
        torch.zeros(5).half(),
        torch.zeros(5, dtype=torch.complex64),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(1).expand(10**12),
        torch.zeros(2, device="meta"),
        torch.nn.Parameter(torch.zeros(2)),
    ]


def weights_of(tree: Any, rng: random.Random) -> Any:
    """Nested dicts with one of their tensors changed: not finite, other dtype, other shape."""
    tree = copy.deepcopy(tree)
    paths = [path for path in places(tree) if torch.is_tensor(at(tree, path))]
    path = rng.choice(paths)
    tensor = at(tree, path)
    not_finite = tensor.clone()
    index = rng.randrange(max(1, tensor.numel()))
    not_finite.reshape(-1)[index] = rng.choice((math.nan, math.inf, -math.inf))
    others = [
        tensor.double(),
        tensor.half(),
        tensor.int(),
        tensor[None],
        tensor.reshape(-1)[:-1],
        tensor.to("meta"),
        tensor.to(torch.complex64),
        torch.zeros(1).expand(10**9),
        tensor.flatten().to_sparse(),
    ]
    at(tree, path[:-1])[path[-1]] = rng.choice([not_finite, not_finite, *others])
    return tree


def set_at(tree: Any, keys: tuple, value: Any):
    """Put a value at a place of nested dicts, in place."""
    for key in keys[:-1]:
        tree = tree[key]
    tree[keys[-1]] = value
