"""Training of one replacement by itself, against the outputs of the block whose place it takes.

C. Li et al., Blockwisely Supervised Neural Architecture Search with Knowledge Distillation (DNA), CVPR 2020 (arXiv:1911.13053).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from planish.compression.graph.prefix_cache import PrefixCache
from planish.compression.reconstruction.least_squares import RowSums, ridge_regression
from planish.compression.reconstruction.reconstruction import patches
from planish.compression.replacement.kinds import NewBlock
from planish.models.batch_norm import raise_momentum, reestimate_batch_norm

_BATCH = 32
_RATE, _DECAY = 2e-3, 1e-2
_POSITIONS = 64  # positions sampled per image for the least squares
_MOST_BYTES = 256 * 2**20  # of the maps that are held


class _Reached(Exception):
    """Raised to stop a forward pass behind the block."""


@torch.no_grad()
def maps_of(module: nn.Module, name: str, batches: Sequence[Tensor], cache: PrefixCache) -> tuple[Tensor, Tensor]:
    """The inputs and outputs of a block for as many of the images as fit into memory.

    Args:
        module: the network, in eval mode.
        name: name of the block, which is called once.
        batches: normalised images ``(N, C, H, W)``.
        cache: of these batches, advanced to the block.
    """
    given, wanted = list[Tensor](), list[Tensor]()

    def hook(_: nn.Module, args: Any, output: Tensor) -> None:
        given.append(args[0].clone())
        wanted.append(output.clone())
        raise _Reached

    before = module.get_submodule(name).register_forward_pre_hook(lambda _, args: (args[0].clone(),))  # in case the block changes it
    handle = module.get_submodule(name).register_forward_hook(hook)
    try:
        for number, batch in enumerate(batches):
            with cache.replayed(module, number), suppress(_Reached):
                module(batch)
            held = sum(t.numel() * t.element_size() for t in (*given, *wanted))
            if held * (1 + 1 / len(given)) > _MOST_BYTES:
                break
    finally:
        before.remove()
        handle.remove()
    return torch.cat(given), torch.cat(wanted)


def fit_block(block: nn.Module, given: Tensor, wanted: Tensor, steps: int, seed: int = 0) -> float:
    """Train a block to map ``given`` to ``wanted``.

    The last convolution of a ``NewBlock`` starts from least squares. Then all of it is trained by AdamW. A fifth of the maps is held
    out: if they are not mapped better afterwards, the training is undone.

    Args:
        block: changed in place, in eval mode afterwards.
        given: its inputs ``(N, C, H, W)``.
        wanted: the outputs to come close to.
        steps: number of steps of 32 maps.
        seed: seed of the order of the maps.

    Returns:
        The squared error of the maps held out, as a share of the variance of ``wanted``.
    """
    held = max(1, len(given) // 5)
    scale = float((wanted - wanted.mean((0, 2, 3), keepdim=True)).square().mean()) or 1.0
    seen, expected = (given[held:], wanted[held:]) if len(given) > 2 * held else (given, wanted)
    if isinstance(block, NewBlock):
        _start_from_least_squares(block.branch, seen, expected - seen if block.has_shortcut else expected)

    def error() -> float:
        block.eval()
        reestimate_batch_norm(block, torch.split(seen, _BATCH))
        with torch.no_grad():
            parts = zip(torch.split(given[:held], _BATCH), torch.split(wanted[:held], _BATCH), strict=True)
            return sum(float((block(x) - y).square().sum()) for x, y in parts) / (scale * wanted[:held].numel())

    before, state = error(), copy.deepcopy(block.state_dict())
    if steps == 0 or not any(True for _ in block.parameters()):
        return before
    _train(block, seen, expected, steps, scale, seed)
    after = error()
    if after < before:
        return after
    block.load_state_dict(state)
    return before


def _train(block: nn.Module, given: Tensor, wanted: Tensor, steps: int, scale: float, seed: int) -> None:
    raise_momentum(block)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(block.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    block.train()
    for _ in range(steps):
        rows = torch.randint(len(given), (_BATCH,), generator=generator)
        loss = functional.mse_loss(block(given[rows]), wanted[rows]) / scale
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def seconds_of_step(block: nn.Module, given: Tensor, wanted: Tensor) -> float:
    """The duration of a training step of ``fit_block``; the block is not changed."""
    block = copy.deepcopy(block).train()
    for _ in range(2):  # the first one takes longer
        begun = perf_counter()
        functional.mse_loss(block(given[:_BATCH]), wanted[:_BATCH]).backward()  # type: ignore[no-untyped-call]
    return perf_counter() - begun


@torch.no_grad()
def _start_from_least_squares(branch: nn.Sequential, given: Tensor, wanted: Tensor) -> None:
    """Fit the last convolution of a branch, which batch norm follows, to the outputs it should have; the batch norm becomes the identity.

    Args:
        branch: ends with a convolution without bias and batch norm; changed in place.
        given: inputs of the branch ``(N, C, H, W)``.
        wanted: outputs ``(N, C, H, W)``.
    """
    *first, layer, norm = branch.eval()
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    before = nn.Sequential(*first)
    reestimate_batch_norm(before, list(torch.split(given, _BATCH)))
    sums, generator = None, torch.Generator().manual_seed(0)
    for x, y in zip(torch.split(given, _BATCH), torch.split(wanted, _BATCH), strict=True):
        inputs = before(x)
        places = torch.randperm(y[0, 0].numel(), generator=generator)[:_POSITIONS]
        rows = patches(layer, inputs, y, places).flatten(0, 1)
        found = RowSums.of(rows, y.flatten(2).transpose(1, 2)[:, places].flatten(0, 1))
        sums = found if sums is None else sums + found
    assert sums is not None
    weight, bias = ridge_regression(sums, torch.zeros(layer.weight.flatten(1).shape), "fitted")
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    reestimate_batch_norm(nn.Sequential(before, layer, norm), list(torch.split(given, _BATCH)))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(norm.running_mean + (0 if bias is None else bias))
