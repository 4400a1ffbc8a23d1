"""Controlled experiment on modifications and recipe values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from planish.commands.options import Changes, Layout, at_least, changes_of, results_folder, source
from planish.errors import GoalError
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.experiments.experiment import ArmResult, Experiment
    from planish.training.recipe import Recipe

Topic = Literal[
    "initialization", "activation", "pooling", "normalization", "augmentation", "regularization", "depth-width", "shortcuts", "transfer"
]


def experiment(
    data: str | Path | Dataset,
    *,
    vary: Mapping[str, Sequence[Any]] | Sequence[str] | None = None,
    topic: Topic | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    changes: Changes = (),
    design: Literal["factorial", "one"] | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    budget: str | None = None,
    image_size: ImageSize | None = None,
    task: str | None = None,
    metric: str | None = None,
    layout: Layout | None = None,
    workers: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    watch: Callable[[Sequence[ArmResult]], None] | None = None,
) -> Experiment:
    """Measure the effect of a modification or recipe value fairly: equal budgets, paired seeds, intervals.

    Trainings with the same seed start from the same random state and see the images in the same order. After two or more seeds, an arm
    whose interval lies more than 5 points behind the best on validation gets no further seed. The output folder contains `experiment.json`
    and `experiment.html`.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        vary: A modification, or a key of the recipe, and its values, the reference first: activation=relu,elu. Repeat it for another
            factor.
        topic: A predefined experiment, instead of --vary.
        model: Name of a network; by default the topic's, else resnet20. May be a factor.
        weights: Initial weights: imagenet, or a file. As a factor of --vary, the values are given (these weights) and none (random ones).
        recipe: Training recipe shared by all arms: a name or a YAML file.
        changes: Override a value of the recipe for all arms: batch_size=32. May be repeated.
        design: factorial, the default, combines all values; one varies one factor at a time.
        seeds: Trainings per arm.
        epochs: Epochs per training.
        budget: Total wall-clock time; without --epochs it is divided equally among the trainings.
        image_size: Input size in pixels, or HEIGHTxWIDTH.
        task: classification, detection, instance, semantic, or the name of an installed task; by default determined by the annotations.
        metric: Metric in percent to compare by; see `planish optimize --help`. By default the task's own.
        layout: Layout of the dataset, if it could be read in more than one way.
        workers: Other processes that share the trainings: ray, ray?cores=2, ray://HOST:10001, or postgresql://USER@HOST/DATABASE for
            those of `planish worker`. By default this process does them all.
        out: Output folder; by default runs/ and a name made from the factors, the dataset and the model.
        resume: Continue the experiment in --out.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, and the first of the seeds.
        watch: Called with all arms after each training.

    Returns:
        The experiment.

    Raises:
        PlanishError: the images, the model or a factor cannot be used.

    Example:
        $ planish experiment fashion-mini --vary activation=relu,elu,prelu --vary norm=batch,group --seeds 3 --budget 30m
        $ planish experiment fashion-mini --topic initialization --epochs 3
    """
    from planish.experiments.experiment import ExperimentSettings, factors_of
    from planish.experiments.experiment import experiment as run
    from planish.experiments.studies import STUDIES
    from planish.report.pages.experiment import write_experiment
    from planish.runs.workers import working_with
    from planish.settings import ModelSettings, RecipeSettings, RunSettings

    at_least(1, seeds=seeds, epochs=epochs)
    if (vary is None) == (topic is None):
        raise GoalError("no factor, or two choices of them", "an experiment varies something", "give --vary FACTOR=A,B, or --topic NAME")
    changed = changes_of(changes, image_size=image_size)
    study = None if topic is None else STUDIES.get(topic)
    if topic is not None and study is None:
        raise GoalError(f"there is no topic {topic!r}", f"topics are {', '.join(STUDIES)}")
    if study is not None:
        factors, changed = study.factors, [*study.changes, *changed]
        model, design, recipe = model or study.model, design or study.design, recipe or study.recipe
    else:
        factors = vary if isinstance(vary, Mapping) else factors_of(vary or ())
    with working_with(workers):
        found = run(
            source(data, layout),
            factors,
            model=ModelSettings(model or "resnet20", weights, task=task, metric=metric),
            recipe=RecipeSettings(recipe, changed),
            plan=ExperimentSettings(design or "factorial", seeds, epochs),
            run=RunSettings(out, resume, budget, skip_bad, seed),
            watch=watch,
        )
    write_experiment(results_folder(out, found.name))
    return found
