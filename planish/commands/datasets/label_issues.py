"""Labels that are probably wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Changes, Layout, at_least, changes_of, results_folder, source

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
    image_size: int | None = None,
    folds: int = 5,
    repeats: int = 1,
    budget: str | None = None,
    layout: Layout | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
) -> LabelIssues:
    """Images whose label is probably wrong, with a page of thumbnails.

    Networks are trained in folds, and evaluated on the images that they were not trained on. The folder holds `label_issues.json` and
    `label_issues.html`.

    Args:
        data: Images: a folder, a manifest, or a built-in name; see `planish optimize --help`.
        model: resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory.
        weights: imagenet, or a .safetensors or .pth file.
        recipe: A name (see `planish recipes`) or a YAML file; by default one for fresh or for pretrained weights.
        changes: A value of the recipe: training.epochs=10, norm=group. May be repeated.
        epochs: Of each training; --set training.epochs.
        image_size: Pixels of the model's input; by default the images' own size, at most 224.
        folds: 2 or more; each network is trained on all but one.
        repeats: Of all folds, with other folds and seeds.
        budget: Wall-clock time for everything; each training has an equal share, and its schedule ends within it.
        layout: How the data is laid out, where it could be read in several ways.
        out: Folder for the results; by default runs/ and a name made from data and model.
        resume: Go on with what is in --out; no finished training is repeated.
        skip_bad: Leave broken images out instead of stopping.
        seed: Of the split, and the first of the repeats' seeds.

    Returns:
        What was found.

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
