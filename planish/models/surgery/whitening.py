"""Whitening of the input by the first convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from planish.artifact import Artifact
from planish.errors import TechniqueError
from planish.models.heads.stem_and_classifier import run_order
from planish.models.surgery.graph import changed, copied

if TYPE_CHECKING:
    from planish.task import Task


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Whitening:
    """Sets the first convolution to the principal directions of image patches, scaled to unit variance, each with both signs.

    Further channels keep their weights; if there are too few channels, the directions with the largest variance are used. The first
    convolution is not trained in the training that follows, except its bias: its outputs are uncorrelated from the first step on.

    Args:
        images: number of images, spread evenly, whose patches are used.
        epsilon: added to the variances before they are inverted, so that directions without signal are not amplified.

    Example:
        >>> print(Whitening())
        whitened by 2000 images
    """

    images: int = Field(default=2000, ge=1)
    epsilon: float = Field(default=5e-4, gt=0)

    name: ClassVar[str] = "whitening"
    reference: ClassVar[str] = "Jordan 2024, arXiv:2404.00498"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",), "weights": ("dense",)}

    def __str__(self) -> str:
        return f"whitened by {self.images} images"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Set the first convolution.

        Raises:
            TechniqueError: the first layer is no convolution of all input channels, or images are normalised by their own statistics.
        """
        if artifact.preprocessing.normalisation != "dataset":
            raise TechniqueError(
                f"normalisation={artifact.preprocessing.normalisation}",
                "whitening replaces it",
                "use normalisation=dataset, or omit whitening",
            )
        module, spec = copied(artifact), artifact.input_spec
        first = run_order(module, spec.channels, (spec.height, spec.width))[0][0][1]
        if not isinstance(first, nn.Conv2d) or first.groups > 1 or first.in_channels != spec.channels:
            raise TechniqueError("the first layer is no convolution of the image", "whitening is done by a convolution", "leave it out")
        pixels = task.split("train").images(spec, artifact.preprocessing)
        chosen = np.linspace(0, len(pixels) - 1, min(self.images, len(pixels))).round().astype(int)
        how = artifact.preprocessing
        images = torch.from_numpy(np.array(pixels[chosen])).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (how.mean, how.std))
        filters = whitening_filters((images - mean) / std, first.kernel_size, self.epsilon)  # type: ignore[arg-type]
        kept = min(len(first.weight), len(filters))
        with torch.no_grad():
            first.weight[:kept] = filters[:kept]
            if first.bias is not None:
                first.bias.zero_()
        first.weight.requires_grad_(False)
        return changed(artifact, self, module, {}, f"{kept} of {len(first.weight)} channels of the first layer whiten the image")


def whitening_filters(images: Tensor, size: tuple[int, int], epsilon: float) -> Tensor:
    """Return the principal directions of patches as filters, each followed by its negative, largest variance first.

    Args:
        images: normalised images ``(N, C, H, W)``.
        size: height and width of a patch.
        epsilon: added to the variance of each direction before it is scaled to 1.

    Returns:
        ``(2 * C * h * w, C, h, w)``.
    """
    patches = functional.unfold(images, size).transpose(1, 2).flatten(0, 1).double()
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    scaled = (directions / (variances + epsilon).sqrt()).T.flip(0)
    return torch.stack([scaled, -scaled], dim=1).reshape(-1, images.shape[1], *size).to(images.dtype)
