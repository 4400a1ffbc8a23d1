"""The main job from images to bundle: what ships is faster and good enough, and every number follows from the files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish
from planish.testing import write_shapes

MAX_DROP = 4.0


def check(run: Path, goal: dict[str, Any]) -> None:
    """Numpy alone reads the run: predictions, timings and sizes say what ``result.json`` says, and what ships is faster."""
    result = json.loads((run / "result.json").read_text())
    chosen, runtimes = result["chosen"], result["baselines"]

    with np.load(run / "predictions.npz") as saved:
        if "targets" in saved:
            before, after = (saved[name].argmax(1) == saved["targets"] for name in ("baseline", "chosen"))
            assert chosen["measurements"]["accuracy"]["value"] == pytest.approx(100 * after.mean())
            assert result["drop"]["value"] == pytest.approx(100 * (before.mean() - after.mean()))
        assert result["drop"]["n"] == len(saved["chosen"])

    session = json.loads((run / "latency.json").read_text())["sessions"][-1]
    medians = {key: np.median(np.concatenate(rounds)) for key, rounds in session["rounds"].items()}
    claims = {runtime: medians[original["key"]] / medians[chosen["key"]] for runtime, original in runtimes.items()}
    assert result["latency_ratio"]["value"] == pytest.approx(min(claims.values()), rel=0.25), "paired by round; medians of rounds are near"
    assert chosen["summary"] not in {original["summary"] for original in runtimes.values()}, "a search that ships the original has failed"

    bundle = json.loads((run / "bundle" / "bundle.json").read_text())
    size = sum((run / "bundle" / name).stat().st_size for name in bundle["files"])
    assert chosen["measurements"]["size_bytes"]["value"] == size

    latency = chosen["measurements"]["latency_ms"]
    within = {
        "drop on validation": chosen["measurements"]["drop_validation"]["value"] <= goal["max_drop"],
        "drop on test": result["drop"]["value"] <= goal["max_drop"],
        "latency": (latency["high"] or latency["value"]) <= goal.get("max_latency_ms", np.inf),
        "size": size <= goal.get("max_size_bytes", np.inf),
    }
    assert result["goal_met"] == all(within.values()), within
    assert (result["shortfall"] == "") == result["goal_met"]
    assert planish.verify(run, latency=False).ok


def test_a_classifier(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=200, size=32)
    planish.optimize(data, model="resnet8x2", budget="2m", max_drop=MAX_DROP, students=[], out=tmp_path / "run")
    check(tmp_path / "run", {"max_drop": MAX_DROP})


@pytest.mark.slow
@pytest.mark.parametrize("goal", [{"max_latency": "1us"}, {"max_size": "1kB"}])
def test_a_goal_out_of_reach_is_missed(goal: dict[str, str], tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=80, size=32)
    planish.optimize(data, model="resnet8x2", budget="2m", max_drop=MAX_DROP, students=[], out=tmp_path / "run", **goal)
    limits = {"max_latency": ("max_latency_ms", 1e-3), "max_size": ("max_size_bytes", 1000)}
    check(tmp_path / "run", {"max_drop": MAX_DROP} | dict(limits[key] for key in goal))
    assert not json.loads((tmp_path / "run" / "result.json").read_text())["goal_met"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "semantic"])
def test_a_model_of_scenes(task: str, tmp_path: Path) -> None:
    options = {"model": "resnet8x2", "image_size": 64, "budget": "4m", "augmentation": "none", "students": [], "task": task}
    planish.optimize("fashion-scenes-400", max_drop=MAX_DROP, out=tmp_path / "run", **options)
    check(tmp_path / "run", {"max_drop": MAX_DROP})
