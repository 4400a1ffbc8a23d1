"""Training with rounding at the end of a search: what ships then has no second quantization, and is a candidate like any other."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from simulated_time import World, simulate

import planish
from planish.compression import ChannelPruning, QuantizeAware
from planish.measurement import Measurement
from planish.plan import Plan
from planish.search.deployment import deploy
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


@pytest.mark.parametrize(("lost", "pays"), [(0.5, True), (0.1, False)])
def test_rounding_is_learned_where_it_costs_accuracy(lost: float, pays: bool) -> None:
    runner = SimpleNamespace(drop=lambda *_: Measurement("drop", lost, "points", 100, False))
    search = SimpleNamespace(deployment=RuntimeVariant("int8", "openvino"), runner=runner)
    assert rounding.pays(cast(Any, search), Trial(Level(2.0), Plan(ChannelPruning(pruning_ratio=0.5)))) is pays


@pytest.mark.parametrize("pays", [True, False])
def test_a_share_of_the_last_training_is_for_rounding_and_is_not_lost(pays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("planish.search.optimize")
    monkeypatch.setattr(module, "deploy", lambda search: replace(deploy(search), deployment=RuntimeVariant("int8", "openvino")))
    monkeypatch.setattr(rounding, "pays", lambda *_: pays)
    world = World(1000)
    result, seconds = simulate(tmp_path / "run", world, 900, monkeypatch)
    learned = [c for c in result.candidates if "qat" in str(c.plan)]
    assert [c.stage for c in learned] == ["measured"] * pays
    assert 0.8 * 900 < seconds < 1.1 * 900
    share = world.spent.get("qat", 0.0) / (world.spent["distill"] + world.spent.get("qat", 0.0))
    assert 0.02 < share < 0.4 if pays else share == 0


@pytest.mark.slow
def test_a_search_ends_with_learned_rounding_where_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "pays", lambda *_: True)  # whether it does is asked above
    data = write_shapes(tmp_path / "shapes", per_class=200, size=32)
    result = planish.optimize(data, model="resnet8x2", budget="5m", max_drop=3, students=[], out=tmp_path / "run")
    learned = [c for c in result.candidates if "INT8 learned" in c.summary]
    assert [c.stage for c in learned] == ["measured"]
    assert learned[0].summary.count("INT8") == 1
    assert learned[0].measurements["drop_validation"].value < 20
