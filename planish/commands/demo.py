"""A demonstration of ``optimize`` on images that come with the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from planish.commands.optimize import optimize

if TYPE_CHECKING:
    from planish.search.result import CandidateResult, Result

# The largest networks that can be trained, compressed and measured in the given minutes on two cores. With so few epochs, augmentation
# would cost more than it gains; and the networks are so small that no student networks are tried.
_SCENES: dict[str, Any] = {"data": "fashion-scenes-2000", "model": "timm:resnet10t", "image_size": 96, "students": (), "budget": "9m"}
DEMOS: dict[str, dict[str, Any]] = {
    "classification": {"data": "fashion-mini", "model": "resnet8x2", "budget": "7m50s"},
    "detection": {**_SCENES, "task": "detection"},
    "instance": {**_SCENES, "task": "instance", "budget": "8m"},  # evaluating the masks of a thousand scenes takes a minute
    "semantic": {**_SCENES, "task": "semantic"},
}


def demo(
    *,
    task: Literal["classification", "detection", "instance", "semantic"] = "classification",
    budget: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    watch: Callable[[Sequence[CandidateResult]], None] | None = None,
) -> Result:
    """Run the main job on bundled images: train, compress, export, measure, bundle, report.

    Args:
        task: What to train on: single garments from Fashion-MNIST, or generated scenes with several of them.
        budget: Total wall-clock time; 7m50s by default for classification, 8m or 9m for the other tasks.
        out: Folder of the run.
        resume: Continue the run in --out; finished steps are not repeated.
        watch: See `optimize`.

    Returns:
        The result of the run.

    Example:
        $ planish demo --budget 7m50s
    """
    settings = DEMOS[task] | ({} if budget is None else {"budget": budget})
    return optimize(**settings, augmentation="none", out=out, resume=resume, watch=watch)
