"""Networks that take images of another size, and progressive resizing: small images first, full size at the end of a training."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from planish.artifact import InputSpec, Normalisation
from planish.data.normalisation import normalise_each
from planish.models.outputs import copy_decoding_methods
from planish.progress import note
from planish.training.memory_layout import run_once

Size = tuple[int, int]

_SMALL_UNTIL = 0.7  # share of the training on small images; networks need some steps at the size that they are used at
_MULTIPLE, _LEAST = 32, 64  # in pixels: most networks shrink images 32-fold, and very small ones say little about the full size


def shrink(pixels: Tensor, size: Size, normalisation: Normalisation) -> Tensor:
    """Shrink normalised images ``(N, C, H, W)`` to a height and width, with antialiasing; images that are not larger stay as they are."""
    if pixels.shape[2] <= size[0] and pixels.shape[3] <= size[1]:
        return pixels
    shrunk = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    return shrunk if normalisation == "dataset" else normalise_each(shrunk, normalisation, least=1e-6)


class Resized(nn.Sequential):
    """A network preceded by a resize, so that it takes images of a larger size than its own."""

    def __init__(self, module: nn.Module, size: Size, normalisation: Normalisation) -> None:
        super().__init__(_Shrink(size, normalisation), module)
        self.size = size
        copy_decoding_methods(module, self)

    @property
    def network(self) -> nn.Module:
        """The network without the resize."""
        return self[1]


class _Shrink(nn.Module):
    def __init__(self, size: Size, normalisation: Normalisation) -> None:
        super().__init__()
        self.size, self.normalisation = size, normalisation

    def forward(self, x: Tensor) -> Tensor:
        return shrink(x, self.size, self.normalisation)

    def extra_repr(self) -> str:
        return f"{self.size}, {self.normalisation}"


def resized(module: nn.Module, own: InputSpec, given: InputSpec, normalisation: Normalisation = "dataset") -> nn.Module:
    """Return the network for images of size ``given``, which are shrunk to its own size; the network itself if they are equal."""
    return module if own == given else Resized(module, (own.height, own.width), normalisation)


class ProgressiveResizing:
    """The image size by the progress of a training: small until 70 % of it, then full.

    Small images cost less, by about the square of their side, so that a training of equal duration sees more of them; the last steps adapt
    the network to the size that it is used at (Touvron et al. 2019, Fixing the Train-Test Resolution Discrepancy, arXiv:1906.06423; Tan and
    Le 2021, EfficientNetV2, arXiv:2104.00298).

    Args:
        network: the network that is trained; if it cannot take small images, all images are full size.
        spec: channels and full size of the images.
        scale: height and width of the small images as a share of the full ones, rounded to multiples of 32; 1 for full size throughout.
        normalisation: of the images.
        targets: ``Split.targets``; all images are full size unless they are classes, since other targets may depend on the size.
    """

    def __init__(self, network: nn.Module, spec: InputSpec, scale: float, normalisation: Normalisation, targets: Any) -> None:
        self._normalisation, self._small_cost = normalisation, 1.0
        full = network.size if isinstance(network, Resized) else (spec.height, spec.width)
        small = round(scale * full[0] / _MULTIPLE) * _MULTIPLE, round(scale * full[1] / _MULTIPLE) * _MULTIPLE
        self.small: Size | None = None
        if scale < 1 and min(small) >= _LEAST and small[0] < full[0] and small[1] < full[1]:
            if not (isinstance(targets, np.ndarray) and targets.ndim <= 2 and targets.dtype.kind in "iub"):
                note("training begins with small images only for classes: other targets may depend on the size")
                return
            try:
                run_once(network, InputSpec(spec.channels, *small))
            except Exception:  # whatever the network's own code raises
                note(f"the network does not take images of {small[0]} x {small[1]} pixels: it is trained at full size throughout")
            else:
                self.small, self._small_cost = small, small[0] * small[1] / (full[0] * full[1])

    def __call__(self, pixels: Tensor, progress: float) -> Tensor:
        """Return normalised images ``(N, C, H, W)`` at the size for this progress of the training, 0 to 1."""
        return pixels if self.small is None or progress >= _SMALL_UNTIL else shrink(pixels, self.small, self._normalisation)

    def cost(self, progress: float) -> float:
        """Return the approximate duration of a step at this progress, relative to one at full size."""
        return self._small_cost if progress < _SMALL_UNTIL else 1.0
