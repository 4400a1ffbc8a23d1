"""A task whose answers have a place: one box an image; and its run and evaluation, made up in a second."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fake_run import write_run
from PIL import Image, ImageDraw

from planish.artifact import InputSpec, Preprocessing
from planish.evaluation.metrics.classification import percent
from planish.evaluation.statistics.intervals import bootstrap_mean, paired_difference
from planish.measurement import Measurement
from planish.runs.evaluation import Evaluation, EvaluationSettings, EvaluationSubject, evaluate_split, save_evaluation
from planish.search.evidence import Session, Sources, Validation, errors, per_class, write_evidence
from planish.search.result import Result
from planish.search.verdict import shortfall, verdict

SPEC = InputSpec(3, 48, 64)
PREPROCESSING = Preprocessing(64, "squash", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
NAMES = ("kettle", "clock")


class Pictures:
    """``n`` images, each with a light box whose class is its number's parity."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(3)
        corners = rng.uniform(0.05, 0.5, (n, 2))
        self.targets = [np.concatenate([c, c + rng.uniform(0.2, 0.45, 2)]).astype(np.float32) for c in corners]
        self.keys = [f"test/photo {i:03d}.jpg" for i in range(n)]

    def __len__(self) -> int:
        return len(self.targets)

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> np.ndarray:
        shade = np.linspace(30, 120, spec.width)[None, None, :, None] + np.linspace(0, 40, len(self))[:, None, None, None]
        pixels = np.broadcast_to(shade, (len(self), spec.height, spec.width, 3)).astype(np.uint8)
        for image, (left, top, right, bottom) in zip(pixels, self.targets, strict=True):
            across, down = slice(int(left * spec.width), int(right * spec.width)), slice(int(top * spec.height), int(bottom * spec.height))
            image[down, across] = image[down, across] // 2 + (110, 90, 60)
        pixels[:, 0, 0, 0] = np.arange(len(self)) % 256  # by which the fake model knows it
        return pixels


class Places:
    """The metric is the mean overlap; nothing but drawing and scoring is ever asked of it here."""

    name = "places"
    class_names = NAMES
    primary_metric = "map"

    def __init__(self, n: int = 60) -> None:
        self.test = Pictures(n)
        self.asked = 0  # how many images were scored

    def split(self, name: str) -> Any:
        return self.test

    def scores(self, outputs: Any, targets: Any) -> np.ndarray:
        self.asked += len(targets)
        return np.array([overlap(box, target) for box, target in zip(outputs["boxes"], targets, strict=True)], np.float64)

    def metrics(self, outputs: Any, targets: Any) -> dict[str, Measurement]:
        scores = self.scores(outputs, targets)
        return {name: percent(name, len(scores), bootstrap_mean(scores**power)) for name, power in (("map", 1), ("map_50", 0.5))}

    def per_class(self, outputs: Any, targets: Any) -> dict[str, Measurement]:
        scores = self.scores(outputs, targets)
        return {name: percent("average_precision", len(scores[i::2]), bootstrap_mean(scores[i::2])) for i, name in enumerate(NAMES)}

    def errors(self, outputs: Any, targets: Any, against: Any = None) -> dict[str, Measurement]:
        """An overlap of less than some limit is an error that costs its share of the images."""
        found = {}
        for kind, limit in (("missed_objects", 0.6), ("bad_places", 0.8), ("duplicates", 0.0)):
            here = self.scores(outputs, targets) < limit
            interval = bootstrap_mean(here) if against is None else paired_difference(here, self.scores(against, targets) < limit)
            value, low, high = (100 * x for x in interval)
            n = int(here.sum()) if against is None else len(here)
            found[kind] = Measurement(f"lost_to_{kind}", value, "points", n, False, low, high)
        return found

    def draw(self, pixels: np.ndarray, outputs: Any, targets: Any) -> np.ndarray:
        boxes, colour = (targets, (255, 255, 255)) if outputs is None else (outputs["boxes"], (0, 200, 255))
        drawn = []
        for image, box in zip(pixels, boxes, strict=True):
            picture = Image.fromarray(image).resize((320, 240), Image.Resampling.NEAREST)
            if box[2] > box[0]:
                ImageDraw.Draw(picture).rectangle([float(v) for v in box * np.array([320, 240, 320, 240])], outline=colour, width=3)
            drawn.append(np.asarray(picture))
        return np.stack(drawn)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inside = float(np.prod(np.clip(high - low, 0, None)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - inside
    return inside / union if union else 0.0


def said(task: Places, noise: float, seed: int) -> dict[str, np.ndarray]:
    """Boxes about where they should be."""
    truth = np.stack(task.test.targets)
    return {"boxes": (truth + np.random.default_rng(seed).normal(0, noise, truth.shape)).astype(np.float32)}


def write_localisation_run(
    folder: Path, noise: tuple[float, float] = (0.02, 0.03)
) -> tuple[Result, Places, dict[str, dict[str, np.ndarray]]]:
    """A finished run of such a task; returns what its ``result.json`` says, the task, and what both models said."""
    result = write_run(folder, NAMES, n=60)
    task = Places()
    tested = {"baseline": said(task, noise[0], 0), "chosen": said(task, noise[1], 1)}
    timed = json.loads((folder / "latency.json").read_text())
    sessions = [Session(s["name"], s["baseline"], s["rounds"], s["copy"], timed["samples"]) for s in timed["sessions"]]
    with np.load(folder / "validation.npz") as stored:
        validation = Validation(**{name: stored[name] for name in stored.files})
    files = json.loads((folder / "evidence.json").read_text())["files"]
    scores = {name: task.scores(outputs, task.test.targets) for name, outputs in tested.items()}
    value, low, high = (100 * v for v in paired_difference(scores["baseline"], scores["chosen"]))
    drop = Measurement("drop", value, "points", len(task.test), False, low, high)
    tell = {name: task.metrics(outputs, task.test.targets) for name, outputs in tested.items()}

    def with_metrics(candidate: Any, name: str) -> Any:
        others = {key: m for key, m in candidate.measurements.items() if key != "accuracy"}
        return replace(candidate, measurements=tell[name] | others)

    result = replace(
        result,
        verdict=verdict(result.latency_ratio, result.noise_floor, result.size_ratio.value, drop, "map"),
        baseline=with_metrics(result.baseline, "baseline"),
        baselines={r: with_metrics(c, "baseline") if c.key == result.baseline.key else c for r, c in result.baselines.items()},
        chosen=with_metrics(result.chosen, "chosen"),
        drop=drop,
        per_class=per_class(task, tested),  # type: ignore[arg-type]
        errors=errors(task, tested),  # type: ignore[arg-type]
        metric="map",
        class_names=NAMES,
    )
    missed = shortfall(result.chosen, [c for c in result.candidates if c.stage == "measured"], result.goal, drop)
    result = replace(result, shortfall=missed, goal_met=not missed)
    result.save(folder / "result.json")
    sources = Sources(sessions, validation, files)
    write_evidence(folder, task, SPEC, PREPROCESSING, tested, sources, result)  # type: ignore[arg-type]
    return result, task, tested


def write_places_evaluation(folder: Path, corruptions: bool = False) -> tuple[Evaluation, Places]:
    """An evaluation of the same, kept in ``folder``."""
    task = Places()
    boxes = said(task, 0.03, 1)["boxes"]

    def predictor(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"boxes": boxes[images[:, 0, 0, 0] % len(boxes)]}

    evaluated = evaluate_split(predictor, task, "test", SPEC, PREPROCESSING, EvaluationSettings(corruptions=corruptions))  # type: ignore[arg-type]
    return save_evaluation(folder, evaluated, SPEC, PREPROCESSING, subject=EvaluationSubject("fake", "rooms", "onnxruntime")), task  # type: ignore[arg-type]
