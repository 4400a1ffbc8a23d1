"""The network with its normalisation in front, as the graph that PyTorch's own exporters start from."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from planish.data.normalisation import Normalise
from planish.errors import ExportError
from planish.export.runtimes import first_line

if TYPE_CHECKING:
    from planish.artifact import Artifact, Pixels


def program(artifact: Artifact, most: int) -> Any:
    """A ``torch.export.ExportedProgram`` from uint8 pixels ``images`` ``(N, H, W, C)`` to logits.

    Args:
        artifact: of format torch.
        most: N is from 1 to this; 1 fixes it.

    Raises:
        ExportError: PyTorch cannot trace the network; the message names the operation.
    """
    spec = artifact.input_spec
    images = np.zeros((min(most, 2), spec.height, spec.width, spec.channels), np.uint8)
    return traced(_Fed(artifact).eval(), images, most)


def traced(module: nn.Module, images: Pixels, most: int) -> Any:
    """As ``program``, of a module that takes pixels."""
    shapes = {"images": {0: torch.export.Dim("n", min=1, max=most)}} if most > 1 else None
    try:
        with torch.no_grad():
            return torch.export.export(module, (torch.from_numpy(images),), dynamic_shapes=shapes)
    except Exception as error:  # the tracer raises many kinds
        raise ExportError(f"PyTorch cannot trace the network: {first_line(error)}", "its graph must not depend on values") from error


class _Fed(nn.Module):
    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self.normalise, self.network = Normalise.of(artifact.preprocessing), copy.deepcopy(artifact.module)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(self.normalise(images))
        return logits
