"""Workaround for a bug in oneDNN: gradients of strided 1x1 convolutions with few input channels are written past their buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_CHANNELS = 16  # oneDNN's block size; with so many channels or more the bug does not occur


class SafeStrides(TorchFunctionMode):
    """Context manager in which strided 1x1 convolutions with fewer than 16 input channels on the CPU subsample the input first and then run
    with stride 1.

    The outputs are the same. Without it, the weight gradient for a channels-last input corrupts the heap, and the process crashes some time
    later (https://github.com/uxlfoundation/oneDNN/issues/6035; seen with torch 2.14.1).

    Example:
        >>> import torch
        >>> with SafeStrides():
        ...     torch.nn.Conv2d(8, 16, 1, stride=2)(torch.zeros(1, 8, 28, 28)).shape
        torch.Size([1, 16, 14, 14])
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor:
    rows, columns = (stride, stride) if isinstance(stride, int) else (stride[0], stride[-1])
    strided = weight.shape[2:] == (1, 1) and max(rows, columns) > 1 and padding in (0, (0, 0), [0, 0], "valid")
    if strided and weight.shape[1] < _CHANNELS and input.device.type == "cpu":
        input, stride = input[..., ::rows, ::columns], 1
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
