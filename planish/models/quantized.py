"""Quantization inside a PyTorch network: two operators that exporters write as Q/DQ nodes, and the modules that use them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

LAYERS = (nn.Conv2d, nn.Linear)
_WHOLE_BYTES = (8, 7)  # bit widths that are stored as one value per byte
SMALLEST = 1e-8  # a scale must stay above 0


@torch.library.custom_op("planish::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """Quantize and dequantize, as ONNX's ``QuantizeLinear`` followed by ``DequantizeLinear``.

    Gradients are those of learned step sizes: a straight-through estimator for ``x`` inside the range; equation 3 of Esser et al. 2020
    (arXiv:1902.08153) for the scale; Bhalgat et al. 2020 (arXiv:2004.09576) for the zero point.

    Args:
        x: tensor of any shape.
        scale: above 0; a scalar, or one value for each index of the first axis.
        zero_point: integers between ``low`` and ``high`` as floats, in the shape of ``scale``.
        low: smallest integer of the grid.
        high: largest integer of the grid.
    """
    scale, zero_point = _along_first(scale, x), _along_first(zero_point, x)
    return torch.clamp(x.div(scale).round_(), low - zero_point, high - zero_point).mul_(scale)


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    return torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, zero_point, ctx.low, ctx.high = inputs
    ctx.save_for_backward(x, scale, zero_point)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, zero_point = ctx.saved_tensors
    s, z = _along_first(scale, x), _along_first(zero_point, x)
    v = x / s
    q = torch.clamp(v.round(), ctx.low - z, ctx.high - z)
    inside = (v >= ctx.low - z) & (v <= ctx.high - z)
    grad_x = torch.where(inside, grad, 0)
    grad_scale = grad_zero = None
    if any(ctx.needs_input_grad[1:3]):
        axes = list(range(scale.ndim, x.ndim))
        grad_scale = (grad * torch.where(inside, q - v, q)).sum(axes)
        grad_zero = -(grad * s).masked_fill(inside, 0).sum(axes)
    return grad_x, grad_scale, grad_zero, None, None


fake_quantize.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("planish::dequantize", mutates_args=())
def dequantize(q: Tensor, scale: Tensor) -> Tensor:
    """Return ``q * scale`` in float32, for int8 ``q`` and one scale for each index of the first axis."""
    return q.float() * _along_first(scale, q)


@dequantize.register_fake
def _(q: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


for _device in ("cpu", "cuda"):  # bfloat16 cannot represent a grid of 256 steps
    fake_quantize.register_autocast(_device, torch.float32)


def _along_first(value: Tensor, like: Tensor) -> Tensor:
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (like.ndim - 1))


class ActivationQuantizer(nn.Module):
    """Fake quantization of one activation tensor to unsigned 8 bits.

    Args:
        rectified: whether the preceding ReLU was removed; the grid then begins at 0 and clips as the ReLU did.
        limit: upper limit of the removed activation, such as 6 for ReLU6.
    """

    def __init__(self, rectified: bool = False, limit: float = math.inf) -> None:
        super().__init__()
        self.rectified, self.limit = rectified, limit
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0.0))
        self.learned: LearnedGrid | None = None

    scale: Tensor
    zero_point: Tensor

    def forward(self, x: Tensor) -> Tensor:
        scale, zero_point = (self.scale, self.zero_point) if self.learned is None else self.learned()
        return cast(Tensor, fake_quantize(x, scale, zero_point, 0, 255))

    def set_range(self, lowest: float, highest: float) -> None:
        """Set scale and zero point from an observed range, extended to include 0 so that zero padding is exact."""
        lowest, highest = min(0.0, lowest), max(0.0, highest)
        scale = max((highest - lowest) / 255, SMALLEST)
        self.scale.fill_(scale)
        self.zero_point.fill_(round(-lowest / scale))

    def learn(self) -> None:
        """Make scale and zero point trainable."""
        self.learned = LearnedGrid(self.scale, None if self.rectified else self.zero_point, self.limit / 255)

    def settle(self) -> None:
        """Store the learned scale and zero point as buffers, and end their training."""
        if self.learned is not None:
            self.scale, self.zero_point = (value.detach().clone() for value in self.learned())
            self.learned = None


class LearnedGrid(nn.Module):
    """Trainable scale and zero point of activations, parametrized so that one learning rate suits both (Jain et al. 2020,
    arXiv:1903.08066): the logarithm of the scale, and the zero point as a share of the grid.

    Args:
        scale: initial scale.
        zero_point: initial zero point; None to keep it at 0.
        largest: maximum scale.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor | None, largest: float) -> None:
        super().__init__()
        self.largest = largest
        self.log_scale = nn.Parameter(scale.log())
        self.zero_share = None if zero_point is None else nn.Parameter(zero_point / 255)

    def forward(self) -> tuple[Tensor, Tensor]:
        scale = _passing(self.log_scale.exp(), lambda scale: scale.clamp(max=self.largest))
        if self.zero_share is None:
            return scale, torch.zeros_like(scale)
        return scale, _passing(255 * self.zero_share, torch.round).clamp(0, 255)


def _passing(exact: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``change(exact)`` with the gradient of ``exact`` (straight-through estimator)."""
    return exact + (change(exact) - exact).detach()


class LearnedScale(nn.Module):
    """Parametrization of a weight during training: fake quantization with one learned scale per output channel.

    Args:
        scale: initial scales ``(output channels,)``.
        low: smallest integer.
        high: largest integer; -1 and 1 give ternary weights.
    """

    def __init__(self, scale: Tensor, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.log_scale = nn.Parameter(scale.log())
        self.register_buffer("least", torch.full_like(scale, SMALLEST))

    least: Tensor

    def scale(self) -> Tensor:
        return torch.maximum(self.log_scale.exp(), self.least)

    def forward(self, weight: Tensor) -> Tensor:
        scale = self.scale()
        return cast(Tensor, fake_quantize(weight, scale, torch.zeros_like(scale), self.low, self.high))


class PackedWeight(nn.Module):
    """Parametrization of a weight that is stored as integers, several per byte for 4, 2 and 1 bits.

    Args:
        bits: 8, 7, 4, 2 or 1; see ``pack``.
        shape: shape of the weight.
    """

    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bits, self.shape = bits, shape
        self.register_buffer("scale", torch.ones(shape[0]))

    scale: Tensor

    def forward(self, packed: Tensor) -> Tensor:
        return cast(Tensor, dequantize(unpack(packed, self.bits, self.shape), self.scale))


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack integers into as few bytes as possible.

    Args:
        values: int8, from ``-2 ** (bits - 1)`` to ``2 ** (bits - 1) - 1``; for one bit -1 and 1.
        bits: 8, 7, 4, 2 or 1.

    Returns:
        The unchanged int8 values for 8 and 7 bits, otherwise uint8 ``(bytes,)``, with the first value in the lowest bits.

    Raises:
        ValueError: a value is out of range.
    """
    if bits in _WHOLE_BYTES:
        return values.to(torch.int8)
    low = bounds(bits)[0]
    codes = (values.flatten().int() - low).div(2 if bits == 1 else 1, rounding_mode="floor")
    if not bool(((codes >= 0) & (codes < 2**bits)).all()):
        raise ValueError(f"the values {int(values.min())} to {int(values.max())} do not fit into {bits} bits")
    each = 8 // bits
    codes = nn.functional.pad(codes, (0, -len(codes) % each)).reshape(-1, each)
    return (codes << _shifts(bits, codes.device)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Reverse ``pack``: int8 values of the given shape."""
    if bits in _WHOLE_BYTES:
        return packed
    codes = (packed[:, None] >> _shifts(bits, packed.device).to(torch.uint8)) & (2**bits - 1)
    codes = codes.flatten()[: math.prod(shape)].reshape(shape).to(torch.int8)
    levels: Tensor = 2 * codes - 1 if bits == 1 else codes + bounds(bits)[0]
    return levels


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, bits, device=device)


def bounds(bits: int) -> tuple[int, int]:
    """The smallest and largest signed integer of ``bits`` bits."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def best_scale(weight: Tensor, bits: int) -> Tensor:
    """The scale of each output channel that minimises the squared error of rounding to nearest, found by grid search."""
    flat = weight.detach().flatten(1)
    largest = flat.abs().amax(1).clamp(min=SMALLEST) / (2 ** (bits - 1) - 0.5)
    best: Tensor = largest
    least = torch.full_like(largest, math.inf)
    for share in torch.linspace(1.2, 0.2, 26).tolist():
        scale = (share * largest).clamp(min=SMALLEST)
        error = (integers(flat, scale, bits) * scale[:, None] - flat).square().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def integers(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The weight divided by ``scale`` and rounded to the nearest integers of ``bits`` bits, as floats."""
    return (weight / _along_first(scale, weight)).round().clamp(*bounds(bits))


def store_integers(layer: nn.Module, values: Tensor, scale: Tensor, bits: int) -> None:
    """Replace the weight of a layer by packed integers with a scale per output channel; an existing parametrization is replaced.

    Args:
        layer: convolution or linear layer, changed in place.
        values: integers in the shape of the weight, in the range that ``pack`` takes.
        scale: scales ``(output channels,)``.
        bits: 8, 7, 4, 2 or 1; see ``pack``.
    """
    stored, packed = PackedWeight(bits, tuple(values.shape)), pack(values.detach().to(torch.int8), bits)
    stored.scale = scale.detach().clone()
    if parametrize.is_parametrized(layer, "weight"):
        # changed, not removed and registered again: copies of a layer share the class from which torch would delete the property "weight"
        weight: Any = layer.parametrizations.weight  # type: ignore[union-attr]
        del weight.original
        weight.register_buffer("original", packed)
        weight[0] = stored
    else:
        del layer.weight
        layer.register_buffer("weight", packed)
        parametrize.register_parametrization(layer, "weight", stored, unsafe=True)


def packed_weight(layer: nn.Module) -> PackedWeight | None:
    """The layer's ``PackedWeight`` parametrization; None if its weight is not stored as integers."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    found = layer.parametrizations.weight[0]  # type: ignore[union-attr, index]
    return found if isinstance(found, PackedWeight) else None


def widen(module: nn.Module) -> None:
    """Store all integer weights with 8 bits, the only width that all export formats support; changed in place."""
    for layer in module.modules():
        if isinstance(layer, LAYERS) and (stored := packed_weight(layer)) is not None and stored.bits < 8:
            weight: Any = layer.parametrizations.weight  # type: ignore[union-attr]
            store_integers(layer, unpack(weight.original, stored.bits, stored.shape), stored.scale, 8)
