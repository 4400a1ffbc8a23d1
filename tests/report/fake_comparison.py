"""A comparison made up: strategies of two topics, with numbers of a plausible size."""

from __future__ import annotations

import numpy as np
from fake_run import measure

from planish.experiments.compression import Comparison, Row
from planish.experiments.topics import Strategy, strategies_of
from planish.training import Distill


def make_comparison(strategies: int = 14, refused: bool = True) -> Comparison:
    """A comparison of the first so many strategies over both topics; the last of them is refused where ``refused``."""
    arms = [arm for topic in ("quantization", "pruning") for arm in strategies_of(topic, Distill(epochs=2))]
    names = list(dict.fromkeys(arm.strategy for arm in arms))[:strategies]
    rng = np.random.default_rng(0)
    rows = [_row(arm, names.index(arm.strategy), rng) for arm in arms if arm.strategy in names]
    if refused:
        rows = [
            Row(r.strategy, r.level, r.plan, reason="the network has no residual block") if r.strategy == names[-1] else r for r in rows
        ]
    return Comparison(
        name="compare-quantization-fashion-mini-resnet8x2",
        created="2026-11-25T08:00:00+00:00",
        command="planish compare fashion-mini --model resnet8x2 --topic quantization",
        model="resnet8x2",
        topic="quantization",
        runtime="onnxruntime",
        original=_row(arms[0], 0, rng),
        rows=rows,
        noise_floor=measure("noise_floor", 0.8, "%", n=4),
        machine={"threads": 1, "batch": 1},
        seconds={},
        notes=["Images are 28×28, so the first convolution has stride 1."],
    )


def _row(arm: Strategy, index: int, rng: np.random.Generator) -> Row:
    size, speed = {"INT8": (3.9, 2.9)}.get(arm.strategy[:4], (1.3 + index * 0.7 * rng.uniform(0.5, 1), rng.uniform(0.9, 4)))
    size, speed, drop = size * rng.uniform(0.99, 1.01), speed * rng.uniform(0.97, 1.03), rng.normal(1, 1.2)
    found = (
        measure("accuracy", 89.4 - drop, "%", 1.1, True, 2000),
        measure("drop", drop, "points", rng.uniform(0.4, 1.3), n=2000),
        measure("latency_ms", 3.1 / speed, "ms", 0.02),
        measure("latency_ratio", speed, "ratio", 0.03 * speed, True),
        measure("size_bytes", 1_200_000 / size, "bytes", n=1),
        measure("size_ratio", size, "ratio", higher=True, n=1),
    )
    return Row(arm.strategy, arm.level, arm.plan.to_dicts(), {m.name: m for m in found})
