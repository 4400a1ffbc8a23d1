"""Shapes of the layers that can be factorized, and the sequences of smaller layers that replace them."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from planish.compression.factorization.factors import Method, Ranks, Shape, factorise, full_ranks, shapes
from planish.compression.reconstruction.layer_moments import Moments, watching
from planish.devices.layer_latency import ConvShape, Pair
from planish.errors import TechniqueError

# The index of the factor that carries the kernel, stride, padding and dilation of the height, and of the one for the width.
_CARRIERS: dict[Method, Pair] = {"svd": (0, 0), "lu": (0, 0), "spatial": (0, 1), "tucker": (1, 1), "cp": (1, 2)}


@dataclass(frozen=True)
class Form:
    """A factorization that does not depend on the width of the layer: each rank is ``share`` of the full rank."""

    method: Method
    share: float


def ranks_of(form: Form, shape: ConvShape) -> Ranks:
    """The ranks for a layer of that shape; multiples of 8 if the full rank is at least 32."""
    found = []
    for full in full_ranks(form.method, weight_shape(shape)):
        step = 8 if full >= 32 else 1
        found.append(min(full, max(1, round(full * form.share / step) * step)))
    return tuple(found)


def why_not(layer: nn.Module) -> str:
    """The reason why this convolution or linear layer cannot be factorized; empty if it can."""
    if type(layer) not in (nn.Conv2d, nn.Linear):
        return f"a {type(layer).__name__} computes its own way"
    if "weight" not in layer._parameters:
        return "its weight is computed"
    if isinstance(layer, nn.Conv2d):
        if layer.groups > 1:
            return "it is grouped, and so thin already"
        if layer.padding_mode != "zeros":
            return f"it pads with {layer.padding_mode}"
        if layer.padding == "same" and any(d * (k - 1) % 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)):
            return "it pads one side more than the other"
    return ""


def shape_of(layer: nn.Conv2d | nn.Linear) -> ConvShape:
    """The shape of a layer; a linear layer is treated as a 1x1 convolution."""
    if isinstance(layer, nn.Linear):
        return ConvShape(layer.in_features, layer.out_features)
    kernel, dilation = cast(Pair, layer.kernel_size), cast(Pair, layer.dilation)
    if isinstance(layer.padding, str):
        (kh, kw), (dh, dw) = kernel, dilation
        padding = (0, 0) if layer.padding == "valid" else (dh * (kh - 1) // 2, dw * (kw - 1) // 2)
    else:
        padding = cast(Pair, layer.padding)
    return ConvShape(layer.in_channels, layer.out_channels, kernel, cast(Pair, layer.stride), padding, dilation, layer.groups)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer that can be factorized, as ``(out, in, kh, kw)`` in float64 on the CPU."""
    weight = cast(Tensor, layer.weight).detach().double().cpu()
    return weight if weight.ndim == 4 else weight[:, :, None, None]


def weight_shape(shape: ConvShape) -> Shape:
    return (shape.out_channels, shape.in_channels // shape.groups, *shape.kernel)


def parameters(shape: ConvShape) -> int:
    """The number of weights of a layer without its bias."""
    out, inputs, kh, kw = weight_shape(shape)
    return out * inputs * kh * kw


def chain(shape: ConvShape, method: Method, ranks: Ranks) -> tuple[ConvShape, ...]:
    """The shapes of the layers that replace a layer of ``shape``."""
    row = []
    for place, (out, inputs, *kernel) in enumerate(shapes(method, ranks, weight_shape(shape))):
        is_depthwise = method == "cp" and place in (1, 2)
        walks = [carrier == place for carrier in _CARRIERS[method]]
        stride, padding, dilation = (
            cast(Pair, tuple(value if here else default for value, here in zip(values, walks, strict=True)))
            for values, default in ((shape.stride, 1), (shape.padding, 0), (shape.dilation, 1))
        )
        groups = out if is_depthwise else 1
        row.append(ConvShape(inputs * groups, out, cast(Pair, tuple(kernel)), stride, padding, dilation, groups))
    return tuple(row)


def replacement(layer: nn.Conv2d | nn.Linear, method: Method, ranks: Ranks, bias: bool) -> nn.Sequential:
    """Create the layers of ``chain``, to be filled by ``fill``; only the last may have a bias, so that intermediate padding stays zero."""
    options: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    row = chain(shape_of(layer), method, ranks)
    biases = [bias and place == len(row) - 1 for place in range(len(row))]
    if isinstance(layer, nn.Linear):
        return nn.Sequential(*(nn.Linear(s.in_channels, s.out_channels, b, **options) for s, b in zip(row, biases, strict=True)))
    return nn.Sequential(
        *(
            nn.Conv2d(s.in_channels, s.out_channels, s.kernel, s.stride, s.padding, s.dilation, s.groups, b, **options)
            for s, b in zip(row, biases, strict=True)
        )
    )


def fill(row: nn.Sequential, factors: list[Tensor], bias: Tensor | None) -> None:
    """Copy the factors into the layers, and the bias into the last one."""
    with torch.no_grad():
        for part, factor in zip(row, factors, strict=True):
            weight = cast(Tensor, part.weight)
            weight.copy_(factor.reshape(weight.shape))
        last = cast(Tensor | None, row[-1].bias)
        if last is not None:
            last.copy_(torch.zeros_like(last) if bias is None else bias)


def split(layer: nn.Module, method: Method, ranks: Ranks, seen: Moments | None) -> nn.Sequential:
    """Factorize a layer: for the least error of its outputs if their moments are given, of its weights otherwise."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    row = replacement(layer, method, ranks, layer.bias is not None or seen is not None)
    fill(row, factorise(method, weight_of(layer), ranks, *((seen.sensitivity, seen.covariance) if seen else ())), layer.bias)
    return row


@dataclass(frozen=True)
class Place:
    """The shape of a layer and the height and width of its input."""

    shape: ConvShape
    size: Pair


def find_layers(module: nn.Module, example: Tensor) -> tuple[dict[str, Place], dict[str, str]]:
    """Find the layers that run and can be factorized, and the reason why each other convolution and linear layer cannot.

    Args:
        module: the network, in eval mode.
        example: a normalised image ``(1, C, H, W)``.

    Raises:
        TechniqueError: no layer can be factorized.
    """
    layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    owners = Counter(id(m._parameters.get("weight")) for m in layers.values())
    whole = {n: why_not(m) or ("it shares its weight" if owners[id(m.weight)] > 1 else "") for n, m in layers.items()}
    found: dict[str, Place] = {}

    def see(name: str, given: Tensor, _: Tensor) -> None:
        size = (given.shape[2], given.shape[3]) if given.ndim == 4 and isinstance(layers[name], nn.Conv2d) else (1, given[..., 0].numel())
        found[name] = Place(shape_of(layers[name]), size)  # the last call counts if there are several

    with torch.no_grad(), watching({n: m for n, m in layers.items() if not whole[n]}, see):
        module(example)
    whole = {n: reason or "the network's code uses its weight without calling it" for n, reason in whole.items() if n not in found}
    if not found:
        raise TechniqueError(
            f"no layer of this network can be split: {'; '.join(f'{n}, {why}' for n, why in whole.items()) or 'it has none'}",
            "convolutions without groups and linear layers can",
            "prune channels or quantize instead",
        )
    return found, whole
