"""Reading of checkpoint files in common formats, without running code from them; finds the network's tensors among other contents."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import pathlib
import pickle
import types
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from planish.errors import ModelError, first_line
from planish.files.mistaken_files import mistaken_file
from planish.files.reading import read_json, wrap_parse_errors
from planish.progress import note

State = dict[str, torch.Tensor]
# Types that training scripts save beside tensors and that are safe to unpickle.
_SAFE = (
    argparse.Namespace, types.SimpleNamespace, collections.defaultdict, dict, list, set, int, float, str,
    pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath,
    datetime.datetime, datetime.date, datetime.timedelta,
    frozenset, collections.deque, slice, decimal.Decimal, fractions.Fraction,
    np.dtype, np.ndarray, *(getattr(np._core.multiarray, name) for name in ("scalar", "_reconstruct")),  # type: ignore[attr-defined]
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "U1")),
)  # fmt: skip
# Keys of a network in a checkpoint, preferred ones first: averaged weights are the ones that are evaluated (timm, BasicSR).
_AVERAGED = ("state_dict_ema", "model_ema", "model_ema_state_dict", "ema_state_dict", "ema_model", "params_ema", "ema")
_USUAL = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "params", "weights")
_NOT_A_NETWORK = ("optim", "sched", "scaler", "loss", "criterion", "rng", "callback", "loops", "amp")
_OPTIMIZER = "opt"  # fastai's key of the optimizer
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes that DistributedDataParallel and torch.compile add to all names
_INNER_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # the same around a part of a network
_COUNTS = ("total_ops", "total_params")  # buffers that the MAC counter thop leaves in every layer
_LEGACY_MAGIC = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # at the start of files of torch.save before PyTorch 1.6
_DEEPEST_PREFIX = 6  # maximum number of parts of a prefix such as "model.module.backbone."
_WRITTEN = "weights are a .safetensors file or what torch.save(model.state_dict(), 'weights.pth') wrote"


def read_checkpoint(path: Path) -> State:
    """Read the tensors of one network by name; a message reports which of several networks was taken.

    Args:
        path: a ``.safetensors`` file, the ``.safetensors.index.json`` of a sharded one, or a file from ``torch.save`` that holds a state
            dict, by itself or nested in a checkpoint.

    Raises:
        ModelError: the file does not exist, has another format, or could only be read by running code from it.
    """
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json"))
        raise ModelError(f"{path} is a folder", "weights are a file", f"give one in it: {_some(inside)}" if inside else "give the file")
    if not path.is_file():
        raise ModelError(f"there are no weights at {path}", "weights are 'imagenet' or a .safetensors, .pt or .pth file")
    _refuse_other_files(path)
    state = _read(path)
    if not state:
        raise ModelError(f"{path} holds no tensors", _WRITTEN)
    while prefix := next((p for p in _WRAPPERS if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _read(path: Path) -> State:
    if path.name.endswith(".index.json"):
        return _read_parts(path)
    with path.open("rb") as file:
        head = file.read(30)
    written_by_torch = head.startswith((b"PK", b"\x80"))
    if (path.suffix == ".safetensors" and not written_by_torch) or _is_safetensors(head, path.stat().st_size):
        return _read_safetensors(path)
    if head.startswith(b"\x80") and _LEGACY_MAGIC not in head:
        raise ModelError(
            f"{path} is a pickle that torch.save did not write", "reading it would run code from the file, so only plain weights are read",
            "where you trust it, load it yourself and save torch.save(model.state_dict(), 'weights.pth')",
        )  # fmt: skip
    try:
        with torch.serialization.safe_globals(list(_SAFE)), path.open("rb") as file:  # by its path, torch would go by the suffix
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds Python objects besides tensors: {', '.join(_foreign_objects(path)) or 'perhaps a whole pickled network'}",
            "reading them would run code from the file, so only plain weights are read",
            "where you trust it, load it yourself and save torch.save(model.state_dict(), 'weights.pth')",
        ) from error
    except Exception as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}", _WRITTEN) from error
    return _network_in(loaded, path)


def aligned(state: State, names: Iterable[str]) -> State:
    """The tensors under the network's names: a common prefix is removed or added where needed, which a message reports.

    For example, Lightning writes ``model.conv1.weight``; ``torch.compile`` adds ``_orig_mod.``, ``DataParallel`` adds ``module.``.

    Args:
        state: tensors by name.
        names: names of the network's own tensors.

    Raises:
        ModelError: the names hold several such networks under prefixes of their own, and none is known to be preferred.
    """
    own = dict.fromkeys(names)
    state = _without_inner_wrappers(_without_counts(state, own), own)
    best, count = _prefix(state, own)
    if count > (plain := sum(name in state for name in own)):
        others = [key for key in state if not key.startswith(best)]
        note(
            f"the names of the weights begin with {best!r}, which is left out" + (f"; {_some(others)} are no part of it" if others else "")
        )
        return {key.removeprefix(best): value for key, value in state.items() if key.startswith(best)}
    best, count = _prefix(own, state)
    if count > plain:
        note(f"the names of the network's tensors begin with {best!r}, which is put before those of the weights")
        return {best + key: value for key, value in state.items()}
    return state


def _without_counts(state: State, own: Mapping[str, Any]) -> State:
    counts = [key for key in state if key.rpartition(".")[2] in _COUNTS and key not in own]
    if counts:
        note(f"{_some(counts)} are numbers that a counter of operations left in the weights; they are left out")
    return {key: value for key, value in state.items() if key not in counts}


def _without_inner_wrappers(state: State, own: Mapping[str, Any]) -> State:
    """Remove what wrappers around a part of the network add within a name: ``features.module.0.weight`` is ``features.0.weight``."""
    used = {part for name in own for part in name.split(".")}
    added = set(_INNER_WRAPPERS) - used

    def plain(key: str) -> str:
        return ".".join(part for place, part in enumerate(key.split(".")) if part not in added or (place == 0 and part == "module"))

    renamed = {plain(key): value for key, value in state.items()}
    return renamed if len(renamed) == len(state) else state


def _prefix(longer: Iterable[str], shorter: Mapping[str, Any]) -> tuple[str, int]:
    """The most frequent prefix of those names whose remainder is in ``shorter``, and the number of such names.

    Raises:
        ModelError: several are as frequent and complete, and none is that of averaged weights or a usual one.
    """
    found = collections.Counter[str]()
    for name in longer:
        parts = name.split(".", _DEEPEST_PREFIX)
        for i in range(1, len(parts)):
            if (end := ".".join(parts[i:])) in shorter:
                found[name[: -len(end)]] += 1
    most = max(found.values(), default=0)
    best = sorted((prefix for prefix, count in found.items() if count == most), key=_rank)
    if len(best) > 1 and 2 * most > len(shorter) and _rank(best[0]) == _rank(best[1]):
        raise ModelError(
            f"the weights hold several networks, whose names begin with {', '.join(map(repr, best))}",
            "one is loaded",
            "save the one you mean: {k.removeprefix('student.'): v for k, v in state_dict.items() if k.startswith('student.')}",
        )
    return (best[0], most) if best else ("", 0)


def _rank(place: str) -> int:
    """The rank of a network by the keys or the prefix that lead to it; 0 is preferred."""
    parts, names = place.split("."), (*_AVERAGED, *_USUAL)
    return next((i for i, name in enumerate(names) if name in parts), len(names))


def _refuse_other_files(path: Path) -> None:
    """Raise an error with advice for files that are often mistaken for weights."""
    if found := mistaken_file(path):
        raise ModelError(f"{path} {found[0]}", _WRITTEN, found[1])
    with path.open("rb") as file:
        head = file.read(200)
    if head.startswith(b"PK"):
        again = "download or copy it again"
        with wrap_parse_errors(path, ModelError, _WRITTEN, again):
            try:
                with zipfile.ZipFile(path) as archive:
                    names = archive.namelist()
            except zipfile.BadZipFile as error:
                raise ModelError(f"{path} is cut short: its end is missing", _WRITTEN, again) from error
        if names and all(name.endswith(".npy") for name in names):
            raise ModelError(f"{path} is an archive of NumPy arrays", _WRITTEN, "load it with numpy and save a state_dict of tensors")
        if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
            raise ModelError(
                f"{path} is a program that torch.export wrote", _WRITTEN,
                "save the weights: torch.save(torch.export.load(...).state_dict, 'weights.pth')",
            )  # fmt: skip
        if any("/code/" in name for name in names):
            raise ModelError(
                f"{path} is a TorchScript file, which holds code", _WRITTEN,
                "save the weights: torch.save(torch.jit.load(...).state_dict(), 'weights.pth')",
            )  # fmt: skip
    elif not path.name.endswith((".safetensors", ".json")) and all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        raise ModelError(f"{path} is a text file: {head[:60].decode()!r}", _WRITTEN, "give the file of weights")


def _read_safetensors(path: Path) -> State:
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}", "it must be a whole safetensors file", "download it again") from error


def _read_parts(index: Path) -> State:
    """Read a sharded safetensors checkpoint, as Hugging Face's libraries write large models."""
    with wrap_parse_errors(index, ModelError, "it is the index of a safetensors file: it names the part of each tensor"):
        parts = sorted({str(part) for part in read_json(index)["weight_map"].values()})
        there = {file.name for file in index.parent.iterdir() if file.is_file()}
    state: State = {}
    for part in parts:
        if part not in there:
            raise ModelError(f"{index} names {part}, which is not beside it", "all parts lie in one folder", "download them all")
        state |= _read_safetensors(index.parent / part)
    return state


def _network_in(loaded: Any, path: Path) -> State:
    """The network's tensors in a loaded checkpoint."""
    if isinstance(loaded, Mapping) and (whole := _tensors(loaded)):
        return whole
    found = dict(_networks(loaded))
    if not found:
        keys = f" with {_some([str(key) for key in loaded]) or 'nothing in it'}" if isinstance(loaded, Mapping) else ""
        raise ModelError(
            f"{path} holds a {type(loaded).__name__}{keys}",
            "it must hold tensors by name, bare or under a key such as 'state_dict' or 'model'",
            "save torch.save(model.state_dict(), 'weights.pth')",
        )

    ranks = {place: _rank(place) for place in found}
    best = [place for place in found if ranks[place] == min(ranks.values())]
    if len(best) > 1:
        raise ModelError(
            f"{path} holds several networks: {', '.join(best)}", "one is loaded", "save the one you mean: torch.save(checkpoint[...], ...)"
        )
    if len(found) > 1:
        averaged = ", the averaged weights" if ranks[best[0]] < len(_AVERAGED) else ""
        others = [place for place in found if place != best[0]]
        note(f"{path.name} holds several networks: {best[0]!r}{averaged} is taken, not {_some(others)}")
    return found[best[0]]


def _networks(loaded: Any, place: str = "", depth: int = 0) -> Iterable[tuple[str, State]]:
    """The state dicts nested in a checkpoint, each with its path of keys."""
    if not isinstance(loaded, Mapping) or depth > 3 or "param_groups" in loaded:  # the state of an optimizer
        return
    for key, value in loaded.items():
        name = str(key).lower()
        if name == _OPTIMIZER or any(word in name for word in _NOT_A_NETWORK) or not isinstance(value, Mapping):
            continue
        there = f"{place}.{key}" if place else str(key)
        if tensors := _tensors(value):
            yield there, tensors
        else:
            yield from _networks(value, there, depth + 1)


def _tensors(values: Mapping[Any, Any]) -> State:
    """The tensors of a state dict, without other entries (``_metadata``, a version); empty if ``values`` is not a state dict."""
    tensors = {str(key): torch.as_tensor(value) for key, value in values.items() if _is_tensor(value)}
    nested = any(isinstance(value, Mapping) and key != "_metadata" for key, value in values.items())
    return tensors if not nested and 2 * len(tensors) > len(values) else {}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins like a safetensors file: the length of a JSON header, and the header."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size


def _foreign_objects(path: Path) -> list[str]:
    """Names of the classes and functions that reading the file would call."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # files too old for torch to inspect
        return []
    safe = {f"{kind.__module__}.{getattr(kind, '__qualname__', kind)}" for kind in _SAFE}
    return [name for name in names if name not in safe][:5]


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
