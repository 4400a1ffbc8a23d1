"""The network with its normalisation in front, as the graph that PyTorch's own exporters start from."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from planish.data.normalisation import Normalise
from planish.errors import ExportError
from planish.export.checks import named
from planish.export.runtimes import first_line
from planish.models.outputs import decoded

if TYPE_CHECKING:
    from planish.artifact import Artifact, Pixels


def program(artifact: Artifact, most: int, *, raw: bool = False) -> Any:
    """A ``torch.export.ExportedProgram`` from uint8 pixels ``images`` ``(N, H, W, C)`` to logits, or to what the network's ``decode``
    makes of its outputs, by name.

    Args:
        artifact: of format torch.
        most: N is from 1 to this; 1 fixes it.
        raw: also return what is decoded, as ``raw.*``.

    Raises:
        ExportError: PyTorch cannot trace the network; the message names the operation.
    """
    spec = artifact.input_spec
    images = np.zeros((min(most, 2), spec.height, spec.width, spec.channels), np.uint8)
    return traced(_Fed(artifact, raw).eval(), images, most)


def traced(module: nn.Module, images: Pixels, most: int) -> Any:
    """As ``program``, of a module that takes pixels."""
    shapes = {"images": {0: torch.export.Dim("n", min=1, max=most)}} if most > 1 else None
    try:
        with torch.no_grad():
            return torch.export.export(module, (torch.from_numpy(images),), dynamic_shapes=shapes)
    except Exception as error:  # the tracer raises many kinds
        raise ExportError(f"PyTorch cannot trace the network: {first_line(error)}", "its graph must not depend on values") from error


class _Fed(nn.Module):
    """Its ``network`` is what may be quantized: what decodes the outputs stands in no module."""

    def __init__(self, artifact: Artifact, raw: bool) -> None:
        super().__init__()
        self.normalise, self.network, self.raw = Normalise.of(artifact.preprocessing), copy.deepcopy(artifact.module), raw

    def forward(self, images: torch.Tensor) -> Any:
        outputs = self.network(self.normalise(images))
        if not hasattr(self.network, "decode"):
            return outputs
        return (named if self.raw else decoded)(self.network, outputs)
