"""The network with its normalisation in front, as the graph that PyTorch's own exporters start from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from planish.data.normalisation import Normalise
from planish.errors import ExportError
from planish.export.checks.file_checks import named
from planish.export.quiet import explain_export, quiet
from planish.models.outputs import decoded

if TYPE_CHECKING:
    from planish.artifact import Artifact, Pixels


def program(artifact: Artifact, most: int, *, reads: bool = True, raw: bool = False) -> Any:
    """A ``torch.export.ExportedProgram`` from uint8 pixels ``images`` ``(N, H, W, C)`` to logits, or to what the network's ``decode``
    makes of its outputs, by name.

    Args:
        artifact: of format torch.
        most: N is from 1 to this; 1 fixes it.
        reads: False leaves the outputs as the network returns them.
        raw: also return what is decoded, as ``raw.*``.

    Raises:
        ExportError: PyTorch cannot trace the network; the message names the operation.
    """
    spec = artifact.input_spec
    images = np.zeros((min(most, 2), spec.height, spec.width, spec.channels), np.uint8)
    network = copy.deepcopy(artifact.module).eval()
    layers = nn.Sequential(Normalise.of(artifact.preprocessing), network)
    return traced(read_by(network, layers, raw=raw) if reads else _Fed(layers), images, most)


def read_by(network: nn.Module, layers: nn.Module, *, raw: bool = False) -> nn.Module:
    """Layers that take pixels, and then the network's ``decode``, where it has one; what is decoded is returned, too, if ``raw``."""
    if not hasattr(network, "decode"):
        return _Fed(layers)
    return _Fed(layers, lambda outputs: (named if raw else decoded)(network, outputs))


def traced(module: nn.Module, images: Pixels, most: int) -> Any:
    """As ``program``, of a module that takes pixels."""
    shapes = {"images": {0: torch.export.Dim("n", min=1, max=most)}} if most > 1 else None
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(module, (torch.from_numpy(images),), dynamic_shapes=shapes)
    except Exception as error:  # the tracer raises many kinds
        raise ExportError(*explain_export(error)) from error


class _Fed(nn.Module):
    def __init__(self, layers: nn.Module, read: Callable[[Any], Any] = lambda outputs: outputs) -> None:
        super().__init__()
        self.layers, self.read = layers, read

    def forward(self, images: torch.Tensor) -> Any:
        return self.read(self.layers(images))
