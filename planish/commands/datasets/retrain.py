"""A served network, trained on with new images."""

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
    """Train the network behind a bundle on old and new images, make a bundle of it by the same steps, and compare the two.

    Images keep the splits that the bundle keeps, and new ones are assigned by their content, so neither network was trained on, or chosen
    by, the images they are compared on.

    Args:
        served: The run's folder, or its bundle.
        data: The images that it was made from.
        add: New images with labels: a folder, or the labels.csv of `planish label-candidates`.
        out: Folder for what is made; must not exist.
        replace: Let the new bundle take the old one's place if tests on images that neither was trained on show that it is better.
        alpha: Error of each test: how often a network that is no better would pass.
        max_drop: Points of accuracy that may be lost on old images.
        recipe: Of the training; fine-tuning by default.
        changes: A value of the recipe: training.epochs=10. May be repeated.
        epochs: Times every image is seen; --set training.epochs.
        budget: Wall-clock time of the training.
        layout: How the data is laid out, where it could be read in several ways.
        skip_bad: Leave broken images out instead of stopping.
        seed: Of the training.

    Returns:
        What was found. The folder holds it as `retraining.json`, `model/`, `bundle/`, and `added.csv`.

    Raises:
        BundleError: there is no bundle, its network or its splits are not kept, or `out` exists.
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
