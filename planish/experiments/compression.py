"""Fair comparison of compression strategies: every arm has the same original and the same recovery, and is measured against it on test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.compression import Int8
from planish.data import task_in
from planish.devices.device import current_device
from planish.errors import ExportError, TechniqueError
from planish.evaluation.latency import LatencySettings
from planish.experiments.topics import Strategy, strategies_of
from planish.export import ToOnnx
from planish.export.runtimes.registry import require_runtime
from planish.export.steps import steps_from_onnx
from planish.files.atomic import job_folder, read_result, write_result
from planish.measurement import Measurement
from planish.plan import Plan
from planish.printable import html_table
from planish.runs.converted_onnx import network_job
from planish.runs.original import stored_original
from planish.runs.precision import decided_precision, precision_name
from planish.runs.record import RunRecord, run_folder
from planish.runs.runner import Runner, extend
from planish.runs.workers import share_steps
from planish.settings import DeploymentTarget, ModelSettings, OriginalSettings, RunSettings
from planish.split_assignment import keep_assignment
from planish.task import metric_of
from planish.tasks import recipe_of
from planish.training.distillation.distill import recovery_of
from planish.training.original import original_settings
from planish.training.recipe import recipe_for

_STRICT = ConfigDict(extra="forbid")
_SECONDS, _LAUNCHES = 1.0, 4  # timing of each arm: seconds in total, and number of launches


@dataclass(frozen=True, config=_STRICT)
class Row:
    """An arm and its measurements.

    Args:
        strategy: group in the table and the plot.
        level: strength of the compression.
        plan: the techniques, as from ``Plan.to_dicts``.
        measurements: the task's metric and ``drop`` on test (paired, points), ``latency_ms``, ``latency_ratio`` (original / this),
            ``size_bytes``, ``size_ratio``; empty if the arm was refused.
        reason: why the arm was refused; empty if it was not.
    """

    strategy: str
    level: str
    plan: list[dict[str, Any]]
    measurements: dict[str, Measurement] = Field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Comparison(RunRecord):
    """Results of all arms of a comparison; ``comparison.json``.

    Args:
        topic: what was compared.
        original: the baseline, exported in fp32 to the same runtime.
        rows: the arms.
        runtime: runtime of all files.
        noise_floor: noise floor of the machine or device, in %.
    """

    model: str
    topic: str
    runtime: str
    original: Row
    rows: list[Row]
    noise_floor: Measurement

    def _repr_html_(self) -> str:
        names = ("drop", "latency_ms", "latency_ratio", "size_bytes")
        rows = [(f"{row.strategy}, {row.level}", *map(row.measurements.get, names), row.reason) for row in self.rows]
        return html_table((self.topic, "drop", "latency", "speed-up", "size", ""), rows, f"{self.model} in {self.runtime}")

    def save(self, path: Path) -> None:
        """Write JSON to a temporary file, then rename it."""
        write_result(path, self)

    @classmethod
    def load(cls, path: Path) -> Comparison:
        """Read what ``save`` wrote; raises ``BundleError`` if the file is not valid."""
        return read_result(path, Comparison)


def compare(
    data: str | Path,
    *,
    topic: str = "pruning",
    model: ModelSettings,
    original: OriginalSettings,
    recovery_epochs: int = 2,
    target: DeploymentTarget,
    run: RunSettings,
    watch: Callable[[Sequence[Row]], None] | None = None,
) -> Comparison:
    """Compare the strategies of a topic at several levels: accuracy drop, latency and size.

    Every arm starts from the same original and is distilled for the same number of epochs. Nothing is selected, so all arms are measured
    on test; their files are timed in one interleaved run together with the original, on the current device (``planish.devices.device``).

    Args:
        data: a folder with a folder per class, a manifest, or a built-in name.
        topic: ``pruning``, ``quantization`` or ``planning``.
        model: the model to compress; a model that was already trained on these classes is not trained again.
        original: settings for training the original; the recovery uses the same augmentation.
        recovery_epochs: epochs of distillation, for every arm that is trained.
        target: deployment target of all files.
        run: settings of the run; the folder is ``runs/compare-`` and a name made from topic, data and model by default.
        watch: called with the finished rows after each arm.

    Returns:
        The results; also written to ``comparison.json``.

    Raises:
        PlanishError: the images, the model or the topic cannot be used.
    """
    runtime = target.runtime
    name, seed = model.name, run.seed
    of_task = recipe_for(recipe_of(model.task or task_in(data)), model.model)
    recovery = recovery_of(of_task, epochs=recovery_epochs, augmentation=original.augmentation, seed=seed)
    strategies_of(topic, recovery, runtime)  # raises for an unknown topic before any data is read
    require_runtime(runtime)
    folder = job_folder(run.out, f"compare-{topic}", data, name)
    settings = {
        "topic": topic, "data": str(data), "model": name, "weights": str(model.weights or ""), "runtime": runtime,
        "threads": target.threads, "batch": target.batch, "epochs": original.epochs, "recovery_epochs": recovery_epochs,
        "augmentation": original.augmentation, "train": original.train_mode, "image_size": model.image_size, "task": model.task,
        "skip_bad": run.skip_bad, "seed": seed, "metric": model.metric, "device": current_device().address or None,
    }  # fmt: skip
    with run_folder(folder, settings, run.resume) as record:
        job = network_job(data, model, skip_bad=run.skip_bad, seed=seed)
        store = record.store
        keep_assignment(folder, job.data.assignment)
        precision = decided_precision(store, "auto", lambda: job.artifact)
        arms = strategies_of(topic, replace(recovery, mixed_precision=precision), runtime)
        training = original_settings(job, original, seed=seed, mixed_precision=precision)
        artifact = stored_original(job, folder, store, training, mode=original.train_mode)
        runner = Runner(store, folder / "work", job.task, artifact)
        baseline = _for(Plan(ToOnnx()), runtime)
        rows: list[Row] = []
        first = _row(runner, Strategy("original", "", Plan(ToOnnx())), runtime, baseline)

        def attempt(arm: Strategy) -> str:
            """Return why an arm is impossible: that a technique does not apply to this network is a result, too."""
            return store.attempt(
                f"arm:{arm.plan.key}", "comparing", partial(_row, runner, arm, runtime, baseline), (TechniqueError, ExportError)
            )

        untimed = [arm for arm in arms if not times_layers(arm.plan)]
        share_steps(store, folder, [partial(attempt, arm) for arm in untimed], runner.files_of(baseline))
        for arm in arms:
            why, row = attempt(arm), partial(_row, runner, arm, runtime, baseline)
            rows.append(Row(arm.strategy, arm.level, arm.plan.to_dicts(), reason=why) if why else row())
            runner.release()
            if watch:
                watch(rows)
        subjects = {str(i): (_for(arm.plan, runtime), runtime) for i, arm in enumerate(arms) if not rows[i].reason}
        report = runner.latency(
            "compare",
            {"original": (baseline, runtime)} | subjects,
            "original",
            LatencySettings(target.threads, target.batch, _SECONDS, _LAUNCHES),
        )
        rows = [replace(row, measurements=row.measurements | report.measurements.get(str(i), {})) for i, row in enumerate(rows)]
        found = Comparison(
            **record.record(threads=target.threads, batch=target.batch, training_precision=precision_name(precision)),
            model=name,
            topic=topic,
            runtime=runtime,
            original=replace(first, measurements=first.measurements | report.measurements["original"]),
            rows=rows,
            noise_floor=report.noise_floor,
        )
        found.save(folder / "comparison.json")
    return found


def times_layers(plan: Plan) -> bool:
    """Whether a technique of a plan times layers in a runtime."""
    return any("runtime" in step and (step["name"] != Int8.name or step["max_slowdown"] > 0) for step in plan.to_dicts())


def _for(plan: Plan, runtime: str) -> Plan:
    """Append the conversion that the runtime needs, if any."""
    packed = any(step.name == "pack" for step in plan.steps)
    return plan if packed else extend(plan, *steps_from_onnx(runtime))


def _row(runner: Runner, arm: Strategy, runtime: str, baseline: Plan) -> Row:
    """Evaluate an arm on test, without its latency."""
    plan = _for(arm.plan, runtime)
    metric = metric_of(runner.task).name
    value = runner.metrics(plan, runtime, "test")[metric]
    drop = runner.drop(plan, runtime, (baseline, runtime), "test")
    size, before = runner.size(plan, runtime), runner.size(baseline, runtime)
    ratio = Measurement("size_ratio", before.value / size.value, "ratio", 1, True)
    return Row(
        arm.strategy,
        arm.level,
        arm.plan.to_dicts(),
        {metric: value, "drop": drop, "size_bytes": size, "size_ratio": ratio},
    )
