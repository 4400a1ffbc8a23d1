"""What ensembles and averages of weights bring, and what they cost: more than one network, one after another, beside a single one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish import units
from planish.data import require_classes
from planish.devices.machine import describe_machine
from planish.errors import GoalError
from planish.experiments.ensemble_measurements import Bench, EnsembleArm, EnsembleMethod
from planish.experiments.ensemble_members import COPIES, COPY_SHARE, SWA_SHARE, Members
from planish.export.runtimes.registry import find
from planish.files.atomic import read_result, results_folder, write_result
from planish.measurement import Measurement
from planish.progress import collecting_notes
from planish.runs.precision import decided_precision, in_precision, precision_name
from planish.runs.store import claim
from planish.runs.trainings import Arm, Trainer
from planish.training.recipe import Recipe, load_recipe, set_values

_STRICT = ConfigDict(extra="forbid")
_TRAINED_SHARE = 0.8  # of the budget; the rest is for evaluating and measuring
_WHOLE_TRAININGS = 5  # a seed: single, EMA, SWA, snapshots, student


@dataclass(frozen=True, config=_STRICT)
class EnsembleStudy:
    """All arms; ``ensembles.json``. The first is the single network.

    Args:
        recipe: that all are trained by, as YAML.
        seeds: networks in an ensemble, and models of each arm that has one a seed.
        budget: of each training, in words.
        runtime: that ran all files.
        noise_floor: of the machine, in %.
        seconds: by stage.
        notes: what was decided on the user's behalf.
    """

    name: str
    created: str
    command: str
    data: str
    model: str
    recipe: str
    seeds: int
    budget: str
    runtime: str
    arms: list[EnsembleArm]
    noise_floor: Measurement
    machine: dict[str, str | int | float]
    seconds: dict[str, float]
    notes: list[str] = Field(default_factory=list)
    schema_version: Literal[1] = 1

    def save(self, path: Path) -> None:
        """Write JSON whole, then rename it into place."""
        write_result(path, self)

    @classmethod
    def load(cls, path: Path) -> EnsembleStudy:
        """Read what ``save`` wrote; raises ``BundleError`` where it is not that."""
        return read_result(path, EnsembleStudy)


def _ways(members: Members) -> list[EnsembleMethod]:
    """All arms, the single network first."""
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
    model: str = "resnet8",
    recipe: Recipe | str | Path = "scratch-small",
    changes: Sequence[str] = (),
    seeds: int = 3,
    epochs: int | None = None,
    budget: str | None = None,
    weights: str | Path | None = None,
    runtime: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    command: str = "",
    watch: Callable[[Sequence[EnsembleArm]], None] | None = None,
) -> EnsembleStudy:
    """Train one network several times and in several ways, and say what each way of using more than one set of weights brings and costs.

    Args:
        data: a folder, a manifest or a built-in name.
        model: a name.
        recipe: a recipe, the name of one that comes with the package, or a YAML file; what it says of averages is left out.
        changes: of the recipe: ``training.batch_size=32``.
        seeds: networks in an ensemble.
        epochs: of each training.
        budget: wall-clock time for all of it; without ``epochs`` each training has an equal share.
        weights: ``imagenet`` or a file.
        runtime: that runs all files.
        threads: it may use.
        batch: images in a batch.
        out: the folder, by default ``runs/ensembles-`` and a name made from data and model.
        resume: go on with the study in ``out``.
        skip_bad: leave broken images out.
        seed: of the split, and the first of the seeds.
        command: the command line, for the page.
        watch: called with the arms whenever one is finished.

    Returns:
        What was found; also in ``ensembles.json``.

    Raises:
        PlanishError: the images, the model or the runtime cannot be used.
    """
    if seeds < 2:
        raise GoalError(f"an ensemble of {seeds} seed", "it is several networks", "at least --seeds 2")
    require_classes(data, "an ensemble")
    find(runtime)
    base = set_values(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), changes)
    if epochs is not None:
        base = replace(base, training=replace(base.training, epochs=epochs))
    folder = results_folder(out, "ensembles", data, model)
    settings = {
        "data": str(data), "model": model, "recipe": base.to_yaml(), "seeds": seeds, "epochs": epochs, "budget": budget,
        "weights": str(weights or ""), "runtime": runtime, "threads": threads, "batch": batch, "skip_bad": skip_bad, "seed": seed,
    }  # fmt: skip
    limit = None if budget is None or epochs is not None else units.seconds(budget)
    share = None if limit is None else _TRAINED_SHARE * limit / (seeds * (_WHOLE_TRAININGS + COPIES * COPY_SHARE))
    with ExitStack() as stack:
        notes = stack.enter_context(collecting_notes())
        store = claim(folder, settings, resume)
        stack.callback(store.close)
        work = folder / "work"
        trainer, arm = Trainer(store, work, data, skip_bad, seed, share), Arm(model, str(weights or ""), base)
        base = in_precision(base, decided_precision(store, base.training.mixed_precision, lambda: trainer.start(arm, seed)[1]))
        members = Members(trainer, replace(arm, recipe=base), work, seed, seeds)
        bench = Bench(members, work, runtime, threads, batch)
        found: list[EnsembleArm] = []
        for way in _ways(members):
            found.append(bench.measured(way))
            if watch:
                watch(found)
        arms, floor = bench.timed(found)
        study = EnsembleStudy(
            name=folder.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            data=str(data),
            model=model,
            recipe=base.to_yaml(),
            seeds=seeds,
            budget=f"{base.training.epochs} epoch{'s' if base.training.epochs > 1 else ''}" if share is None else f"{share:.0f} seconds",
            runtime=runtime,
            arms=arms,
            noise_floor=floor,
            machine=describe_machine()
            | {"threads": threads, "batch": batch, "training_precision": precision_name(base.training.mixed_precision)},
            seconds={stage: round(s, 1) for stage, s in store.seconds().items()},
            notes=notes,
        )
        study.save(folder / "ensembles.json")
    return study
