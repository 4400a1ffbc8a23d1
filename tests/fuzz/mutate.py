"""Changes an example: values of another type in JSON, YAML, XML, CSV and arrays, bytes of binary files, files of a folder.

All of it is drawn from a ``random.Random``, so that a number reproduces an input.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

ESCAPE = "planish-fuzz-escape"  # whoever writes a file of this name was led out of its folder
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 255, 65536, 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"),
    2**31, 2**32 + 1, 2**63, -(2**63) - 1, 10**30, 10**400,
    "", " ", "0", "-1", "1e999", "nan", "None", "a", "\x00", "\ud800", "\u202eé\ufeff", "x" * 300, "x" * 200_000,
    "[red]{0}%s[/x]", "<script>", "=cmd()", f"../../{ESCAPE}", f"/tmp/{ESCAPE}/x", "C:\\x\\y", ".", "..", "~", "a/b", "a\nb",
    "!!python/object/apply:os.system ['touch /tmp/" + ESCAPE + "']",
    [], {}, [[]], [None], [1, 2], [[1, 2], [3, 4]], {"a": 1}, {"0": []}, [0] * 5000,
]  # fmt: skip
_DEEP = "@@DEEP@@"
_NUMBERS = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def mutate_folder(folder: Path, rng: Random, fixed: tuple[str, ...] = ()) -> str:
    """Change one thing in a folder.

    Args:
        folder: an example.
        rng: decides.
        fixed: names of files that stay as they are.

    Returns:
        The changed file, below the folder.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.name not in fixed)
    if not files:
        return ""
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(file.suffix, []).append(file)
    file = rng.choice(kinds[rng.choice(sorted(kinds))])  # each kind of file alike, not each file
    if rng.random() < 0.08:
        _change_entry(file, folder, rng)
    else:
        mutate_file(file, rng)
    return file.relative_to(folder).as_posix()


def mutate_file(file: Path, rng: Random) -> None:
    """Change a file in the way of its kind."""
    data = file.read_bytes()
    structured = _STRUCTURED.get(file.suffix)
    if structured is not None and rng.random() < 0.75:
        try:
            file.write_bytes(structured(data, rng))
            return
        except Exception:  # an earlier change has made it unreadable: its bytes are changed
            pass
    is_text = file.suffix in _TEXT
    file.write_bytes(mutate_text(data, rng) if is_text and rng.random() < 0.7 else mutate_bytes(data, rng))


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """Change bytes of a binary file."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(found) + 1)
        if rng.random() < 0.5:
            place = min(place, rng.randrange(1, 200))  # heads hold what matters
        kind = rng.randrange(8)
        if kind == 0 and found:
            found[place % len(found)] ^= 1 << rng.randrange(8)
        elif kind == 1 and found:
            found[place % len(found)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del found[place:]
        elif kind == 3:
            del found[place : place + rng.choice((1, 2, 4, 16, 256))]
        elif kind == 4:
            found[place:place] = rng.randbytes(rng.choice((1, 4, 64)))
        elif kind == 5:
            number = rng.choice((0, 1, -1, 2**31 - 1, -(2**31), 2**16, 2**24, 100_000))
            found[place : place + 4] = struct.pack(rng.choice(("<i", ">i")), number)
        elif kind == 6:
            found[place:place] = found[place : place + rng.choice((4, 32, 512))] * rng.choice((1, 2, 50))
        else:
            found[place : place + 8] = struct.pack(rng.choice(("<q", ">q")), rng.choice((0, -1, 2**63 - 1, 2**40, 2**32)))
    return bytes(found)


def mutate_text(data: bytes, rng: Random) -> bytes:
    """Change lines, words, numbers, or the encoding of a text."""
    kind = rng.randrange(12)
    lines = data.splitlines(keepends=True) or [b""]
    place = rng.randrange(len(lines))
    if kind == 0:
        return data[: rng.randrange(len(data) + 1)]
    if kind == 1:
        return rng.choice((b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r"), b"\n" + data))
    if kind == 2:
        text = data.decode("utf-8", "replace")
        return text.encode(rng.choice(("utf-16", "utf-32", "latin-1", "utf-8")), "replace") + rng.choice(
            (b"", "é".encode("latin-1"), b"\xff")
        )
    if kind == 3:
        del lines[place]
    elif kind == 4:
        lines[place:place] = [lines[place]] * rng.choice((1, 2, 3000))
    elif kind == 5:
        lines.insert(place, _bytes_of(rng.choice(VALUES)) + b"\n")
    elif kind == 6:
        other = rng.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
    elif kind in (7, 8):
        numbers = list(_NUMBERS.finditer(data))
        if numbers:
            found = rng.choice(numbers)
            return data[: found.start()] + _bytes_of(rng.choice(VALUES)) + data[found.end() :]
    elif kind == 9:
        separator = rng.choice((b",", b" ", b"\t", b";", b":"))
        cells = lines[place].rstrip(b"\r\n").split(separator)
        cells[rng.randrange(len(cells))] = _bytes_of(rng.choice(VALUES))
        lines[place] = separator.join(cells) + b"\n"
    elif kind == 10:
        lines[place] = (
            rng.choice((b'"', b"'", b"\x00", b"{" * 3000, b"[" * 100_000, b"- " * 3000, b"&a [*a]", b"?", b"<a>" * 3000)) + lines[place]
        )
    else:
        return mutate_bytes(data, rng)
    return b"".join(lines)


def mutate_tree(tree: Any, rng: Random) -> Any:
    """Change one place in what JSON or YAML holds."""
    places = list(_places(tree))
    holder, key = rng.choice(places)
    kind = rng.randrange(12)
    if holder is None:
        return rng.choice(VALUES) if kind < 6 else [tree, tree]
    value = holder[key]
    if kind <= 3:
        holder[key] = rng.choice(VALUES)
    elif kind == 4:
        del holder[key]
    elif kind == 5:
        other, name = rng.choice([place for place in places if place[0] is not None])
        holder[key] = json.loads(json.dumps(other[name], default=str))
    elif kind == 6:
        holder[key] = [value] if rng.random() < 0.5 else {"a": value}
    elif kind == 7:
        holder[key] = _DEEP
    elif kind == 8 and isinstance(holder, list):
        holder[key:key] = [value] * rng.choice((1, 2, 300))
    elif kind == 9 and isinstance(holder, dict):
        holder[rng.choice(("", "0", "x" * 300, "\ud800", key + " "))] = holder.pop(key) if rng.random() < 0.5 else value
    elif kind == 10 and isinstance(value, int | float | str):
        holder[key] = _other_type(value, rng)
    elif isinstance(value, str) and value:
        cut = rng.randrange(len(value) + 1)
        holder[key] = value[:cut] + str(rng.choice(VALUES))[:1000] + value[cut:]
    else:
        holder[key] = rng.choice(VALUES)
    return tree


def mutate_arrays(data: bytes, rng: Random) -> bytes:
    """Change one array of an ``.npz`` file."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    kind = rng.randrange(9)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name] = array[: rng.choice((0, 1, len(array) // 2))] if array.ndim else array[None]
    elif kind == 2:
        arrays[name] = array.astype(rng.choice(("u1", "i8", "f4", "f2", "U8", "S4", "?", "c8", "M8[s]", ">f8")))
    elif kind == 3:
        arrays[name] = array[None] if rng.random() < 0.5 else array.reshape(-1)
    elif kind == 4 and array.size and array.dtype.kind in "iuf":
        array = array.copy().reshape(-1)
        values = (np.nan, np.inf, -1e300, 0.0) if array.dtype.kind == "f" else (0, 1, 100)
        array[rng.randrange(array.size)] = rng.choice(values)
        arrays[name] = array.reshape(arrays[name].shape)
    elif kind == 5:
        arrays[name] = np.array(rng.choice((0, np.nan, "x", "x" * 100_000)))
    elif kind == 6:
        arrays[rng.choice(("", "x", "../" + ESCAPE, name + "2"))] = array
    elif kind == 7 and array.dtype.kind == "U" and array.size:
        arrays[name] = np.array([*map(str, array.reshape(-1)[1:]), rng.choice(("\ud800", "", "<b>", "a\x00b", f"../{ESCAPE}"))])
    else:
        arrays[name] = np.array([object()], dtype=object)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Holder and key of everything in a tree; the whole has no holder."""
    pending: list[tuple[Any, Any]] = [(None, None)]
    while pending:
        holder, key = pending.pop()
        yield holder, key
        value = tree if holder is None else holder[key]
        keys = list(value) if isinstance(value, dict) else list(range(min(len(value), 50))) if isinstance(value, list) else []
        pending += [(value, inner) for inner in keys]


def _other_type(value: Any, rng: Random) -> Any:
    if isinstance(value, str):
        return rng.choice((value.upper(), value[::-1], [value], value + "\n", len(value), value * 1000))
    return rng.choice((str(value), float(value), -value, value * 10**6, [value], {str(value): value}, bool(value), value + 0.5))


def _bytes_of(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "surrogatepass")


def _deepened(text: bytes, rng: Random) -> bytes:
    depth = rng.choice((30, 200, 900, 5000, 100_000))
    start, end = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return text.replace(b'"' + _DEEP.encode() + b'"', start * depth + b"1" + end * depth).replace(
        _DEEP.encode(), start * depth + b"1" + end * depth
    )


def _json(data: bytes, rng: Random) -> bytes:
    text = json.dumps(mutate_tree(json.loads(data), rng), ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:  # duplicate keys
        text = re.sub(rb'("\w+": )(\d+|"[^"]*")', rb"\1\2, \g<1>-7", text, count=rng.choice((1, 3)))
    return _deepened(text, rng)


def _json_lines(data: bytes, rng: Random) -> bytes:
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = _json(lines[place], rng)
    return b"\n".join(lines) + b"\n"


def _yaml(data: bytes, rng: Random) -> bytes:
    return _deepened(
        yaml.safe_dump(mutate_tree(yaml.safe_load(data), rng), allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass"), rng
    )


def _xml(data: bytes, rng: Random) -> bytes:
    parts = list(re.finditer(rb"<(\w+)>([^<]*)</\1>", data))
    found = rng.choice(parts)
    name, kind = found[1], rng.randrange(6)
    value = _bytes_of(rng.choice(VALUES)).replace(b"<", b"&lt;")
    new = {
        0: b"<%b>%b</%b>" % (name, value, name), 1: b"", 2: found[0] * rng.choice((2, 500)), 3: b"<%b/>" % name,
        4: b"<a>" * 5000 + b"</a>" * 5000, 5: b"<%b><![CDATA[%b]]>&amp;<b/></%b>" % (name, value, name),
    }[kind]  # fmt: skip
    if rng.random() < 0.05:
        data = b'<?xml version="1.0" encoding="%b"?>' % rng.choice((b"utf-16", b"latin-1", b"nonsense", b"utf-7", b"cp037")) + data
        return data
    return data[: found.start()] + new + data[found.end() :]


def _change_entry(file: Path, folder: Path, rng: Random) -> None:
    """Change what a name in a folder stands for."""
    kind = rng.randrange(8)
    if kind == 0:
        file.unlink()
    elif kind == 1:
        file.write_bytes(b"")
    elif kind == 2:
        file.unlink()
        file.mkdir()
    elif kind == 3:
        file.unlink()
        file.symlink_to(rng.choice(("/dev/null", "nowhere", file.name, "/etc", "/dev/zero", "..")))
    elif kind == 4:
        file.rename(
            file.with_name(
                rng.choice((b"caf\xe9", b"[red]", b"a\nb", b"-x", b" ", "ü".encode())).decode("utf-8", "surrogateescape") + file.suffix
            )
        )
    elif kind == 5:
        shutil.copy(file, file.with_name("copy" + file.name))
    elif kind == 6:
        file.unlink()
        os.mkfifo(file)
    elif file.parent != folder:
        file.rename(folder / file.name)


_TEXT = {".json", ".jsonl", ".yaml", ".yml", ".xml", ".csv", ".txt", ".pem", ".sha256", ".md", ".sig"}


def _model(name: str) -> Callable[[bytes, Random], bytes]:
    def change(data: bytes, rng: Random) -> bytes:
        import mutate_models

        changed: bytes = getattr(mutate_models, name)(data, rng)
        return changed

    return change


_STRUCTURED: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": _json, ".jsonl": _json_lines, ".yaml": _yaml, ".yml": _yaml, ".xml": _xml, ".npz": mutate_arrays,
    ".safetensors": _model("mutate_safetensors"), ".onnx": _model("mutate_onnx"),
    **dict.fromkeys((".pt", ".pth", ".ckpt"), _model("mutate_pickle")),
}  # fmt: skip
