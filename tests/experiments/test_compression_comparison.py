"""A comparison end to end on a few arms, and what its table says."""

from __future__ import annotations

from pathlib import Path

import pytest
from macs_clock import time_by_macs
from worker_pools import ThisProcess

import planish
from planish import commands
from planish.errors import PlanError
from planish.experiments import topics
from planish.experiments.compression import Comparison, times_layers
from planish.experiments.topics import TOPICS, strategies_of
from planish.plan import Plan
from planish.report.pages.comparison import comparison_table
from planish.runs.workers.share import using_workers
from planish.testing import write_shapes
from planish.training import Distill

TORCH = {"format": "torch", "precision": "fp32", "weights": "dense"}


@pytest.mark.parametrize("topic", TOPICS)
def test_every_arm_is_a_plan_that_can_be_carried_out(topic: str) -> None:
    arms = strategies_of(topic, Distill(epochs=2))
    assert len({arm.plan.key for arm in arms}) == len(arms)
    assert len({(arm.strategy, arm.level) for arm in arms}) == len(arms)
    for arm in arms:
        assert arm.plan.check(TORCH)["format"] in ("onnx", "packed")


def test_arms_that_train_have_the_same_number_of_epochs() -> None:
    for arm in strategies_of("pruning", Distill(epochs=4)):
        steps = arm.plan.to_dicts()
        epochs = sum(s.get("epochs", 0) + s.get("rounds", 0) * s.get("distill", {}).get("epochs", 0) for s in steps)
        assert epochs == 4, arm


def test_layers_are_timed_in_the_runtime_that_is_compared() -> None:
    steps = [step for topic in TOPICS for arm in strategies_of(topic, Distill(), "openvino") for step in arm.plan.to_dicts()]
    by_time = [step for step in steps if "runtime" in step and (step["name"] != "int8" or step["max_slowdown"] > 0)]
    assert {step["name"] for step in by_time} == {"latency_pruning", "factorize", "int8"}
    assert {step["runtime"] for step in by_time} == {"openvino"}


def test_an_unknown_topic_is_refused() -> None:
    with pytest.raises(PlanError, match="pruning"):
        strategies_of("weather", Distill())


def test_a_comparison_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = topics.pruning

    def few(recovery: Distill, runtime: str) -> list[topics.Strategy]:
        wanted = {"channels by L2 norm", "single weights", "blocks"}
        return [arm for arm in every(recovery, runtime) if arm.strategy in wanted and arm.level not in ("channels −30 %", "50 % zeros")]

    monkeypatch.setitem(topics.TOPICS, "pruning", few)
    time_by_macs(monkeypatch)
    data = write_shapes(tmp_path / "shapes", per_class=30)
    found = planish.compare(data, model="resnet8", topic="pruning", epochs=3, recovery_epochs=1, augmentation="none", out=tmp_path / "run")
    assert found == Comparison.load(tmp_path / "run" / "comparison.json")
    rows = {(row.strategy, row.level): row for row in found.rows}
    half, most = (rows["channels by L2 norm", f"channels −{n} %"].measurements for n in (50, 70))
    assert 1 < half["size_ratio"].value < most["size_ratio"].value
    assert most["latency_ratio"].low > 1
    zeros = rows["single weights", "90 % zeros"].measurements
    assert zeros["size_ratio"].value > 2
    assert zeros["latency_ratio"].value == pytest.approx(1, rel=0.01)
    for row in found.rows:
        assert not row.reason, (row.strategy, row.level)
        m = row.measurements
        assert m["accuracy"].n == m["drop"].n
        drop = found.original.measurements["accuracy"].value - m["accuracy"].value
        assert m["drop"].value == pytest.approx(drop)
        assert Plan.from_dicts(row.plan).to_dicts() == row.plan
    page = (tmp_path / "run" / "comparison.html").read_text()
    assert page.count("<tr>") == len(found.rows) + 1
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    assert comparison_table(found.rows, found.noise_floor).row_count == len(found.rows)
    page_before = (tmp_path / "run" / "comparison.html").read_bytes()
    assert commands.report(tmp_path / "run").read_bytes() == page_before


@pytest.mark.slow
def test_what_does_not_apply_is_a_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = topics.pruning
    monkeypatch.setitem(topics.TOPICS, "pruning", lambda *given: [a for a in every(*given) if a.strategy == "blocks"][:1])
    data = write_shapes(tmp_path / "shapes", per_class=20)
    found = planish.compare(
        data, model="torchvision:vgg11_bn", topic="pruning", epochs=1, recovery_epochs=1, image_size=32, out=tmp_path / "run"
    )
    assert "no residual block" in found.rows[0].reason
    assert "refused" in (tmp_path / "run" / "comparison.html").read_text()


@pytest.mark.slow
def test_workers_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_by_macs(monkeypatch)
    data = write_shapes(tmp_path / "shapes", per_class=30)
    settings = {"model": "resnet8", "topic": "quantization", "epochs": 2, "recovery_epochs": 1, "augmentation": "none"}
    alone = planish.compare(data, **settings, out=tmp_path / "alone")
    workers = ThisProcess()
    with using_workers(workers):
        shared = planish.compare(data, **settings, out=tmp_path / "shared")
    assert workers.parcels == [sum(not times_layers(Plan.from_dicts(row.plan)) for row in alone.rows)]
    assert 0 < workers.parcels[0] < len(alone.rows)
    for here, there in zip(alone.rows, shared.rows, strict=True):
        assert (here.plan, here.reason) == (there.plan, there.reason)
        for name in ("accuracy", "drop", "size_bytes"):
            assert here.measurements.get(name) == there.measurements.get(name), here.level
