"""Changing the depth of a network: the number of blocks in its stages."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from planish.artifact import Artifact
from planish.errors import TechniqueError
from planish.models.surgery.graph import changed, copied, output_shapes

if TYPE_CHECKING:
    from planish.task import Task

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@plain_dataclass
class _Stage:
    """Consecutive blocks within one ``nn.Sequential``.

    Args:
        chain: name of the ``nn.Sequential``.
        first: index of the first layer of the first block.
        blocks: number of layers of each block, in order.
        alike: number of identical blocks at the end, which may be repeated or removed.
    """

    chain: str
    first: int
    blocks: list[int]
    alike: int


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Depth:
    """Multiplies the number of blocks of every stage. Blocks that change the number of channels or the size of the feature maps are kept.

    A block is the repeated unit of an ``nn.Sequential``: one of its children if these are blocks themselves, or a convolution with the
    layers up to the next one. New blocks are copies of the stage's last block, including its weights.

    Args:
        multiplier: factor on the number of blocks: a stage of 2 blocks gets 4 with 2.0 and 1 with 0.5. At least one block, and all blocks
            that change channels or size, are kept.

    Example:
        >>> print(Depth(2.0))
        depth ×2
    """

    multiplier: float = Field(gt=0, le=16)

    name: ClassVar[str] = "depth"
    reference: ClassVar[str] = "Tan and Le 2019, EfficientNet, arXiv:1905.11946"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"depth ×{self.multiplier:g}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Add or remove blocks.

        Raises:
            TechniqueError: no stage changes: none repeats a block, or the multiplier is too close to 1.
        """
        module = copied(artifact)
        stages = _stages(module, output_shapes(module, artifact.input_spec))
        more = {(s.chain, s.first): self._more(s) for s in stages}
        if not any(more.values()):
            found = ", ".join(str(len(s.blocks)) for s in stages)
            raise TechniqueError(
                f"{self} changes nothing in {artifact.lineage.source.name}",
                f"its stages have {found} blocks" if found else "it repeats no block in an nn.Sequential",
                "take a multiplier farther from 1, or another network of the family by name",
            )
        # last stage first, so that the indices of earlier layers in the same chain stay valid
        edits = [
            {"chain": s.chain, "end": s.first + sum(s.blocks), "layers": s.blocks[-1], "more": more[s.chain, s.first]}
            for s in reversed(stages)
            if more[s.chain, s.first]
        ]
        before, after = sum(len(s.blocks) for s in stages), sum(len(s.blocks) + more[s.chain, s.first] for s in stages)
        structure = {"edits": edits}
        return changed(artifact, self, self.rebuild(module, structure), structure, f"{before} blocks became {after}")

    def _more(self, stage: _Stage) -> int:
        count = len(stage.blocks)
        wanted = max(1, int(count * self.multiplier + 0.5), count - stage.alike)
        return wanted - count if stage.alike or wanted < count else 0

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        for edit in structure["edits"]:
            chain = module.get_submodule(edit["chain"])
            layers, end, size = list(chain.children()), edit["end"], edit["layers"]
            if edit["more"] > 0:
                block = layers[end - size : end]
                layers[end:end] = [copy.deepcopy(layer) for _ in range(edit["more"]) for layer in block]
            else:
                del layers[end + size * edit["more"] : end]
            module.set_submodule(edit["chain"], _chain_like(chain, layers))
        return module


def _chain_like(chain: nn.Module, layers: list[nn.Module]) -> nn.Module:
    """A chain of the same class with other layers; custom names of layers (DenseNet, ShuffleNet) become numbers."""
    new = copy.copy(chain)
    new._modules = {str(i): layer for i, layer in enumerate(layers)}
    return new


def _stages(module: nn.Module, shapes: Mapping[str, torch.Size], name: str = "") -> list[_Stage]:
    """The stages of the outermost chains that contain any; layers inside a block do not count as stages."""
    if _is_chain(module) and name and (found := _of_blocks(name, module, shapes) or _of_layers(name, module, shapes)):
        return found
    inner = [(child, layer) for child, layer in module.named_children() if not _is_chain(module) or _is_chain(layer)]
    return [stage for child, layer in inner for stage in _stages(layer, shapes, f"{name}.{child}".lstrip("."))]


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _of_blocks(name: str, chain: nn.Module, shapes: Mapping[str, torch.Size]) -> list[_Stage]:
    """The stages of a chain of blocks: consecutive blocks of one class, as long as the output shape does not change."""
    stages: list[_Stage] = []
    children = list(chain.children())
    before = None
    for i, (child, block) in enumerate(chain.named_children()):
        shape = shapes.get(f"{name}.{child}")
        if shape is None or len(shape) != 4 or not any(block.children()) or not any(isinstance(m, nn.Conv2d) for m in block.modules()):
            before = None
            continue
        same = i > 0 and type(children[i - 1]) is type(block) and before == shape
        if same and stages and stages[-1].first + len(stages[-1].blocks) == i:
            stages[-1].blocks.append(1)
            stages[-1].alike = stages[-1].alike + 1 if _signature(children[i - 1]) == _signature(block) else 1
        else:
            stages.append(_Stage(name, i, [1], 0))
        before = shape
    return [s for s in stages if len(s.blocks) > 1]


def _of_layers(name: str, chain: nn.Module, shapes: Mapping[str, torch.Size]) -> list[_Stage]:
    """The stages of a chain of single layers (VGG): a block is a convolution and the layers after it; poolings separate stages."""
    stages: list[_Stage] = []
    children = list(chain.children())
    starts = [i for i, layer in enumerate(children) if isinstance(layer, nn.Conv2d)]
    for start in starts:
        end = start + 1
        while end < len(children) and not isinstance(children[end], (nn.Conv2d, nn.Linear, nn.Flatten, *_POOLS)):
            end += 1
        conv = children[start]
        repeats = isinstance(conv, nn.Conv2d) and conv.in_channels == conv.out_channels and max(conv.stride) == 1
        last = stages[-1] if stages else None
        if repeats and last is not None and last.first + sum(last.blocks) == start:
            same = last.blocks[-1] == end - start
            last.blocks.append(end - start)
            last.alike = last.alike + 1 if same and last.alike else 1
        else:
            stages.append(_Stage(name, start, [end - start], 0))
    return [s for s in stages if len(s.blocks) > 1]


def _signature(block: nn.Module) -> tuple[Any, ...]:
    """A signature that is equal for interchangeable blocks; drop probabilities (stochastic depth) are not part of it."""
    strides = [(m.stride, m.kernel_size, m.groups) for m in block.modules() if isinstance(m, nn.Conv2d)]
    return tuple(type(m).__name__ for m in block.modules()), tuple(p.shape for p in block.parameters()), tuple(strides)
