"""Replacement of convolution kernels: larger, smaller, or factorised into cheaper ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from planish.artifact import Artifact
from planish.errors import TechniqueError
from planish.models.surgery.graph import changed, copied, drawing, replaced

if TYPE_CHECKING:
    from planish.task import Task

Form = Literal["full", "spatial", "separable", "stacked"]
Size = Literal[1, 3, 5, 7]
Pair = tuple[int, int]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Kernels:
    """Changes the size of square kernels larger than 1x1, or factorises them into smaller ones. Feature maps keep their size: convolutions
    whose padding is too small for that are left unchanged.

    A larger kernel starts as the old one padded with zeros, a smaller one as the centre of the old one. Factorised kernels are newly
    initialised: ``spatial`` is a k x 1 and a 1 x k convolution, ``separable`` a depthwise and a 1x1 convolution, ``stacked`` two 3x3
    convolutions in place of 5x5 or three in place of 7x7, with batch norm and ReLU between them.

    Fewer MACs do not always lower the latency: a depthwise convolution is memory-bound. Measure it.

    Args:
        size: kernel size in pixels; None to keep the sizes.
        form: how the kernels are factorised; ``full`` for not at all.
        seed: seed of newly initialised weights.

    Example:
        >>> print(Kernels(size=5, form="stacked"))
        kernels 5x5, stacked
    """

    size: Size | None = None
    form: Form = "full"
    seed: int = 0

    name: ClassVar[str] = "kernels"
    reference: ClassVar[str] = (
        "Simonyan and Zisserman 2015, arXiv:1409.1556 (stacked); Szegedy et al. 2016, arXiv:1512.00567 (spatial); Howard et al. 2017, "
        "arXiv:1704.04861 (separable)"
    )
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        words = [f"{self.size}x{self.size}"] * (self.size is not None) + [self.form] * (self.form != "full")
        return f"kernels {', '.join(words) or 'as they are'}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Replace the convolutions.

        Raises:
            TechniqueError: no convolution can be replaced.
        """
        module, name = copied(artifact), artifact.lineage.source.name
        before = {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d) and _side(m) > 1}
        structure = {"size": self.size, "form": self.form}
        with drawing(self.seed):
            count = _swap(module, self.size, self.form)
        if not count:
            raise TechniqueError(
                f"{name} has no convolution that {self} changes",
                "kernels are square, larger than one pixel, and larger than 3x3 to be stacked; separable ones are not made so again; the "
                "padding must be large enough for feature maps to keep their size",
            )
        with torch.no_grad():
            for layer_name, old in before.items():
                layer = module.get_submodule(layer_name)
                if isinstance(layer, nn.Conv2d) and layer is not old:
                    layer.weight.copy_(_centred(old.weight, layer.kernel_size[0]))
                    if layer.bias is not None and old.bias is not None:
                        layer.bias.copy_(old.bias)
        return changed(artifact, self, module, structure, f"{count} convolutions")

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        _swap(module, structure["size"], structure["form"])
        return module


def _side(module: nn.Module) -> int:
    """Kernel size of a convolution with an odd square kernel and numeric padding; 0 for other modules, and for subclasses, which may pad
    by themselves.
    """
    if type(module) is not nn.Conv2d or isinstance(module.padding, str) or module.kernel_size[0] != module.kernel_size[1]:
        return 0
    return module.kernel_size[0] if module.kernel_size[0] % 2 else 0


def _swap(module: nn.Module, size: int | None, form: Form) -> int:
    count = 0 if size is None else replaced(module, lambda m: _can_have(m, size), lambda m: _sized(m, size))
    return count + (replaced(module, lambda m: _fits(m, form), lambda m: _made_of(m, form)) if form != "full" else 0)


def _can_have(module: Any, size: int) -> bool:
    """Whether the convolution has another kernel size, and padding from which the difference can be taken."""
    return _side(module) > 1 and _side(module) != size and min(_padding(module, size)) >= 0


def _fits(module: Any, form: Form) -> bool:
    if form == "separable" and getattr(module, "groups", 0) != 1:
        return False
    return _side(module) > (3 if form == "stacked" else 1) and (form != "stacked" or min(_stacked_paddings(module)[0]) >= 0)


def _padding(conv: Any, size: int) -> Pair:
    """The padding that keeps the output size with another kernel size; negative if the padding is less than the difference."""
    height, width = (p + d * (size - k) // 2 for p, d, k in zip(conv.padding, conv.dilation, conv.kernel_size, strict=True))
    return height, width


def _stacked_paddings(conv: Any) -> list[Pair]:
    """The paddings of the 3x3 convolutions that keep the output size together; negative in the first if that is not possible.

    Only the first has a stride. With a stride of 1, a small padding is taken up by the last ones first.
    """
    count = (_side(conv) - 1) // 2
    sides = []
    for padding, dilation, stride in zip(conv.padding, conv.dilation, conv.stride, strict=True):
        later: list[int] = []
        for _ in range(count - 1):
            later.append(dilation if stride > 1 else min(dilation, padding - sum(later)))
        sides.append([padding - sum(later), *later])
    return list(zip(*sides, strict=True))


def _sized(conv: Any, size: int) -> nn.Conv2d:
    """The convolution with another kernel size, and padding that keeps the output size."""
    bias = conv.bias is not None
    return _like(conv, conv.in_channels, conv.out_channels, (size, size), conv.stride, _padding(conv, size), conv.groups, bias)


def _like(conv: Any, reads: int, makes: int, kernel: Pair, stride: Pair, padding: Pair, groups: int, bias: bool) -> nn.Conv2d:
    new = nn.Conv2d(reads, makes, kernel, stride, padding, conv.dilation, groups, bias, conv.padding_mode)
    nn.init.kaiming_normal_(new.weight, nonlinearity="relu")
    return new


def _made_of(conv: Any, form: Form) -> nn.Module:
    k, stride, padding = _side(conv), conv.stride, conv.padding
    reads, makes, groups, bias = conv.in_channels, conv.out_channels, conv.groups, conv.bias is not None
    if form == "spatial":
        column = _like(conv, reads, makes, (k, 1), (stride[0], 1), (padding[0], 0), groups, False)
        return nn.Sequential(column, _like(conv, makes, makes, (1, k), (1, stride[1]), (0, padding[1]), groups, bias))
    if form == "separable":
        depthwise = _like(conv, reads, reads, (k, k), stride, padding, reads, False)
        across = nn.Conv2d(reads, makes, 1, bias=bias)
        nn.init.kaiming_normal_(across.weight, nonlinearity="relu")
        return nn.Sequential(depthwise, across)
    paddings = _stacked_paddings(conv)
    layers: list[nn.Module] = [_like(conv, reads, makes, (3, 3), stride, paddings[0], groups, False)]
    for number, each in enumerate(paddings[1:], 2):
        layers += [nn.BatchNorm2d(makes), nn.ReLU()]
        layers.append(_like(conv, makes, makes, (3, 3), (1, 1), each, groups, bias and number == len(paddings)))
    return nn.Sequential(*layers)


def _centred(old: Tensor, size: int) -> Tensor:
    """The kernel zero-padded or cropped to ``size``, about its centre."""
    margin = (size - old.shape[-1]) // 2
    return nn.functional.pad(old, (margin, margin, margin, margin))
