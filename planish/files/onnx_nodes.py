"""The nodes of an ONNX graph, with those in the bodies of its ``If``, ``Loop`` and ``Scan`` nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def bodies(node: Any) -> list[Any]:
    """The graphs that a node contains: the branches of an ``If``, the body of a ``Loop`` or ``Scan``; of other nodes none."""
    return [body for attribute in node.attribute for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)]


def graphs(graph: Any) -> Iterator[Any]:
    """A graph (``onnx.GraphProto``) and the bodies in it, recursively."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def tensors_read(nodes: Iterable[Any]) -> set[str]:
    """The names of the tensors that nodes and their bodies read, which may be tensors of an outer graph."""
    return {name for node in nodes for name in _read_by(node)}


def readers(graph: Any) -> dict[str, list[Any]]:
    """The nodes of a graph that read each tensor, by tensor name; tensors without readers are left out. A node reads what its bodies
    read."""
    found: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in _read_by(node):
            found.setdefault(name, []).append(node)
    return found


def inline_functions(model: Any) -> Any:
    """Return a model (``onnx.ModelProto``) in which every call of one of its own functions is replaced by the function's nodes."""
    from onnx.inliner import inline_local_functions

    return inline_local_functions(model) if model.functions else model


def name_nodes(graph: Any) -> None:
    """Give every node, also in bodies, a name of its own; changes ``graph`` in place.

    ONNX requires neither names nor that they differ, but quantizers exclude layers by name.
    """
    taken: set[str] = set()
    for part in graphs(graph):
        for number, node in enumerate(part.node):
            name = node.name or f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def _read_by(node: Any) -> list[str]:
    return [*node.input, *(name for body in bodies(node) for inner in body.node for name in _read_by(inner))]
