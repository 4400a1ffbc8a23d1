"""Tracing of a network's ``forward`` with torch.fx."""

from __future__ import annotations

import inspect

from torch import fx, nn


def trace_graph(module: nn.Module, tracer: fx.Tracer | None = None) -> fx.Graph:
    """The graph of ``forward`` with images as its only input; other arguments (``targets=None``, ``return_features=False``) take their
    defaults.

    Args:
        module: the network to trace.
        tracer: decides which modules are leaves; None for ``fx.Tracer()``.

    Raises:
        Exception: any exception that the network's code raises when it is traced with proxies.
    """
    others = list(inspect.signature(module.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in others if p.default is not inspect.Parameter.empty}
    graph = (tracer or fx.Tracer()).trace(module, defaults or None)
    fixed = [node for node in graph.nodes if node.op == "placeholder"][1 : 1 + len(defaults)] if defaults else []
    unused = set(fixed)  # used only by torch's assertions that these arguments have their defaults
    for node in graph.nodes:
        if unused.intersection(node.all_input_nodes):
            unused.add(node)
    for node in reversed(list(graph.nodes)):
        if node in unused:
            graph.erase_node(node)
    return graph
