"""Comparison of ensembles and weight averages with a single network: accuracy, training cost and latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish import units
from planish.data import require_classes
from planish.errors import GoalError
from planish.experiments.ensemble_measurements import EnsembleArm, EnsembleBenchmark, EnsembleMethod
from planish.experiments.ensemble_members import COPIES, COPY_SHARE, SWA_SHARE, MemberTrainer
from planish.export.runtimes.registry import find
from planish.files.atomic import job_folder, read_result, write_result
from planish.measurement import Measurement
from planish.runs.precision import decided_precision, in_precision, precision_name
from planish.runs.record import RunRecord, run_folder
from planish.runs.trainings import Arm, Trainer
from planish.runs.workers import share_steps
from planish.settings import DeploymentTarget, ModelSettings, RecipeSettings, RunSettings
from planish.training.recipe import Recipe, load_recipe, set_values

_STRICT = ConfigDict(extra="forbid")
_TRAINED_SHARE = 0.8  # share of the budget for training; the rest is for evaluation and timing
_WHOLE_TRAININGS = 5  # per seed: single, EMA, SWA, snapshots, student


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EnsembleStudy(RunRecord):
    """Results of all arms; ``ensembles.json``. The first arm is the single network.

    Args:
        recipe: recipe of all trainings, as YAML.
        seeds: number of networks in an ensemble, and of models of each arm that has one per seed.
        budget: budget of each training, as text.
        runtime: runtime of all files.
        noise_floor: noise floor of the machine, in %.
    """

    data: str
    model: str
    recipe: str
    seeds: int
    budget: str
    runtime: str
    arms: list[EnsembleArm]
    noise_floor: Measurement

    def save(self, path: Path) -> None:
        """Write JSON to a temporary file, then rename it."""
        write_result(path, self)

    @classmethod
    def load(cls, path: Path) -> EnsembleStudy:
        """Read what ``save`` wrote; raises ``BundleError`` if the file is not valid."""
        return read_result(path, EnsembleStudy)


def _methods(members: MemberTrainer) -> list[EnsembleMethod]:
    """Return the methods of all arms, the single network first."""
    seeds, copies = members.seeds, f"{COPIES} copies of the single network, each trained on for {COPY_SHARE:.0%} of its training"
    views = "mean of the probabilities for the image"
    mirrored = " and its mirror image" if members.plain.flip else ""
    found = [
        EnsembleMethod("single network", "the weights after the last step", seeds, members.single),
        EnsembleMethod("EMA", f"running average of the weights, decay {members.ema_decay:g}", seeds, members.ema),
        EnsembleMethod(
            "SWA", f"average of the weights over the last {SWA_SHARE:.0%} of the training, at a constant rate", seeds, members.swa
        ),
        EnsembleMethod("snapshot ensemble", f"ensemble of the ends of {members.cycles} cycles of one training", seeds, members.snapshots),
        EnsembleMethod(
            "TTA, shift", f"{views}{mirrored}, each also moved by a pixel up, down, left, right", seeds, partial(members.views, shift=1)
        ),
        EnsembleMethod("fine-tuned copy", f"one of {copies}", seeds, members.trained_on),
        EnsembleMethod("soup, uniform", f"mean weights of {copies}", seeds, partial(members.soup, greedy=False)),
        EnsembleMethod(
            "soup, greedy", "the best copy, and those that do not make it worse on validation", seeds, partial(members.soup, greedy=True)
        ),
        EnsembleMethod(f"soup of {seeds} seeds", "mean weights of single networks that began apart", 1, members.soup_of_seeds),
        EnsembleMethod(
            f"ensemble of {seeds}", "mean of the probabilities of all single networks", 1, partial(members.ensemble, count=seeds)
        ),
        EnsembleMethod("student", f"a single network taught by the ensemble of {seeds}", seeds, members.student),
    ]
    if members.plain.flip:
        found.insert(4, EnsembleMethod("TTA, flip", f"{views}{mirrored}", seeds, partial(members.views, shift=0)))
    if seeds > 2:
        found.insert(
            -2, EnsembleMethod("ensemble of 2", "mean of the probabilities of two of them", seeds, partial(members.ensemble, count=2))
        )
    return found


def ensembles(
    data: str | Path,
    *,
    model: ModelSettings,
    recipe: RecipeSettings,
    seeds: int = 3,
    epochs: int | None = None,
    target: DeploymentTarget,
    run: RunSettings,
    watch: Callable[[Sequence[EnsembleArm]], None] | None = None,
) -> EnsembleStudy:
    """Train a network several times, and compare ensembles and weight averages with a single network in accuracy and cost.

    Args:
        data: a folder, a manifest or a built-in name.
        model: name and weights of the model.
        recipe: recipe of each training; its settings for weight averaging are ignored.
        seeds: number of networks in an ensemble, at least 2.
        epochs: epochs of each training; None for an equal share of the budget.
        target: deployment target of all files.
        run: settings of the run; the folder is ``runs/ensembles-`` and a name made from data and model by default. Its seed is that of
            the split and of the first training.
        watch: called with the finished arms after each arm.

    Returns:
        The results; also written to ``ensembles.json``.

    Raises:
        PlanishError: the images, the model or the runtime cannot be used.
    """
    name, weights, seed = model.name, str(model.weights or ""), run.seed
    if seeds < 2:
        raise GoalError(f"an ensemble of {seeds} seed", "it is several networks", "at least --seeds 2")
    require_classes(data, "an ensemble")
    find(target.runtime)
    chosen = recipe.recipe or "scratch-small"
    base = set_values(chosen if isinstance(chosen, Recipe) else load_recipe(chosen), recipe.changes)
    if epochs is not None:
        base = replace(base, training=replace(base.training, epochs=epochs))
    folder = job_folder(run.out, "ensembles", data, name)
    settings = {
        "data": str(data), "model": name, "recipe": base.to_yaml(), "seeds": seeds, "epochs": epochs, "budget": run.budget,
        "weights": weights, "runtime": target.runtime, "threads": target.threads, "batch": target.batch,
        "skip_bad": run.skip_bad, "seed": seed,
    }  # fmt: skip
    limit = None if run.budget is None or epochs is not None else units.seconds(run.budget)
    share = None if limit is None else _TRAINED_SHARE * limit / (seeds * (_WHOLE_TRAININGS + COPIES * COPY_SHARE))
    with run_folder(folder, settings, run.resume) as job:
        store = job.store
        work = folder / "work"
        trainer, arm = Trainer(store, work, data, run.skip_bad, seed, share), Arm(name, weights, base)
        base = in_precision(base, decided_precision(store, base.training.mixed_precision, lambda: trainer.start(arm, seed)[1]))
        members = MemberTrainer(trainer, replace(arm, recipe=base), work, seed, seeds)
        bench = EnsembleBenchmark(members, work, target.runtime, target.threads, target.batch)
        every = (members.single, members.ema, members.swa, members.snapshots)
        share_steps(store, folder, [partial(train, i) for train in every for i in range(seeds)])
        share_steps(store, folder, [partial(members.trained_on, i, copy) for i in range(seeds) for copy in range(COPIES)])
        share_steps(store, folder, [partial(members.student, i) for i in range(seeds)])
        found: list[EnsembleArm] = []
        for way in _methods(members):
            found.append(bench.measured(way))
            if watch:
                watch(found)
        arms, floor = bench.timed(found)
        study = EnsembleStudy(
            **job.record(threads=target.threads, batch=target.batch, training_precision=precision_name(base.training.mixed_precision)),
            data=str(data),
            model=name,
            recipe=base.to_yaml(),
            seeds=seeds,
            budget=f"{base.training.epochs} epoch{'s' if base.training.epochs > 1 else ''}" if share is None else f"{share:.0f} seconds",
            runtime=target.runtime,
            arms=arms,
            noise_floor=floor,
        )
        study.save(folder / "ensembles.json")
    return study
