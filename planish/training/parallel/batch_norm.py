"""Batch norm over the images of all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from planish.training.parallel.processes import Processes


def whole_batch_norm(processes: Processes) -> AbstractContextManager[Any]:
    """Context in which batch norm in training uses mean and variance of the whole batch, of which each process has a share.

    It takes the place of ``torch.nn.functional.batch_norm``, so that layers of any class are reached: PyTorch's ``SyncBatchNorm`` runs on
    GPUs only, and converting a network to it would replace subclasses that do more, such as timm's with an activation.
    """
    return nullcontext() if processes.count == 1 else _WholeBatchNorm()


class _WholeBatchNorm(TorchFunctionMode):
    """Calls ``_batch_norm`` wherever a network calls ``torch.nn.functional.batch_norm``."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    values = input.float()
    others = [axis for axis in range(input.ndim) if axis != 1]
    count = _Sum.apply(values.new_tensor(values.numel() / values.shape[1]))
    mean = _Sum.apply(values.sum(others)) / count
    centred = values - _per_channel(mean, input)
    variance = _Sum.apply(centred.square().sum(others)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var), momentum)
    scale = (variance + eps).rsqrt() if weight is None else (variance + eps).rsqrt() * weight
    normalised = centred * _per_channel(scale, input)
    return (normalised if bias is None else normalised + _per_channel(bias, input)).to(input.dtype)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.ndim - 2))


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is that of its gradients, since each process's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(value: Tensor) -> Tensor:
    total = value.clone().contiguous()
    distributed.all_reduce(total)
    return total
