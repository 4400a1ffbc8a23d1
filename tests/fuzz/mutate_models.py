"""Changes files of weights and ONNX files within their structure, so that readers get beyond the first checks."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from mutate import VALUES, mutate_tree

_ODD_TENSORS: list[Callable[[torch.Tensor], Any]] = [
    lambda t: t.to(torch.float64), lambda t: t.to(torch.complex64), lambda t: t.to(torch.int8), lambda t: t.to(torch.bool),
    lambda t: t.half(), lambda t: t.reshape(-1), lambda t: t[None], lambda t: torch.tensor(1.0), lambda t: torch.zeros(0),
    lambda t: t.to_sparse(), lambda t: torch.zeros(1).expand(1 << 40), lambda t: torch.zeros(1, 1, 1, 1).expand(1 << 20, 1 << 20, 3, 3),
    lambda t: t * float("nan"), lambda t: torch.nn.Parameter(t.float()), lambda t: {"inner": t}, lambda t: [t],
    lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8), lambda t: t.t() if t.ndim == 2 else t.flip(0),
    lambda t: torch.zeros(*t.shape, 2),
]  # fmt: skip


def mutate_pickle(data: bytes, rng: Random) -> bytes:
    """Change a tensor, a name or a value in what ``torch.save`` wrote."""
    from planish.models.weights.checkpoints import _SAFE

    with torch.serialization.safe_globals(list(_SAFE)):
        tree: Any = torch.load(io.BytesIO(data), weights_only=True)
    holders = [tree]
    for holder in holders:
        if len(holders) < 50:  # an earlier change may have put one into itself
            holders += [value for value in holder.values() if isinstance(value, dict)]
    holder = rng.choice([one for one in holders if one])
    key = rng.choice(list(holder))
    kind, value = rng.randrange(7), holder[key]
    if kind <= 2 and isinstance(value, torch.Tensor):
        holder[key] = rng.choice(_ODD_TENSORS)(value)
    elif kind == 3:
        del holder[key]
    elif kind == 4:
        holder[rng.choice((0, None, ("a", 1), "x" * 5000, "", "module." + str(key), "\ud800", True, 1.5))] = holder.pop(key)
    elif kind == 5:
        holder[key] = holder if rng.random() < 0.3 else dict(holder)
    else:
        holder[key] = rng.choice(VALUES)
    file = io.BytesIO()
    torch.save(
        rng.choice((tree, tree, tree, [tree], list(tree.values()), tuple(tree))), file, _use_new_zipfile_serialization=data[:2] == b"PK"
    )
    return file.getvalue()


def mutate_safetensors(data: bytes, rng: Random) -> bytes:
    """Change the head."""
    length = struct.unpack("<Q", data[:8])[0]
    head = json.dumps(mutate_tree(json.loads(data[8 : 8 + length]), rng)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


def mutate_onnx(data: bytes, rng: Random) -> bytes:
    """Change a field anywhere in the model."""
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    fields: list[tuple[Any, Any]] = []
    pending: list[Any] = [model]
    while pending and len(fields) < 5000:
        message = pending.pop()
        for descriptor, value in message.ListFields():
            fields.append((message, descriptor))
            if descriptor.message_type is not None:
                pending += list(value) if descriptor.is_repeated else [value]
    message, descriptor = rng.choice(fields)
    name, value = descriptor.name, getattr(message, descriptor.name)
    if descriptor.is_repeated:
        kind = rng.randrange(4)
        if kind == 0 or not len(value):
            message.ClearField(name)
        elif kind == 1:
            del value[rng.randrange(len(value))]
        elif descriptor.message_type is not None:
            value.add().CopyFrom(rng.choice(list(value)))
        else:
            place = rng.randrange(len(value))
            value[place] = _scalar(value[place], rng)
    elif descriptor.message_type is not None:
        message.ClearField(name)
    else:
        setattr(message, name, _scalar(value, rng))
    return model.SerializeToString()


def _scalar(value: Any, rng: Random) -> Any:
    if isinstance(value, bool | int):
        return rng.choice((0, 1, 2, -1, 3, 7, 16, 1 << 30, (1 << 31) - 1, value + 1)) if not isinstance(value, bool) else not value
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    if isinstance(value, bytes):
        return rng.choice((b"", value[:-1], value * 2, b"\xff" * len(value), b"../x", b"/etc/passwd"))
    return rng.choice(
        ("", "x", "images", "logits", value + "x", "Softmax", "Conv", "Gemm", "If", "Loop", "ai.onnx", "../../etc/passwd", "w", "r", "z")
    )
