"""The blocks of a network that another block can stand in for: regions with one feature map in and one out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn

Shape = tuple[int, int, int]

_MOST_CONVOLUTIONS = 12  # in one block; a region with more is searched for smaller ones


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class BlockPlace:
    """Where a block stands.

    Args:
        name: name of the module.
        given: channels, height and width of its input.
        made: the same of its output.
        is_positive: whether its output is never negative, as behind a ReLU.
    """

    name: str
    given: Shape
    made: Shape
    is_positive: bool

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have the same shape."""
        return self.given == self.made

    @property
    def stride(self) -> int | None:
        """The stride of a padded convolution of odd kernel between input and output; None if there is none."""
        stride = max(1, round(self.given[1] / self.made[1]))
        sides = zip(self.given[1:], self.made[1:], strict=True)
        return stride if all((before - 1) // stride + 1 == after for before, after in sides) else None


@dataclass(frozen=True)
class _BlockCall:
    """One call of a module; the shapes are None if it does not map one feature map to another."""

    shapes: tuple[Shape, Shape] | None
    is_positive: bool


@torch.no_grad()
def find_places(module: nn.Module, images: Tensor) -> list[BlockPlace]:
    """The places of a network, in the order of its modules; none contains another.

    Residual blocks, inverted residuals, convolutions with their norm and activation, and single convolutions of larger kernel are found,
    however the network is written. A block that runs more than once, or takes more than one tensor, is searched for smaller ones.

    Args:
        module: the network, in eval mode; not changed.
        images: normalised images ``(N, C, H, W)``.
    """
    seen: dict[str, list[_BlockCall]] = {}

    def see(name: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            is_map = len(args) == 1 and not kwargs and all(isinstance(x, Tensor) and x.dim() == 4 for x in (*args, output))
            shapes = (tuple(args[0].shape[1:]), tuple(output.shape[1:])) if is_map else None
            seen.setdefault(name, []).append(_BlockCall(shapes, is_map and bool(output.min() >= 0)))

        return hook

    handles = [part.register_forward_hook(see(name), with_kwargs=True) for name, part in module.named_modules()]
    try:
        module(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(_places(module, "", seen))


def _places(module: nn.Module, name: str, seen: dict[str, list[_BlockCall]]) -> Iterator[BlockPlace]:
    calls = seen.get(name, [])
    count = _convolutions(module, name, seen)
    shapes = calls[0].shapes if name and len(calls) == 1 else None
    if shapes is not None and 0 < count <= _MOST_CONVOLUTIONS and not _has_parts(module, name, seen) and _is_worth_it(module):
        yield BlockPlace(name, *shapes, calls[0].is_positive)
    elif count:
        for key, child in module.named_children():
            yield from _places(child, f"{name}.{key}" if name else key, seen)


def _convolutions(module: nn.Module, name: str, seen: dict[str, list[_BlockCall]]) -> int:
    """The number of convolutions in a module that run on maps of more than one pixel; others are part of an attention."""
    count = 0
    for key, part in module.named_modules():
        calls = seen.get(".".join(filter(None, (name, key))), []) if isinstance(part, nn.Conv2d) else []
        count += any(call.shapes is not None and call.shapes[0][1:] != (1, 1) for call in calls)
    return count


def _has_parts(module: nn.Module, name: str, seen: dict[str, list[_BlockCall]]) -> bool:
    """Whether a module is a sequence of blocks, or has code of its own around blocks, rather than a block itself."""
    counts = []
    for key, child in module.named_children():
        count = _convolutions(child, f"{name}.{key}", seen)
        has_code = type(child).forward is not nn.Sequential.forward and any(child.children())
        counts.append((count, has_code))
    is_sequence = type(module).forward is nn.Sequential.forward
    if is_sequence:
        return sum(count > 0 for count, _ in counts) > 1 or any(count > 0 and has_code for count, has_code in counts)
    return any(count > 1 and has_code for count, has_code in counts)


def _is_worth_it(module: nn.Module) -> bool:
    """Whether there is anything to gain: a pointwise convolution alone is as cheap as what could stand in for it."""
    return not isinstance(module, nn.Conv2d) or max(module.kernel_size) > 1
