"""Inspecting and changing any network: output shapes from running it, its graph from tracing it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from planish.artifact import Artifact, InputSpec, Step
from planish.errors import TechniqueError, first_line
from planish.models.outputs import Graph
from planish.models.tracing import of_both_modes, trace_graph
from planish.technique import Technique, hyper_parameters

_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
LAYERS = (nn.Conv2d, nn.Linear)


class _Tracer(fx.Tracer):
    """Treats every module without children as a leaf, not only those of ``torch.nn``."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children()) or super().is_leaf_module(m, module_qualified_name)


def traced(module: nn.Module) -> fx.GraphModule:
    """The network as a ``GraphModule`` that shares its layers and computes the same in training and in eval mode.

    Raises:
        TechniqueError: the network cannot be traced, or its code runs other operations in training than in eval mode.
    """
    modes = [(m, m.training) for m in module.modules()]
    try:
        graphs = [trace_graph(module.train(training), _Tracer()) for training in (True, False)]
    except Exception as error:  # the network's code may raise anything when it is traced with proxies
        reason = first_line(error)
        raise TechniqueError(
            f"the network's code hides its graph: {reason}",
            "this modification has to see what is computed from what, so forward must not branch on what is in a tensor",
            "write forward without such branches, or build the variant yourself: FILE.py:factory",
        ) from error
    finally:
        for m, training in modes:
            m.training = training
    return Graph(module, of_both_modes(module, *graphs))


def copied(artifact: Artifact) -> nn.Module:
    """A copy of the artifact's network, to be changed."""
    module: nn.Module = copy.deepcopy(artifact.module)
    return module


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Context manager in which new layers draw their initial weights from a seed; torch's global random state is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def changed(artifact: Artifact, modification: Technique, module: nn.Module, structure: Mapping[str, Any], notes: str) -> Artifact:
    """The artifact with the changed network, and the modification added to its lineage.

    Raises:
        TechniqueError: the changed network does not run, or its output shapes have changed.
    """
    spec = artifact.input_spec
    module.eval()
    try:
        with torch.no_grad():
            output = module(_black(module, spec))
    except Exception as error:  # shapes may not fit in the network's own code
        reason = first_line(error)
        raise TechniqueError(
            f"with {modification} the network does not run on {spec.height}x{spec.width} pixels: {reason}",
            "what a modification puts in must fit what is around it",
            "leave it out for this network",
        ) from error
    with torch.no_grad():
        before = copied(artifact).eval()(_black(artifact.module, spec))
    now, was = ([tuple(part.shape) for part in tree_leaves(found)] for found in (output, before))
    if now != was:
        raise TechniqueError(f"with {modification} the network returns {now} for two images", f"it must return {was} as before")
    step = Step(modification.name, hyper_parameters(modification), modification.changes, dict(structure), notes)
    return artifact.with_step(step, module=module)


def output_shapes(module: nn.Module, spec: InputSpec) -> dict[str, torch.Size]:
    """The output shape of each module for a batch of two images, by name; modules that do not return a single tensor are left out."""
    shapes: dict[str, torch.Size] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _m, _i, out: shapes.__setitem__(name, out.shape) if isinstance(out, Tensor) else None

    hooks = [m.register_forward_hook(note(name)) for name, m in module.named_modules()]
    modes = [(m, m.training) for m in module.modules()]
    try:
        with torch.no_grad():
            module.eval()(_black(module, spec))
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in modes:
            m.training = training
    return shapes


def residual_branches(module: nn.Module) -> list[str]:
    """Names of the last modules of the residual branches, whose outputs are added to a shortcut, in execution order.

    Of the two terms of a sum, the branch is the one that depends on more layers that the other does not depend on.

    Raises:
        TechniqueError: the network cannot be traced.
    """
    graph = traced(module)
    layers: dict[fx.Node, frozenset[fx.Node]] = {}
    found: list[str] = []
    for node in graph.graph.nodes:
        before = frozenset().union(*(layers[n] for n in node.all_input_nodes)) if node.all_input_nodes else frozenset()
        is_layer = node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), LAYERS)
        layers[node] = before | {node} if is_layer else before
        terms = [n for n in node.args if isinstance(n, fx.Node)]
        if node.op in ("call_function", "call_method") and node.target in _SUMS and len(terms) == 2:
            own = [len(layers[term] - layers[other]) for term, other in (terms, terms[::-1])]
            branch = terms[0] if own[0] > own[1] else terms[1]
            if max(own) > 0 and branch.op == "call_module" and len(branch.users) == 1:
                found.append(str(branch.target))
    return [name for name in dict.fromkeys(found) if found.count(name) == 1]


def insert_after(module: nn.Module, name: str, new: nn.Module) -> None:
    """Insert ``new`` after the module ``name``, so that it takes that module's output."""
    module.set_submodule(name, nn.Sequential(module.get_submodule(name), new))


def replaced(module: nn.Module, matches: Callable[[nn.Module], bool], make: Callable[[nn.Module], nn.Module]) -> int:
    """Replace every module ``m`` that matches by ``make(m)``, under all its names; return the number of replaced modules."""
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is not None and matches(child):
                if child not in made:
                    made[child] = make(child)
                parent._modules[name] = made[child]
    return len(made)


def functions_as_modules(module: nn.Module, table: Sequence[tuple[Callable[[fx.Node], bool], Callable[[fx.Node], nn.Module]]]) -> nn.Module:
    """The network with function calls in its code replaced by modules, so that modifications find them.

    Args:
        module: the network; returned unchanged if its code calls none of these functions, or cannot be traced.
        table: pairs of a predicate on nodes and a function that makes the module for a node; the module takes the node's first input.
    """
    try:
        graph = traced(module)
    except TechniqueError:
        return module
    count = 0
    for node in list(graph.graph.nodes):
        make = next((make for matches, make in table if node.op in ("call_function", "call_method") and matches(node)), None)
        if make is None:
            continue
        name = f"function_{count}"
        while hasattr(graph, name):
            name += "_"
        graph.add_module(name, make(node))
        with graph.graph.inserting_before(node):
            call = graph.graph.call_module(name, (node.all_input_nodes[0],))  # it may be named: F.relu(input=x)
        node.replace_all_uses_with(call)
        graph.graph.erase_node(node)
        count += 1
    if not count:
        return module
    graph.recompile()
    return graph


def _black(module: nn.Module, spec: InputSpec) -> Tensor:
    like = next(module.parameters(), torch.zeros(1))
    return torch.zeros(2, spec.channels, spec.height, spec.width, dtype=like.dtype, device=like.device)
