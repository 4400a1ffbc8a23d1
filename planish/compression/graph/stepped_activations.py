"""Activations of an ONNX model, computed node by node, so that a change of one goes into those after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from planish.devices.kernels import open_session, silent_options

Batches = list[npt.NDArray[Any]]


class SteppedActivations:
    """Activations of a model for some batches of inputs, asked for in topological order.

    Each node runs once. An activation is released when every node that takes it has run.

    Args:
        model: an ONNX model whose graph is sorted topologically. Its initializers are read when a node runs, so changes to them count.
        inputs: batches of each input by name.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Batches]) -> None:
        self._model = model
        self._nodes = list(model.graph.node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made_by = {name: i for i, node in enumerate(self._nodes) for name in node.output if name}
        self._waiting = Counter(name for node in self._nodes for name in {*_inputs(node)})
        self._done: set[int] = set()
        self._values = dict(inputs)

    def of(self, name: str) -> Batches:
        """The values of an activation, one array per batch; the nodes it needs run now.

        Raises:
            KeyError: it was released, since all nodes that take it have run.
        """
        if name not in self._values:
            self._run(name)
        return self._values[name]

    def replace(self, name: str, values: Batches) -> None:
        """Replace an activation that was asked for; nodes that run later take the new values."""
        self._values[name] = values

    def _run(self, name: str) -> None:
        import onnx

        needed = self._needed(name)
        nodes = [self._nodes[i] for i in needed]
        taken = dict.fromkeys(each for node in nodes for each in _inputs(node))
        for node in nodes:
            self._waiting.subtract({*_inputs(node)})
        self._done.update(needed)
        made = [each for node in nodes for each in node.output if each and (each == name or self._waiting[each] > 0)]
        given = [each for each in taken if each in self._values]
        types = {each: onnx.helper.np_dtype_to_tensor_dtype(self._values[each][0].dtype) for each in given}
        infos = [onnx.helper.make_tensor_value_info(each, type_, None) for each, type_ in types.items()]
        constants = [self._constants[each] for each in taken if each in self._constants]
        graph = onnx.helper.make_graph(nodes, "part", infos, [onnx.ValueInfoProto(name=each) for each in made], constants)
        part = onnx.helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        session = open_session(part.SerializeToString(), silent_options())
        count = len(next(iter(self._values.values())))
        found = [session.run(made, {each: self._values[each][i] for each in given}) for i in range(count)]
        for each in given:
            if self._waiting[each] <= 0:
                del self._values[each]
        self._values |= {each: [values[i] for values in found] for i, each in enumerate(made)}

    def _needed(self, name: str) -> list[int]:
        """Indices of the nodes that have not run and that an activation depends on, in order."""
        needed: set[int] = set()
        open_names = [name]
        while open_names:
            asked = open_names.pop()
            i = self._made_by.get(asked)
            if asked in self._values or i is None or i in needed:
                continue
            if i in self._done:
                raise KeyError(asked)
            needed.add(i)
            open_names += _inputs(self._nodes[i])
        return sorted(needed)


def _inputs(node: Any) -> list[str]:
    """Names a node takes, with those that its subgraphs (of ``If`` or ``Loop``) take from outside or from themselves."""
    parts = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [name for name in node.input if name] + [name for part in parts for inner in part.node for name in _inputs(inner)]
