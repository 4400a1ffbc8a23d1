"""Memory of a training: the layout of feature maps, and what becomes of freed blocks."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import sys
from collections.abc import Sequence

import torch
from torch import nn

from planish.artifact import InputSpec
from planish.errors import first_line
from planish.progress import note

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Make this process keep freed blocks for the next allocation instead of returning them to the system.

    Feature maps are allocated and freed in every step; for those above 32 MB, glibc otherwise gets new pages from the system each time, and
    touching them costs more than many a layer does.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # the C library is not glibc
            library = ctypes.CDLL(None)
            library.mallopt(_M_MMAP_MAX, 0)
            library.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)


def return_freed_memory() -> None:
    """Return the blocks that are free now to the system."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


def memory_format(networks: Sequence[nn.Module], spec: InputSpec, channels_last: bool) -> torch.memory_format:
    """``torch.channels_last`` if it is requested and all networks run in it, ``torch.contiguous_format`` otherwise.

    For example, a network that flattens feature maps with ``x.view(len(x), -1)`` runs on contiguous ones only.

    Args:
        networks: networks that take the same images; not changed.
        spec: channels and size of the images.
        channels_last: whether channels-last is requested.
    """
    if not channels_last:
        return torch.contiguous_format
    for network in networks:
        try:
            run_once(network, spec, torch.channels_last)
        except Exception as error:  # user code may raise anything
            try:
                run_once(network, spec)
            except Exception:
                continue  # the error does not come from the layout
            note(f"training keeps the contiguous memory layout, as the network does not run channels-last: {first_line(error)}")
            return torch.contiguous_format
    return torch.channels_last


def run_once(network: nn.Module, spec: InputSpec, layout: torch.memory_format = torch.contiguous_format) -> None:
    """Run a copy of a network, in eval mode, on two black images of this size; whatever it raises shows that it does not take them."""
    copied = copy.deepcopy(network).eval().to(memory_format=layout)
    device = next((p.device for p in copied.parameters()), torch.device("cpu"))
    images = torch.zeros(2, spec.channels, spec.height, spec.width, device=device)
    with torch.no_grad():
        copied(images.contiguous(memory_format=layout))
