"""Least-squares reconstruction after pruning: layers are fitted to their original outputs from their new inputs, without training.

Y. He, X. Zhang and J. Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017 (arXiv:1707.06168).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from planish.compression.graph.call_record import CallRecord
from planish.compression.graph.prefix_cache import PrefixCache
from planish.compression.reconstruction.layer_moments import watching
from planish.compression.reconstruction.least_squares import Intercept, RowSums, ridge_regression
from planish.deadline import seconds_left
from planish.decisions import decide
from planish.models.batch_norm import reestimate_batch_norm
from planish.models.storage import fingerprint
from planish.progress import Stage

FIT_IMAGES = 512  # maximum number of images to fit by; a strong cut loses clearly less than with 256

_POSITIONS = 64  # positions sampled per image and layer; neighbouring positions are nearly the same
_PARTS = 32  # groups of layers that are fitted one after the other; fitting layer by layer is hardly better
_PASSES = 3  # forward passes of both networks for all groups together, since each runs on from the one before
_SECONDS, _SHARE = 20.0, 0.1  # approximate time limit, in seconds and as a share of the time left; slow networks use fewer images
_LEAST_BATCHES = 2

_T = TypeVar("_T")


def reconstruct(
    before: nn.Module, after: nn.Module, outputs: Mapping[str, Tensor], batches: Callable[[], Iterable[tuple[Tensor, Any]]]
) -> None:
    """Fit layers of ``after``, from the first to the last, to the outputs of the layers of the same name in ``before``.

    Each layer is fitted on inputs computed by the layers already fitted, so errors do not accumulate. A ridge penalty, stronger the fewer
    rows there are per input, pulls the weight towards its previous value. A layer without a bias is fitted without an intercept, unless
    only batch norm reads its output. Batch-norm statistics are re-estimated along the way.

    Args:
        before: the original network, in eval mode.
        after: the pruned network, in eval mode; changed in place.
        outputs: for each layer to fit (see ``can_fit``), by name, the indices of the output channels that remain.
        batches: returns tuples that begin with normalised images ``(N, C, H, W)``; the same ones at every call.
    """
    images = [batch for batch, *_ in batches()]
    absorbed = read_only_by_batch_norm(after, outputs, images[0][:1])
    order = _order(after, outputs, images[0][:1])
    parts = [list(part) for part in np.array_split(np.array(order, dtype=object), min(_PARTS, max(1, len(order))))]
    records = [CallRecord(network, images[0][:1]) for network in (before, after)]
    starts = [[record.first_read(f"{name}.weight" for name in part) for record in records] for part in parts]
    passes = _PASSES if all(position for start in starts for position in start) else len(parts)

    def affordable() -> int:
        begun = time.perf_counter()
        with torch.no_grad():
            before(images[0])
            after(images[0])
        in_time = min(_SECONDS, _SHARE * seconds_left()) / (passes * (time.perf_counter() - begun))
        return min(len(images), max(_LEAST_BATCHES, int(in_time)))

    images = images[: decide(f"batches to fit by:{fingerprint(after)[:16]}:{len(parts)}", affordable)]
    whole, pruned = (PrefixCache(network, images, record) for network, record in zip((before, after), records, strict=True))
    with Stage("fitting what is left", len(parts)) as stage:
        for part, (in_whole, in_pruned) in zip(parts, starts, strict=True):
            wanted = {name: outputs[name] for name in part}
            reestimate = partial(_reestimate, pruned, images, partial(_run, after, part, see=lambda *_: None))
            _retried_without_cache([pruned], reestimate)
            whole.advance(in_whole)
            pruned.advance(in_pruned)
            sums = _retried_without_cache([whole, pruned], partial(_sums, whole, pruned, wanted, images))
            for name, found in sums.items():
                _fit(after.get_submodule(name), found, absorbed=name in absorbed)
            stage.advance()
    _retried_without_cache([pruned], partial(_reestimate, pruned, images, after))


def _retried_without_cache(caches: Sequence[PrefixCache], run: Callable[[], _T]) -> _T:
    """Return what ``run`` returns; if it fails because a network reads what its cache does not know of, the whole networks are run."""
    try:
        return run()
    except RuntimeError:
        if not any(cache.is_used for cache in caches):
            raise
        for cache in caches:
            cache.give_up()
        return run()


def _reestimate(pruned: PrefixCache, images: Sequence[Tensor], run: Callable[[Tensor], object]) -> None:
    """Re-estimate the batch-norm statistics of the pruned network from the last fitted layers on: nothing before them changes any more."""
    numbers = {id(batch): number for number, batch in enumerate(images)}

    def replayed(batch: Tensor) -> None:
        with pruned.replayed(pruned.module, numbers[id(batch)]):
            run(batch)

    reestimate_batch_norm(pruned.module, images, replayed)


def can_fit(layer: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    """Whether the layer is a plain convolution without groups or a linear layer; subclasses and other padding modes are excluded."""
    return type(layer) is nn.Linear or (
        type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    )


class _AllSeen(Exception):
    """Raised to stop a forward pass once all observed layers have run."""


def _run(network: nn.Module, names: Iterable[str], images: Tensor, see: Callable[[str, Tensor, Tensor], None]) -> None:
    """Call ``see(name, input, output)`` for each of these layers, and stop the forward pass after the last of them."""
    layers = {name: network.get_submodule(name) for name in names}
    missing = set(layers)

    def seen(name: str, given: Tensor, output: Tensor) -> None:
        see(name, given, output)
        missing.discard(name)
        if not missing:
            raise _AllSeen

    with torch.no_grad(), watching(layers, seen), suppress(_AllSeen):
        network(images)


def _order(network: nn.Module, names: Iterable[str], image: Tensor) -> list[str]:
    """The names in the order in which the layers run; layers that do not run are left out."""
    order: dict[str, None] = {}
    _run(network, names, image, lambda name, *_: order.setdefault(name))
    return list(order)


def read_only_by_batch_norm(network: nn.Module, names: Iterable[str], image: Tensor) -> set[str]:
    """The layers whose outputs are read only by batch norm, which removes any mean from them.

    Args:
        network: the network, in eval mode.
        names: names of its layers to check.
        image: a normalised image ``(1, C, H, W)``.
    """
    readers = _Readers()
    handles = [network.get_submodule(name).register_forward_hook(partial(readers.made, name)) for name in names]
    try:
        with torch.no_grad(), readers:
            returned = network(image)
    finally:
        for handle in handles:
            handle.remove()
    readers.read(returned, None)
    return {name for name, kinds in readers.of.items() if kinds and kinds <= {functional.batch_norm, torch.batch_norm}}


class _Readers(TorchFunctionMode):
    """Records, within this context, which functions read the outputs of layers.

    Attributes:
        of: the functions, by layer name; None stands for an output that the network returns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, set[Any]] = {}
        self._outputs: dict[int, tuple[str, Tensor]] = {}  # by id(); tensors are kept alive so that no id is reused

    def made(self, name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        self._outputs[id(output)] = name, output
        self.of.setdefault(name, set())

    def read(self, values: Any, function: Any) -> None:
        for value in tree_leaves(values):
            if id(value) in self._outputs:
                self.of[self._outputs[id(value)][0]].add(function)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) for value in tree_leaves(result)):  # skip calls such as ``size`` that return no tensor
            self.read((args, kwargs), func)
        return result


def _sums(whole: PrefixCache, pruned: PrefixCache, outputs: Mapping[str, Tensor], images: Sequence[Tensor]) -> dict[str, RowSums]:
    """The sums over rows of the new inputs and the original outputs of each layer."""
    before, after = whole.module, pruned.module
    sums: dict[str, RowSums] = {}
    inputs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    generator = torch.Generator().manual_seed(0)

    def read(name: str, given: Tensor, output: Tensor) -> None:
        count = output[0].numel() // len(outputs[name])
        places = torch.randperm(count, generator=generator)[:_POSITIONS]
        inputs.setdefault(name, []).append((places, patches(after.get_submodule(name), given, output, places)))

    def compare(name: str, _: Tensor, output: Tensor) -> None:
        places, x = inputs[name].pop(0)
        y = output.flatten(2).transpose(1, 2) if isinstance(before.get_submodule(name), nn.Conv2d) else _flat(output)
        found = RowSums.of(x.flatten(0, 1), y[:, places][..., outputs[name]].flatten(0, 1))
        sums[name] = sums[name] + found if name in sums else found

    for number, batch in enumerate(images):
        with pruned.replayed(after, number):
            _run(after, outputs, batch, read)
        with whole.replayed(before, number):
            _run(before, outputs, batch, compare)
    return sums


def _fit(layer: Any, sums: RowSums, *, absorbed: bool) -> None:
    """Set the layer's weight and bias by ridge regression of outputs on inputs."""
    intercept: Intercept = "fitted" if layer.bias is not None else "absorbed" if absorbed else "none"
    weight, bias = ridge_regression(sums, layer.weight.detach().flatten(1), intercept)
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if bias is not None:
            layer.bias.copy_(bias)


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1, values.shape[-1])


def patches(layer: Any, given: Tensor, output: Tensor, places: Tensor) -> Tensor:
    """The input patches that the layer's weight multiplies at these output positions: ``(N, places, inputs x kernel)``."""
    if isinstance(layer, nn.Linear):
        return _flat(given)[:, places]
    across, down = layer.padding[1], layer.padding[0]
    padded = functional.pad(given, (across, across, down, down))
    width = output.shape[3]
    rows = (places // width)[:, None] * layer.stride[0] + torch.arange(layer.kernel_size[0]) * layer.dilation[0]
    columns = (places % width)[:, None] * layer.stride[1] + torch.arange(layer.kernel_size[1]) * layer.dilation[1]
    return padded[:, :, rows[:, :, None], columns[:, None, :]].permute(0, 2, 1, 3, 4).flatten(2)
