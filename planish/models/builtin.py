"""The networks of this package by name."""

from __future__ import annotations

from torch import nn

from planish.models import cifarnet, resnet

NAMES = (*resnet.NAMES, "cifarnet")


def is_builtin(name: str) -> bool:
    """Whether the name is one of ``NAMES``, with or without a width factor: ``resnet20``, ``resnet14x2``, ``cifarnetx0.5``."""
    return resnet.is_ours(name) or cifarnet.is_cifarnet(name)


def build_builtin(name: str, num_classes: int, channels: int) -> nn.Module:
    """Build a network of this package, initialised from torch's global random state.

    Raises:
        ValueError: the name is not one of ``NAMES``.
    """
    builder = cifarnet.cifarnet if cifarnet.is_cifarnet(name) else resnet.resnet
    return builder(name, num_classes, channels)
