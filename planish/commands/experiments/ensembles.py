"""Gain and cost of ensembles and of weight averaging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Changes, Layout, at_least, changes_of, results_folder, source
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.experiments.ensemble_measurements import EnsembleArm
    from planish.experiments.ensembles import EnsembleStudy
    from planish.training.recipe import Recipe


def ensembles(
    data: str | Path | Dataset,
    *,
    model: str = "resnet8",
    weights: str | Path | None = None,
    recipe: str | Path | Recipe = "scratch-small",
    changes: Changes = (),
    seeds: int = 3,
    epochs: int | None = None,
    budget: str | None = None,
    image_size: ImageSize | None = None,
    runtime: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    layout: Layout | None = None,
    workers: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    watch: Callable[[Sequence[EnsembleArm]], None] | None = None,
) -> EnsembleStudy:
    """Measure what ensembles and weight averaging bring and cost: seeds, snapshots, EMA, SWA, soups, test-time augmentation.

    The output folder contains `ensembles.json` and `ensembles.html`.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        model: Name of a network.
        weights: Initial weights: imagenet, or a file.
        recipe: Training recipe: a name or a YAML file; any weight averaging in it is ignored.
        changes: Override a value of the recipe: batch_size=32. May be repeated.
        seeds: Number of networks in an ensemble.
        epochs: Epochs per training.
        budget: Total wall-clock time; without --epochs it is divided equally among the trainings.
        image_size: Input size in pixels, or HEIGHTxWIDTH.
        runtime: Runtime for all files.
        threads: Number of threads the runtime may use.
        batch: Batch size.
        layout: Layout of the dataset, if it could be read in more than one way.
        workers: Other processes that share the trainings: ray, ray?cores=2, ray://HOST:10001, or postgresql://USER@HOST/DATABASE for
            those of `planish worker`. By default this process does them all.
        out: Output folder; by default runs/ and a name made from the dataset and the model.
        resume: Continue the study in --out.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, and the first of the seeds.
        watch: Called with all arms whenever one is finished.

    Returns:
        The study.

    Raises:
        PlanishError: the images, the model or the runtime cannot be used.

    Example:
        $ planish ensembles fashion-mini --model resnet8 --seeds 3 --epochs 4
    """
    from planish.experiments.ensembles import ensembles as run
    from planish.report.pages.ensembles import write_ensembles
    from planish.runs.workers import working_with
    from planish.settings import DeploymentTarget, ModelSettings, RecipeSettings, RunSettings

    at_least(1, seeds=seeds, epochs=epochs, threads=threads, batch=batch)
    with working_with(workers):
        found = run(
            source(data, layout),
            model=ModelSettings(model, weights),
            recipe=RecipeSettings(recipe, changes_of(changes, image_size=image_size)),
            seeds=seeds,
            epochs=epochs,
            target=DeploymentTarget(runtime, threads, batch),
            run=RunSettings(out, resume, budget, skip_bad, seed),
            watch=watch,
        )
    write_ensembles(results_folder(out, found.name))
    return found
