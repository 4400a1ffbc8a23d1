"""The divergence of a changed network's outputs from the original ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from planish.compression.graph.call_record import CallRecord
from planish.compression.graph.prefix_cache import PrefixCache
from planish.deadline import seconds_left
from planish.decisions import decide
from planish.errors import TechniqueError
from planish.models.storage import fingerprint
from planish.progress import Stage

if TYPE_CHECKING:
    from planish.task import Task

Change = TypeVar("Change", bound=Hashable)
Starts = Callable[[CallRecord], Mapping[Change, int]]

_BATCH = 32
_MOST_IMAGES, _LEAST_IMAGES = 128, 16
_SECONDS, _SHARE = 15.0, 0.1  # approximate limit of a measurement, in seconds and as a share of the time left; it sets the number of images


def reads(changes: Mapping[Change, Collection[str]]) -> Starts[Change]:
    """For changes of parameters and buffers, given by name: the event at which the first of them is read."""
    return lambda record: {change: record.first_read(names) for change, names in changes.items()}


class Divergence(Generic[Change]):
    """Measures the divergence of a changed network's outputs from the original ones, on as many images as time allows.

    Args:
        module: the network, in eval mode.
        images: normalised images ``(N, C, H, W)``.
        task: the task whose distillation loss measures the divergence.
        starts: returns, for each change, the event of the record with which the difference begins; see ``reads``.
        each: about how often the divergence is measured for each change.
    """

    @torch.no_grad()
    def __init__(self, module: nn.Module, images: Tensor, task: Task, starts: Starts[Change], each: int = 1) -> None:
        record = CallRecord(module, images[:1])
        positions = starts(record)
        passes = 1 + each * sum(record.share_after(position) for position in positions.values())

        def affordable() -> int:
            begun = perf_counter()
            module(images[:_LEAST_IMAGES])
            images_in_time = min(_SECONDS, _SHARE * seconds_left()) / passes / (perf_counter() - begun) * _LEAST_IMAGES
            return min(len(images), int(np.clip(images_in_time, _LEAST_IMAGES, _MOST_IMAGES)))

        used = decide(f"sensitivity images:{fingerprint(module)[:16]}:{len(positions)}", affordable)
        self.batches = torch.split(images[:used], _BATCH)
        self.expected = [module(batch) for batch in self.batches]
        self.task = task
        self._positions = positions
        self._position = 0
        self._cache = PrefixCache(module, self.batches, record)

    def changes(self, title: str) -> Iterator[Change]:
        """The changes in the order in which they are measured fastest; the network must be unchanged whenever the next one is asked for.

        Args:
            title: title of the stage that is shown meanwhile.
        """
        with Stage(title, len(self._positions)) as stage:
            for change, position in sorted(self._positions.items(), key=lambda item: item[1]):
                self._cache.advance(position)
                self._position = position
                yield change
                stage.advance()

    @torch.no_grad()
    def __call__(self, changed: nn.Module) -> float:
        """The divergence of the network with the change that ``changes`` returned last."""
        outputs = self._cache.outputs(changed, self._position)
        losses = [self.task.distillation_loss(changed, x, y, 1.0).item() for x, y in zip(outputs, self.expected, strict=True)]
        if not np.isfinite(losses).all():
            raise TechniqueError("the network's outputs are not finite", "sensitivity is measured on them", "train it again")
        return max(0.0, float(np.average(losses, weights=[len(x) for x in self.batches])))  # the last batch may be smaller
