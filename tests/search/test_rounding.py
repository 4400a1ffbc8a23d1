"""Training with rounding at the end of a search: what ships then has no second quantization, and is a candidate like any other."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
from simulated_time import World, simulate

import planish
from planish.compression import ChannelPruning, QuantizeAware
from planish.goal import Goal
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


@pytest.mark.parametrize(
    ("precision", "lost", "seconds", "pays"),
    [("int8", 0.5, 60, True), ("int8", 0.1, 60, False), ("int8", 0.5, 10, False), ("fp32", 0.5, 60, False)],
)
@pytest.mark.parametrize("error", [0.0, 0.4])
def test_rounding_is_learned_where_it_is_shown_to_cost_accuracy(
    precision: Literal["int8", "fp32"], lost: float, seconds: float, pays: bool, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Plan]()

    def drop(plan: Plan, runtime: str, against: tuple[Plan, str], split: str) -> Measurement:
        asked.append(against[0])
        return Measurement("drop", lost, "points", 100, False, lost - 1.96 * error, lost + 1.96 * error)

    monkeypatch.setattr(rounding, "deploy_seconds", lambda _: 10.0)
    search = SimpleNamespace(deployment=RuntimeVariant(precision, "openvino"), runner=SimpleNamespace(drop=drop), goal=Goal())
    pruned = Plan(ChannelPruning(pruning_ratio=0.5))
    untrained = Trial(Level(2.0), pruned)
    trained = replace(untrained, history=((100.0, Measurement("drop", 1.0, "points", 100, False)),))
    for trial in (untrained, trained):
        assert rounding.pays(cast(Any, search), trial, seconds) is (pays and not error)
    assert asked in ([], [Plan(), pruned]), "an untrained network is judged by the original"


@pytest.mark.parametrize("pays", [True, False])
def test_a_share_of_the_last_training_is_for_rounding_if_it_pays(pays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
