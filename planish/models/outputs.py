"""Outputs of a network: a tensor or a dictionary of tensors, and their decoded form in exported files.

A network that does not return logits has methods that interpret its raw outputs: ``loss(outputs, targets)``, ``decode(outputs)``, which
returns detections or label maps, and optionally ``distance(outputs, teacher)``, the loss for distillation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from planish.errors import ModelError

METHODS = ("loss", "decode", "distance")  # of a network, besides ``forward``


def decodes(network: nn.Module | None) -> bool:
    """Whether the network has a method ``decode``, which interprets its raw outputs."""
    return callable(getattr(network, "decode", None))  # some networks answer any name with None


def decoded(network: nn.Module, outputs: Any) -> dict[str, Tensor]:
    """The outputs by the names that they have in an exported file; ``logits`` unless the network has a ``decode`` method."""
    if not decodes(network):
        return {"logits": outputs}
    found: dict[str, Tensor] = cast(Any, network).decode(outputs)
    return found


def copy_decoding_methods(network: nn.Module, borrower: nn.Module) -> None:
    """Copy ``loss``, ``decode`` and ``distance``, where ``network`` has them, to a module derived from it or wrapped around it."""
    for name in METHODS if decodes(network) else ():
        if hasattr(network, name):
            setattr(borrower, name, getattr(network, name))


class Graph(fx.GraphModule):
    """A ``GraphModule`` that keeps the methods ``loss``, ``decode`` and ``distance`` of the traced network."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph)
        copy_decoding_methods(network, self)

    def __deepcopy__(self, memo: Any) -> fx.GraphModule:
        copied: fx.GraphModule = super().__deepcopy__(memo)  # copies only layers and code
        copy_decoding_methods(self, copied)
        return copied


def each(change: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """Apply ``change`` to each tensor in outputs or targets."""
    return tree_map_only(torch.Tensor, change, outputs)


def logits_and_auxiliary(outputs: Any, classes: int) -> tuple[Tensor, list[Tensor]]:
    """The logits ``(N, classes)`` of a classifier in training mode, and those of its auxiliary classifiers (Inception, deep supervision).

    Args:
        outputs: a tensor; or a tuple, list or mapping, of which the entry ``logits`` or ``out``, or otherwise the first, holds the logits.
        classes: number of classes; further outputs of another shape than the logits are ignored.

    Raises:
        ModelError: there are no such logits.
    """
    if isinstance(outputs, Tensor):
        return outputs, []
    named = dict(outputs) if isinstance(outputs, Mapping) else getattr(outputs, "_asdict", dict)()
    tensors = [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]
    main = next((named[key] for key in ("logits", "out") if key in named), tensors[0] if tensors else None)
    if not isinstance(main, Tensor) or main.ndim != 2 or main.shape[1] != classes:
        shown = ", ".join(str(tuple(t.shape)) for t in tensors) or type(outputs).__name__
        raise ModelError(
            f"in training the network returns {shown}",
            f"the first output, or that called 'logits' or 'out', must be logits (N, {classes})",
            "return them first",
        )
    return main, [t for t in tensors if t is not main and t.shape == main.shape]


def raw(network: nn.Module, outputs: Any) -> dict[str, Tensor]:
    """The raw outputs that ``decode`` takes, by name; empty if the network has no ``decode``."""
    if not decodes(network):
        return {}
    if isinstance(outputs, dict):
        return outputs
    return {"raw": outputs} if isinstance(outputs, Tensor) else {f"raw_{i}": part for i, part in enumerate(tree_leaves(outputs))}


def flattened(outputs: Any) -> Tensor:
    """All outputs of a network, flattened and concatenated to ``(N, values)``."""
    return torch.cat([part.flatten(1) for part in tree_leaves(outputs)], 1)


def distance(outputs: Any, teacher: Any) -> Tensor:
    """The mean squared error between outputs and a teacher's, divided by the teacher's variance, averaged over all outputs; a scalar."""
    pairs = zip(tree_leaves(outputs), tree_leaves(teacher), strict=True)
    return torch.stack([functional.mse_loss(ours, theirs) / theirs.var().clamp_min(1e-12) for ours, theirs in pairs]).mean()
