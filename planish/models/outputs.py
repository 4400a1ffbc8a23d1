"""What a network returns: a tensor, or tensors by name; and what its file says of them.

A network whose outputs are no logits has ``loss(outputs, targets)`` and ``decode(outputs)``, which reads them: detections, label maps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

METHODS = ("loss", "decode")  # of a network, beside ``forward``


def decoded(network: nn.Module, outputs: Any) -> dict[str, Tensor]:
    """Outputs by the names that a file gives them: ``logits`` where the network does not say otherwise."""
    found: dict[str, Tensor] = getattr(network, "decode", _logits)(outputs)
    return found


def keep_methods(network: nn.Module, changed: nn.Module) -> nn.Module:
    """Give a graph that was made of a network the methods that a graph has no place for; returns ``changed``."""
    for name in METHODS:
        if hasattr(network, name) and not hasattr(changed, name):
            setattr(changed, name, getattr(network, name))
    return changed


def each(change: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """``change`` of each tensor in outputs or targets."""
    return tree_map_only(torch.Tensor, change, outputs)


def raw(network: nn.Module, outputs: Any) -> dict[str, Tensor]:
    """What ``decode`` reads, by name; nothing where the outputs are what the file returns."""
    if not hasattr(network, "decode"):
        return {}
    return outputs if isinstance(outputs, dict) else {"raw": outputs}


def distance(outputs: Any, teacher: Any) -> Tensor:
    """How far outputs are from a teacher's: the squared difference over the teacher's variance, the mean over all of them; a scalar."""
    pairs = zip(tree_leaves(outputs), tree_leaves(teacher), strict=True)
    return torch.stack([functional.mse_loss(ours, theirs) / theirs.var().clamp_min(1e-12) for ours, theirs in pairs]).mean()


def _logits(outputs: Any) -> dict[str, Any]:
    return {"logits": outputs}
