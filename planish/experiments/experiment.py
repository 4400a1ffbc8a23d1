"""Fair experiments on modifications: arms that differ only in the varied factors, trained with the same seeds and the same budget."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish import units
from planish.data import task_in
from planish.errors import GoalError, ModelError, TechniqueError
from planish.evaluation.metrics.classification import percent
from planish.evaluation.statistics.intervals import Interval, mean_over_seeds, over_seeds
from planish.files.atomic import job_folder, read_result, write_result
from planish.measurement import Measurement, in_words
from planish.printable import html_table
from planish.progress import note
from planish.runs.precision import decided_precision, in_precision, precision_name
from planish.runs.record import RunRecord, run_folder
from planish.runs.trainings import Arm, Trainer, Training, shared_assignment
from planish.runs.workers import share_steps, worker_count
from planish.settings import ModelSettings, RecipeSettings, RunSettings
from planish.tasks import recipe_of
from planish.training.recipe import NOTHING, Recipe, full_key, load_recipe, parse_value, recipe_for, set_values

_STRICT = ConfigDict(extra="forbid")
_MOST_ARMS = 64
_HOPELESS_POINTS = 5.0  # an arm is stopped if its whole interval is further behind the best on validation
_TOO_WIDE_POINTS = 3.0  # half width; a wider interval shows neither a difference nor its absence
TOO_FEW = "too few seeds to tell"
_MODEL, _WEIGHTS = "model", "weights"  # factors that are not part of a recipe
GIVEN = "given"  # value of the factor "weights": those of --weights
_TRAINED_SHARE = 0.9  # share of the budget for training; the rest is for evaluation

Design = Literal["factorial", "one"]
Values = dict[str, Any]


@plain_dataclass(frozen=True)
class ExperimentSettings:
    """Layout of an experiment.

    Args:
        design: ``factorial`` for all combinations of values, ``one`` to vary one factor at a time.
        seeds: number of trainings of each arm.
        epochs: epochs of each training; None for an equal share of the budget.
    """

    design: Design = "factorial"
    seeds: int = 3
    epochs: int | None = None


@dataclass(frozen=True, config=_STRICT)
class ArmResult:
    """An arm and its measurements.

    Args:
        label: how it differs from the others, as text.
        values: values of the varied factors: ``{"modifications.activation": "elu"}``.
        trainings: one per seed.
        measurements: the task's metric on test, mean over seeds; ``difference`` to the reference, paired by seed and image, with
            intervals that hold jointly for all arms of the experiment; ``seconds_per_epoch``; ``peak_memory_bytes``; ``parameters``.
            Intervals cover images and seeds; with one seed they span all possible values, see ``statistics.over_seeds``.
        verdict: ``reference``, ``better``, ``worse``, ``no difference``, ``too few seeds to tell``; empty if nothing was measured.
        reason: why it was refused, failed or was stopped early; empty otherwise.
    """

    label: str
    values: Values
    trainings: list[Training] = Field(default_factory=list)
    measurements: dict[str, Measurement] = Field(default_factory=dict)
    verdict: str = ""
    reason: str = ""


@dataclass(frozen=True, config=_STRICT)
class Effect:
    """The main effect of one value of a factor: its average change over all values of the other factors.

    Args:
        key: the factor.
        value: the value.
        seeds: number of trainings of each arm in the average.
        difference: difference to the factor's first value, in points.
    """

    key: str
    value: Any
    seeds: int
    difference: Measurement


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Experiment(RunRecord):
    """Results of all arms of an experiment; ``experiment.json``. The first arm is the reference.

    Args:
        recipe: recipe of all arms, as YAML.
        factors: values by factor.
        design: ``factorial`` for all combinations of values, ``one`` for one factor at a time.
        seeds: requested number of trainings of each arm.
        budget: budget of each training, as text.
        effects: main effects of the factors, if all values were combined.
    """

    data: str
    model: str
    recipe: str
    factors: dict[str, list[Any]]
    design: Design
    seeds: int
    budget: str
    arms: list[ArmResult]
    effects: list[Effect]

    def _repr_html_(self) -> str:
        metric = next((name for arm in self.arms for name in arm.measurements), "")
        rows = [
            (arm.label, arm.measurements.get(metric), arm.measurements.get("difference"), arm.verdict or arm.reason) for arm in self.arms
        ]
        return html_table(("", in_words(metric), "difference", "verdict"), rows, f"{self.model} on {self.data}, {self.seeds} seeds")

    def save(self, path: Path) -> None:
        """Write JSON to a temporary file, then rename it."""
        write_result(path, self)

    @classmethod
    def load(cls, path: Path) -> Experiment:
        """Read what ``save`` wrote; raises ``BundleError`` if the file is not valid."""
        return read_result(path, Experiment)


def factors_of(vary: Sequence[str]) -> dict[str, list[Any]]:
    """Parse ``["activation=relu,elu"]`` to ``{"modifications.activation": ["relu", "elu"]}``.

    Raises:
        GoalError: the text is not such an assignment, gives fewer than two values, or a factor is given twice.
        PlanError: there is no such factor.
    """
    factors: dict[str, list[Any]] = {}
    for text in vary:
        key, equals, values = text.partition("=")
        listed = [parse_value(value.strip()) for value in values.split(",") if value.strip()]
        if not equals or len(listed) < 2:
            raise GoalError(f"--vary {text}", "it is a factor and two or more values", "for example --vary activation=relu,elu")
        full = key if key in (_MODEL, _WEIGHTS) else full_key(key)
        if full in factors:
            raise GoalError(f"--vary {key} is given twice", "a factor has one list of values")
        factors[full] = listed
    return factors


def arms_with(factors: Mapping[str, Sequence[Any]], design: Design) -> list[Values]:
    """Return the values of each arm; the first arm has the first value of every factor.

    Args:
        factors: values by factor.
        design: ``factorial`` for all combinations of values, ``one`` for one factor at a time.

    Raises:
        GoalError: there are too many arms, or a factor has no values.
    """
    if empty := [key for key, values in factors.items() if isinstance(values, str) or not len(values)]:
        raise GoalError(f"{', '.join(empty)} without a list of values", "a factor is a name and two or more values")
    if design == "factorial":
        arms = [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    else:
        first = {key: values[0] for key, values in factors.items()}
        arms = [first, *(first | {key: value} for key, values in factors.items() for value in values[1:])]
    if len(arms) > _MOST_ARMS:
        raise GoalError(f"{len(arms)} arms", f"at most {_MOST_ARMS} are compared", "vary one factor at a time: --design one")
    return arms


def experiment(
    data: str | Path,
    factors: Mapping[str, Sequence[Any]],
    *,
    model: ModelSettings,
    recipe: RecipeSettings,
    plan: ExperimentSettings,
    run: RunSettings,
    watch: Callable[[Sequence[ArmResult]], None] | None = None,
) -> Experiment:
    """Train every arm with every seed, and compare the arms.

    Trainings with the same seed start from the same random state and use the images in the same order. All have the same budget: epochs
    if they are given, otherwise seconds. An arm is stopped early if, after two seeds or more, its interval is more than 5 points behind
    the best arm on validation.

    Args:
        data: a folder, a manifest or a built-in name.
        factors: values by factor, the reference value first; see ``factors_of``.
        model: name and weights, which may be factors as well; the weights ``given`` are these, and ``none`` is random initialization.
        recipe: recipe of all arms; by default the one of the task for the network of the reference, or ``scratch-small``.
        plan: design, seeds, epochs.
        run: settings of the run; the folder is ``runs/vary-`` and a name made from the factors, data and model by default. Its seed is
            that of the split and of the first training.
        watch: called with the arms after each training.

    Returns:
        The results; also written to ``experiment.json``.

    Raises:
        PlanishError: the images, the model or a factor cannot be used.
    """
    name, weights, task, seed, seeds, epochs = model.name, str(model.weights or ""), model.task, run.seed, plan.seeds, plan.epochs
    if seeds < 1:
        raise GoalError(f"{seeds} seeds", "at least 1, and one seed is too few to tell arms apart", "3 or more")
    values = arms_with(factors, plan.design)
    chosen = recipe.recipe
    if chosen is None:
        chosen = recipe_for(recipe_of(task or task_in(data)), values[0].get(_MODEL, model.model)) or "scratch-small"
    base = set_values(chosen if isinstance(chosen, Recipe) else load_recipe(chosen), recipe.changes)
    if epochs is not None:
        base = replace(base, training=replace(base.training, epochs=epochs))
    arms = [_arm(name, weights, base, each) for each in values]
    words = "-".join(map(short_key, factors))
    folder = job_folder(run.out, f"vary-{words}", data, name)
    settings = {
        "data": str(data), "model": name, "factors": {key: list(each) for key, each in factors.items()}, "design": plan.design,
        "seeds": seeds,
        "recipe": base.to_yaml(), "budget": run.budget, "epochs": epochs, "weights": weights, "skip_bad": run.skip_bad, "seed": seed,
        "task": task, "metric": model.metric,
    }  # fmt: skip
    limit = None if run.budget is None else units.seconds(run.budget)
    share = None if limit is None or epochs is not None else _TRAINED_SHARE * limit / (len(arms) * seeds)
    with run_folder(folder, settings, run.resume) as job:
        store = job.store
        trainer = Trainer(store, folder / "work", data, run.skip_bad, seed, share, model, shared_assignment(arms))
        precision = decided_precision(store, base.training.mixed_precision, lambda: trainer.start(arms[0], seed)[1])
        base, arms = in_precision(base, precision), [replace(arm, recipe=in_precision(arm.recipe, precision)) for arm in arms]
        found = [ArmResult(_label(each, values[0], plan.design), each) for each in values]
        if worker_count() > 1:
            with suppress(ModelError, TechniqueError):  # which the training of this arm reports
                trainer.start(arms[0], seed)  # splits the images, as workers must
        for number in range(seeds):
            spent = store.elapsed
            if number and limit is not None and spent * (number + 1) / number > limit:
                note(f"the budget of {run.budget} leaves no time for seed {number + 1} of {seeds}")
                break
            if number != 1:  # no arm is stopped after one seed, so that the first two are shared together
                going_on = [arm for arm, so_far in zip(arms, found, strict=True) if not so_far.reason]
                next_seeds = range(seed + number, seed + min(seeds, max(2, number + 1)))
                share_steps(store, folder, [partial(trainer.trial, arm, each) for each in next_seeds for arm in going_on])
            for i, arm in enumerate(arms):
                if not found[i].reason:
                    training = trainer.trial(arm, seed + number)
                    found[i] = replace(found[i], trainings=[*found[i].trainings, training], reason=training.error)
                    if watch:
                        watch(_measured(found, arms, trainer))
            if number + 1 < seeds:
                found = _without_hopeless(found, arms, trainer)
        result = Experiment(
            **job.record(training_precision=precision_name(base.training.mixed_precision)),
            data=str(data),
            model=name,
            recipe=base.to_yaml(),
            factors={key: list(each) for key, each in factors.items()},
            design=plan.design,
            seeds=seeds,
            budget=f"{base.training.epochs} epoch{'s' if base.training.epochs > 1 else ''}" if share is None else f"{share:.0f} seconds",
            arms=_measured(found, arms, trainer),
            effects=_effects(found, arms, trainer, factors) if plan.design == "factorial" and len(factors) > 1 else [],
        )
        result.save(folder / "experiment.json")
    return result


def short_key(key: str) -> str:
    """Return ``activation`` for ``modifications.activation``."""
    return key.removeprefix("modifications.").removeprefix("training.")


def short_value(value: Any) -> str:
    """Format a value as on the command line."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={inner}" for key, inner in value.items())
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _label(values: Values, first: Values, design: Design) -> str:
    """Return ``activation=elu, norm=group``; if one factor is varied at a time, only that one."""
    shown = {key: value for key, value in values.items() if design == "factorial" or len(values) == 1 or value != first[key]}
    return ", ".join(f"{short_key(key)}={short_value(value)}" for key, value in shown.items()) or "the reference"


def _arm(model: str, weights: str, base: Recipe, values: Values) -> Arm:
    """Return the model, weights and recipe of an arm."""
    assignments = [f"{key}={json.dumps(value)}" for key, value in values.items() if key not in (_MODEL, _WEIGHTS)]
    chosen = str(values.get(_WEIGHTS, GIVEN))
    return Arm(str(values.get(_MODEL, model)), {GIVEN: weights, NOTHING: ""}.get(chosen, chosen), set_values(base, assignments))


def _whole(arm: ArmResult) -> int:
    """Return the number of trainings that did not fail."""
    return sum(not training.error for training in arm.trainings)


def _without_hopeless(found: Sequence[ArmResult], arms: Sequence[Arm], trainer: Trainer) -> list[ArmResult]:
    """Stop arms that are far behind the best on validation; the reference always continues."""
    scores = {i: trainer.scores(arm, count, "validation") for i, arm in enumerate(arms) if (count := _whole(found[i]))}
    if not scores:
        return list(found)
    best = max((i for i in scores if not found[i].reason), key=lambda i: float(scores[i].mean()), default=0)
    kept = []
    for i, arm in enumerate(found):
        if i and i in scores and not arm.reason and i != best:
            count = min(len(scores[best]), len(scores[i]))
            behind = over_seeds(scores[best][:count], scores[i][:count])
            if 100 * behind.low > _HOPELESS_POINTS:
                why = (
                    f"no further seed after {len(arm.trainings)}: {100 * behind.value:.0f} points behind {found[best].label} on validation"
                )
                note(f"{arm.label}: {why}")
                arm = replace(arm, reason=why)
        kept.append(arm)
    return kept


def _measured(found: Sequence[ArmResult], arms: Sequence[Arm], trainer: Trainer) -> list[ArmResult]:
    """Return the arms with their measurements so far."""
    counts = [_whole(arm) for arm in found]
    scores = [trainer.scores(arm, count, "test") if count else None for arm, count in zip(arms, counts, strict=True)]
    comparisons = max(1, sum(count > 0 for count in counts[1:]))
    measured = []
    for i, (arm, mine) in enumerate(zip(found, scores, strict=True)):
        if mine is None:
            measured.append(arm)
            continue
        whole = [training for training in arm.trainings if not training.error]
        metric = whole[0].metric
        found_here = {metric: percent(metric, mine.size, mean_over_seeds(mine))}
        verdict = "reference" if i == 0 else ""
        reference = scores[0]
        if i and reference is not None:
            count = min(len(mine), len(reference))
            difference = over_seeds(mine[:count], reference[:count], 1 - 0.05 / comparisons)
            found_here["difference"] = percent("difference", mine[:count].size, difference, unit="points")
            verdict = verdict_of(difference, count)
        each = [trial.seconds / max(trial.epochs, 1e-9) for trial in whole]
        found_here["seconds_per_epoch"] = Measurement("seconds_per_epoch", float(np.median(each)), "s", len(whole), False)
        peak = float(max(trial.peak_memory_bytes for trial in whole))
        found_here["peak_memory_bytes"] = Measurement("peak_memory_bytes", peak, "bytes", len(whole), False)
        found_here["parameters"] = Measurement("parameters", float(whole[0].parameters), "count", 1, False)
        measured.append(replace(arm, measurements=found_here, verdict=verdict))
    return measured


def verdict_of(difference: Interval, seeds: int) -> str:
    """Return the verdict on a difference: ``better``, ``worse``, ``no difference``, or ``too few seeds to tell``.

    Args:
        difference: interval of ``statistics.over_seeds``, from -1 to 1.
        seeds: number of trainings of each arm; one is always too few.
    """
    if seeds < 2:
        return TOO_FEW
    if difference.low > 0:
        return "better"
    if difference.high < 0:
        return "worse"
    return TOO_FEW if 50 * (difference.high - difference.low) > _TOO_WIDE_POINTS else "no difference"


def _effects(found: Sequence[ArmResult], arms: Sequence[Arm], trainer: Trainer, factors: Mapping[str, Sequence[Any]]) -> list[Effect]:
    """Return the effects of all values, each from the pairs of arms that differ in this factor only and have the most trainings."""
    scores = {i: trainer.scores(arm, count, "test") for i, arm in enumerate(arms) if (count := _whole(found[i]))}
    comparisons = sum(len(values) - 1 for values in factors.values())
    effects = []
    for key, values in factors.items():
        for value in values[1:]:
            pairs = [
                (i, j)
                for i, j in itertools.product(scores, scores)
                if found[i].values[key] == value and found[j].values == found[i].values | {key: values[0]}
            ]
            if not pairs:
                continue
            counts = {pair: min(len(scores[i]) for i in pair) for pair in pairs}
            count = max(counts.values())
            pairs = [pair for pair in pairs if counts[pair] == count]
            mine, theirs = (np.mean([scores[pair[side]][:count] for pair in pairs], axis=0) for side in (0, 1))
            difference = over_seeds(mine, theirs, 1 - 0.05 / comparisons)
            effects.append(Effect(key, value, count, percent("difference", mine.size, difference, unit="points")))
    return effects
