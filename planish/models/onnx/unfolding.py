"""Batch norm that an exporter has folded into convolutions, put back: networks of many layers hardly train without it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

_NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm)
_SUFFIX = "_norm"


def unfold_batch_norm(module: fx.GraphModule, example: Tensor) -> None:
    """Insert an identity batch norm after each convolution of maps that is followed by no norm; changes ``module``.

    The bias of the convolution becomes that of the norm. Convolutions that are applied several times, that make an output, or that make a
    single pixel (squeeze and excitation) are left as they are.

    Args:
        module: a converted network in eval mode.
        example: images ``(N, C, H, W)``.
    """
    areas: dict[nn.Module, int] = {}
    hooks = [
        layer.register_forward_hook(lambda conv, _, output: areas.__setitem__(conv, output.shape[2] * output.shape[3]))
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.no_grad():
        module(example)
    for hook in hooks:
        hook.remove()
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    for node in calls:
        conv = module.get_submodule(str(node.target))
        if not isinstance(conv, nn.Conv2d) or targets.count(node.target) > 1 or areas[conv] == 1 or _is_normalised(module, node):
            continue
        norm = nn.BatchNorm2d(conv.out_channels).eval()
        with torch.no_grad():
            norm.weight.fill_((1 + norm.eps) ** 0.5)
            if conv.bias is not None:
                norm.bias.copy_(conv.bias)
        conv.bias = None
        name = f"{node.target}{_SUFFIX}"
        module.add_submodule(name, norm)
        with module.graph.inserting_after(node):
            made = module.graph.call_module(name, (node,))
        node.replace_all_uses_with(made, delete_user_cb=lambda user, made=made: user is not made)
    module.recompile()


def fit_batch_norm(module: fx.GraphModule, batches: Iterable[Tensor]) -> None:
    """Give the norms that ``unfold_batch_norm`` has inserted the statistics of images, without changing the outputs; changes ``module``.

    Args:
        module: a network in eval mode.
        batches: normalised images ``(N, C, H, W)``.
    """
    norms = {layer: list[Tensor]() for layer in unfolded_norms(module)}

    def record(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maps = inputs[0].double()
        norms[norm].append(torch.stack([maps.mean((0, 2, 3)), maps.square().mean((0, 2, 3))]))  # type: ignore[index]

    hooks = [norm.register_forward_pre_hook(record) for norm in norms]
    with torch.no_grad():
        for images in batches:
            module(images)
        for norm, moments in norms.items():
            mean, square = torch.stack(moments).mean(0)
            variance = (square - mean.square()).clamp_min(0)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((norm.running_var + norm.eps).sqrt())
            norm.bias.add_(mean)
    for hook in hooks:
        hook.remove()


def unfolded_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the norms that ``unfold_batch_norm`` has inserted in a converted network; their statistics are not those of its training."""
    return [layer for name, layer in module.named_modules() if name.endswith(_SUFFIX) and isinstance(layer, nn.BatchNorm2d)]


def _is_normalised(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a norm or the output of the network reads the tensor, or another order of its axes, as layer norm over channels does."""
    for user in node.users:
        if user.op == "output" or user.target is torch.permute:
            return True
        if user.op == "call_module" and isinstance(module.get_submodule(str(user.target)), _NORMS):
            return True
    return False
