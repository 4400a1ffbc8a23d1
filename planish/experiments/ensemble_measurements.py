"""Accuracy, cost and latency of ensembles and weight averages. Each model is scored once; identical architectures are timed as one file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact
from planish.evaluation.latency import LatencySettings
from planish.evaluation.metrics.classification import percent
from planish.evaluation.size import size_bytes
from planish.evaluation.statistics.intervals import mean_over_seeds, over_seeds
from planish.experiments.ensemble_members import MemberTrainer, TrainedModel
from planish.experiments.experiment import verdict_of
from planish.export import ToOnnx
from planish.export.steps import steps_from_onnx
from planish.files.atomic import read_arrays, write_arrays
from planish.files.workspace import workspace
from planish.measurement import Measurement
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.runs.runner import latency_once

_SECONDS, _LAUNCHES = 1.0, 4  # timing of each file: seconds in total, and number of launches


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EnsembleArm:
    """An ensemble or weight average and its measurements.

    Args:
        label: name.
        description: how it is made.
        models: number of models that the accuracy is averaged over.
        measurements: ``accuracy`` on test; ``difference`` to the single network, paired by image and seed, with intervals that hold
            jointly for all arms of the study; ``training_seconds`` of all networks that one such model needs; ``parameters``;
            ``latency_ms``, ``latency_ratio`` (single / this), ``size_bytes`` of the exported file.
        verdict: ``reference``, or that of ``experiment.verdict_of``; empty if nothing was measured.
        latency_verdict: verdict on the latency of its file: ``faster``, ``slower``, ``no difference``; empty if it was not exported.
        reason: why it failed or was not exported; empty otherwise.
    """

    label: str
    description: str
    models: int = 0
    measurements: dict[str, Measurement] = Field(default_factory=dict)
    verdict: str = ""
    latency_verdict: str = ""
    reason: str = ""


class EnsembleMethod(NamedTuple):
    """How the models of an arm are made: ``build`` takes an index below ``models``."""

    label: str
    description: str
    models: int
    build: Callable[[int], TrainedModel]


class EnsembleBenchmark:
    """Evaluates and exports the models of the arms, each once. Models with the same architecture share one file."""

    def __init__(self, members: MemberTrainer, folder: Path, runtime: str, threads: int, batch: int) -> None:
        self.members, self.store, self.folder = members, members.store, folder
        self.runtime, self.threads, self.batch = runtime, threads, batch
        self._scores: dict[str, Any] = {}
        self._files: dict[str, str] = {}  # name of the file of each arm

    def measured(self, method: EnsembleMethod) -> EnsembleArm:
        """Return the results of an arm, without its latency."""

        def models() -> list[dict[str, float]]:
            return [self._model(method, number) for number in range(method.models)]

        # errors of the single network are raised: without it there is nothing to compare with
        if self._scores and (why := self.store.attempt(f"models:{method.label}", "training", models)):
            return EnsembleArm(method.label, method.description, reason=f"failed: {why}")
        rows = models()
        scores = np.stack([self._read(method, number) for number in range(method.models)])
        self._scores[method.label] = scores
        measurements = {
            "accuracy": percent("accuracy", scores.size, mean_over_seeds(scores)),
            "training_seconds": Measurement("training_seconds", float(np.mean([r["seconds"] for r in rows])), "s", len(rows), False),
            "parameters": Measurement("parameters", float(rows[0]["parameters"]), "count", 1, False),
        }
        arm = EnsembleArm(method.label, method.description, method.models, measurements, "reference" if len(self._scores) == 1 else "")
        if self._files and (why := self.store.attempt(f"export:{method.label}", "exporting", partial(self._export, method))):
            return replace(arm, reason=f"not exported: {why}")
        self._files[method.label] = self._export(method)
        return arm

    def timed(self, arms: Sequence[EnsembleArm]) -> tuple[list[EnsembleArm], Measurement]:
        """Return the arms with differences and latency, and the noise floor of the machine."""
        files = {name: (partial(load_artifact, self.folder / name), self.runtime) for name in dict.fromkeys(self._files.values())}
        settings = LatencySettings(self.threads, self.batch, _SECONDS, _LAUNCHES)
        report = latency_once(self.store, "-".join(files), self.members.task, files, self._files[arms[0].label], settings)
        single = self._scores[arms[0].label]
        comparisons = max(1, len(self._scores) - 1)
        found = []
        for arm in arms:
            measurements, verdict, speed = dict(arm.measurements), arm.verdict, ""
            if arm.measurements and not verdict:
                scores = self._scores[arm.label]
                difference = over_seeds(np.broadcast_to(scores, single.shape), single, 1 - 0.05 / comparisons)
                measurements["difference"] = percent("difference", scores.size, difference, unit="points")
                verdict = verdict_of(difference, len(single))
            if (file := self._files.get(arm.label)) is not None:
                timed = report.measurements[file]
                measurements |= {"latency_ms": timed["latency_ms"], "latency_ratio": timed["latency_ratio"]}
                measurements["size_bytes"] = size_bytes(load_artifact(self.folder / file).files)
                speed = report.verdicts[file]
            found.append(replace(arm, measurements=measurements, verdict=verdict, latency_verdict=speed))
        return found, report.noise_floor

    def _model(self, method: EnsembleMethod, number: int) -> dict[str, float]:
        """Score one model on test; return its training seconds and number of parameters."""

        def work() -> dict[str, float]:
            built = method.build(number)
            write_arrays(self._file(method, number), scores=self.members.scores(built.module, "test"))
            return {"seconds": built.seconds, "parameters": sum(p.numel() for p in built.module.parameters())}

        def read(found: dict[str, float]) -> dict[str, float]:
            self._read(method, number)
            return dict(found)

        return self.store.load(f"scores:{method.label}:{number}", "evaluating on test", work, read)

    def _file(self, method: EnsembleMethod, number: int) -> Path:
        return self.folder / f"scores-{method.label.replace(', ', '-').replace(' ', '-')}-{number}.npz"

    def _read(self, method: EnsembleMethod, number: int) -> Any:
        return read_arrays(self._file(method, number))["scores"]

    def _export(self, method: EnsembleMethod) -> str:
        """Write the arm's first model as one file; return the name of its folder."""

        def work() -> str:
            module = method.build(0).module
            name = f"file-{hashlib.sha256(repr(module).encode()).hexdigest()[:12]}"
            make = partial(self._write, replace(self.members.artifact, module=module), name)
            self.store.load(name, "exporting", make, lambda _: load_artifact(self.folder / name))
            return name

        return str(self.store.once(f"file:{method.label}", "exporting", work))

    def _write(self, artifact: Artifact, name: str) -> bool:
        with workspace(self.folder / "scratch"):
            save_artifact(Plan(ToOnnx(), *steps_from_onnx(self.runtime)).apply(artifact, self.members.task), self.folder / name)
        return True
