"""A run folder made up in a second: numbers of a plausible size that agree with each other, as a real run leaves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from planish.evaluation.latency import noise_floor_of
from planish.evaluation.statistics.drop_risk import drop_risk
from planish.evaluation.statistics.intervals import over_launches, paired_difference, paired_ratio, proportion
from planish.goal import Goal
from planish.measurement import Measurement, Metric
from planish.search.evidence import RECORDED, Session
from planish.search.result import BudgetUse, CandidateResult, ClassResult, Result
from planish.search.verdict import reasons, shortfall, verdict

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DEFAULT = "openvino-default"
CHOSEN = "1f3a9c0b2d4e@openvino"


def measure(name: str, value: float, unit: str, spread: float = 0.0, higher: bool = False, n: int = 60) -> Measurement:
    low, high = (value - spread, value + spread) if spread else (None, None)
    return Measurement(name, value, unit, n, higher, low, high, "Fake CPU", "")


def write_run(
    folder: Path,
    class_names: Sequence[str] = FASHION,
    n: int = 2000,
    goal_met: bool = True,
    images: bool = True,
    side: int = 28,
    default_precision: bool = False,
) -> Result:
    """Write a whole run folder; returns what its ``result.json`` says.

    Args:
        folder: of the run.
        class_names: of the data.
        n: test images.
        goal_met: whether its limits are met.
        images: whether it also has what is shown beside numbers.
        side: of images.
        default_precision: as on a processor on which OpenVINO computes in bf16 by default, a little faster and a little less exactly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    classes = len(class_names)
    targets = np.arange(n) % classes
    before = rng.normal(0, 1, (n, classes))
    before[np.arange(n), targets] += rng.normal(3.1, 0.8, n) - (targets == classes // 2) * 1.2
    before = before.astype(np.float32)
    after = (before + rng.normal(0, 0.16, before.shape)).astype(np.float32)
    keys = np.array([f"test/{class_names[t].replace('/', '-')}/{i:04d}.png" for i, t in enumerate(targets)])
    more = {DEFAULT: (before + rng.normal(0, 0.1, before.shape)).astype(np.float32)} if default_precision else {}
    np.savez(folder / "predictions.npz", targets=targets, baseline=before, chosen=after, keys=keys, **more)
    right = before.argmax(1) == targets, after.argmax(1) == targets
    drop = paired_difference(*right)
    samples = {
        "original@onnxruntime": rng.lognormal(np.log(3.9), 0.04, 1500),
        "original@openvino": rng.lognormal(np.log(3.3), 0.03, 1500),
        CHOSEN: rng.lognormal(np.log(0.62), 0.05, 2000),
    }
    samples[CHOSEN][::97] *= 1.6
    if default_precision:
        samples[f"original@{DEFAULT}"] = rng.lognormal(np.log(2.1), 0.03, 1500)
    tried = {key: samples[key] for key in ("original@onnxruntime", "original@openvino")}
    tried |= {f"{i:012x}@{m[1]}": rng.lognormal(np.log(m[4]), 0.04, 300) for i, m in enumerate(MEASURED)}
    sessions = [
        Session("final", "original@openvino", _rounds(tried), _rounds({"": tried["original@openvino"] * 1.01})[""], {}),
        Session("chosen", "original@openvino", _rounds(samples), _rounds({"": rng.lognormal(np.log(3.3), 0.03, 1500)})[""], {}),
    ]
    stored = [{"name": s.name, "baseline": s.baseline, "rounds": s.rounds, "copy": s.copy} for s in sessions]
    times = {"schema_version": 1, "unit": "ms", "samples": {k: v.round(5).tolist() for k, v in samples.items()}, "sessions": stored}
    (folder / "latency.json").write_text(json.dumps(times))
    rights = [*right, *(values.argmax(1) == targets for values in more.values())]
    result = _result(folder.name, class_names, targets, rights, drop, sessions, goal_met)
    result.save(folder / "result.json")
    _write_validation(folder, result)
    _write_files(folder, result)
    if images:
        _write_images(folder, rng, targets, before, after, keys, side)
        history = [
            {
                "epoch": e,
                "train_loss": 0.35 + 1.6 * 0.75**e,
                "validation_score": 90.2 - 40 * 0.7**e,
                "seconds": 9.1,
                "learning_rate": 0.1 / e,
            }
            for e in range(1, 19)
        ]
        (folder / "history.json").write_text(json.dumps(history))
    return result


def record(folder: Path) -> None:
    """Write ``evidence.json`` of what ``result.json`` says."""
    said = json.loads((folder / "result.json").read_text())
    files = {c["key"]: c["key"].partition("@")[0] for c in (*said["candidates"], *said["baselines"].values())}
    (folder / "evidence.json").write_text(json.dumps({"schema_version": 1, "files": files} | {name: said[name] for name in RECORDED}))


def _rounds(samples: dict[str, np.ndarray]) -> dict[str, list[list[float]]]:
    return {
        key: [[float(np.median(x)) for x in np.array_split(launch, 5)] for launch in np.array_split(v, 4)] for key, v in samples.items()
    }


def _scores(lost: int, images: int = 2000) -> np.ndarray:
    """Which of 2,000 validation images are right, where that many more are wrong than with the original, and 20 of that one's are right."""
    right = np.ones(images)
    right[:196] = 0
    right[:20], right[-20 - lost :] = 1, 0
    return right


def _write_validation(folder: Path, result: Result) -> None:
    drops = {c.key: c.measurements["drop_validation"].value for c in result.candidates if "drop_validation" in c.measurements}
    original = np.r_[np.zeros(196), np.ones(1804)]
    scores = [original, *(_scores(round(20 * drop)) for drop in drops.values())]
    rows = np.arange(1, len(scores))
    candidates = [*drops, *(c.key for c in result.baselines.values())]
    both = np.zeros(len(result.baselines), np.int64)
    np.savez(
        folder / "validation.npz", candidates=np.array(candidates), own=np.r_[rows, both], reference=np.zeros(len(candidates), np.int64),
        scores=np.stack(scores), keys=np.array([f"validation/{i}.png" for i in range(2000)]), images=np.array(np.nan),
    )  # fmt: skip


def _write_files(folder: Path, result: Result) -> None:
    """Model files of the right size, and the bundle."""
    record(folder)
    for candidate in (*result.candidates, *result.baselines.values()):
        if candidate.key != CHOSEN and "size_bytes" in candidate.measurements:
            place = folder / "work" / candidate.key.partition("@")[0]
            place.mkdir(parents=True, exist_ok=True)
            (place / "artifact.json").write_text(json.dumps({"files": ["model.onnx"]}))
            with (place / "model.onnx").open("wb") as file:
                file.truncate(int(candidate.measurements["size_bytes"].value))
    (folder / "bundle" / "golden").mkdir(parents=True, exist_ok=True)
    (folder / "bundle" / "bundle.json").write_text(json.dumps({"files": ["model.xml", "model.bin"]}))
    (folder / "bundle" / "model.xml").write_bytes(b"x" * 31_000)
    (folder / "bundle" / "model.bin").write_bytes(b"x" * 90_000)
    (folder / "bundle" / "golden" / "0.png").write_bytes(b"x" * 700)


MEASURED = (  # summary, runtime, drop, half its interval, latency, size
    ("INT8", "onnxruntime", 0.10, 0.35, 1.41, 295_000),
    ("INT8", "openvino", 0.15, 0.40, 1.12, 298_000),
    ("channels −30 %, distilled 6 epochs, INT8", "openvino", 0.20, 0.6, 0.83, 221_000),
    ("channels −50 %, distilled 6 epochs", "onnxruntime", 0.35, 0.7, 1.32, 301_000),
    ("channels −50 %, distilled 6 epochs, INT8", "onnxruntime", 0.55, 0.8, 0.81, 118_000),
    ("channels −65 %, distilled 6 epochs, INT8", "openvino", 1.70, 0.9, 0.49, 79_000),
    ("resolution 20 pixels, distilled 4 epochs, INT8", "openvino", 2.9, 1.0, 0.58, 296_000),
    ("channels −80 %, distilled 4 epochs, INT8", "openvino", 5.2, 1.3, 0.36, 41_000),
)


def _drop(points: float | None) -> Measurement:
    original = np.r_[np.zeros(196), np.ones(1804)]
    value, low, high = (100 * x for x in paired_difference(original, original if points is None else _scores(round(20 * points))))
    return Measurement("drop_validation", value, "points", 2000, False, low, high)


def _risk(points: float) -> Measurement:
    original = np.r_[np.zeros(196), np.ones(1804)]
    return drop_risk(original, _scores(round(20 * points)), 1.0, Metric("accuracy"))


def _timed(session: Session, key: str) -> dict[str, Measurement]:
    rounds = session.rounds[key]
    found = {
        "latency_ms": ("ms", False, over_launches(rounds)),
        "latency_ratio": ("ratio", True, paired_ratio(session.rounds[session.baseline], rounds)),
    }
    n = sum(map(len, rounds))
    return {name: Measurement(name, m.value, unit, n, higher, m.low, m.high, "Fake CPU") for name, (unit, higher, m) in found.items()}


def _candidate(key: str, summary: str, runtime: str, drop: float, size: float, why: str, session: Session) -> CandidateResult:
    timed = _timed(session, key)
    return CandidateResult(
        key=key,
        plan=[{"name": "int8"}],
        summary=summary,
        runtime=runtime,
        stage="measured",
        meets_goal=drop <= 1,
        reason=why,
        measurements={
            "metric_validation": measure("metric_validation", 90.2 - drop, "%", 1.3, True, 2000),
            "drop_validation": _drop(drop),
            "drop_risk": _risk(drop),
            "latency_p95_ms": measure("latency_p95_ms", timed["latency_ms"].value * 1.1, "ms", 0.02),
            "size_bytes": measure("size_bytes", size, "bytes", n=1),
        }
        | timed,
    )


def _result(name, class_names, targets, right, drop, sessions, goal_met) -> Result:  # type: ignore[no-untyped-def]
    def accuracy(rows: np.ndarray) -> Measurement:
        low, high = proportion(int(rows.sum()), len(rows))
        return Measurement("accuracy", 100 * rows.mean(), "%", len(rows), True, 100 * low, 100 * high)

    trying, final = sessions
    baselines = {
        runtime: CandidateResult(
            key=f"original@{runtime}",
            plan=[],
            summary="original model",
            runtime=runtime,
            stage="baseline",
            measurements={
                "metric_validation": measure("metric_validation", 90.2, "%", 1.3, True, 2000),
                "drop_validation": _drop(None),
                "size_bytes": measure("size_bytes", 1_114_000, "bytes", n=1),
            }
            | ({"accuracy": accuracy(right[{"openvino": 0, DEFAULT: -1}[runtime]])} if runtime != "onnxruntime" else {})
            | _timed(final, f"original@{runtime}"),
        )
        for runtime in ("onnxruntime", "openvino", *([DEFAULT] if len(right) > 2 else []))
    }
    chosen = _candidate(CHOSEN, "channels −50 %, distilled 6 epochs, INT8", "openvino", 0.40, 121_000, "", final)
    chosen.measurements["accuracy"] = accuracy(right[1])
    whys = (
        "beaten on latency and size",
        "",
        "",
        "beaten by channels −50 %, INT8",
        "",
        "loses 1.70 points, the limit is 1",
        "loses 2.90 points",
        "",
    )
    others = [_candidate(f"{i:012x}@{m[1]}", *m[:3], m[5], why, trying) for i, (m, why) in enumerate(zip(MEASURED, whys, strict=True))]
    screened = [
        CandidateResult(
            key=f"aa{i:010x}@openvino",
            plan=[],
            summary=f"channels −{40 + 5 * i} %",
            runtime="openvino",
            stage="screened" if i > 1 else "trained",
            measurements={"drop_validation": _drop(5.0 + 9 * i)},
            reason="stopped: others of its size lose less",
        )
        for i in range(7)
    ]
    ratios = {}
    for runtime in baselines:
        ratio = paired_ratio(final.rounds[f"original@{runtime}"], final.rounds[CHOSEN])
        ratios[runtime] = Measurement("latency_ratio", ratio.value, "ratio", 20, True, ratio.low, ratio.high)
    headline = min(ratios.values(), key=lambda m: m.value)
    n, goal = len(targets), Goal(1.0, 1.0 if goal_met else 0.3, 500_000)
    lost = Measurement("drop", 100 * drop.value, "points", n, False, 100 * drop.low, 100 * drop.high)
    floor = noise_floor_of(final.rounds[final.baseline], final.copy)
    missed = shortfall(chosen, [*others, chosen], goal, lost)
    return Result(
        name=name,
        created="2026-11-23 05:20",
        command="planish optimize fashion-mini --model resnet20 --max-drop 1 --max-latency 1ms --threads 1 --budget 7m --seed 0",
        model="resnet20",
        verdict=verdict(headline, floor, 1_114_000 / 121_000, lost, "accuracy"),
        goal=goal,
        goal_met=not missed,
        shortfall=missed,
        choice=reasons(chosen, [*others, chosen], goal),
        baseline=baselines["openvino"],
        baselines=baselines,
        chosen=chosen,
        pareto_frontier=[others[2], chosen, others[4], others[5], others[7]],
        candidates=[*others, chosen, *screened],
        latency_ratio=headline,
        latency_ratios=ratios,
        size_ratio=measure("size_ratio", 1_114_000 / 121_000, "ratio", higher=True, n=1),
        drop=lost,
        per_class=[ClassResult(c, accuracy(right[0][targets == i]), accuracy(right[1][targets == i])) for i, c in enumerate(class_names)],
        noise_floor=floor,
        machine={
            "cpu": "Fake(R) Processor 8488C",
            "cores": 2,
            "memory_bytes": 16_500_000_000,
            "threads": 1,
            "batch": 1,
            "instruction_sets": "avx2 avx512f avx512_vnni",
            "os": "Linux-6.1-x86_64-with-glibc2.36",
            "python": "3.11.9",
            "torch": "2.14.1",
        },
        data={
            "name": "fashion-mini",
            "images": {"train": 8000, "calibration": 512, "validation": 2000, "test": n},
            "split": "stratified, seed 0; near-duplicates kept on one side",
            "near_duplicates": 14,
            "leaks": [],
        },
        seconds={
            "decoding images": 4.2,
            "training the original": 171.0,
            "screenings": 24.4,
            "training candidates": 158.2,
            "measuring latency": 61.0,
            "test": 3.1,
        },
        budget=BudgetUse(420.0, 418.0, 60.0),
        notes=[
            "Images are 28×28, so the first convolution has stride 1.",
            "No --runtime was given: both ONNX Runtime and OpenVINO were tried.",
        ],
    )


def _write_images(folder, rng, targets, before, after, keys, side) -> None:  # type: ignore[no-untyped-def]
    def confidence(logits: np.ndarray) -> np.ndarray:
        e = np.exp(logits - logits.max(1, keepdims=True))
        return (e / e.sum(1, keepdims=True)).max(1)

    def pictures(rows: np.ndarray) -> np.ndarray:
        yy, xx = np.mgrid[:side, :side] / side * 2 - 1
        pixels = np.stack(
            [
                np.clip(255 * (1.2 - np.hypot(xx * (1 + t / 6), yy * (2 - t / 6)) + rng.normal(0, 0.08, xx.shape)), 0, 255)
                for t in targets[rows]
            ]
        )
        return np.repeat(pixels[..., None], 1 if side < 64 else 3, axis=3).astype(np.uint8)

    differ = np.flatnonzero(before.argmax(1) != after.argmax(1))
    np.savez(
        folder / "disagreements.npz",
        pixels=pictures(differ),
        targets=targets[differ],
        baseline=before.argmax(1)[differ],
        chosen=after.argmax(1)[differ],
        baseline_confidence=confidence(before)[differ],
        chosen_confidence=confidence(after)[differ],
        keys=keys[differ],
    )
    wrong = np.flatnonzero(after.argmax(1) != targets)
    worst = wrong[np.argsort(-confidence(after)[wrong], kind="stable")][:18]
    np.savez(folder / "mistakes.npz", rows=worst, pixels=pictures(worst))
    Image.fromarray(np.concatenate(pictures(worst[:4]), axis=1).squeeze()).save(folder / "augmented.png")
