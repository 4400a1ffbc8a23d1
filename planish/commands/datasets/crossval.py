"""Cross-validation of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Changes, Layout, at_least, changes_of, source
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.datacentric.folds import Fold, Folds
    from planish.training.recipe import Recipe


def crossval(
    data: str | Path | Dataset,
    *,
    model: str = "resnet20",
    weights: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    changes: Changes = (),
    epochs: int | None = None,
    image_size: ImageSize | None = None,
    folds: int = 5,
    repeats: int = 1,
    budget: str | None = None,
    layout: Layout | None = None,
    workers: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    watch: Callable[[Sequence[Fold]], None] | None = None,
) -> Folds:
    """Estimate a recipe's accuracy by cross-validation over train and validation; test is not touched.

    Near duplicates share a fold. Networks are not evaluated on their held-out fold during training, so early stopping has no effect. The
    output folder contains `folds.json`, and all logits in `out_of_fold.npz`.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        model: Network: resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory.
        weights: Initial weights: imagenet, or a .safetensors or .pth file.
        recipe: Training recipe: a name (see `planish recipes`) or a YAML file. The default depends on whether the weights are pretrained.
        changes: Override a value of the recipe: training.epochs=10, norm=group. May be repeated.
        epochs: Epochs per training; the same as --set training.epochs.
        image_size: Input size in pixels, or HEIGHTxWIDTH; by default the size of the images, at most 224.
        folds: Number of folds, at least 2.
        repeats: Number of times the cross-validation is repeated, each with new folds and another seed.
        budget: Total wall-clock time, divided equally among the trainings; each schedule is fitted to its share.
        layout: Layout of the dataset, if it could be read in more than one way.
        workers: Other processes that share the trainings: ray, ray?cores=2, ray://HOST:10001, or postgresql://USER@HOST/DATABASE for
            those of `planish worker`. By default this process does them all.
        out: Output folder; by default runs/ and a name made from the dataset and the model.
        resume: Continue the study in --out; finished trainings are not repeated.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, and of the first repeat.
        watch: Called with the finished folds after each training.

    Returns:
        The accuracy, with an interval that accounts for folds that share images, and the accuracy of each fold.

    Raises:
        DataError: there are too few images.

    Example:
        $ planish crossval photos/ --folds 5 --repeats 2 --recipe finetune-few --weights imagenet --model mobilenet_v2
    """
    from planish.datacentric.folds import folds as run
    from planish.runs.workers import working_with
    from planish.settings import ModelSettings, RecipeSettings, RunSettings

    at_least(2, folds=folds)
    at_least(1, epochs=epochs, repeats=repeats)
    with working_with(workers):
        return run(
            source(data, layout),
            model=ModelSettings(model, weights),
            recipe=RecipeSettings(recipe, changes_of(changes, epochs=epochs, image_size=image_size)),
            folds=folds,
            repeats=repeats,
            run=RunSettings(out, resume, budget, skip_bad, seed),
            watch=watch,
        )
