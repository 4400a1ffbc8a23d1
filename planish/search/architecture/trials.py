"""Stages one and two of an architecture search: candidates are exported, timed and trained, and the best one is trained to the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import TypeAdapter

from planish.artifact import Artifact, Lineage
from planish.compression import Int8
from planish.errors import GoalError
from planish.evaluation.latency import LatencyReport, LatencySettings
from planish.evaluation.size import macs, size_bytes
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.steps import steps_from_onnx
from planish.files.atomic import read_arrays
from planish.measurement import Measurement
from planish.models import create
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.progress import note
from planish.runs.evaluation import EvaluationSubject, evaluate_split, save_evaluation
from planish.runs.networks.halving import accuracy_of, no_difference, successive_halving, train_for
from planish.runs.networks.network_files import FILE_PRECISIONS, FilePrecision, NetworkFiles, limits_in_words
from planish.runs.original import write_training
from planish.runs.precision import decided_precision
from planish.runs.record import OpenRun
from planish.runs.runner import Runner, latency_once
from planish.runs.workers import share_steps, worker_count
from planish.search.architecture.candidates import PredictedNetwork, Reference, choose, sized, spread_by_macs, within_limits
from planish.search.architecture.proxies import Proxy
from planish.search.architecture.result import SearchCandidate
from planish.search.architecture.sampling import SampledNetwork
from planish.settings import DeploymentTarget, RunSettings
from planish.task import metric_of
from planish.training.original import train_original
from planish.training.prepare import Job
from planish.training.recipe import Recipe, default_recipe, set_values

ANY_NETWORK = "resnet8"
"""The network with which images are read; no result depends on it."""

_KNOWN_SMALL = ("plain8", "resnet8x0.5", "resnet8", "resnet14", "resnet20", "resnet8x2", "cifarnetx0.25", "resnet20x2", "cifarnet")
_KNOWN = (
    "timm:lcnet_035", "timm:lcnet_050", "timm:mobilenetv3_small_050", "timm:lcnet_100", "torchvision:shufflenet_v2_x0_5",
    "timm:mobilenetv4_conv_small_050", "timm:resnet10t", "torchvision:mobilenet_v2", "timm:resnet18",
)  # fmt: skip
_SMALL = 48  # pixels up to which the known networks are those for small images
_TRAINED_KNOWN = 2  # known networks that are trained like those of the space
_FIRST_SHARE, _SECOND_ROUND = 0.35, (3, 0.2)  # shares of the time for trainings; the rest is for the chosen network
_LEAST_SECONDS = 10.0  # of one training
_EPOCHS, _CHOSEN_EPOCHS = 60, 200  # maximum number of epochs in the rounds, and of the chosen network
_FINISH_SHARE = 0.1  # of the budget: for exporting, timing and evaluating the chosen network
_SESSIONS = 4  # timing sessions of candidates, at most: two halves of the handful, then networks in the place of those that were too slow
_SECONDS, _LAUNCHES = 2.0, 3  # timing of each file in the last session, and launches
_MEASUREMENT = TypeAdapter(Measurement)
_DEPLOYED = "chosen network"  # prefix of its files in the last timing session


@dataclass(frozen=True)
class Extent:
    """How much is tried.

    Args:
        sampled: networks whose latency is predicted.
        references: networks that are measured for the prediction.
        trained: networks of the space that are trained.
        known: known networks that are timed beside them.
        resolutions: number of input sizes.
    """

    sampled: int
    references: int
    trained: int
    known: int
    resolutions: int


class SearchTrials:
    """The candidates of an architecture search, and what has been measured of each so far.

    Args:
        job: the images.
        data: the images as named by the user.
        target: threads and batch size.
        run: seed of all.
        record: the open run.
        watch: called with all candidates whenever one is measured.
    """

    def __init__(
        self, job: Job, data: str, target: DeploymentTarget, run: RunSettings, record: OpenRun,
        watch: Callable[[Sequence[SearchCandidate]], None],
    ) -> None:  # fmt: skip
        self.runtime = ""
        self.precision: FilePrecision = "int8"
        self.training_precision: Literal["off", "bf16"] = "off"
        self._job, self._data, self._target, self._run, self._watch = job, data, target, run, watch
        self._store, self._path = record.store, record.path
        self._files = NetworkFiles(record.store, record.path / "work", target, lambda _: job.task)
        self._found: dict[str, SearchCandidate] = {}
        self._scores: dict[str, Any] = {}
        self._runner: Runner | None = None

    def references(self, networks: Sequence[SampledNetwork], count: int, runtimes: Sequence[str]) -> list[Reference]:
        """Export and time some networks of the space, and decide on the runtime and the precision in which they are fastest.

        Args:
            networks: networks of the space.
            count: number of those that are measured.
            runtimes: runtimes to choose from.
        """
        chosen = spread_by_macs(networks, self._job, count)
        for one in chosen:
            self._export(one.key, one.architecture.name, one.image_size, FILE_PRECISIONS)
        self.runtime = self._files.fastest_runtime(chosen[0].key, runtimes)
        report = self._files.time("references", [(one.key, precision) for one in chosen for precision in FILE_PRECISIONS], self.runtime)

        def milliseconds(one: SampledNetwork, precision: FilePrecision) -> float:
            return report.measurements[f"{one.key} {precision}"]["latency_ms"].value

        self.precision = min(FILE_PRECISIONS, key=lambda precision: sum(math.log(milliseconds(one, precision)) for one in chosen))
        return [Reference(one, milliseconds(one, self.precision), self._size(one.key).value) for one in chosen]

    def time_candidates(
        self,
        predictions: Sequence[PredictedNetwork],
        scores: Mapping[str, Mapping[Proxy, float]],
        limits: tuple[float, int | None],
        extent: Extent,
    ) -> None:
        """Choose networks of the space, export and time them beside known networks, and leave out those beyond the limits.

        The first half of them corrects the predicted latencies, by which the others are chosen.

        Args:
            predictions: the networks to choose from.
            scores: proxies of some of them, by key.
            limits: on latency in ms and on size in bytes.
            extent: how many are tried.

        Raises:
            GoalError: no network is within the limits.
        """
        taken, correction, by_key = set[str](), 1.0, {one.network.key: one for one in predictions}
        for attempt in range(_SESSIONS):
            kept = [one for one in self._found.values() if one.searched and not one.left_out]
            wanted = (extent.trained + 1) // 2 if attempt == 0 else extent.trained - len(kept)
            within = {one.network.key: one for one in within_limits(predictions, *limits, correction)}
            new = choose(within, scores, taken, wanted, self._run.seed + attempt)
            if not new:
                break
            for key, proxy in new.items():
                self._add(_candidate(within[key], proxy, scores[key], correction))
            if attempt == 0:
                self._add_known(min(within[key].macs for key in new), extent.known)
            taken |= new.keys()
            self._time(f"candidates {attempt + 1}", limits)
            timed = [one for one in self._found.values() if one.searched and one.latency is not None]
            ratios = [one.latency.value / by_key[one.key].milliseconds for one in timed if one.latency is not None]
            correction = float(np.median(ratios)) if ratios else 1.0
        if all(one.left_out for one in self._found.values()):
            fastest = min((one.latency.value for one in self._found.values() if one.latency), default=math.nan)
            raise GoalError(
                f"no network is within {limits_in_words(*limits)}",
                f"{len(self._found)} were exported and timed, the fastest takes {fastest:.3g} ms",
                "give a larger limit, or fewer pixels with --image-size",
            )

    def halve(self, seconds: float) -> None:
        """Train the candidates by successive halving.

        Args:
            seconds: budget of the whole search.
        """
        searched, known = ([one.key for one in self._found.values() if one.searched is kind and not one.left_out] for kind in (True, False))
        order = [*searched[:1], *known[:1], *searched[1:], *known[1:]]  # with little time the best of both kinds are compared
        first = self._found[order[0]]
        self.training_precision = decided_precision(self._store, "auto", lambda: self._artifact(first.name, first.image_size))
        left = self._seconds_left("seconds of trainings", seconds)
        if _FIRST_SHARE * left < 2 * _LEAST_SECONDS:
            note("the budget leaves no time to compare networks by training: the first of them is trained")
            return
        note(f"{len(order)} networks are trained: {left:.0f} s are left, about half of them for the best one")
        workers = self._store.once("workers", "setup", worker_count)
        rounds = ((len(order), _FIRST_SHARE), _SECOND_ROUND)
        successive_halving(order, rounds, left, _LEAST_SECONDS, self._train, workers, partial(share_steps, self._store, self._path))

    def train_chosen(self, chosen: SearchCandidate, seconds: float) -> float:
        """Train the chosen network for the remaining time, save it in the folder ``model`` and evaluate it on test.

        Args:
            chosen: the network.
            seconds: budget of the whole search.

        Returns:
            The number of epochs.
        """
        folder, recipe = self._path / "model", self._recipe(_CHOSEN_EPOCHS)
        job = replace(self._job, artifact=self._artifact(chosen.name, chosen.image_size))
        left = max(_LEAST_SECONDS, self._seconds_left("seconds of the chosen network", seconds))

        def work() -> int:
            note(f"training {chosen.name} at {chosen.image_size} pixels for {left:.0f} s")
            checkpoint = self._path / "work" / "chosen.checkpoint"
            trained = train_original(job, recipe.training, mode="always", checkpoint=checkpoint, seconds=left)
            save_artifact(trained.artifact, folder, job.data.assignment)
            (folder / "recipe.yaml").write_text(recipe.to_yaml())
            write_training(trained, job.task, folder)
            checkpoint.unlink(missing_ok=True)
            return len(trained.history)

        epochs = float(self._store.once("chosen network", "training the chosen network", work))
        artifact = load_artifact(folder)
        self._runner = Runner(self._store, self._path / "work" / "chosen", job.task, artifact)

        def judge() -> bool:
            spec, preprocessing = artifact.input_spec, artifact.preprocessing
            evaluated = evaluate_split(TorchPredictor.fastest(artifact.module, preprocessing), job.task, "test", spec, preprocessing)
            subject = EvaluationSubject(chosen.name, self._data, "torch")
            save_evaluation(folder, evaluated, spec, preprocessing, subject=subject)
            return True

        self._store.once("evaluation", "evaluating on test", judge)
        return epochs

    def time_chosen(self) -> LatencyReport:
        """Time the files of the chosen network beside those of known networks."""
        chosen = {_subject(p): (partial(self.exported, p), self.runtime) for p in FILE_PRECISIONS}
        known = {
            one.key: self._files.subject(one.key, self.precision, self.runtime)
            for one in self._found.values()
            if not one.searched and one.latency is not None
        }
        settings = LatencySettings(self._target.threads, self._target.batch, _SECONDS, _LAUNCHES)
        return latency_once(self._store, "chosen", self._job.task, chosen | known, _subject(self.precision), settings)

    def exported(self, precision: FilePrecision) -> Artifact:
        """Return the exported file of the chosen network."""
        return self._of_chosen.artifact(self._plan(precision))

    def file_measurements(self, report: LatencyReport) -> dict[FilePrecision, dict[str, Measurement]]:
        """Return accuracy on test, latency, memory and size of the chosen network's files.

        Args:
            report: from ``time_chosen``.
        """
        found: dict[FilePrecision, dict[str, Measurement]] = {}
        for precision in FILE_PRECISIONS:
            plan, timed = self._plan(precision), report.measurements[_subject(precision)]
            accuracy = self._of_chosen.metrics(plan, self.runtime, "test")[metric_of(self._job.task).name]
            found[precision] = {
                "accuracy": accuracy, "latency_ms": timed["latency_ms"], "peak_memory_bytes": timed["peak_memory_bytes"],
                "size_bytes": self._of_chosen.size(plan, self.runtime),
            }  # fmt: skip
        return found

    def beside(self, report: LatencyReport) -> dict[str, Measurement]:
        """Return the latency of known networks in the session of the chosen one, by key."""
        return {key: one["latency_ms"] for key, one in report.measurements.items() if key in self._found}

    def ranked(self) -> list[SearchCandidate]:
        """Return all candidates, see ``ArchitectureSearch``."""
        return sorted(self._found.values(), key=lambda one: (bool(one.left_out), -len(one.accuracies), -one.accuracy))

    def as_good(self) -> list[str]:
        """Return the keys of networks whose difference to the first is no difference; see ``ArchitectureSearch``."""
        first, *others = self.ranked()
        same = [one for one in others if one.accuracies and len(one.accuracies) == len(first.accuracies)]
        alike = [one for one in same if no_difference(self._scores[first.key], self._scores[one.key])]
        return [one.key for one in sorted(alike, key=lambda one: math.inf if one.latency is None else one.latency.value)]

    @property
    def _of_chosen(self) -> Runner:
        assert self._runner is not None
        return self._runner

    def _plan(self, precision: FilePrecision) -> Plan:
        quantized = (Int8.for_device(),) if precision == "int8" else ()
        return Plan(ToOnnx(), *quantized, *steps_from_onnx(self.runtime))

    def _artifact(self, name: str, image_size: int) -> Artifact:
        """Return an untrained network for the images."""
        images = self._job.artifact
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._run.seed)
            created = create(name, num_classes=len(images.class_names), channels=images.input_spec.channels, image_size=image_size)
        return replace(sized(images, image_size), lineage=Lineage(created.source), module=created.module.eval())

    def _recipe(self, epochs: int) -> Recipe:
        recipe = set_values(default_recipe(False, 0.0), [f"epochs={epochs}", f"seed={self._run.seed}"])
        return replace(recipe, training=replace(recipe.training, mixed_precision=self.training_precision))

    def _seconds_left(self, key: str, seconds: float) -> float:
        return float(self._store.once(key, "setup", lambda: max(0.0, (1 - _FINISH_SHARE) * seconds - self._store.elapsed)))

    def _export(self, key: str, name: str, image_size: int, precisions: Sequence[FilePrecision]) -> None:
        def work() -> bool:
            self._files.export(key, self._artifact(name, image_size), precisions)
            return True

        self._store.once(f"export:{key}:{'+'.join(precisions)}", "exporting", work)

    def _size(self, key: str) -> Measurement:
        """Return the size of the file that the runtime runs."""

        def work() -> Any:
            return _MEASUREMENT.dump_python(size_bytes(self._files.file(key, self.precision, self.runtime).files), mode="json")

        return _MEASUREMENT.validate_python(self._store.once(f"size:{key}", "exporting", work))

    def _add(self, candidate: SearchCandidate) -> None:
        export = partial(self._export, candidate.key, candidate.name, candidate.image_size, (self.precision,))
        if why := self._store.attempt(f"export:{candidate.key}", "exporting", export):
            note(f"{candidate.name} is left out: {why}")
            candidate = replace(candidate, left_out=why)
        else:
            candidate = replace(candidate, size=self._size(candidate.key))
        self._found[candidate.key] = candidate
        self._watch(self.ranked())

    def _add_known(self, multiplications: int, count: int) -> None:
        """Add the known networks with about this many multiplications."""
        size = self._job.artifact.input_spec.height
        counted: dict[str, tuple[int, int]] = {}
        for name in _KNOWN_SMALL if size <= _SMALL else _KNOWN:
            artifact = self._artifact(name, size)
            counted[name] = round(macs(artifact.module, artifact.input_spec).value), sum(p.numel() for p in artifact.module.parameters())
        for name in sorted(counted, key=lambda name: abs(math.log(counted[name][0] / multiplications)))[:count]:
            self._add(SearchCandidate(f"{name}@{size}", name, size, False, "", counted[name][1], counted[name][0]))

    def _time(self, session: str, limits: tuple[float, int | None]) -> None:
        """Time the candidates that are not timed yet, and leave out those beyond the limits."""
        new = [one for one in self._found.values() if one.latency is None and not one.left_out]
        if not new:
            return
        max_latency_ms, max_size_bytes = limits
        report = self._files.time(session, [(one.key, self.precision) for one in new], self.runtime)
        for one in new:
            latency = report.measurements[f"{one.key} {self.precision}"]["latency_ms"]
            assert one.size is not None
            # by the median, as two launches leave a wide interval; the last session tells how the chosen network's compares
            beyond = latency.value > max_latency_ms or (max_size_bytes is not None and one.size.value > max_size_bytes)
            self._found[one.key] = replace(one, latency=latency, left_out="beyond the limits" if beyond else "")
        known = sorted((one for one in self._found.values() if not one.searched and not one.left_out), key=lambda one: -one.macs)
        for one in known[_TRAINED_KNOWN:]:
            self._found[one.key] = replace(one, left_out="larger known networks are within the limits")
        self._watch(self.ranked())

    def _train(self, key: str, number: int, seconds: float) -> float:
        candidate = self._found[key]
        scores: Path = self._files.folder(key) / f"trained-{number}.npz"

        artifact, settings = self._artifact(candidate.name, candidate.image_size), self._recipe(_EPOCHS).training
        about = f"round {number + 1}: training {candidate.name} at {candidate.image_size} pixels for {seconds:.0f} s"
        work = partial(train_for, artifact, self._job.task, settings, seconds, scores.parent, scores, about)
        epochs = self._store.once(f"train:{key}:{number}", "training", work)
        self._scores[key] = read_arrays(scores)["right"]
        accuracy = accuracy_of(self._scores[key])
        self._found[key] = replace(candidate, accuracies=[*candidate.accuracies, accuracy], epochs=epochs)
        self._watch(self.ranked())
        return accuracy.value


def _candidate(one: PredictedNetwork, proxy: str, scores: Mapping[Proxy, float], correction: float) -> SearchCandidate:
    return SearchCandidate(
        key=one.network.key,
        name=one.network.architecture.name,
        image_size=one.network.image_size,
        searched=True,
        chosen_by=proxy,
        parameters=one.parameters,
        macs=one.macs,
        proxies={name: float(value) for name, value in scores.items()},
        predicted_ms=correction * one.milliseconds,
    )


def _subject(precision: FilePrecision) -> str:
    return f"{_DEPLOYED} {precision}"
