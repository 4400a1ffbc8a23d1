"""Replacement of pooling: the global pooling before the classifier, and downsampling within the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, fx, nn
from torch.nn import functional as F

from planish.artifact import Artifact, InputSpec
from planish.errors import TechniqueError
from planish.models.heads.stem_and_classifier import find_classifier
from planish.models.surgery.graph import changed, copied, drawing, functions_as_modules, output_shapes, replaced

if TYPE_CHECKING:
    from planish.task import Task

Final = Literal["average", "max", "gem", "attention", "pyramid"]
Inside = Literal["average", "max", "gem", "strided", "blur"]
_LEVELS = (1, 2, 4)  # sides of the grids of a spatial pyramid
_LEAST = 1e-6


class GeneralisedMean(nn.Module):
    """Generalised-mean pooling: ``mean(x^p)^(1/p)`` over the pixels of each window, with learned ``p`` (1 is the average, large values
    approach the maximum). Inputs are clamped to positive values.

    Radenovic et al. 2018, arXiv:1711.02512.

    Args:
        mean: the average pooling that defines the windows.
    """

    def __init__(self, mean: nn.Module) -> None:
        super().__init__()
        self.mean = mean
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        p = self.p.clamp(min=1)
        pooled: Tensor = self.mean(x.clamp(min=_LEAST).pow(p))
        return pooled.pow(1 / p).clone()  # pow needs its output for the gradient, and an in-place dropout may follow


class AttentionPool(nn.Module):
    """The mean over all pixels, weighted by the softmax of a learned 1x1 convolution; ``(N, C, 1, 1)``.

    Initially the plain average, as in Lin et al. 2014 (arXiv:1312.4400). The weighting is that of Ilse et al. 2018 (arXiv:1802.04712),
    without its hidden layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.score.weight)

    def forward(self, x: Tensor) -> Tensor:
        share = self.score(x).flatten(2).softmax(2)
        mean: Tensor = (x.flatten(2) * share).sum(2)
        return mean[:, :, None, None]


class GridMax(nn.Module):
    """Adaptive max pooling to ``(N, C, rows, columns)``, implemented so that it can be exported to ONNX for any output size."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.output_size = (rows, columns)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows = [
            torch.stack([x[..., top:foot, left:right].amax((2, 3)) for left, right in _cells(width, self.output_size[1])], -1)
            for top, foot in _cells(height, self.output_size[0])
        ]
        return torch.stack(rows, -2)


def _cells(size: int, count: int) -> list[tuple[int, int]]:
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


class SpatialPyramid(nn.Module):
    """Spatial pyramid pooling: maxima over grids of 1x1, 2x2 and 4x4 cells, concatenated to ``(N, 21 C, 1, 1)`` for any input size.

    He et al. 2014, arXiv:1406.4729.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grids = nn.ModuleList(GridMax(side, side) for side in _LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([grid(x).flatten(1) for grid in self.grids], 1)[:, :, None, None]


class BlurPool(nn.Module):
    """A strided 3x3 binomial filter: low-pass filtering before subsampling, against aliasing. Zhang 2019, arXiv:1904.11486."""

    def __init__(self, channels: int, stride: int | tuple[int, ...]) -> None:
        super().__init__()
        self.stride, self.channels = stride, channels
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filter", torch.outer(line, line).expand(channels, 1, 3, 3).clone())

    filter: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.filter, stride=self.stride, groups=self.channels)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Pooling:
    """Replaces the network's global (adaptive) pooling, which turns the last feature maps into one vector.

    ``average`` and ``max`` pool over all pixels; ``gem`` learns a mean between the two; ``attention`` learns the weight of each pixel;
    ``pyramid`` keeps coarse positions, takes any input size and returns a vector 21 times as long, so that the following linear layer is
    newly initialised.

    Args:
        kind: the new pooling.
        seed: seed of newly initialised weights.
    """

    kind: Final
    seed: int = 0

    name: ClassVar[str] = "pooling"
    reference: ClassVar[str] = "Radenovic et al. 2018, arXiv:1711.02512 (gem); He et al. 2014, arXiv:1406.4729 (pyramid)"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"pooling {self.kind}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Replace the global pooling.

        Raises:
            TechniqueError: the network has no such pooling, or the new pooling cannot provide the output size that the next layer needs.
        """
        spec = artifact.input_spec
        module = functions_as_modules(copied(artifact), _FUNCTIONS)
        # by the order in which they run: those of squeeze-and-excitation may be registered last
        found = [name for name in output_shapes(module, spec) if _is_final(module.get_submodule(name))]
        if not found:
            raise TechniqueError(
                f"{artifact.lineage.source.name} has no global pooling before its classifier",
                "this modification replaces adaptive average or maximum pooling, and the mean over height and width",
                "see downsampling for the poolings within a network",
            )
        name = found[-1]
        side = _side(module.get_submodule(name))
        if self.kind in ("attention", "pyramid") and side != 1:
            raise TechniqueError(
                f"{name} makes {side}x{side} values per channel", f"{self.kind} makes one vector of a whole map", "use average, max or gem"
            )
        channels = _channels_into(module, name, spec)
        structure = {"kind": self.kind, "at": name, "channels": channels, "next": "", "features": 0}
        notes = f"{name} is {self.kind}"
        if self.kind == "pyramid":
            structure |= {"next": _next_linear(module, spec), "features": channels * sum(side**2 for side in _LEVELS)}
            notes += f"; {structure['next']} starts afresh, as it reads {structure['features']} values"
        with drawing(self.seed):
            module = _pooled(module, structure)
        return changed(artifact, self, module, structure, notes)

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        return _pooled(functions_as_modules(module, _FUNCTIONS), structure)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Downsampling:
    """Replaces the downsampling within a network.

    ``average``, ``max``, ``gem`` (generalised mean) and ``strided`` (a strided convolution) replace pooling layers with a stride. ``blur``
    applies a low-pass filter before subsampling, in these layers and in strided convolutions.

    Args:
        kind: the downsampling method.
        seed: seed of newly initialised weights.
    """

    kind: Inside
    seed: int = 0

    name: ClassVar[str] = "downsampling"
    reference: ClassVar[str] = "Springenberg et al. 2015, arXiv:1412.6806 (strided); Zhang 2019, arXiv:1904.11486 (blur)"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"downsampling {self.kind}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Replace the downsampling layers.

        Raises:
            TechniqueError: the network has no such layer.
        """
        module = copied(artifact)
        shapes = output_shapes(module, artifact.input_spec)
        names = {m: name for name, m in module.named_modules()}
        at = {names[m]: shapes[names[m]][1] for m in names if _shrinks(m, self.kind) and names[m] in shapes}
        if not at:
            raise TechniqueError(
                f"{artifact.lineage.source.name} has no pooling with a stride",
                "that is what is replaced",
                "blur acts on strided convolutions as well",
            )
        structure = {"kind": self.kind, "at": at}
        with drawing(self.seed):
            module = _downsampled(module, structure)
        return changed(artifact, self, module, structure, f"{len(at)} places are {self.kind}")

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        return _downsampled(module, structure)


def _is_mean(node: fx.Node) -> bool:
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return node.target in ("mean", torch.mean) and isinstance(axes, list | tuple) and sorted(a % 4 for a in axes) == [2, 3]


def _pool_for_mean(node: fx.Node) -> nn.Module:
    keeps = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
    return nn.AdaptiveAvgPool2d(1) if keeps else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))


def _size_of(node: fx.Node) -> Any:
    return node.kwargs.get("output_size", node.args[1] if len(node.args) > 1 else 1)


_FUNCTIONS: Sequence[tuple[Callable[[fx.Node], bool], Callable[[fx.Node], nn.Module]]] = (
    (lambda n: n.target is F.adaptive_avg_pool2d, lambda n: nn.AdaptiveAvgPool2d(_size_of(n))),
    (lambda n: n.target is F.adaptive_max_pool2d, lambda n: nn.AdaptiveMaxPool2d(_size_of(n))),
    (_is_mean, _pool_for_mean),
)


def _is_final(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | GridMax | GeneralisedMean | AttentionPool) or (
        type(module).__name__ in ("FastAdaptiveAvgPool",)
    )


def _side(pool: nn.Module) -> int:
    size = getattr(pool, "output_size", 1)
    sides = {size} if isinstance(size, int) else set(size)
    return int(sides.pop()) if len(sides) == 1 else 0


def _channels_into(module: nn.Module, name: str, spec: InputSpec) -> int:
    seen: list[int] = []
    hook = module.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    try:
        output_shapes(module, spec)
    finally:
        hook.remove()
    if not seen:
        raise TechniqueError(f"{name} does not run", "the pooling must be part of forward")
    return seen[-1]


def _next_linear(module: nn.Module, spec: InputSpec) -> str:
    """Name of the classifier, which takes the pooled vector and must be a linear layer."""
    name = find_classifier(module, spec.channels, (spec.height, spec.width))[0]
    if not isinstance(module.get_submodule(name), nn.Linear):
        raise TechniqueError(f"{name} behind the pooling is no linear layer", "a longer vector needs one that starts afresh")
    return name


def _pooled(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
    kind, name = structure["kind"], structure["at"]
    old = module.get_submodule(name)
    size = getattr(old, "output_size", 1)
    flattens = type(old).__name__ == "FastAdaptiveAvgPool" and bool(getattr(old, "flatten", False))
    new: nn.Module
    match kind:
        case "average":
            new = nn.AdaptiveAvgPool2d(size)
        case "max":
            new = GridMax(*(size if isinstance(size, tuple | list) else (size, size)))
        case "gem":
            new = GeneralisedMean(nn.AdaptiveAvgPool2d(size))
        case "attention":
            new = AttentionPool(structure["channels"])
        case _:
            new = SpatialPyramid()
    module.set_submodule(name, nn.Sequential(new, nn.Flatten(1)) if flattens else new)
    if structure["next"]:
        linear = module.get_submodule(structure["next"])
        module.set_submodule(
            structure["next"],
            nn.Linear(structure["features"], linear.out_features, bias=linear.bias is not None),  # type: ignore[arg-type]
        )
    return module


def _shrinks(module: nn.Module, kind: Inside) -> bool:
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return _largest(module.stride) > 1
    return kind == "blur" and isinstance(module, nn.Conv2d) and _largest(module.stride) > 1 and _largest(module.kernel_size) > 1


def _downsampled(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
    at: Mapping[str, int] = structure["at"]
    names = {m: name for name, m in module.named_modules() if name in at}
    replaced(module, lambda m: m in names, lambda m: _smaller(m, structure["kind"], at[names[m]]))
    return module


def _smaller(old: nn.Module, kind: Inside, channels: int) -> nn.Module:
    if isinstance(old, nn.Conv2d):
        blur, old.stride = BlurPool(channels, old.stride), (1, 1)
        return nn.Sequential(old, blur)
    assert isinstance(old, nn.MaxPool2d | nn.AvgPool2d)
    kernel, stride, padding = old.kernel_size, old.stride, old.padding
    match kind:
        case "average":
            return nn.AvgPool2d(kernel, stride, padding, ceil_mode=old.ceil_mode)
        case "max":
            return nn.MaxPool2d(kernel, stride, padding, ceil_mode=old.ceil_mode)
        case "gem":
            return GeneralisedMean(nn.AvgPool2d(kernel, stride, padding, ceil_mode=old.ceil_mode))
        case "strided":
            return nn.Conv2d(channels, channels, kernel, stride, padding)
        case _:
            dense = nn.MaxPool2d if isinstance(old, nn.MaxPool2d) else nn.AvgPool2d
            return nn.Sequential(dense(kernel, 1, padding), BlurPool(channels, stride))


def _largest(value: Any) -> int:
    return int(max(value)) if isinstance(value, tuple | list) else int(value)
