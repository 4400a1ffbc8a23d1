"""Detection of labels that are probably wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Changes, Layout, at_least, changes_of, results_folder, source
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.datacentric.label_issues import LabelIssues
    from planish.training.recipe import Recipe


def label_issues(
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
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
) -> LabelIssues:
    """Find images that are probably mislabelled, with a page of thumbnails.

    Networks are cross-validated, so that each image is judged by networks that were not trained on it. The output folder contains
    `label_issues.json` and `label_issues.html`.

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
        out: Output folder; by default runs/ and a name made from the dataset and the model.
        resume: Continue the study in --out; finished trainings are not repeated.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, and of the first repeat.

    Returns:
        The label issues, and the accuracy of the networks that found them.

    Raises:
        DataError: there are too few images.

    Example:
        $ planish label-issues photos/ --model mobilenet_v2 --weights imagenet
    """
    from planish.datacentric.label_issues import find_label_issues as run
    from planish.report.pages.label_issues import write_label_issues
    from planish.settings import ModelSettings, RecipeSettings, RunSettings

    at_least(2, folds=folds)
    at_least(1, epochs=epochs, repeats=repeats)
    found = run(
        source(data, layout),
        model=ModelSettings(model, weights),
        recipe=RecipeSettings(recipe, changes_of(changes, epochs=epochs, image_size=image_size)),
        folds=folds,
        repeats=repeats,
        run=RunSettings(out, resume, budget, skip_bad, seed),
    )
    write_label_issues(results_folder(out, found.name))
    return found
