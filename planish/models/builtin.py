"""The networks of this package by name."""

from __future__ import annotations

from torch import nn

from planish.models import cifarnet, resnet
from planish.models.space.architecture import is_searched
from planish.models.space.network import searched

NAMES = (*resnet.NAMES, "cifarnet")


def is_builtin(name: str) -> bool:
    """Whether the name is one of ``NAMES``, with or without a width factor (``resnet20``, ``resnet14x2``, ``cifarnetx0.5``), or that of a
    searched network.
    """
    return resnet.is_ours(name) or cifarnet.is_cifarnet(name) or is_searched(name)


def build_builtin(name: str, num_classes: int, channels: int) -> nn.Module:
    """Build a network of this package, initialised from torch's global random state.

    Raises:
        ValueError: the name is not one of ``NAMES``.
        ModelError: the name begins like that of a searched network, but describes none.
    """
    if is_searched(name):
        return searched(name, num_classes, channels)
    builder = cifarnet.cifarnet if cifarnet.is_cifarnet(name) else resnet.resnet
    return builder(name, num_classes, channels)
