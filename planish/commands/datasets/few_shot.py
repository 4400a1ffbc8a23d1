"""Few-shot probe: accuracy with few training images per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Layout, at_least, source
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.datacentric.few_shot import FewShot


def few_shot(
    data: str | Path | Dataset,
    *,
    shots: Sequence[int] = (1, 5, 10),
    model: str = "mobilenet_v2",
    weights: str | Path = "imagenet",
    image_size: ImageSize | None = None,
    draws: int = 10,
    layout: Layout | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> FewShot:
    """Accuracy with few images per class: a linear classifier on features of a frozen network, measured on validation.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        shots: Images per class: 1,5,10. A larger draw contains the smaller ones.
        model: Name of a network, or FILE.py:factory.
        weights: imagenet, or a file.
        image_size: Input size in pixels, or HEIGHTxWIDTH; by default the size of the images, at most 224.
        draws: Number of random draws of training images.
        layout: Layout of the dataset, if it could be read in more than one way.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split and of the draws.

    Returns:
        Accuracies with confidence intervals.

    Raises:
        GoalError: a number of images or draws is too small.
        DataError: a class has too few images.

    Example:
        $ planish few-shot photos/ --shots 1,5,10
    """
    from planish.datacentric.few_shot import few_shot as run

    at_least(1, draws=draws)
    return run(
        source(data, layout), shots=shots, model=model, weights=weights, image_size=image_size, draws=draws, skip_bad=skip_bad, seed=seed
    )
