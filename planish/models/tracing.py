"""Tracing of a network's ``forward`` with torch.fx."""

from __future__ import annotations

import inspect
import operator

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_flatten, tree_unflatten

from planish.errors import TechniqueError


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
    _name_image(graph)
    return graph


def _name_image(graph: fx.Graph) -> None:
    """Give the graph of ``forward(self, *inputs, **options)`` a first input of its own, in place of the item of a tuple."""
    starred = [node for node in graph.nodes if node.op == "placeholder" and str(node.target).startswith("*")]
    for node in starred:
        if node is next(iter(graph.nodes)) and all(user.target is operator.getitem and user.args[1] == 0 for user in node.users):
            with graph.inserting_before(node):
                image = graph.placeholder("image")
            for user in list(node.users):
                user.replace_all_uses_with(image)
                graph.erase_node(user)
        if not node.users:
            graph.erase_node(node)


def of_both_modes(module: nn.Module, training: fx.Graph, evaluating: fx.Graph) -> fx.Graph:
    """One graph for both modes: arguments such as ``training=self.training`` follow the mode of the traced module.

    Args:
        module: the network.
        training: its graph traced in training mode.
        evaluating: its graph traced in eval mode; changed in place and returned.

    Raises:
        TechniqueError: the graphs differ in more than arguments that are True in training mode and False in eval mode.
    """
    nodes = list(evaluating.nodes)
    places = {node: f"%{place}" for graph in (training, evaluating) for place, node in enumerate(graph.nodes)}
    if len(nodes) != len(training.nodes):
        raise _other_operations()
    mode: fx.Node | None = None
    for of_training, node in zip(training.nodes, nodes, strict=True):
        (once, layout), (now, layout_now) = (tree_flatten(map_arg((n.args, n.kwargs), places.__getitem__)) for n in (of_training, node))
        if (of_training.op, layout) != (node.op, layout_now) or not _same_target(module, of_training, node):
            raise _other_operations()
        switches = [a is True and b is False for a, b in zip(once, now, strict=True)]
        if not all(switch or a == b for switch, a, b in zip(switches, once, now, strict=True)):
            raise _other_operations()
        if any(switches):
            if mode is None:
                with evaluating.inserting_before(next(n for n in nodes if n.op != "placeholder")):
                    mode = evaluating.create_node("get_attr", "training")
            values, own_layout = tree_flatten((node.args, node.kwargs))
            node.args, node.kwargs = tree_unflatten([mode if s else v for s, v in zip(switches, values, strict=True)], own_layout)
    return evaluating


def _same_target(module: nn.Module, one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes call the same, or read the same values: each trace stores constant tensors under names of its own."""
    if one.op == "get_attr" and str(one.target).startswith("_tensor_constant"):
        ours, theirs = (getattr(module, str(node.target), None) for node in (one, other))
        return isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor) and torch.equal(ours, theirs)
    return one.target == other.target


def _other_operations() -> TechniqueError:
    return TechniqueError(
        "forward runs other operations in training mode than in eval mode",
        "this modification rewrites forward, once for both modes",
        "move what depends on self.training into a submodule, or build the variant yourself: FILE.py:factory",
    )
