"""Applies plans step by step, and caches the result of every step."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from planish.artifact import Artifact
from planish.errors import DeviceError, PlanishError
from planish.evaluation.evaluate import evaluate
from planish.evaluation.latency import LatencyReport, LatencySettings, Subject, measure_latency
from planish.evaluation.size import size_bytes
from planish.evaluation.statistics.drop_risk import drop_risk
from planish.evaluation.statistics.intervals import paired_difference
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.runtimes.registry import imports, load
from planish.files.atomic import read_arrays, write_arrays
from planish.files.workspace import workspace
from planish.measurement import Measurement
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.runs.store import Store
from planish.task import SplitName, Task, metric_of
from planish.technique import Technique

_REPORT = TypeAdapter(LatencyReport)
_ANY_SIZE = 1 << 50  # no limit: the run wrote these files itself, and masks of many images are large


class Runner:
    """Artifacts by plan and their measurements, cached in the folder ``work`` of a run.

    Every prefix of a plan is saved as an artifact of its own, so plans with the same first steps share them, and an interrupted run resumes
    after the last finished step.

    Args:
        store: store of the run.
        folder: folder for artifacts and outputs.
        task: task with the images.
        original: the artifact that all plans are applied to; a torch network or an ONNX file.
    """

    def __init__(self, store: Store, folder: Path, task: Task, original: Artifact) -> None:
        self.store, self.folder, self.task, self.original = store, folder, task, original
        self._artifacts: dict[str, Artifact] = {}
        self._scores: dict[tuple[str, str, str], Any] = {}
        self._metrics: dict[tuple[str, str, str], dict[str, Measurement]] = {}

    def artifact(self, plan: Plan) -> Artifact:
        """Return the original with the plan applied."""
        artifact = self.original
        for count in range(1, len(plan.steps) + 1):
            artifact = self._step(artifact, Plan(*plan.steps[:count]))
        return artifact

    def _step(self, before: Artifact, plan: Plan) -> Artifact:
        if plan.key not in self._artifacts:
            step = plan.steps[-1]
            folder = self.folder / plan.key

            def work() -> str:
                with workspace(self.folder / "scratch" / plan.key) as scratch, _randomness_of(plan):
                    try:
                        save_artifact(Plan(step).apply(before, self.task), folder)
                    except PlanishError as error:
                        if not isinstance(error, DeviceError):
                            shutil.rmtree(scratch, ignore_errors=True)
                        raise
                shutil.rmtree(scratch, ignore_errors=True)  # kept if the process or a connection ends, so that the step can resume from it
                return str(plan)

            def read(_: str) -> Artifact:
                return load_artifact(folder, module=self.original.module, original=self.original)

            self._artifacts[plan.key] = self.store.load(f"artifact:{plan.key}", step.name, work, read)
        return self._artifacts[plan.key]

    def files_of(self, *plans: Plan) -> list[Path]:
        """Return the files and folders of these plans and of their first steps, which other steps may read."""
        prefixes = {Plan(*plan.steps[:count]).key for plan in plans for count in range(len(plan.steps) + 1)}
        return [path for key in sorted(prefixes) for path in (self.folder / key, *self.folder.glob(f"outputs-{key}-*")) if path.exists()]

    def release(self) -> None:
        """Free the networks held in memory; they remain on disk."""
        self._artifacts.clear()

    def outputs(self, plan: Plan, runtime: str, split: SplitName) -> dict[str, Any]:
        """Return the model's outputs by name on a whole split, computed by ``runtime`` from the exported file (``torch``: the network)."""
        path = self.folder / f"outputs-{plan.key}-{runtime}-{split}.npz"

        def work() -> bool:
            artifact = self.artifact(plan)
            if runtime == "torch":
                predictor: Any = TorchPredictor(artifact.module, artifact.preprocessing)
            else:
                predictor = load(artifact.files, runtime, threads=2, batch=None)
            found = evaluate(predictor, self.task, split, artifact.input_spec, artifact.preprocessing)
            write_arrays(path, **found.outputs)
            return True

        def read(_: bool) -> dict[str, Any]:
            return read_arrays(path, max_bytes=_ANY_SIZE)

        return self.store.load(f"outputs:{plan.key}@{runtime}:{split}", f"evaluating on {split}", work, read)

    def metrics(self, plan: Plan, runtime: str, split: SplitName) -> dict[str, Measurement]:
        """Return all metrics of the task on a split."""
        key = (plan.key, runtime, split)
        if key not in self._metrics:
            found = self.task.metrics(self.outputs(plan, runtime, split), self.task.split(split).targets)
            self._metrics[key] = {name: replace(m, runtime=runtime) for name, m in found.items()}
        return self._metrics[key]

    def drop(self, plan: Plan, runtime: str, against: tuple[Plan, str], split: SplitName) -> Measurement:
        """Return the drop of the primary metric relative to another model on the same images.

        In points if the metric is in percent, else in its unit. A positive drop is a loss, also for metrics of which lower is better.
        """
        there, here = self.scores(*against, split), self.scores(plan, runtime, split)
        images = self.task.effective_images(self.task.split(split).targets)
        return replace(metric_of(self.task).drop(paired_difference(there, here, images=images), len(here)), runtime=runtime)

    def drop_risk(self, plan: Plan, runtime: str, against: tuple[Plan, str], split: SplitName, limit: float) -> Measurement:
        """Return the risk, in percent, that this drop on new images is above a limit, in the same unit; see ``drop_risk``."""
        there, here = self.scores(*against, split), self.scores(plan, runtime, split)
        images = self.task.effective_images(self.task.split(split).targets)
        return replace(drop_risk(there, here, limit, metric_of(self.task), images), runtime=runtime)

    def score(self, plan: Plan, runtime: str, split: SplitName) -> float:
        """Return the primary metric, in its unit."""
        return metric_of(self.task).scale * float(np.mean(self.scores(plan, runtime, split)))

    def scores(self, plan: Plan, runtime: str, split: SplitName) -> Any:
        """Return one score per image, see ``Task.scores``."""
        key = (plan.key, runtime, split)
        if key not in self._scores:
            self._scores[key] = self.task.scores(self.outputs(plan, runtime, split), self.task.split(split).targets)
        return self._scores[key]

    def size(self, plan: Plan, runtime: str) -> Measurement:
        """Return the size on disk of the exported files, in bytes."""
        return replace(size_bytes(self.artifact(plan).files), runtime=runtime)

    def latency(self, name: str, subjects: Mapping[str, tuple[Plan, str]], baseline: str, settings: LatencySettings) -> LatencyReport:
        """Measure the latency of exported files side by side, each in a process of its own.

        Args:
            name: name of the timing session; a session with the same name and subjects is measured only once.
            subjects: plan and runtime by candidate key.
            baseline: key of the subject that ratios are relative to.
            settings: threads, batch size and time.
        """

        who = hashlib.sha256(repr(sorted((key, plan.key, runtime) for key, (plan, runtime) in subjects.items())).encode()).hexdigest()[:12]
        files = {key: (partial(self.artifact, plan), runtime) for key, (plan, runtime) in subjects.items()}
        return latency_once(self.store, f"{name}:{who}", self.task, files, baseline, settings)


@contextmanager
def _randomness_of(plan: Plan) -> Iterator[None]:
    """Seed the global random states from the plan within this block, so that a step does not depend on what the process did before."""
    seed, before = int(hashlib.sha256(plan.key.encode()).hexdigest()[:8], 16), (np.random.get_state(), random.getstate())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])


def latency_once(
    store: Store,
    name: str,
    task: Task,
    subjects: Mapping[str, tuple[Callable[[], Artifact], str]],
    baseline: str,
    settings: LatencySettings,
) -> LatencyReport:
    """Measure the latency of exported artifacts side by side, once per ``name``; see ``Runner.latency``.

    Args:
        store: store that saves the report.
        name: name of the timing session.
        task: task whose calibration images are the input.
        subjects: by key, a function that returns the artifact, and the runtime.
        baseline: key of the subject that ratios are relative to.
        settings: threads, batch size and time.
    """

    def work() -> Any:
        timed = {
            key: subject_of(artifact(), task, runtime, settings.threads, settings.batch) for key, (artifact, runtime) in subjects.items()
        }
        report = measure_latency(timed, baseline, settings)
        return _REPORT.dump_python(report, mode="json")

    return _REPORT.validate_python(store.once(f"latency:{name}", "measuring latency", work))


def subject_of(artifact: Artifact, task: Task, runtime: str, threads: int, batch: int) -> Subject:
    """Return an exported artifact as a subject for latency measurements on calibration images."""
    images = task.split("calibration").images(artifact.input_spec, artifact.preprocessing)
    sample = np.ascontiguousarray(np.resize(images[:batch], (batch, *images.shape[1:])))
    arguments = {"files": [str(f) for f in artifact.files], "runtime": runtime, "threads": threads, "batch": batch}
    return Subject("planish.export.runtimes.registry:load", arguments, sample, runtime, imports=imports(runtime))


def extend(plan: Plan, *steps: Technique) -> Plan:
    """Return the plan with further steps appended."""
    return Plan(*plan.steps, *steps)
