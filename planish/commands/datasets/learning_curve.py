"""Learning curve: would more training images help?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Changes, Layout, at_least, changes_of, results_folder, source
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.datacentric.learning_curve import LearningCurve
    from planish.training.recipe import Recipe


def learning_curve(
    data: str | Path | Dataset,
    *,
    model: str = "resnet20",
    weights: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    changes: Changes = (),
    epochs: int | None = None,
    image_size: ImageSize | None = None,
    folds: int = 3,
    repeats: int = 1,
    budget: str | None = None,
    layout: Layout | None = None,
    workers: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
) -> LearningCurve:
    """Estimate whether twice as many images would help, by training on an eighth, a quarter, half and all of them.

    Each fold is evaluated by networks that were not trained on it; test is not touched. All sizes are trained for the same number of steps.
    The output folder contains `learning_curve.json` and `learning_curve.html`.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        model: Network: resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory.
        weights: Initial weights: imagenet, or a .safetensors or .pth file.
        recipe: Training recipe: a name (see `planish recipes`) or a YAML file. The default depends on whether the weights are pretrained.
        changes: Override a value of the recipe: training.epochs=10, norm=group. May be repeated.
        epochs: Epochs per training; the same as --set training.epochs.
        image_size: Input size in pixels, or HEIGHTxWIDTH; by default the size of the images, at most 224.
        folds: Number of folds, at least 2; four networks are trained per fold.
        repeats: Number of times the cross-validation is repeated, each with new folds and another seed.
        budget: Total wall-clock time, divided equally among the trainings; each schedule is fitted to its share.
        layout: Layout of the dataset, if it could be read in more than one way.
        workers: Other processes that share the trainings: ray, ray?cores=2, ray://HOST:10001, or postgresql://USER@HOST/DATABASE for
            those of `planish worker`. By default this process does them all.
        out: Output folder; by default runs/ and a name made from the dataset and the model.
        resume: Continue the study in --out; finished trainings are not repeated.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, and of the first repeat.

    Returns:
        The learning curve, with a forecast for twice as many images.

    Raises:
        DataError: there are too few images.

    Example:
        $ planish learning-curve photos/ --model resnet20 --budget 20m
    """
    from planish.datacentric.learning_curve import learning_curve as run
    from planish.report.pages.learning_curve import write_learning_curve
    from planish.runs.workers import working_with
    from planish.settings import ModelSettings, RecipeSettings, RunSettings

    at_least(2, folds=folds)
    at_least(1, epochs=epochs, repeats=repeats)
    with working_with(workers):
        found = run(
            source(data, layout),
            model=ModelSettings(model, weights),
            recipe=RecipeSettings(recipe, changes_of(changes, epochs=epochs, image_size=image_size)),
            folds=folds,
            repeats=repeats,
            run=RunSettings(out, resume, budget, skip_bad, seed),
        )
    write_learning_curve(results_folder(out, found.name))
    return found
