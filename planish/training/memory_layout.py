"""Choice of the memory layout for training."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from planish.artifact import InputSpec
from planish.errors import first_line
from planish.progress import note


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
