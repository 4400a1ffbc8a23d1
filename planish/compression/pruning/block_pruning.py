"""Block pruning: whole residual blocks are removed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from planish.artifact import Artifact, Step
from planish.compression.calibration import calibration_batches
from planish.compression.graph.call_record import CallRecord
from planish.compression.graph.prefix_cache import PrefixCache
from planish.compression.graph.residual_blocks import find_blocks
from planish.compression.graph.submodules import replace_submodule
from planish.compression.reconstruction.reconstruction import FIT_IMAGES, can_fit, reconstruct
from planish.errors import TechniqueError
from planish.evaluation.size import macs
from planish.progress import Stage
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

    Outputs = list[tuple[Tensor, Tensor]]  # the outputs and targets of each batch

_IMAGES = 128


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BlockPruning:
    """Remove residual blocks whose shortcut is the identity, so that only the shortcut remains; this is faster in every runtime.

    The importance of each block is measured by bypassing it alone on calibration images, and the least important blocks are removed. For
    the same reduction in MACs, removing blocks gives a larger speed-up than removing channels, but also a larger accuracy drop: distil
    afterwards.

    Args:
        pruning_ratio: share of the removable blocks to remove, above 0 to 1, rounded to whole blocks, at least one.
        importance: ``loss``, the increase of the task's loss; ``output``, the squared distance between the outputs; ``random``, the
            baseline.
        recalibrate: fit the remaining layers to their outputs before pruning, on calibration images, and re-estimate batch-norm
            statistics (see ``reconstruction``).

    Example:
        >>> print(BlockPruning(pruning_ratio=0.5))
        blocks −50 %
    """

    pruning_ratio: float = Field(gt=0, le=1)
    importance: Literal["loss", "output", "random"] = "loss"
    recalibrate: bool = True

    name: ClassVar[str] = "block_pruning"
    reference: ClassVar[str] = "Veit et al. 2016, Residual Networks Behave Like Ensembles, arXiv:1605.06431"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        return f"blocks −{100 * self.pruning_ratio:.0f} %"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Remove the least important blocks.

        Raises:
            TechniqueError: the network has no such block.
        """
        module = copy.deepcopy(artifact.module).cpu().eval()
        batches = calibration_batches(artifact, task, _IMAGES)
        blocks = find_blocks(module, next(batches())[0])
        if not blocks:
            raise TechniqueError(
                "the network has no residual block that could be bypassed",
                "a block must add something to its own input and hand that on unchanged otherwise",
                "use channel_pruning",
            )
        ranked = self._ranked(module, blocks, batches, task.loss)
        removed = ranked[: max(1, math.floor(self.pruning_ratio * len(blocks) + 0.5))]
        structure = {"removed": [name for name in blocks if name in removed]}
        pruned = self.rebuild(copy.deepcopy(artifact.module), structure)
        for name in removed:
            pruned.get_submodule(name).train(artifact.module.get_submodule(name).training)
        if self.recalibrate and len(task.split("calibration")) > 1:
            fitted = copy.deepcopy(pruned).cpu().eval()
            is_dense = artifact.facts["weights"] == "dense"  # fitted weights are dense
            outputs = {name: torch.arange(len(layer.weight)) for name, layer in fitted.named_modules() if is_dense and can_fit(layer)}
            reconstruct(module, fitted, outputs, calibration_batches(artifact, task, FIT_IMAGES))
            pruned.load_state_dict(fitted.state_dict())
        before, after = (macs(m, artifact.input_spec).value for m in (artifact.module, pruned))
        notes = f"{len(removed)} of {len(blocks)} blocks: {', '.join(structure['removed'])}; MACs {before:,.0f} → {after:,.0f}"
        params = hyper_parameters(self)
        return artifact.with_step(Step(self.name, params, self.changes, structure, notes), module=pruned)

    def _ranked(self, module: nn.Module, blocks: list[str], batches: Callable[[], Iterable[tuple[Tensor, Tensor]]], loss: Any) -> list[str]:
        """The blocks, least important first."""
        if self.importance == "random":
            order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0)).tolist()
            return [blocks[i] for i in order]
        scores = {}
        images, targets = zip(*batches(), strict=True)
        record = CallRecord(module, images[0][:1])
        cache = PrefixCache(module, images, record)
        with torch.no_grad(), Stage("measuring sensitivity of blocks", len(blocks)) as stage:
            whole = [module(batch) for batch in images]
            for name in blocks:
                position = record.calls[name][0].start
                cache.advance(position)
                with bypassed(module, name):
                    found = cache.outputs(module, position)
                if self.importance == "loss":
                    losses = zip(found, targets, images, strict=True)
                    scores[name] = sum(float(loss(module, outputs, wanted)) * len(batch) for outputs, wanted, batch in losses)
                else:
                    pairs = zip(tree_leaves(found), tree_leaves(whole), strict=True)
                    scores[name] = sum(float(functional.mse_loss(now, before, reduction="sum")) for now, before in pairs)
                stage.advance()
        unusable = [name for name, score in scores.items() if not math.isfinite(score)]
        if unusable:
            raise TechniqueError(f"without {unusable[0]} the outputs are not finite", "importance is measured on them", "train it again")
        return sorted(blocks, key=scores.__getitem__)

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Remove the same blocks from a freshly built network; changes and returns ``module``."""
        for name in structure["removed"]:
            replace_submodule(module, name, nn.Identity())
        return module


@contextmanager
def bypassed(module: nn.Module, name: str) -> Iterator[None]:
    """Within this block, the submodule ``name`` returns its input."""
    hook = module.get_submodule(name).register_forward_hook(lambda layer, inputs, output: inputs[0])
    try:
        yield
    finally:
        hook.remove()
