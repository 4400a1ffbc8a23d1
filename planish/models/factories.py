"""Networks built by a Python function, including those that other packages add through the entry point ``planish.models``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from planish.artifact import Source
from planish.errors import ModelError


@cache
def installed_models() -> dict[str, Callable[..., Any]]:
    """Factories that other packages add through the entry point ``planish.models``, by the name of the network."""
    return {entry.name: entry.load() for entry in entry_points(group="planish.models")}


def from_package(source: Source) -> nn.Module:
    """A new network from an installed factory.

    Raises:
        ModelError: the factory fails, or does not return an ``nn.Module``.
    """
    return call(installed_models()[source.name], source.name, source)


def call(factory: Callable[..., Any], name: str, source: Source) -> nn.Module:
    """The network that a factory builds for a source.

    Args:
        factory: called with those of ``num_classes``, ``channels`` and ``in_chans`` that its signature has.
        name: name of the factory, for error messages.
        source: number of classes and channels.

    Raises:
        ModelError: the factory fails, or does not return an ``nn.Module``.
    """
    offered = {"num_classes": source.num_classes, "channels": source.channels, "in_chans": source.channels}
    parameters = inspect.signature(factory).parameters
    taken = {key: value for key, value in offered.items() if key in parameters}
    if any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        taken["num_classes"] = source.num_classes  # def net(pretrained=False, **kwargs), as in torchvision
    try:
        built = factory(**taken)
    except Exception as error:
        raise ModelError(
            f"{name}, called with {', '.join(f'{k}={v}' for k, v in taken.items()) or 'nothing'}, failed: {type(error).__name__}: {error}",
            "a factory may take num_classes and channels or in_chans, and nothing else without a default",
        ) from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"{name} returned a {type(built).__name__}", "it must return a torch.nn.Module")
    return built
