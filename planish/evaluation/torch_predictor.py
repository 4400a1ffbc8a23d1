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
from planish.models.inference import inference_copy
from planish.models.outputs import decoded

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels, Preprocessing

_PIXELS = 2**20  # per batch on a CPU: maps of larger batches do not stay in its caches


class TorchPredictor:
    """Runs ``module`` on uint8 pixels ``(N, H, W, C)``, normalised as in training.

    It returns the same outputs as the exported file: float32 ``logits`` ``(N, classes)`` for a classifier.

    A copy of the module, made for inference, runs in eval mode on the device of its weights.

    Args:
        module: takes normalised float images ``(N, C, H, W)``; later changes to it have no effect.
        preprocessing: mean and standard deviation.
        batch_size: maximum batch size; longer inputs are split. On a CPU, batches of large images are smaller.
    """

    def __init__(self, module: nn.Module, preprocessing: Preprocessing, batch_size: int = 256) -> None:
        self.batch_size = batch_size
        self.module, self._layout = inference_copy(module)
        self.device = next((p.device for p in module.parameters()), torch.device("cpu"))
        self.normalise = Normalise.of(preprocessing).to(self.device)

    @classmethod
    def fastest(cls, module: nn.Module, preprocessing: Preprocessing) -> TorchPredictor:
        """Return a predictor that runs a copy on the accelerator if the machine has one, else the module on the device of its weights."""
        device = Accelerator().device
        return cls(module if device.type == "cpu" else copy.deepcopy(module).to(device), preprocessing)

    def __call__(self, images: Pixels, advance: Callable[[int], None] = lambda done: None) -> Outputs:
        """Run all images; after each batch, ``advance`` is called with the size of the batch."""
        at_once = self.batch_size
        if self.device.type == "cpu":
            at_once = max(1, min(at_once, _PIXELS // (images.shape[1] * images.shape[2])))
        found: list[dict[str, Any]] = []
        with torch.inference_mode():
            for start in range(0, len(images), at_once):
                batch = torch.from_numpy(np.array(images[start : start + at_once])).to(self.device)
                outputs = decoded(self.module, self._run(self.normalise(batch)))
                found.append({name: _array(values) for name, values in outputs.items()})
                advance(len(batch))
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def _run(self, images: torch.Tensor) -> Any:
        if self._layout is torch.channels_last:
            try:
                return self.module(images.contiguous(memory_format=torch.channels_last))
            except Exception:  # for example x.view(len(x), -1), which needs contiguous maps
                self._layout = torch.contiguous_format
                self.module.to(memory_format=torch.contiguous_format)
        return self.module(images)


def _array(values: torch.Tensor) -> Any:
    return (values.float() if values.is_floating_point() else values).cpu().numpy()
