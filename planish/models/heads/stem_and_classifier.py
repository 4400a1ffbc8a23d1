"""Finding and changing the first and the last layer of any network, found by running it with hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from planish.errors import ModelError, first_line

# Image size at which library networks are run to inspect them: all of them run at it, even those whose stem is too coarse for small images.
WATCH_SIZE = 224

ImageSides = int | tuple[int, int]  # height and width in pixels; a single number stands for both


def both_sides(image_size: ImageSides) -> tuple[int, int]:
    """Height and width in pixels."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def describe_size(image_size: ImageSides) -> str:
    """``48x192``: height and width."""
    return "x".join(map(str, both_sides(image_size)))


def run_order(module: nn.Module, channels: int, image_size: ImageSides) -> tuple[list[tuple[str, nn.Module]], Any]:
    """Run the network on one black image; return its layers with their names, in the order of their first call, and the output."""
    order: dict[str, nn.Module] = {}
    handles = []
    for name, layer in module.named_modules():
        if parametrize.is_parametrized(layer) or not any(layer.children()):
            handles.append(layer.register_forward_pre_hook(lambda layer, _, name=name: order.setdefault(name, layer) and None))
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        like = next(module.parameters(), torch.zeros(1))
        with torch.no_grad():
            output = module(torch.zeros(1, channels, *both_sides(image_size), dtype=like.dtype, device=like.device))
    finally:
        for handle in handles:
            handle.remove()
        for m, training in modes:
            m.training = training
    return list(order.items()), output


def set_input_channels(module: nn.Module, channels: int, image_size: ImageSides = WATCH_SIZE) -> None:
    """Replace the first convolution by a He-initialised one for images of ``channels`` channels.

    Args:
        module: the network, changed in place.
        channels: the new number of image channels.
        image_size: size of an image that it runs on.

    Raises:
        ModelError: the first convolution does not take RGB images, or has groups.
    """
    name, conv = _first_convolution(run_order(module, 3, image_size)[0])
    if conv.in_channels != 3 or conv.groups != 1:
        raise ModelError(
            f"the first convolution, {name!r}, reads {conv.in_channels} channels", f"it must read 3 to be changed to {channels}"
        )
    new = type(conv)(
        channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    module.set_submodule(name, new)


def shrink_stem(module: nn.Module, channels: int) -> str:
    """Reduce the downsampling in the stem of a network made for large images.

    If the first convolution has a stride, it is halved (2 becomes 1, ConvNeXt's 4 becomes 2), and a max-pool that follows within the stem
    (at most three convolutions later, none of them with a stride) is removed. Kernel sizes do not change, so pretrained weights still fit.
    The last maps of a ResNet then have 4x4 pixels for images of 32 pixels instead of 1x1.

    Returns:
        A description of the change; empty if the network has no such stem (VGG, the networks of this package).
    """
    order = run_order(module, channels, WATCH_SIZE)[0]
    name, conv = _first_convolution(order)
    stride = int(conv.stride[0])
    if stride < 2:
        return ""
    conv.stride = (stride // 2, stride // 2)
    if conv.kernel_size[0] == stride and conv.padding in (0, (0, 0)):  # adjacent patches now overlap, so they need padding
        conv.padding = (stride // 4, stride // 4)
    did = f"stride of {name} {stride} -> {stride // 2}"
    convolutions = 0
    for pool_name, layer in order:
        if isinstance(layer, nn.Conv2d):
            convolutions += 1
            if convolutions > 3 or max(layer.stride) > max(1, stride // 2):
                break
        elif isinstance(layer, nn.MaxPool2d):
            module.set_submodule(pool_name, nn.Identity())
            return f"{did}, max-pool {pool_name} dropped"
    return did


def find_classifier(module: nn.Module, channels: int, image_size: ImageSides) -> tuple[str, int]:
    """The name of the classifier (the layer that computes the logits) and its number of outputs.

    Raises:
        ModelError: the network does not run on such an image, or does not return logits ``(N, classes)`` from a linear layer or a
            convolution.
    """
    name, outputs = logits_layer(module, channels, image_size)
    if name is None:
        raise ModelError(
            f"no linear layer or convolution with {outputs} outputs was found at the end of the network", "the logits must come from one"
        )
    return name, outputs


def logits_layer(module: nn.Module, channels: int, image_size: ImageSides) -> tuple[str | None, int]:
    """The name of the layer that computes the logits, and the number of logits.

    The name is None if no linear layer or convolution computes them: prototypes with cosine similarity, ``F.linear`` with a parameter.

    Raises:
        ModelError: the network does not run on such an image, or does not return logits ``(N, classes)``.
    """
    try:
        order, output = run_order(module, channels, image_size)
    except Exception as error:  # user code may raise anything
        raise ModelError(
            f"the network does not run on a {describe_size(image_size)} image with {channels} channels: {first_line(error)}",
            "it must take a float tensor (N, channels, height, width)",
            "try a larger image size, or another network",
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[0] != 1:
        raise ModelError(
            f"the network returns {_described(output)} for one image", "it must return logits (N, classes), one tensor", _hint(output)
        )
    outputs = int(output.shape[1])
    last = next(((name, layer) for name, layer in reversed(order) if isinstance(layer, nn.Linear | nn.Conv2d)), None)
    return (last[0] if last is not None and _outputs(last[1]) == outputs else None), outputs


def replace_classifier(module: nn.Module, name: str, num_classes: int) -> nn.Module:
    """Replace the layer ``name`` by a new classifier with ``num_classes`` outputs; return the network, or the new layer if ``name`` is
    empty, that is, the network itself was the classifier.
    """
    old = module.get_submodule(name)
    new: nn.Module
    if isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)  # type: ignore[arg-type]
    elif isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    else:
        raise TypeError(f"{name!r} is a {type(old).__name__}")
    if not name:
        return new
    module.set_submodule(name, new)
    return module


def _outputs(layer: nn.Linear | nn.Conv2d) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _described(output: object) -> str:
    """The shape of an output, or of each output if there are several."""
    if isinstance(output, torch.Tensor):
        return str(tuple(output.shape))
    named = output if isinstance(output, Mapping) else getattr(output, "_asdict", dict)()
    parts = [f"{key} {_described(value)}" for key, value in named.items()]
    if not parts and isinstance(output, tuple | list):
        parts = [_described(value) for value in output]
    return f"a {type(output).__name__}" + (f" of {', '.join(parts)}" if parts else "")


def _hint(output: object) -> str:
    """Advice on how to turn an output into logits."""
    if isinstance(output, torch.Tensor):
        return "squeeze() drops the batch of one image: use flatten(1)" if output.ndim == 1 else "pool and flatten it, then a linear layer"
    return "let forward return the logits alone in eval mode, or wrap the network in one whose forward does"


def _first_convolution(order: list[tuple[str, nn.Module]]) -> tuple[str, nn.Conv2d]:
    for name, layer in order:
        if isinstance(layer, nn.Conv2d):
            return name, layer
    raise ModelError("the network has no convolution", "Planish works on convolutional networks")
