"""Replacement of a submodule that a network may hold under several names."""

from __future__ import annotations

from torch import nn


def replace_submodule(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` in the place of the submodule ``name``, under all its names: ``self.conv``, and ``self.layers[0]`` if they are the same.

    Args:
        module: the network; changed in place.
        name: one of the names of the submodule.
        new: may contain the old submodule.
    """
    old = module.get_submodule(name)
    for parent in list(module.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new
