"""Wrong versions of right files: of their bytes, and of what is in them. All draw from the generator they are given."""

import copy
import json
import math
import random

import numpy as np
import torch

DEEP = "deep"
for _ in range(60):
    DEEP = [DEEP]
# what a value may be that a program has not been waiting for
NASTY = [None, True, False, 0, 1, -1, 7, 2 ** 31, 2 ** 63, 10 ** 9, 10 ** 12, 10 ** 30, -10 ** 9, 0.5, -0.5, 1e-300,
         1e30, 1e308, math.nan, math.inf, -math.inf, "", "x", ".", "..", "../..", "../../etc", "/", "/etc/passwd", "\0",
         "a\0b", "n" * 300, "a" * 70000, "\ud800", "two\nlines \x1b[31m", "1", "150", [], {}, [[]], [None], [0], [0, 0],
         ["x"] * 3, {"a": {"b": [1]}}, {"": None}, DEEP]


def bytes_of(content, rng):
    """Return the bytes with some flipped, overwritten, moved, cut off, added or left out."""
    data, n = bytearray(content), len(content)
    start, length = rng.randrange(n), rng.choice((1, 4, 64, n // 3))
    how = rng.randrange(7)
    if how == 0:  # near the beginning, where headers are
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(min(n, 256))] = rng.randrange(256)
    elif how == 1:
        for _ in range(rng.randrange(1, 30)):
            data[rng.randrange(n)] ^= 1 << rng.randrange(8)
    elif how == 2:
        del data[start:]
    elif how == 3:
        data += rng.randbytes(length)
    elif how == 4:
        data[start:start + length] = rng.choice((b"\0", b"\xff")) * length
    elif how == 5:
        del data[start:start + length]
    else:
        data[start:start] = data[:length]
    return bytes(data)


def places(tree, found=()):
    """Yield the path of each value in nested dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*found, key)
        yield from places(value, (*found, key))


def tree_of(tree, rng, nasty=NASTY):
    """Return nested dicts and lists with a value or two replaced, deleted, added, swapped or wrapped."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2))):
        paths = list(places(tree))
        depths = sorted({len(path) for path in paths})
        if not depths:
            return rng.choice(nasty)
        depth = rng.choice(depths)  # each depth as often: else the many leaves would take all
        path = rng.choice([path for path in paths if len(path) == depth])
        holder = tree
        for key in path[:-1]:
            holder = holder[key]
        how, key, value = rng.randrange(10), path[-1], holder[path[-1]]
        if how < 6:
            holder[key] = copy.deepcopy(rng.choice(nasty))
        elif how == 6:
            del holder[key]
        elif how == 7 and isinstance(holder, dict):
            holder[rng.choice(["x", "", 5, key * 2 if isinstance(key, str) else -1])] = rng.choice(nasty)
        elif how == 8:
            holder[key] = rng.choice(([value], {"x": value}, str(value)[:100]))
        else:
            other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            holder[key], holder[other] = holder[other], holder[key]
    return tree


def json_of(content, rng):
    """Return JSON bytes with something else in them: its values or its letters."""
    if rng.random() < 0.25:
        return bytes_of(content, rng)
    if rng.random() < 0.03:
        return b"[" * 100_000
    return json.dumps(tree_of(json.loads(content), rng), skipkeys=True).encode()


def array_of(array, rng):
    """Return the array with other values, another dtype or another shape."""
    array, flat = array.copy(), rng.randrange(max(1, array.size))
    how = rng.randrange(10)
    if how < 3:
        with np.errstate(all="ignore"):
            value = rng.choice((np.nan, np.inf, -np.inf, 1e30, -1e30, 1e8, -1, 0, 2 ** 40))
            value = np.array(value).astype(array.dtype)
        array.reshape(-1)[flat:flat + rng.choice((1, 2, 6, array.size))] = value
        return array
    if how < 5:
        kinds = "f2", "f8", ">f4", "i1", "u1", "i8", "c8", "?", "O", "U3", "M8[s]", [("a", "f4")], "V4"
        try:
            return array.astype(np.dtype(rng.choice(kinds)))
        except (TypeError, ValueError):
            return array.astype(object)
    wrong = [array[:-1], array[:0], array[..., None], array[None], np.concatenate([array, array]), array.T.copy(),
             array.reshape(-1), array.sum(), np.asfortranarray(array), array[::-1], np.array("x")]
    return wrong[rng.randrange(len(wrong))]


def npy(array):
    """Return the bytes of an npy file, pickled if need be."""
    import io
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def lying_npy(array, rng):
    """Return the bytes of an npy file whose header says something else than what follows."""
    sizes = (10 ** 12,), (10 ** 9, 10 ** 9), (-1, 80), (2 ** 63, 2), (0,), (4, 80, 0), (), array.shape, (1.5, 2), "x"
    kinds = "<f4", "|O", "<f8", "|V1000000000", "<U1000000", "junk", None, [("a", "<f4")], 5
    head = repr({"descr": rng.choice(kinds), "fortran_order": rng.choice((False, True, 1, "x")),
                 "shape": rng.choice(sizes)})
    head = rng.choice((head, head, head[:-5], "(" * 300, head.replace("'", '"'), "__import__('os')", head + "\0"))
    head = head.encode().ljust(117) + b"\n"
    version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x09\x09"))
    return b"\x93NUMPY" + version + len(head).to_bytes(2, "little") + head + array.tobytes()


def tensors():
    """Return what may stand in place of a tensor: other dtypes, layouts, devices, and a view far larger than itself."""
    return [torch.zeros(()), torch.zeros(0), torch.zeros(3, 3), torch.full((5,), math.nan), torch.zeros(5).long(),
            torch.zeros(5).half(), torch.zeros(5, dtype=torch.complex64), torch.zeros(2, 2).to_sparse(),
            torch.zeros(1).expand(10 ** 12), torch.zeros(2, device="meta"), torch.nn.Parameter(torch.zeros(2))]


def weights_of(tree, rng):
    """Return nested dicts with one of their tensors changed inside: not finite, other dtype, other shape."""
    tree = copy.deepcopy(tree)
    paths = [path for path in places(tree) if _is_tensor(tree, path)]
    path = rng.choice(paths)
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    tensor = holder[path[-1]]
    changed = tensor.clone()
    changed.reshape(-1)[rng.randrange(max(1, tensor.numel()))] = rng.choice((math.nan, math.inf, -math.inf))
    holder[path[-1]] = rng.choice((changed, changed, tensor.double(), tensor.half(), tensor.int(), tensor[None],
                                   tensor.reshape(-1)[:-1], tensor.to("meta"), tensor.to(torch.complex64),
                                   torch.zeros(1).expand(10 ** 9), tensor.flatten().to_sparse()))
    return tree


def _is_tensor(tree, path):
    for key in path:
        tree = tree[key]
    return torch.is_tensor(tree)


def generators(seed, count):
    """Yield so many generators, each its own."""
    return (random.Random(f"{seed} {k}") for k in range(count))
