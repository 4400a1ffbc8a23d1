"""What a network returns: a tensor, or tensors by name; and what its file says of them.

A network whose outputs are no logits has ``loss(outputs, targets)`` and ``decode(outputs)``, which read them: detections, label maps; and
it may have ``distance(outputs, teacher)``, by which it learns from another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from planish.errors import ModelError

METHODS = ("loss", "decode", "distance")  # of a network, beside ``forward``


def decoded(network: nn.Module, outputs: Any) -> dict[str, Tensor]:
    """Outputs by the names that a file gives them: ``logits`` where the network does not say otherwise."""
    found: dict[str, Tensor] = getattr(network, "decode", _logits)(outputs)
    return found


def copy_decoding_methods(network: nn.Module, borrower: nn.Module) -> None:
    """Let what was made of a network, or stands around it, read outputs as the network does."""
    for name in METHODS:
        if hasattr(network, name):
            setattr(borrower, name, getattr(network, name))


class Graph(fx.GraphModule):
    """A graph that was made of a network and keeps its methods, for which torch's own has no place."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph)
        copy_decoding_methods(network, self)

    def __deepcopy__(self, memo: Any) -> fx.GraphModule:
        copied: fx.GraphModule = super().__deepcopy__(memo)  # which copies layers and code only
        copy_decoding_methods(self, copied)
        return copied


def each(change: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """``change`` of each tensor in outputs or targets."""
    return tree_map_only(torch.Tensor, change, outputs)


def logits_and_auxiliary(outputs: Any, classes: int) -> tuple[Tensor, list[Tensor]]:
    """The logits ``(N, classes)`` of a classifier in training, and those of its auxiliary classifiers (Inception's, deep supervision).

    Args:
        outputs: a tensor; or a tuple, list or mapping, whose entry ``logits`` or ``out``, else the first, is meant.
        classes: other outputs than one number per class are passed over.

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
    """What ``decode`` reads, by name; nothing where the outputs are what the file returns."""
    if not hasattr(network, "decode"):
        return {}
    return outputs if isinstance(outputs, dict) else {"raw": outputs}


def flattened(outputs: Any) -> Tensor:
    """All that a network returns, ``(N, values)``."""
    return torch.cat([part.flatten(1) for part in tree_leaves(outputs)], 1)


def distance(outputs: Any, teacher: Any) -> Tensor:
    """How far outputs are from a teacher's: the squared difference over the teacher's variance, the mean over all of them; a scalar."""
    pairs = zip(tree_leaves(outputs), tree_leaves(teacher), strict=True)
    return torch.stack([functional.mse_loss(ours, theirs) / theirs.var().clamp_min(1e-12) for ours, theirs in pairs]).mean()


def _logits(outputs: Any) -> dict[str, Any]:
    return {"logits": outputs}
