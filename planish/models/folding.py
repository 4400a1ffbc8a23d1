"""Batch norm folded into the convolution before it: the same function with fewer layers, and what quantization acts on."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from planish.models.tracing import trace_graph


def fold_batch_norm(module: nn.Module) -> None:
    """Fold each batch norm that follows a convolution, and only it, into that convolution. An identity takes its place.

    Where Python control flow hides the graph of the network, nothing is folded.

    Args:
        module: in eval mode; changed in place.
    """
    try:
        traced = fx.GraphModule(module, trace_graph(module))
    except Exception:  # whatever the network does with a proxy in place of a tensor
        return
    layers = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    folded = set()
    for node in traced.graph.nodes:
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        norm, conv = layers[str(node.target)], layers[str(before.target)]
        alone = len(before.users) == 1 and calls[node.target] == 1 and calls[before.target] == 1
        if type(norm) is nn.BatchNorm2d and type(conv) is nn.Conv2d and norm.track_running_stats and alone:
            fused = fuse_conv_bn_eval(conv, norm)
            assert fused.bias is not None
            conv.weight, conv.bias = (nn.Parameter(value.detach(), conv.weight.requires_grad) for value in (fused.weight, fused.bias))
            folded.add(norm)
    for parent in list(module.modules()):  # under every name it has
        for name, child in parent._modules.items():
            if child in folded:
                parent._modules[name] = nn.Identity()
