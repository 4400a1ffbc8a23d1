"""A torch network as a ``Predictor``, so that the same code evaluates networks and exported files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from planish.data.normalisation import Normalise
from planish.models.outputs import decoded

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels, Preprocessing


class TorchPredictor:
    """Runs ``module`` on uint8 pixels ``(N, H, W, C)``, normalised as in training.

    It returns the same outputs as the exported file: float32 ``logits`` ``(N, classes)`` for a classifier.

    The module runs on the device of its weights, in eval mode; afterwards its mode is restored.

    Args:
        module: takes normalised float images ``(N, C, H, W)``.
        preprocessing: mean and standard deviation.
        batch_size: maximum batch size; longer inputs are split.
    """

    def __init__(self, module: nn.Module, preprocessing: Preprocessing, batch_size: int = 256) -> None:
        self.module, self.batch_size = module, batch_size
        self.device = next((p.device for p in module.parameters()), torch.device("cpu"))
        self.normalise = Normalise.of(preprocessing).to(self.device)

    @classmethod
    def fastest(cls, module: nn.Module, preprocessing: Preprocessing) -> TorchPredictor:
        """Return a predictor that runs a copy on the accelerator if the machine has one, else the module on the device of its weights."""
        device = Accelerator().device
        return cls(module if device.type == "cpu" else copy.deepcopy(module).to(device), preprocessing)

    def __call__(self, images: Pixels, advance: Callable[[int], None] = lambda done: None) -> Outputs:
        """Run all images; after each batch, ``advance`` is called with the size of the batch."""
        modes = [(m, m.training) for m in self.module.modules()]
        self.module.eval()
        found: list[dict[str, Any]] = []
        try:
            with torch.inference_mode():
                for start in range(0, len(images), self.batch_size):
                    batch = torch.from_numpy(np.array(images[start : start + self.batch_size])).to(self.device)
                    outputs = decoded(self.module, self.module(self.normalise(batch)))
                    found.append({name: _array(values) for name, values in outputs.items()})
                    advance(len(batch))
        finally:
            for m, training in modes:
                m.training = training
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _array(values: torch.Tensor) -> Any:
    return (values.float() if values.is_floating_point() else values).cpu().numpy()
