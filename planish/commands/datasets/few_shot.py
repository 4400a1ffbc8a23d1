"""How far a few images per class carry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Layout, at_least, source

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.datacentric.few_shot import FewShot


def few_shot(
    data: str | Path | Dataset,
    *,
    shots: Sequence[int] = (1, 5, 10),
    model: str = "mobilenet_v2",
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    draws: int = 10,
    layout: Layout | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> FewShot:
    """Accuracy with a few images per class: a linear classifier on the features of a frozen network, on validation.

    Args:
        data: Images: a folder, a manifest, or a built-in name; see `planish optimize --help`.
        shots: Images per class: 1,5,10. A draw of more contains that of fewer.
        model: A network's name, or FILE.py:factory.
        weights: imagenet, or a file.
        image_size: Pixels of the network's input; by default the images' own size, at most 224.
        draws: Of training images.
        layout: How the data is laid out, where it could be read in several ways.
        skip_bad: Leave broken images out instead of stopping.
        seed: Of the split and the draws.

    Returns:
        Accuracies with intervals.

    Raises:
        GoalError: no images are asked for.
        DataError: a class has fewer images.

    Example:
        $ planish few-shot photos/ --shots 1,5,10
    """
    from planish.datacentric.few_shot import few_shot as run

    at_least(1, draws=draws)
    return run(
        source(data, layout), shots=shots, model=model, weights=weights, image_size=image_size, draws=draws, skip_bad=skip_bad, seed=seed
    )
