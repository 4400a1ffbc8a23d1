"""A fair experiment over modifications and recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from planish.commands.options import Changes, Layout, at_least, changes_of, results_folder, source
from planish.errors import GoalError

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
    image_size: int | None = None,
    task: str | None = None,
    layout: Layout | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    watch: Callable[[Sequence[ArmResult]], None] | None = None,
) -> Experiment:
    """What a modification, or a value of the recipe, brings, measured fairly: equal budget, paired seeds, intervals.

    Trainings of one seed begin with the same random state and see images in the same order. An arm whose interval, over two seeds or more,
    is more than 5 points behind the best on validation gets no further seed. The folder holds `experiment.json` and `experiment.html`.

    Args:
        data: Images: a folder, a manifest, or a built-in name; see `planish optimize --help`.
        vary: A modification, or a key of the recipe, and its values, the reference first: activation=relu,elu. May be repeated for another
            factor.
        topic: A ready-made experiment instead.
        model: A network's name; by default the topic's, else resnet20. May be varied too.
        weights: imagenet, or a file. May be varied too, with given for these and none for fresh ones.
        recipe: What all arms share: a recipe's name or a YAML file.
        changes: A value of the recipe for all arms: batch_size=32. May be repeated.
        design: factorial combines all values, the default; one varies one factor at a time.
        seeds: Trainings of each arm.
        epochs: Of each training.
        budget: Wall-clock time for everything; without --epochs it is shared equally.
        image_size: Pixels of the model's input.
        task: classification, detection, instance, semantic, or one that is installed; by default what the data is annotated for.
        layout: How the data is laid out, where it could be read in several ways.
        out: Folder for the results; by default runs/ and a name made from the factors, data and model.
        resume: Go on with the experiment in --out.
        skip_bad: Leave broken images out instead of stopping.
        seed: Of the split, and the first of the seeds.
        watch: Called with the arms after each training.

    Returns:
        What was found.

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
    found = run(
        source(data, layout),
        factors,
        model=ModelSettings(model or "resnet20", weights, task=task),
        recipe=RecipeSettings(recipe, changed),
        plan=ExperimentSettings(design or "factorial", seeds, epochs),
        run=RunSettings(out, resume, budget, skip_bad, seed),
        watch=watch,
    )
    write_experiment(results_folder(out, found.name))
    return found
