"""What the layers of a network see and say on calibration images, as sums over images and positions: what output errors are made of."""

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

_POSITIONS = 32  # of each image and layer that a last factor is fitted to: neighbours hardly differ
_BACKWARD_BATCH = 8  # gradients keep all activations


@dataclass(frozen=True)
class Moments:
    """What one layer says and how much it matters, float64.

    Args:
        covariance: of the outputs ``(out, out)``.
        sensitivity: ``(out, out)``: an error ``e`` at one position changes the network's outputs by about ``eᵀ sensitivity e``, squared.
    """

    covariance: Tensor
    sensitivity: Tensor


@contextmanager
def watching(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Within this block ``see(name, input, output)`` is told of each call of these layers."""

    def hook(name: str) -> Callable[..., Tensor]:
        def seen(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            see(name, given[0], output)
            return output.clone()  # operations in place that follow leave what was seen as it was

        return seen

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def moments(module: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[tuple[Tensor, Any]]) -> dict[str, Moments]:
    """Moments of each layer over all images and positions.

    The sensitivity is the mean of ``JᵀJ``, J the Jacobian of the network's outputs by the layer's, from one random direction of the outputs
    an image (Hutchinson 1990); it needs no targets and does not vanish where a network is sure of itself, as gradients of the loss do.
    Where there are few rows for the channels, what was seen is shrunk: the covariance towards that of inputs without any structure, the
    sensitivity towards equal channels.

    Args:
        module: in eval mode.
        layers: of it, by name; each must run.
        batches: normalised images ``(N, C, H, W)``, whatever comes with them.
    """
    sums: dict[str, list[Any]] = {}
    seen: list[tuple[str, Tensor]] = []
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad(), watching(layers, lambda name, _, output: seen.append((name, output))):
        for images, *_ in batches:
            for part in torch.split(images, _BACKWARD_BATCH):
                outputs = flattened(module(part.requires_grad_()))  # so that frozen layers have gradients too
                direction = torch.randint(0, 2, outputs.shape, generator=generator).to(outputs) * 2 - 1
                gradients = torch.autograd.grad((outputs * direction).sum(), [o for _, o in seen], allow_unused=True)
                for (name, output), gradient in zip(seen, gradients, strict=True):
                    y = _rows(layers[name], output.detach())
                    g = _rows(layers[name], gradient) if gradient is not None else torch.zeros_like(y)
                    # products in float32 are exact enough, their sum over all images might not be
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
    """``seen``, from ``count`` rows, drawn towards ``blank`` brought to the same trace."""
    share = len(seen) / (len(seen) + count)
    return (1 - share) * seen + share * blank * (seen.trace() / blank.trace().clamp_min(1e-300))


def refit(
    module: nn.Module, layers: Mapping[str, nn.Module], rows: Mapping[str, nn.Sequential], batches: Iterable[tuple[Tensor, Any]]
) -> None:
    """Fit the last factor of each row, and its bias if it has one, to the outputs of the layer it stands for: least squares with a ridge.

    Channel by channel the same as reconstructing outputs in Zhang et al. 2016 (arXiv:1505.06798).

    Args:
        module: with the original layers, in eval mode.
        layers: the original ones, by name.
        rows: their factors, by the same names; changed in place.
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
    """Change batch-norm statistics as they change from one network to the other on the same images.

    Estimates from few images are noisy, and these images may differ from those a network was trained on; the change is free of both.

    Args:
        before: left as it is.
        after: the changed network, with batch norms of the same names; they are given new statistics.
        batches: called twice, normalised images ``(N, C, H, W)``.
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
    """One row a position, one column a channel."""
    if isinstance(layer, nn.Linear):
        return values.reshape(-1, values.shape[-1])
    return values.transpose(0, 1).flatten(1).T


def _features(row: nn.Sequential, given: Tensor) -> Tensor:
    """What the last factor multiplies with its weight: ``(N, positions, inputs x kernel)``."""
    values: Tensor = row[:-1](given)
    last = row[-1]
    if isinstance(last, nn.Linear):
        return values.reshape(len(given), -1, values.shape[-1])
    assert isinstance(last, nn.Conv2d)
    patches = functional.unfold(values, last.kernel_size, cast(Pair, last.dilation), cast(Pair, last.padding), cast(Pair, last.stride))
    return patches.transpose(1, 2)
