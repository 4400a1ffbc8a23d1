"""Second moments of layer outputs and of their gradients on calibration images, and the fits that use them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from planish.compression.reconstruction.least_squares import RowSums, ridge_regression
from planish.devices.layer_latency import Pair
from planish.models.batch_norm import reestimate_batch_norm
from planish.models.outputs import flattened

_POSITIONS = 32  # positions sampled per image and layer to fit the last factor; neighbouring positions are nearly the same
_BACKWARD_BATCH = 8  # small, as the backward pass keeps all activations


@dataclass(frozen=True)
class Moments:
    """Statistics of one layer's outputs, float64.

    Args:
        covariance: covariance of the layer's outputs ``(out, out)``.
        sensitivity: ``(out, out)``; an error ``e`` in the layer's output at one position changes the network's outputs by a squared
            distance of about ``eᵀ sensitivity e``.
    """

    covariance: Tensor
    sensitivity: Tensor


@contextmanager
def watching(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Within this block, ``see(name, input, output)`` is called after each forward call of these layers."""

    def hook(name: str) -> Callable[..., Tensor]:
        def seen(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            see(name, given[0], output)
            return output.clone()  # so that in-place operations that follow do not change the observed tensor

        return seen

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def moments(module: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[tuple[Tensor, Any]]) -> dict[str, Moments]:
    """Compute the moments of each layer over all images and positions.

    The sensitivity is the mean of ``JᵀJ``, where J is the Jacobian of the network's outputs with respect to the layer's outputs. It is
    estimated with one random direction of the outputs per image (Hutchinson 1990). It needs no targets and does not vanish for confident
    predictions, as gradients of the loss do. Where there are few rows per channel, the estimates are shrunk: the covariance towards that of
    uncorrelated inputs of equal variance, the sensitivity towards equal, independent channels.

    Args:
        module: the network, in eval mode.
        layers: layers of the network, by name; each must run.
        batches: tuples that begin with normalised images ``(N, C, H, W)``; the rest is ignored.
    """
    sums: dict[str, list[Any]] = {}
    seen: list[tuple[str, Tensor]] = []
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad(), watching(layers, lambda name, _, output: seen.append((name, output))):
        for images, *_ in batches:
            for part in torch.split(images, _BACKWARD_BATCH):
                outputs = flattened(module(part.requires_grad_()))  # so that gradients also reach frozen layers
                direction = torch.randint(0, 2, outputs.shape, generator=generator).to(outputs) * 2 - 1
                gradients = torch.autograd.grad((outputs * direction).sum(), [o for _, o in seen], allow_unused=True)
                for (name, output), gradient in zip(seen, gradients, strict=True):
                    y = _rows(layers[name], output.detach())
                    g = _rows(layers[name], gradient) if gradient is not None else torch.zeros_like(y)
                    # float32 is precise enough for the products of one batch, but perhaps not for the sum over all images
                    found = [y.sum(0).double(), (y.T @ y).double(), (g.T @ g).double(), len(y)]
                    sums[name] = [a + b for a, b in zip(sums[name], found, strict=True)] if name in sums else found
                seen.clear()
    result = {}
    for name, (total, products, sensitivity, count) in sums.items():
        mean, size = total / count, len(total)
        weight = cast(Tensor, layers[name].weight).detach().flatten(1).double()
        result[name] = Moments(
            _shrunk(products / count - torch.outer(mean, mean), weight @ weight.T, count),
            _shrunk(sensitivity / count, torch.eye(size, dtype=torch.float64), count),
        )
    return result


def _shrunk(seen: Tensor, blank: Tensor, count: int) -> Tensor:
    """Shrink ``seen``, estimated from ``count`` rows, towards ``blank`` scaled to the same trace."""
    share = len(seen) / (len(seen) + count)
    return (1 - share) * seen + share * blank * (seen.trace() / blank.trace().clamp_min(1e-300))


def refit(
    module: nn.Module, layers: Mapping[str, nn.Module], rows: Mapping[str, nn.Sequential], batches: Iterable[tuple[Tensor, Any]]
) -> None:
    """Fit the last factor of each factorized layer, and its bias if it has one, to the outputs of the original layer by ridge regression.

    For each channel this is the output reconstruction of Zhang et al. 2016 (arXiv:1505.06798).

    Args:
        module: the network with the original layers, in eval mode.
        layers: the original layers, by name.
        rows: the factors that replace each layer, by the same names; changed in place.
        batches: as for ``moments``.
    """
    sums: dict[str, RowSums] = {}
    generator = torch.Generator().manual_seed(0)

    def see(name: str, given: Tensor, output: Tensor) -> None:
        features = _features(rows[name], given)
        count = features.shape[1]
        wanted = _rows(layers[name], output).reshape(len(output), count, -1)
        places = torch.randperm(count, generator=generator)[:_POSITIONS]
        found = RowSums.of(features[:, places].flatten(0, 1), wanted[:, places].flatten(0, 1))
        sums[name] = sums[name] + found if name in sums else found

    with torch.no_grad(), watching(layers, see):
        for images, *_ in batches:
            module(images)
        for name, found in sums.items():
            last = cast(nn.Conv2d | nn.Linear, rows[name][-1])
            weight, bias = ridge_regression(found, last.weight.flatten(1), "none" if last.bias is None else "fitted")
            last.weight.copy_(weight.reshape(last.weight.shape))
            if last.bias is not None and bias is not None:
                last.bias.copy_(bias)


def follow_batch_norm(before: nn.Module, after: nn.Module, batches: Callable[[], Iterable[Tensor]]) -> None:
    """Update the batch-norm statistics of ``after`` by the change measured between both networks on the same images.

    Statistics estimated from a few images are noisy, and the images may differ from the training images; both effects cancel in the change.

    Args:
        before: the original network; not changed.
        after: the changed network, with batch norms of the same names; their running statistics are updated in place.
        batches: returns normalised images ``(N, C, H, W)``; called twice.
    """
    estimated = [copy.deepcopy(network).cpu() for network in (before, after)]
    for network in estimated:
        reestimate_batch_norm(network, batches())
    old, new = (dict(network.named_modules()) for network in estimated)
    for name, norm in after.named_modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            a, b = cast(Any, old[name]), cast(Any, new[name])
            norm.running_mean += (b.running_mean - a.running_mean).to(norm.running_mean)
            norm.running_var *= (b.running_var / a.running_var.clamp_min(1e-12)).clamp(0.01, 100).to(norm.running_var)


def _rows(layer: nn.Module, values: Tensor) -> Tensor:
    """Reshape activations to one row per position and one column per channel."""
    if isinstance(layer, nn.Linear):
        return values.reshape(-1, values.shape[-1])
    return values.transpose(0, 1).flatten(1).T


def _features(row: nn.Sequential, given: Tensor) -> Tensor:
    """The input patches that the last factor multiplies by its weight: ``(N, positions, inputs x kernel)``."""
    values: Tensor = row[:-1](given)
    last = row[-1]
    if isinstance(last, nn.Linear):
        return values.reshape(len(given), -1, values.shape[-1])
    assert isinstance(last, nn.Conv2d)
    patches = functional.unfold(values, last.kernel_size, cast(Pair, last.dilation), cast(Pair, last.padding), cast(Pair, last.stride))
    return patches.transpose(1, 2)
