"""What may stand in for a block of a network. Each kind is a function in ``KINDS``; others may be added to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from planish.compression.graph import structure as structures
from planish.compression.graph.submodules import replace_submodule
from planish.compression.replacement.places import BlockPlace
from planish.errors import TechniqueError

Structure = Mapping[str, Any]  # JSON values with which a kind is made again from a freshly built block; empty for most
Kind = Callable[[nn.Module, BlockPlace, Structure | None], tuple[nn.Module, Structure] | None]

_KEPT = 0.5  # of the channels inside a block
_SOFT = (nn.Hardswish, nn.SiLU, nn.GELU, nn.Mish)  # activations without an integer kernel


class NewBlock(nn.Module):
    """A branch that ends with batch norm, with a shortcut if shapes allow, and a ReLU if the replaced block ends with one.

    Args:
        branch: the layers.
        place: where the block stands.
    """

    def __init__(self, branch: nn.Sequential, place: BlockPlace) -> None:
        super().__init__()
        self.branch, self.has_shortcut = branch, place.keeps_shape
        self.activation = nn.ReLU() if place.is_positive else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the shape of the replaced block's outputs."""
        out = self.branch(x)
        return self.activation(out + x if self.has_shortcut else out)  # type: ignore[no-any-return]


def identity(block: nn.Module, place: BlockPlace, structure: Structure | None) -> tuple[nn.Module, Structure] | None:
    """Nothing: the input goes on."""
    return (nn.Identity(), {}) if place.keeps_shape and not isinstance(block, nn.Conv2d) else None


def pointwise(block: nn.Module, place: BlockPlace, structure: Structure | None) -> tuple[nn.Module, Structure] | None:
    """A 1x1 convolution."""
    stride = place.stride
    if stride is None:
        return None
    branch = nn.Sequential(nn.Conv2d(place.given[0], place.made[0], 1, stride, bias=False), nn.BatchNorm2d(place.made[0]))
    return NewBlock(branch, place), {}


def separable(block: nn.Module, place: BlockPlace, structure: Structure | None) -> tuple[nn.Module, Structure] | None:
    """A 3x3 convolution of each channel, then a 1x1 convolution (Howard et al. 2017, MobileNets, arXiv:1704.04861)."""
    stride = place.stride
    if stride is None:
        return None
    width, made = place.given[0], place.made[0]
    branch = nn.Sequential(
        nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, made, 1, bias=False), nn.BatchNorm2d(made),
    )  # fmt: skip
    return NewBlock(branch, place), {}


def plain(block: nn.Module, place: BlockPlace, structure: Structure | None) -> tuple[nn.Module, Structure] | None:
    """One 3x3 convolution."""
    stride = place.stride
    if stride is None or isinstance(block, nn.Conv2d):
        return None
    branch = nn.Sequential(nn.Conv2d(place.given[0], place.made[0], 3, stride, 1, bias=False), nn.BatchNorm2d(place.made[0]))
    return NewBlock(branch, place), {}


def narrow(block: nn.Module, place: BlockPlace, structure: Structure | None) -> tuple[nn.Module, Structure] | None:
    """The block itself with half of the channels inside, those of the largest weights."""
    block = copy.deepcopy(block)
    if structure is not None:
        return structures.rebuild(block, structure), structure
    graph = structures.trace(block, torch.randn(1, *place.given, generator=torch.Generator().manual_seed(0)))
    tensors = dict(block.named_parameters())
    gone: list[int] = []
    for group in graph.groups:
        norms = dict.fromkeys(group.units, 0.0)
        for name, dim in group.dims:
            if dim == 0 and name in tensors and tensors[name].dim() == 4:
                sizes = tensors[name].detach().flatten(1).norm(dim=1)
                for unit in norms:
                    norms[unit] += float(sizes[torch.from_numpy(graph.classes[name, dim] == unit)].sum())
        kept = max(1, round(_KEPT * len(norms) * group.channels / 8) * 8 // group.channels)
        gone += sorted(norms, key=norms.__getitem__)[: max(0, len(norms) - kept)]
    if not gone:
        return None
    pruned = structures.prune(block, graph, gone)
    return pruned, structures.structure_of(block, pruned, graph, gone)


def small_kernels(block: nn.Module, place: BlockPlace, structure: Structure | None) -> tuple[nn.Module, Structure] | None:
    """The block itself with the centres of its larger kernels, 3x3."""
    block = copy.deepcopy(block)
    large = [(name, part) for name, part in block.named_modules() if type(part) is nn.Conv2d and _is_large(part)]
    for name, part in large:
        (down, across), (dilation_down, dilation_across) = ((kernel - min(3, kernel)) // 2 for kernel in part.kernel_size), part.dilation
        padding = [int(side) for side in part.padding]
        smaller = nn.Conv2d(
            part.in_channels,
            part.out_channels,
            (min(3, part.kernel_size[0]), min(3, part.kernel_size[1])),
            (part.stride[0], part.stride[1]),
            (padding[0] - dilation_down * down, padding[1] - dilation_across * across),
            (dilation_down, dilation_across),
            part.groups,
            part.bias is not None,
        )
        kept = slice(down, down + smaller.kernel_size[0]), slice(across, across + smaller.kernel_size[1])
        with torch.no_grad():
            smaller.weight.copy_(part.weight[:, :, kept[0], kept[1]])
            if part.bias is not None and smaller.bias is not None:
                smaller.bias.copy_(part.bias)
        block = _with(block, name, smaller)
    return (block, {}) if large else None


def _is_large(layer: nn.Conv2d) -> bool:
    """Whether the kernel is larger than 3 and its padding allows to take the centre."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros" or max(layer.kernel_size) <= 3:
        return False
    sides = zip(layer.kernel_size, layer.padding, layer.dilation, strict=True)
    return all(kernel % 2 == 1 and padding >= d * (kernel - min(3, kernel)) // 2 for kernel, padding, d in sides)


def without_attention(block: nn.Module, place: BlockPlace, structure: Structure | None) -> tuple[nn.Module, Structure] | None:
    """The block itself without squeeze-and-excitation."""
    block = copy.deepcopy(block).eval()
    names = list(structure["attention"]) if structure is not None else _attentions(block, place)
    for name in names:
        block = _with(block, name, nn.Identity())
    return (block, {"attention": names}) if names else None


@torch.no_grad()
def _attentions(block: nn.Module, place: BlockPlace) -> list[str]:
    """The submodules that only scale the channels of their input by what they compute from its means."""
    inside: dict[str, int] = {}
    found: list[str] = []

    def see(name: str, part: nn.Module) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            if isinstance(part, nn.Conv2d | nn.Linear):
                inside[name] = args[0].shape[-1] * args[0].shape[-2] if isinstance(part, nn.Conv2d) else 1
            elif name and any(part.children()) and isinstance(output, Tensor) and isinstance(args[0], Tensor):
                layers = [size for layer, size in inside.items() if layer.startswith(f"{name}.")]
                is_scaled = args[0].dim() == 4 and args[0].shape == output.shape and args[0].shape[2:] != (1, 1)
                if is_scaled and len(layers) > 1 and set(layers) == {1}:
                    found.append(name)

        return hook

    handles = [part.register_forward_hook(see(name, part)) for name, part in block.named_modules()]
    try:
        block(torch.randn(1, *place.given, generator=torch.Generator().manual_seed(0)))
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in found if not any(name.startswith(f"{outer}.") for outer in found)]


def relu(block: nn.Module, place: BlockPlace, structure: Structure | None) -> tuple[nn.Module, Structure] | None:
    """The block itself with ReLU in place of activations without an integer kernel."""
    block = copy.deepcopy(block)
    soft = [name for name, part in block.named_modules() if isinstance(part, _SOFT)]
    for name in soft:
        block = _with(block, name, nn.ReLU())
    return (block, {}) if soft else None


def _with(block: nn.Module, name: str, new: nn.Module) -> nn.Module:
    if not name:
        return new
    replace_submodule(block, name, new)
    return block


KINDS: dict[str, Kind] = {
    "identity": identity,
    "pointwise": pointwise,
    "separable": separable,
    "plain": plain,
    "narrow": narrow,
    "small_kernels": small_kernels,
    "without_attention": without_attention,
    "relu": relu,
}


def made(kind: str, block: nn.Module, place: BlockPlace, structure: Structure | None = None) -> tuple[nn.Module, Structure] | None:
    """The replacement of a kind for a block, which is not changed; None if it cannot stand there.

    Args:
        kind: a key of ``KINDS``.
        block: the block that it replaces.
        place: where the block stands.
        structure: what was returned beside the replacement when it was made first, to make it again from a freshly built block; None to
            decide it from the block's weights.

    Raises:
        TechniqueError: there is no such kind.
    """
    if kind not in KINDS:
        raise TechniqueError(f"no replacement is called {kind!r}", f"there are {', '.join(KINDS)}")
    return KINDS[kind](block, place, structure)
