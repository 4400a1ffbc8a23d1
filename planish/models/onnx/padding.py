"""Padding with zeros before a convolution, as that of the convolution."""

from __future__ import annotations

from typing import cast

from torch import fx, nn
from torch.nn import functional


def with_own_padding(module: fx.GraphModule) -> fx.GraphModule:
    """Let convolutions pad themselves where a pad of zeros, as many on both sides, precedes them; changes and returns ``module``.

    Args:
        module: a converted network.
    """
    calls = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    for node in module.graph.nodes:
        if node.op != "call_module" or calls.count(str(node.target)) > 1:
            continue
        conv, pad = module.get_submodule(str(node.target)), node.args[0]
        if not isinstance(conv, nn.Conv2d) or not isinstance(pad, fx.Node) or pad.target is not functional.pad:
            continue
        images, flat, mode, *value = pad.args
        left, right, top, bottom = (*cast(list[int], flat), 0, 0)[:4]
        if len(cast(list[int], flat)) > 4 or mode != "constant" or value != [0.0] or left != right or top != bottom or min(left, top) < 0:
            continue
        conv.padding = tuple(int(old) + more for old, more in zip(cast(tuple[int, int], conv.padding), (top, left), strict=True))
        node.args = (images,)
    return module
