"""The outputs of a changed network, computed from the first change on: what runs before it is taken from a cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
from torch import Tensor, nn

from planish.compression.graph.call_record import CallRecord

_MOST_BYTES = 512 * 2**20  # of the cached outputs of all images together


class PrefixCache:
    """Runs changed versions of a network on the same images; each gives what it gives without the cache, to the last bit.

    Modules that end before the first changed tensor is read are replaced by their outputs in the unchanged network. Only the outputs that
    are needed from one position on are kept, so changes are best measured in the order of ``position``.

    Args:
        module: the network, in eval mode.
        batches: normalised images ``(N, C, H, W)``.
        record: the record of a forward pass of ``module``.
        most_bytes: upper bound of the cached outputs; the cache stays at an earlier position if it would need more.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)).eval()
        >>> x = torch.zeros(1, 1, 8, 8)
        >>> cache = PrefixCache(network, [x], CallRecord(network, x))
        >>> _ = network[1].weight.data.zero_()
        >>> [y] = cache.outputs(network, cache.position(["1.weight"]))
        >>> torch.equal(y, network(x))
        True
    """

    def __init__(self, module: nn.Module, batches: Sequence[Tensor], record: CallRecord, most_bytes: int = _MOST_BYTES) -> None:
        self._batches, self._record, self._most_bytes = batches, record, most_bytes
        self.module = module
        self._position = 0
        self._modules: set[str] = set()
        self._kept: list[dict[str, Tensor]] = [{} for _ in batches]

    def position(self, names: Collection[str]) -> int:
        """The event of the record at which the first of these parameters and buffers is read; 0 if that is not known."""
        return self._record.first_read(names)

    def advance(self, position: int) -> None:
        """Cache what is needed from ``position`` on; the network must be unchanged.

        Args:
            position: see ``position``.
        """
        if position < self._position:
            self._forget()
        if position == self._position:
            return
        modules = self._record.finished_before(position)
        needed = self._record.read_outside(modules)
        size = sum(cast(int, self._record.calls[name][0].size_bytes) for name in needed) * sum(map(len, self._batches))
        if size > self._most_bytes:
            return
        try:
            kept = [self._computed(batch, old, needed) for batch, old in zip(self._batches, self._kept, strict=True)]
        except RuntimeError:  # something reads an output and was not seen to
            self.give_up()
            return
        if any(set(found) != needed for found in kept):  # the network runs otherwise on other images
            return
        self._position, self._modules, self._kept = position, modules, kept

    def outputs(self, changed: nn.Module, position: int) -> list[Any]:
        """The outputs of a changed network for each batch.

        Args:
            changed: the network with tensors changed, or modules replaced, that are not read before ``position``.
            position: see ``position``.
        """
        if position < self._position:
            self._forget()
        try:
            return self._run(changed)
        except RuntimeError:
            if not self._modules:
                raise
        self._forget()
        found = self._run(changed)  # raises the error again if the change is the cause
        self.give_up()
        return found

    @contextmanager
    def replayed(self, changed: nn.Module, batch: int) -> Iterator[None]:
        """Within this block, ``changed`` takes what is cached of the batch with this index; an error of it may mean that more is read.

        Raises:
            RuntimeError: something reads an output that was not seen to be read; ``give_up`` makes the next attempt run the whole network.
        """
        with _replayed(changed, self._modules, self._kept[batch]):
            yield

    @property
    def is_used(self) -> bool:
        """Whether anything is taken from the cache."""
        return bool(self._modules)

    @torch.no_grad()
    def _run(self, changed: nn.Module) -> list[Any]:
        found = []
        for batch, kept in zip(self._batches, self._kept, strict=True):
            with _replayed(changed, self._modules, kept):
                found.append(changed(batch))
        return found

    def give_up(self) -> None:
        """Run the whole network from now on."""
        self._forget()
        self._most_bytes = -1

    def _forget(self) -> None:
        self._position, self._modules, self._kept = 0, set(), [{} for _ in self._batches]

    def _computed(self, batch: Tensor, kept: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """The outputs of the modules ``names``, computed from the kept ones."""
        found = {name: kept[name] for name in names if name in kept}
        missing = {name for name in names if name not in found}

        def keep(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Tensor) -> None:
                found[name] = output.clone()
                missing.discard(name)
                if not missing:
                    raise _AllSeen

            return hook

        if not missing:
            return found
        handles = [self.module.get_submodule(name).register_forward_hook(keep(name)) for name in missing]
        try:
            with torch.no_grad(), _replayed(self.module, self._modules, kept), suppress(_AllSeen):
                self.module(batch)
        finally:
            for handle in handles:
                handle.remove()
        return found


class _AllSeen(Exception):
    """Raised to stop a forward pass once all wanted modules have run."""


@contextmanager
def _replayed(module: nn.Module, names: Collection[str], kept: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this block, the modules ``names`` return what is kept of them instead of running."""
    parts = [(name, module.get_submodule(name)) for name in names]
    before = [(part, vars(part).get("forward")) for _, part in parts]
    try:
        for name, part in parts:
            vars(part)["forward"] = _returning(kept.get(name))
        yield
    finally:
        for part, own in before:
            if own is None:
                vars(part).pop("forward", None)
            else:
                vars(part)["forward"] = own


def _returning(value: Tensor | None) -> Callable[..., Tensor]:
    """A forward that returns a copy, as the network may change it in place.

    A value that nothing reads is a tensor without data, so that a read that was not recorded is an error and not a wrong number.
    """
    return lambda *_, **__: torch.empty(0, device="meta") if value is None else value.clone()
