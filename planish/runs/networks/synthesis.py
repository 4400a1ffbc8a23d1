"""Images synthesized from a trained network, for calibration where there are no others.

They start as dead leaves, discs of many sizes that cover each other, whose statistics are near those of photographs (A. Lee, D. Mumford,
J. Huang 2001, Occlusion Models for Natural Images), and are changed by gradient descent until their feature maps have the means and
variances that batch norm keeps of the training images (H. Yin et al. 2020, Dreaming to Distill, arXiv:1912.08795).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from planish.artifact import InputSpec, Preprocessing
from planish.data.normalisation import Normalise
from planish.models.outputs import decodes
from planish.progress import Stage

if TYPE_CHECKING:
    from planish.artifact import Pixels

_RATE = 0.05  # of Adam, on the 0..1 scale of pixels
_CLASS_WEIGHT = 0.1  # of the cross-entropy, relative to the statistics of the layers
_SMOOTH_WEIGHT = 0.05  # of the mean difference of neighbouring pixels
_SHIFT = 16  # images are shifted by up to this part of their side
_LEAVES = 300  # discs in an image
_BATCH_PIXELS = 2**21


def dead_leaves(count: int, spec: InputSpec, seed: int) -> Pixels:
    """Draw discs of one colour each that cover each other; the number of discs falls with the cube of their radius.

    Args:
        count: number of images.
        spec: their size and number of channels.
        seed: of the drawing.

    Returns:
        uint8 ``(count, H, W, C)``.
    """
    rng = np.random.default_rng(seed)
    height, width = spec.height, spec.width
    longest = max(height, width)
    rows, columns = np.mgrid[:height, :width]
    images = np.empty((count, height, width, spec.channels), np.uint8)
    for image in images:
        image[:] = rng.integers(0, 256, spec.channels)
        smallest, largest = max(1.0, longest / 64), longest / 2
        uniform = rng.random(_LEAVES)
        radii = (uniform * largest**-2 + (1 - uniform) * smallest**-2) ** -0.5  # density proportional to radius ** -3
        for radius in radii:
            y, x = rng.random() * height, rng.random() * width
            image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.integers(0, 256, spec.channels)
    return images


def norms_of(module: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the layers that keep means and variances of the training images."""
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None]


def synthesize(
    module: nn.Module, norms: list[nn.BatchNorm2d], start: Pixels, preprocessing: Preprocessing, *, steps: int, seed: int
) -> Pixels:
    """Change images until a network sees in them what it saw in its training images.

    A classifier also has to recognise a class in each of them, all classes equally often.

    Args:
        module: a trained network; it is left in eval mode and otherwise unchanged.
        norms: the layers whose statistics the images are to have, see ``norms_of``; with none, only classes are matched.
        start: uint8 ``(N, H, W, C)``, see ``dead_leaves``.
        preprocessing: of the network.
        steps: of gradient descent for each image.
        seed: of the shifts and the classes.

    Returns:
        uint8 ``(N, H, W, C)``.
    """
    generator = torch.Generator().manual_seed(seed)
    normalise, batches, found = Normalise.of(preprocessing), _batches(start), []
    module.eval()
    with _frozen(module), _statistics(norms) as differences, Stage("synthesizing images", steps * len(batches)) as stage:
        for batch in batches:
            pixels = (torch.from_numpy(batch).float() / 255).requires_grad_()
            classes = torch.randperm(len(batch), generator=generator)
            optimizer = torch.optim.Adam([pixels], lr=_RATE)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for _ in range(steps):
                differences.clear()
                outputs = module(normalise(255 * _moved(pixels, generator)))
                loss = _SMOOTH_WEIGHT * _roughness(pixels)
                if differences:
                    loss = loss + torch.stack(differences).mean()
                if isinstance(outputs, Tensor) and outputs.ndim == 2 and not decodes(module):
                    loss = loss + _CLASS_WEIGHT * nn.functional.cross_entropy(outputs, classes % outputs.shape[1])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    pixels.clamp_(0, 1)
                stage.advance()
            found.append((255 * pixels.detach()).round().to(torch.uint8).numpy())
    return np.concatenate(found)


@contextmanager
def _statistics(norms: Sequence[nn.BatchNorm2d]) -> Iterator[list[Tensor]]:
    """Within this block, each forward pass adds to the list, per norm, how far its input is from what the norm expects."""
    differences = list[Tensor]()

    def compare(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        expected = norm.running_var + norm.eps
        differences.append(((mean - norm.running_mean).square() / expected + ((variance + norm.eps) / expected).log().square()).mean())

    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    try:
        yield differences
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Within this block, no gradients of the weights are computed."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def _batches(images: Pixels) -> list[Pixels]:
    """Return batches of about equal size: the statistics are those of a batch."""
    size = max(16, _BATCH_PIXELS // (images.shape[1] * images.shape[2]))
    return np.array_split(images, math.ceil(len(images) / size))


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift all images ``(N, H, W, C)`` alike, around the border, and mirror half of them."""
    shifts = [int(torch.randint(-(side // _SHIFT), side // _SHIFT + 1, (1,), generator=generator)) for side in images.shape[1:3]]
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).view(-1, 1, 1, 1)
    return torch.where(mirrored, images.flip(2), images).roll(shifts, (1, 2))


def _roughness(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels."""
    return images.diff(dim=1).abs().mean() + images.diff(dim=2).abs().mean()
