"""The graph of a network's ``forward``, as torch.fx records it."""

from __future__ import annotations

import inspect

from torch import fx, nn


def trace_graph(module: nn.Module, tracer: fx.Tracer | None = None) -> fx.Graph:
    """The graph of ``forward`` on images alone: its other arguments (``targets=None``, ``return_features=False``) have their defaults.

    Args:
        module: whose ``forward`` is traced.
        tracer: which modules it looks into; None for torch's own choice.

    Raises:
        Exception: whatever the network does with a proxy in place of a tensor.
    """
    others = list(inspect.signature(module.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in others if p.default is not inspect.Parameter.empty}
    graph = (tracer or fx.Tracer()).trace(module, defaults or None)
    fixed = [node for node in graph.nodes if node.op == "placeholder"][1 : 1 + len(defaults)] if defaults else []
    unused = set(fixed)  # nothing but torch's assertions that they have their defaults reads them
    for node in graph.nodes:
        if unused.intersection(node.all_input_nodes):
            unused.add(node)
    for node in reversed(list(graph.nodes)):
        if node in unused:
            graph.erase_node(node)
    return graph
