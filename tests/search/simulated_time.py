"""A whole search in simulated time: each stage moves a clock on by what it costs, and nothing else takes any time.

The search itself, its store, the sessions of timing and the choice are the real ones; networks are neither trained nor exported.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from planish import commands, deadline
from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source, Step
from planish.devices import device
from planish.errors import TechniqueError
from planish.evaluation import latency
from planish.models.zoo import build
from planish.runs import store
from planish.runs.runner import Runner
from planish.search import finish, time_estimates
from planish.search.result import Result
from planish.split_assignment import SplitAssignment
from planish.tasks.classification import Classification
from planish.technique import hyper_parameters
from planish.training.prepare import Job

_CLASSES = ("a", "b")
COSTS = {
    "starting": 6.0,
    "training the original": 0.0,  # comes on top of the seconds that it is given
    "to_onnx": 2.0,
    "to_openvino": 2.0,
    "int8": 1.0,
    "latency_pruning": 15.0,  # timing layers
    "other techniques": 2.0,
    "distill": 0.0,
    "qat": 0.0,
    "evaluating an image": 0.002,
    "judging an image": 0.0005,
    "process": 1.0,
    "call": 0.002,
    "writing": 2.0,
}


@dataclass
class World:
    """What a search costs.

    Args:
        images: of train; validation and test have half as many each.
        slower: a factor on everything.
        stages: further factors, by the names of ``COSTS``.
    """

    images: int = 1000
    slower: float = 1.0
    stages: Mapping[str, float] = field(default_factory=dict)
    now: float = 1000.0
    spent: dict[str, float] = field(default_factory=dict)

    def cost(self, stage: str, times: float = 1.0) -> float:
        return COSTS[stage] * times * self.slower * self.stages.get(stage, 1.0)

    def spend(self, stage: str, seconds: float | None = None, times: float = 1.0) -> None:
        """Move the clock on: by a stage's cost, or by seconds that it was given, which only the stage's own factor changes."""
        took = self.cost(stage, times) if seconds is None else seconds * self.stages.get(stage, 1.0)
        self.spent[stage] = self.spent.get(stage, 0.0) + took
        self.now += took


class _Split:
    def __init__(self, name: str, count: int) -> None:
        self.keys = [f"{name}{i}" for i in range(count)]
        self.targets = np.arange(count) % len(_CLASSES)

    def __len__(self) -> int:
        return len(self.keys)

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Any:
        return np.zeros((len(self), spec.height, spec.width, spec.channels), np.uint8)


class _Worker:
    """A process that is timed."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, name: str, threads: int, timeout: float) -> _Worker:
        return _Worker(self.world)

    def start_loading(self, loader: str, arguments: dict[str, Any], *_: Any) -> None:
        # a file is as fast as its plan and its runtime make it, wherever it lies
        name = Path(arguments["files"][0]).parent.name
        self.ms = 1e3 * COSTS["call"] / (1 + _number(f"{name} {arguments['runtime']}") + 2 * name.count("+"))
        self.world.spend("process")

    def wait(self) -> Any:
        return {}, []

    def ask(self, do: str, calls: int = 1) -> Any:
        if do == "run":
            self.world.spend("call", times=calls)
        noise = 1 + 0.001 * np.arange(calls)
        return {"warm_up": {"call_ms": self.ms}, "memory": {"peak_memory_bytes": 1e6}}.get(do, {}), [self.ms * noise]

    def close(self) -> None: ...


def _number(text: str) -> float:
    return hashlib.sha256(text.encode()).digest()[0] / 255


def simulate(
    folder: Path, world: World, budget: float, monkeypatch: pytest.MonkeyPatch, *, data: str | Path = "data", **options: Any
) -> tuple[Result, float]:
    """Carry out a search of ``budget`` seconds in this world; ``data`` need not exist unless its task is read before the images are.

    Returns:
        What it found, and the seconds that it took, with all that comes before and after it.
    """
    from planish.search import optimize  # noqa: F401 the function of that name hides the module

    module = sys.modules["planish.search.optimize"]
    begun = world.now
    clock = lambda: world.now  # noqa: E731
    for place in (store, module, latency, deadline):
        monkeypatch.setattr(place, "monotonic", clock)
    monkeypatch.setattr(time_estimates, "perf_counter", clock)
    monkeypatch.setattr(device, "WorkerProcess", _Worker(world))
    monkeypatch.setattr(time_estimates, "seconds_per_image", lambda *_: world.cost("evaluating an image"))
    monkeypatch.setattr(module, "is_unlabelled", lambda *_: False)
    monkeypatch.setattr(module, "prepare_job", lambda *_, **__: _job(world))
    known = ("onnxruntime", "openvino")
    monkeypatch.setattr(module, "available", lambda _: [name for name in known if device.current_device().runtime_version(name)])
    monkeypatch.setattr(module, "ToOnnx", lambda: SimpleNamespace(apply=lambda artifact, _: _exported(world, artifact)))
    monkeypatch.setattr(module, "decided_precision", lambda *_: "off")
    monkeypatch.setattr(module, "stored_original", _original(world))
    monkeypatch.setattr(module, "default_precision_runtimes", dict)
    monkeypatch.setattr(finish, "write_evidence", lambda *_, **__: None)
    monkeypatch.setattr(finish, "write_bundle", lambda *_, **__: world.spend("writing"))
    monkeypatch.setattr(finish, "macs", lambda *_: _nothing())
    monkeypatch.setattr(Runner, "_step", _step(world))
    monkeypatch.setattr(Runner, "outputs", _outputs(world))
    monkeypatch.setattr(Runner, "metrics", _metrics(world, Runner.metrics))
    monkeypatch.setattr("planish.runs.record.started", lambda: begun)
    monkeypatch.setattr(module, "original_settings", lambda *_, **__: None)
    monkeypatch.setattr("planish.report.write_report", lambda _: None)
    result = commands.optimize(data, model="resnet8x0.5", budget=f"{budget:g}s", out=folder, students=[], **options)
    return result, world.now - begun


def _exported(world: World, artifact: Artifact) -> Artifact:
    world.spend("to_onnx")
    return replace(artifact, files=(Path("model.onnx"),))


def _nothing() -> Any:
    from planish.measurement import Measurement

    return Measurement("macs", 1.0, "count", 1, False)


def _job(world: World) -> Job:
    world.spend("starting")
    counts = {"train": world.images, "calibration": min(100, world.images), "validation": world.images // 2, "test": world.images // 2}
    task = Classification(cast(Any, {name: _Split(name, max(4, count)) for name, count in counts.items()}), _CLASSES)
    source = Source("resnet8x0.5", 2, 3)
    module = build(source).eval()
    artifact = Artifact(
        "torch", InputSpec(3, 8, 8), Preprocessing(8, "squash", (0.5,) * 3, (0.5,) * 3), _CLASSES, Lineage(source),
        module=module,
    )  # fmt: skip
    data = SimpleNamespace(assignment=SplitAssignment(0, {}), report=SimpleNamespace(model_dump=lambda mode: {}))
    return Job(task, artifact, cast(Any, data), trained_on_classes=False, pretrained=False, notes=())


def _original(world: World) -> Any:
    def stored_original(
        job: Job, folder: Path, kept: store.Store, settings: Any, *, mode: str, seconds: float, name: str = "original"
    ) -> Artifact:
        def train() -> bool:
            epochs = 60 * world.cost("evaluating an image", 4 * world.images)
            world.spend("training the original", min(seconds, epochs))
            return True

        kept.once(name, f"training the {name}", train)
        return job.artifact

    return stored_original


def _step(world: World) -> Any:
    def step(self: Runner, before: Artifact, plan: Any) -> Artifact:
        technique = plan.steps[-1]
        structure = {}

        def work() -> dict[str, Any]:
            if technique.name in ("distill", "qat"):
                epoch = world.cost("evaluating an image", 5 * world.images)
                seconds = min(technique.max_seconds, technique.epochs * epoch)
                world.spend(technique.name, seconds)
                step = epoch / max(1, -(-world.images // technique.batch_size))
                return {"seconds": seconds, "epochs": seconds / epoch, "step_seconds": step}
            if technique.name == "latency_pruning":
                for _ in range(10):  # layers are timed in groups, see ``layer_latency``
                    if deadline.seconds_left() < 0:
                        raise TechniqueError("no time")
                    known = any(key.startswith("artifact") and found for key, found in self.layers.items())
                    world.spend("latency_pruning", times=0.01 if known else 0.1)
                self.layers["artifact"] = True
                return {}
            world.spend(technique.name if technique.name in COSTS else "other techniques")
            return {}

        self.layers = getattr(self, "layers", {})
        structure = self.store.once(f"artifact:{plan.key}", technique.name, work)
        name = ("+".join(s.name for s in plan.steps if s.name == "latency_pruning") and f"{plan.key}+") or plan.key
        file = self.folder / name / "model.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(1000))
        made = before.with_step(Step(technique.name, hyper_parameters(technique), technique.changes, structure, ""), module=before.module)
        return replace(made, files=(file,))

    return step


def _outputs(world: World) -> Any:
    def outputs(self: Runner, plan: Any, where: str, split: Any) -> dict[str, Any]:
        targets = self.task.split(split).targets

        def work() -> bool:
            self.artifact(plan)
            world.spend("evaluating an image", times=len(targets))
            return True

        self.store.once(f"outputs:{plan.key}@{where}:{split}", f"evaluating on {split}", work)
        wrong = np.arange(len(targets)) < 0.1 * len(targets)
        return {"logits": 9.0 * np.eye(len(_CLASSES))[np.where(wrong, 1 - targets, targets)]}

    return outputs


def _metrics(world: World, real: Any) -> Any:
    def metrics(self: Runner, plan: Any, where: str, split: Any) -> Any:
        if (plan.key, where, split) not in self._metrics:
            world.spend("judging an image", times=len(self.task.split(split)))
        return real(self, plan, where, split)

    return metrics
