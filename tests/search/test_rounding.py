"""Training with rounding at the end of a search: what ships then has no second quantization, and is a candidate like any other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

import planish
from planish.compression import ChannelPruning, QuantizeAware
from planish.measurement import Measurement
from planish.plan import Plan
from planish.search.state import DeployedCandidate, RuntimeVariant
from planish.search.trials import rounding
from planish.search.trials.proposals import Level, Trial
from planish.testing import write_shapes


def test_a_network_trained_with_rounding_brings_its_own_scales() -> None:
    way = RuntimeVariant("int8", "openvino")
    pruned = Plan(ChannelPruning(pruning_ratio=0.5))
    assert [s.name for s in DeployedCandidate(pruned, way).plan.steps] == ["channel_pruning", "to_onnx", "int8", "to_openvino"]
    learned = Plan(*pruned.steps, QuantizeAware())
    assert [s.name for s in DeployedCandidate(learned, way).plan.steps] == ["channel_pruning", "qat", "to_onnx", "to_openvino"]


@pytest.mark.parametrize(("precision", "lost", "pays"), [("int8", 0.5, True), ("int8", 0.1, False), ("fp32", 0.5, False)])
def test_rounding_is_learned_where_it_costs_accuracy(precision: Literal["int8", "fp32"], lost: float, pays: bool) -> None:
    runner = SimpleNamespace(drop=lambda *_: Measurement("drop", lost, "points", 100, False))
    search = SimpleNamespace(deployment=RuntimeVariant(precision, "openvino"), runner=runner)
    assert rounding.pays(cast(Any, search), Trial(Level(2.0), Plan(ChannelPruning(pruning_ratio=0.5)))) is pays


@pytest.mark.slow
def test_a_search_ends_with_learned_rounding_where_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "pays", lambda *_: True)  # whether it does is asked above
    data = write_shapes(tmp_path / "shapes", per_class=200, size=32)
    result = planish.optimize(data, model="resnet8x2", budget="5m", max_drop=3, students=[], out=tmp_path / "run")
    learned = [c for c in result.candidates if "INT8 learned" in c.summary]
    assert [c.stage for c in learned] == ["measured"]
    assert learned[0].summary.count("INT8") == 1
    assert learned[0].measurements["drop_validation"].value < 20
