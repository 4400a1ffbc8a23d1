"""The network with the normalisation in front of it, as the exported program that PyTorch's exporters take."""

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
from planish.models.outputs import decoded, decodes

if TYPE_CHECKING:
    from planish.artifact import Artifact, Pixels


def program(artifact: Artifact, most: int, *, reads: bool = True, raw: bool = False) -> Any:
    """A ``torch.export.ExportedProgram`` from uint8 pixels ``images`` ``(N, H, W, C)`` to logits, or to the named outputs of the
    network's ``decode``.

    Args:
        artifact: of format torch.
        most: maximum batch size; 1 makes the batch size static.
        reads: False returns the outputs of the network without decoding.
        raw: also return the outputs before decoding, as ``raw.*``.

    Raises:
        ExportError: PyTorch cannot trace the network; the message names the operation or the line.
    """
    spec = artifact.input_spec
    images = np.zeros((min(most, 2), spec.height, spec.width, spec.channels), np.uint8)
    network = copy.deepcopy(artifact.module).eval()
    layers = nn.Sequential(Normalise.of(artifact.preprocessing), network)
    return traced(read_by(network, layers, raw=raw) if reads else _PixelModel(layers), images, most)


def read_by(network: nn.Module, layers: nn.Module, *, raw: bool = False) -> nn.Module:
    """Append the network's ``decode``, if it has one, to layers that take pixels; ``raw`` returns the outputs before decoding as well."""
    if not decodes(network):
        return _PixelModel(layers)
    return _PixelModel(layers, lambda outputs: (named if raw else decoded)(network, outputs))


def traced(module: nn.Module, images: Pixels, most: int) -> Any:
    """Trace a module that takes pixels; arguments and errors as for ``program``."""
    shapes = {"images": {0: torch.export.Dim("n", min=1, max=most)}} if most > 1 else None
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(module, (torch.from_numpy(images),), dynamic_shapes=shapes)
    except Exception as error:  # the tracer raises many types
        raise ExportError(*explain_export(error)) from error


class _PixelModel(nn.Module):
    def __init__(self, layers: nn.Module, read: Callable[[Any], Any] = lambda outputs: outputs) -> None:
        super().__init__()
        self.layers, self.read = layers, read

    def forward(self, images: torch.Tensor) -> Any:
        return self.read(self.layers(images))
