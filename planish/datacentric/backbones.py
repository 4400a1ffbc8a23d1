"""Which network to start from: many are timed as exported files, and those that are fast enough are ranked by how well they transfer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from planish import units
from planish.data import require_classes
from planish.datacentric.few_shot import features, logistic_regression
from planish.devices.device import current_device
from planish.errors import ModelError, WeightsMissingError, first_line
from planish.evaluation.size import macs
from planish.export.runtimes.registry import available, find
from planish.files.atomic import job_folder, read_arrays, read_result, write_arrays, write_result
from planish.files.trust import trust
from planish.measurement import Measurement
from planish.models.weights.pretrained import licence_of, weights_of_each
from planish.models.zoo import factory_file, full_name
from planish.progress import note
from planish.runs.networks.halving import accuracy_of, no_difference, successive_halving, train_for
from planish.runs.networks.network_files import FILE_PRECISIONS, NetworkFiles, limits_in_words
from planish.runs.precision import decided_precision, precision_name
from planish.runs.record import OpenRun, RunRecord, run_folder
from planish.runs.workers import share_steps, worker_count
from planish.settings import DeploymentTarget, GoalSettings, ModelSettings, OriginalSettings, RunSettings
from planish.split_assignment import keep_assignment
from planish.task import Task
from planish.training.original import original_settings
from planish.training.prepare import Job, prepare_job
from planish.units import ImageSize

_STRICT = ConfigDict(extra="forbid")

CANDIDATES = (
    "timm:lcnet_050", "timm:lcnet_100", "timm:mobilenetv3_small_100", "timm:mobilenetv3_large_100", "timm:mobilenetv4_conv_small",
    "timm:mobilenetv4_conv_medium", "torchvision:mobilenet_v2", "timm:tf_efficientnet_lite0", "timm:efficientnet_b0",
    "torchvision:shufflenet_v2_x1_0", "timm:regnetx_002", "timm:regnety_004", "timm:hgnetv2_b0", "timm:repvgg_a0", "timm:resnet18",
    "timm:resnet50",
)  # fmt: skip
"""Networks that run fast on CPUs, from small to large, each with ImageNet weights in its library."""

_NO_LIMITS = GoalSettings()
_PROBE_IMAGES = 1500  # maximum number of training images of a linear probe
_ROUNDS = ((4, 0.5), (2, 0.5))  # successive halving: networks that are fine-tuned, and their share of the time for it
_TRAINED_SHARE = 0.9  # of the time left; the rest is for evaluation
_LEAST_SECONDS = 20.0  # of one fine-tuning
_PROBE_SHARE = 0.4  # maximum share of the budget after which no further network is probed


@dataclass(frozen=True, config=_STRICT)
class BackboneResult:
    """One network.

    Args:
        name: full name of the network.
        licence: licence of its pretrained weights as its library states it; empty if it states none or there are no weights.
        weights: the weights it starts from: ``imagenet``, a file; empty for none.
        image_size: input size in pixels, ``HEIGHTxWIDTH`` if it is not square.
        parameters: number of parameters.
        macs: multiply-accumulate operations for one image.
        latency: latency of the exported files, by precision.
        size: size of the exported files, by precision.
        probe: accuracy on validation of a linear classifier on its frozen features; None without weights, or if it was not measured.
        accuracy: accuracy on validation after its last fine-tuning; None if it was not fine-tuned.
        rounds: number of rounds of fine-tuning it took part in; each is longer than the one before and begins anew.
        epochs: epochs of the last one.
        left_out: why it was not considered further; empty if it was.
    """

    name: str
    licence: str = ""
    weights: str = ""
    image_size: int | str = 0
    parameters: int = 0
    macs: Measurement | None = None
    latency: dict[str, Measurement] = field(default_factory=dict)
    size: dict[str, Measurement] = field(default_factory=dict)
    probe: Measurement | None = None
    accuracy: Measurement | None = None
    rounds: int = 0
    epochs: float = 0.0
    left_out: str = ""

    @property
    def fastest(self) -> str:
        """The precision with the lowest latency; empty if it was not timed."""
        return min(self.latency, key=lambda precision: self.latency[precision].value, default="")

    @property
    def latency_ms(self) -> float:
        """The lowest latency; infinite if it was not timed."""
        return self.latency[self.fastest].value if self.latency else math.inf


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Backbones(RunRecord):
    """Networks to start from, the recommended one first; ``backbones.json``.

    Args:
        runtime: runtime in which the files were timed.
        threads: number of threads of the runtime.
        batch: batch size.
        max_latency_ms: maximum latency of one batch; None for none.
        max_size_bytes: maximum size of a file; None for none.
        noise_floor: of the timing session, see ``LatencyReport``.
        backbones: all networks: those fine-tuned longest by accuracy, then those fine-tuned for less time, then probed ones by the accuracy
            of the probe, then the others by latency.
        as_good: names of networks whose difference to the first is no difference on these images, fastest first.
    """

    data: str
    runtime: str
    threads: int
    batch: int
    max_latency_ms: float | None
    max_size_bytes: int | None
    noise_floor: Measurement
    backbones: list[BackboneResult]
    as_good: list[str]

    @classmethod
    def load(cls, path: Path) -> Backbones:
        """Read ``backbones.json``; raises ``BundleError`` if the file is not valid."""
        return read_result(path, Backbones)


def backbones(
    data: str | Path,
    *,
    candidates: Sequence[str] = CANDIDATES,
    weights: str | Path = "imagenet",
    image_size: ImageSize | None = None,
    goal: GoalSettings = _NO_LIMITS,
    target: DeploymentTarget,
    run: RunSettings,
    watch: Callable[[Sequence[BackboneResult]], None] | None = None,
) -> Backbones:
    """Time networks as exported files, and rank those within the limits by how well they transfer to these images.

    All are exported in fp32 and INT8 and timed side by side. Those that are fast enough in one of the two are ranked by a linear classifier
    on their frozen features, and the best are fine-tuned by successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): four for
    half of the time that is left, then the better two for the other half. Accuracy is on validation; test is not used.

    Args:
        data: images with classes: a folder, a manifest or a built-in name.
        candidates: names of networks.
        weights: ``imagenet`` for the weights of each network's library; a folder of weight files named after the networks; or ``none``, to
            rank them by latency alone.
        image_size: input size in pixels, or ``HEIGHTxWIDTH``; None for the size of the images, at most 224.
        goal: limits on latency and size.
        target: where the files run; the runtime ``auto`` stands for the one in which the first network is fastest.
        run: settings of the run; the default folder is under ``runs/``, the default budget 20 minutes.
        watch: called with all networks whenever one is measured.

    Returns:
        The networks; also written to ``backbones.json``.

    Raises:
        ModelError: a network is unknown, none can be built and exported, or the folder of weights holds none for them.
        RuntimeMissingError: the runtime is not installed.
    """
    require_classes(data, "choosing a network")
    names = list(dict.fromkeys(candidates))
    if not names:
        raise ModelError("there is no network to compare", "at least one is needed", f"for example --candidate {CANDIDATES[0]}")
    for file in filter(None, map(factory_file, names)):
        trust(file)
    names = list(dict.fromkeys(map(full_name, names)))
    files = weights_of_each(weights, names)
    max_latency_ms = None if goal.max_latency is None else units.milliseconds(goal.max_latency)
    max_size_bytes = None if goal.max_size is None else units.size_bytes(goal.max_size)
    seconds = units.seconds("20m" if run.budget is None else run.budget)
    runtimes = available("onnx") if target.runtime == "auto" else [find(target.runtime).name]
    folder = job_folder(run.out, "backbones", data, "")
    settings = {
        "data": str(data), "candidates": names, "weights": str(weights), "image_size": image_size, "max_latency_ms": max_latency_ms,
        "max_size_bytes": max_size_bytes, "runtime": target.runtime, "threads": target.threads, "batch": target.batch, "budget": seconds,
        "skip_bad": run.skip_bad, "seed": run.seed, "device": current_device().address or None,
    }  # fmt: skip
    with run_folder(folder, settings, run.resume) as record:
        study = _Study(data, image_size, files, target, run, record, watch or (lambda _: None))
        study.export(names)
        runtime = study.fastest_runtime(runtimes)
        noise_floor = study.time(runtime)
        study.leave_out_beyond(max_latency_ms, max_size_bytes)
        study.probe(_PROBE_SHARE * seconds)
        study.fine_tune(seconds)
        result = Backbones(
            **record.record(training_precision=precision_name(study.precision)),
            data=str(data),
            runtime=runtime,
            threads=target.threads,
            batch=target.batch,
            max_latency_ms=max_latency_ms,
            max_size_bytes=max_size_bytes,
            noise_floor=noise_floor,
            backbones=study.ranked(),
            as_good=study.as_good(),
        )
        write_result(folder / "backbones.json", result)
    return result


class _Study:
    """The networks of a study, and what has been measured of each so far.

    Args:
        data: data source.
        image_size: input size; None for the default.
        weights: weights of each network, by name.
        target: where the files run.
        run: seed of all, and whether broken images are skipped.
        record: the open run.
        watch: called with all networks whenever one is measured.
    """

    def __init__(
        self, data: str | Path, image_size: ImageSize | None, weights: Mapping[str, str | Path | None], target: DeploymentTarget,
        run: RunSettings, record: OpenRun, watch: Callable[[Sequence[BackboneResult]], None],
    ) -> None:  # fmt: skip
        self.found: dict[str, BackboneResult] = {}
        self.precision: Any = "off"
        self._data, self._image_size, self._target, self._run, self._record, self._watch = data, image_size, target, run, record, watch
        self._weights = dict(weights)
        self._scores: dict[str, Any] = {}
        self._opened: tuple[str, Job] | None = None
        self._missing: set[str] = set()  # libraries whose weights cannot be downloaded

    @property
    def _files(self) -> NetworkFiles:
        return NetworkFiles(self._record.store, self._record.path / "work", self._target, self._task)

    def _job(self, name: str) -> Job:
        """Return the images and the network, with its weights if they can be had."""
        library, weights = name.partition(":")[0], self._weights[name]
        if library in self._missing and weights == "imagenet":
            weights = None

        def made(weights: str | Path | None) -> Job:
            model = ModelSettings(name, weights, self._image_size)
            return prepare_job(self._data, model, skip_bad=self._run.skip_bad, seed=self._run.seed)

        try:
            return made(weights)
        except WeightsMissingError as error:
            self._missing.add(library)
            note(f"networks of {library} are ranked by latency alone: {first_line(error)}")
            return made(None)

    def export(self, names: Sequence[str]) -> None:
        """Export each network in fp32 and INT8; those that cannot be are left out.

        Raises:
            ModelError: there is none left.
        """
        for number, name in enumerate(names):
            note(f"network {number + 1} of {len(names)}: {name}")

            def work(name: str = name) -> Any:
                job = self._job(name)
                keep_assignment(self._record.path, job.data.assignment)
                sizes = self._files.export(name, job.artifact)
                module, spec = job.artifact.module, job.artifact.input_spec
                weights = str(self._weights[name] or "") if job.pretrained else ""
                found = BackboneResult(
                    name=name,
                    licence=licence_of(name) if weights == "imagenet" else "",
                    weights=weights,
                    image_size=spec.height if spec.height == spec.width else f"{spec.height}x{spec.width}",
                    parameters=sum(p.numel() for p in module.parameters()),
                    macs=macs(module, spec),
                    size=sizes,
                )
                return TypeAdapter(BackboneResult).dump_python(found, mode="json")

            store = self._record.store
            facts = partial(store.once, f"facts:{name}", "exporting", work)
            if why := store.attempt(f"export:{name}", "exporting", facts):
                self.found[name] = BackboneResult(name, left_out=why)
                note(f"{name} is left out: {why}")
            else:
                self.found[name] = TypeAdapter(BackboneResult).validate_python(facts())
            self._watch(self.ranked())
        if not self._kept():
            raise ModelError("none of these networks can be exported", next(iter(self.found.values())).left_out, "choose others")

    def _kept(self) -> list[str]:
        return [name for name, one in self.found.items() if not one.left_out]

    def _task(self, name: str) -> Task:
        if self._opened is None or self._opened[0] != name:
            self._opened = name, self._job(name)
        return self._opened[1].task

    def fastest_runtime(self, runtimes: Sequence[str]) -> str:
        """Return the runtime in which the INT8 file of the first network is fastest."""
        return self._files.fastest_runtime(self._kept()[0], runtimes)

    def time(self, runtime: str) -> Measurement:
        """Time all files side by side; return the noise floor."""
        names = self._kept()
        report = self._files.time("candidates", [(name, precision) for name in names for precision in FILE_PRECISIONS], runtime)
        for name in names:
            latency: dict[str, Measurement] = {p: report.measurements[f"{name} {p}"]["latency_ms"] for p in FILE_PRECISIONS}
            self.found[name] = replace(self.found[name], latency=latency)
        self._watch(self.ranked())
        return report.noise_floor

    def leave_out_beyond(self, max_latency_ms: float | None, max_size_bytes: int | None) -> None:
        """Leave out networks of which neither file is within the limits."""
        for name in self._kept():
            one = self.found[name]
            within = [
                p
                for p, latency in one.latency.items()
                if (max_latency_ms is None or (latency.high or latency.value) <= max_latency_ms)
                and (max_size_bytes is None or one.size[p].value <= max_size_bytes)
            ]
            if not within:
                self.found[name] = replace(one, left_out=f"not within {limits_in_words(max_latency_ms, max_size_bytes)}, in fp32 or INT8")
        if not self._kept():
            note("no network is within the limits: choose smaller ones, or compress one with planish optimize")

    def probe(self, budget: float) -> None:
        """Measure a linear classifier on the frozen features of each network with weights, the fastest first."""
        for name in sorted(self._kept(), key=lambda each: self.found[each].latency_ms):
            if not self.found[name].weights:
                continue
            if self._record.store.elapsed > budget:
                note(f"{name} and slower networks are not probed: the budget is needed for the others")
                break

            def work(name: str = name) -> str:
                job = self._job(name)
                spec, preprocessing = job.artifact.input_spec, job.artifact.preprocessing
                train, validation = job.task.split("train"), job.task.split("validation")
                rows = np.unique(np.linspace(0, len(train) - 1, min(_PROBE_IMAGES, len(train))).round().astype(int))
                pixels = train.images(spec, preprocessing)[rows]
                known = features(job.artifact.module, spec, preprocessing, pixels)
                judged = features(job.artifact.module, spec, preprocessing, validation.images(spec, preprocessing))
                weight, bias = logistic_regression(known, train.targets[rows], len(job.task.class_names))
                right = (judged @ weight.T + bias).argmax(axis=1) == validation.targets
                write_arrays(self._files.folder(name) / "probe.npz", right=right)
                return ""

            store = self._record.store
            if why := store.attempt(f"probe:{name}", "probing", work):
                note(f"{name} is not probed: {why}")
                continue
            right = read_arrays(self._files.folder(name) / "probe.npz")["right"]
            self.found[name] = replace(self.found[name], probe=accuracy_of(right))
            self._watch(self.ranked())

    def fine_tune(self, seconds: float) -> None:
        """Fine-tune the networks with the best features by successive halving."""
        probed = [name for name in self._kept() if self.found[name].probe is not None]
        if not probed:
            return
        store = self._record.store
        self.precision = decided_precision(store, "auto", lambda: self._job(probed[0]).artifact)
        left = store.once("seconds of fine-tuning", "setup", lambda: max(0.0, _TRAINED_SHARE * (seconds - store.elapsed)))
        order = sorted(probed, key=lambda name: -_value(self.found[name].probe))
        workers, share = store.once("workers", "setup", worker_count), partial(share_steps, store, self._record.path)
        successive_halving(order, _ROUNDS, left, _LEAST_SECONDS, self._train, workers, share)

    def _train(self, name: str, number: int, seconds: float) -> float:
        folder = self._files.folder(name)
        scores = folder / f"trained-{number}.npz"

        job = self._job(name)
        settings = original_settings(job, OriginalSettings(), seed=self._run.seed, mixed_precision=self.precision)
        about = f"fine-tuning {name} for {seconds:.0f} s"
        work = partial(train_for, job.artifact, job.task, settings, seconds, folder, scores, about)
        epochs = self._record.store.once(f"train:{name}:{number}", "training", work)
        right = read_arrays(scores)["right"]
        self._scores[self.found[name].name] = right
        accuracy = accuracy_of(right)
        self.found[name] = replace(self.found[name], accuracy=accuracy, rounds=number + 1, epochs=epochs)
        self._watch(self.ranked())
        return accuracy.value

    def ranked(self) -> list[BackboneResult]:
        """Return all networks, see ``Backbones``."""

        def order(one: BackboneResult) -> tuple[bool, int, float, float, float]:
            return bool(one.left_out), -one.rounds, -_value(one.accuracy), -_value(one.probe), one.latency_ms

        return sorted(self.found.values(), key=order)

    def as_good(self) -> list[str]:
        """Return the networks whose difference to the first is no difference; see ``Backbones``."""
        if not self._scores:
            return []
        first, *others = (one for one in self.ranked() if one.name in self._scores)
        best = self._scores[first.name]
        alike = [one for one in others if one.rounds == first.rounds and no_difference(best, self._scores[one.name])]
        return [one.name for one in sorted(alike, key=lambda one: one.latency_ms)]


def _value(measurement: Measurement | None) -> float:
    return -math.inf if measurement is None else measurement.value
