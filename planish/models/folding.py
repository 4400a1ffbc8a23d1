"""Folding of batch norm into the preceding convolution: the same function with fewer layers, as quantization needs it."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from planish.models.tracing import trace_graph


def fold_batch_norm(module: nn.Module) -> None:
    """Fold each batch norm into the preceding convolution if it is the only consumer of its output, and replace it by an identity.

    Nothing is folded if torch.fx cannot trace the network.

    Args:
        module: the network in eval mode; changed in place.
    """
    try:
        traced = fx.GraphModule(module, trace_graph(module))
    except Exception:  # the network's code may raise anything when it is traced with proxies
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
    for parent in list(module.modules()):  # under every name: a module may be shared
        for name, child in parent._modules.items():
            if child in folded:
                parent._modules[name] = nn.Identity()
