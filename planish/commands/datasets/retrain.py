"""Retraining of a deployed network with additional images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Changes, Layout, changes_of, source

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.datacentric.retrain import Retraining
    from planish.training.recipe import Recipe


def retrain(
    served: str | Path,
    data: str | Path | Dataset,
    *,
    add: str | Path,
    out: str | Path = "retrained",
    replace: bool = False,
    alpha: float = 0.05,
    max_drop: float = 2.0,
    recipe: str | Path | Recipe | None = None,
    changes: Changes = (),
    epochs: int | None = None,
    budget: str | float | None = None,
    layout: Layout | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> Retraining:
    """Retrain the network behind a bundle on old and new images, bundle it by the same steps, and compare the two.

    Images keep the splits stored in the bundle, and new ones are assigned by content, so the two are compared on images that neither was
    trained on or selected with.

    Args:
        served: Folder of the run, or of its bundle.
        data: The dataset it was trained on.
        add: New labelled images: a folder, or the labels.csv of `planish label-candidates`.
        out: Output folder; must not exist.
        replace: Replace the old bundle if the new one is shown to be better on images that neither was trained on.
        alpha: Significance level of each test: how often a model that is no better would pass.
        max_drop: Accuracy that may be lost on the old images, in points.
        recipe: Training recipe; fine-tuning by default.
        changes: Override a value of the recipe: training.epochs=10. May be repeated.
        epochs: Number of epochs; the same as --set training.epochs.
        budget: Wall-clock time for training.
        layout: Layout of the dataset, if it could be read in more than one way.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the training.

    Returns:
        The comparison of both networks. The output folder contains `retraining.json`, `model/`, `bundle/` and `added.csv`.

    Raises:
        BundleError: there is no bundle, its network or its splits were not stored, or `out` exists.
        DataError: the new images have classes that the network lacks, or there are too few to test on.

    Example:
        $ planish retrain runs/photos photos/ --add to-label/labels.csv --out runs/photos-2 --replace
    """
    from planish.datacentric.replacement_test import Gate
    from planish.datacentric.retrain import retrain as run
    from planish.settings import RecipeSettings, RunSettings

    return run(
        served,
        source(data, layout),
        add,
        recipe=RecipeSettings(recipe, changes_of(changes, epochs=epochs)),
        gate=Gate(alpha, max_drop),
        replace_served=replace,
        run=RunSettings(out, budget=budget, skip_bad=skip_bad, seed=seed),
    )
