"""Rounds of pruning and distillation: the schedule, and that it ends where one round would."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from planish.compression import ChannelPruning, IterativePruning, UnstructuredPruning
from planish.errors import PlanError, TechniqueError
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.training import Distill

QUICK = Distill(epochs=1, max_seconds=2)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from planish.testing import write_shapes
    from planish.training.prepare import prepare_job

    return prepare_job(write_shapes(tmp_path_factory.mktemp("shapes"), per_class=20), ModelSettings("resnet8"))


def widths(module: nn.Module) -> list[int]:
    return [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_channels_end_where_one_round_would(job: Any, rounds: int) -> None:
    pruning = ChannelPruning(pruning_ratio=0.5, round_to=4, pruning_ratios={"a": 0.25})
    started = {"a": 1000, "b": 2000}
    now = dict(started)
    for k in range(1, rounds + 1):
        step = IterativePruning(pruning=pruning, rounds=rounds)._step(k, started, now)
        assert isinstance(step, ChannelPruning)
        assert step.round_to == 4
        now = {name: round(now[name] * (1 - step.pruning_ratios[name])) for name in now}
        for name, final in (("a", 0.25), ("b", 0.5)):
            assert now[name] == pytest.approx(started[name] * (1 - final * (1 - (1 - k / rounds) ** 3)), abs=1)  # Zhu & Gupta, equation 1


@pytest.mark.parametrize(("ratio", "round_to", "first"), [(0.5, 4, 0.25), (0.3, 8, 0.3)])
def test_as_many_channels_are_left_as_after_one_round(job: Any, ratio: float, round_to: int, first: float) -> None:
    pruning = ChannelPruning(pruning_ratio=ratio, round_to=round_to, pruning_ratios={first_layer(job): first})
    once = pruning.apply(job.artifact, job.task)
    after = IterativePruning(pruning=pruning, rounds=3, distill=QUICK).apply(job.artifact, job.task)
    assert widths(after.module) == widths(once.module) != widths(job.artifact.module)
    assert len(after.lineage.steps) == 1
    assert after.lineage.steps[-1].notes.count("epochs in") == 3


def test_a_layer_may_come_down_to_one_channel_before_the_last_round(job: Any) -> None:
    pruning = ChannelPruning(pruning_ratio=0.25, round_to=1, pruning_ratios={first_layer(job): 0.99}, recalibrate=False)
    after = IterativePruning(pruning=pruning, rounds=3, distill=QUICK).apply(job.artifact, job.task)
    assert widths(after.module)[0] == 1
    with pytest.raises(TechniqueError, match=r"no group of channels begins at 'layers\.0\.x'"):
        IterativePruning(pruning=ChannelPruning(pruning_ratio=0.5, pruning_ratios={"layers.0.x": 0.5})).apply(job.artifact, job.task)


def test_ranked_together_widths_are_multiples_too(job: Any) -> None:
    pruning = ChannelPruning(pruning_ratio=0.3, scope="global", recalibrate=False)
    after = IterativePruning(pruning=pruning, rounds=4, distill=QUICK).apply(job.artifact, job.task)
    assert [width % 4 for width in widths(after.module)] == [0] * len(widths(after.module))


def first_layer(job: Any) -> str:
    return next(n for n, m in job.artifact.module.named_modules() if isinstance(m, nn.Conv2d))


def test_zeros_grow_to_the_end(job: Any) -> None:
    technique = IterativePruning(pruning=UnstructuredPruning(sparsity=0.8, scope="layer"), rounds=2, distill=QUICK)
    assert [technique._step(k, {}, {}).sparsity for k in (1, 2)] == pytest.approx([0.7, 0.8])  # type: ignore[union-attr]
    after = technique.apply(job.artifact, job.task)
    assert after.facts["weights"] == "sparse"
    layers = [module for module in after.module.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert layers
    for module in layers:
        assert int((module.weight == 0).sum()) == round(0.8 * module.weight.numel())


def test_in_plans() -> None:
    written = [{"name": "iterative_pruning", "rounds": 3, "pruning": {"sparsity": 0.9}, "distill": {"epochs": 2}}]
    plan = Plan.from_dicts(written)
    assert plan.steps == (IterativePruning(pruning=UnstructuredPruning(sparsity=0.9), rounds=3, distill=Distill(epochs=2)),)
    assert Plan.from_dicts(plan.to_dicts()) == plan
    assert str(plan) == "90 % zeros in 3 rounds, each distilled 2 epochs"
    for wrong in ({"rounds": 1, "pruning": {"pruning_ratio": 0.5}}, {"pruning": {"pruning_ratio": 2}}, {"pruning": {"size": 1}}, {}):
        with pytest.raises(PlanError, match="iterative_pruning"):
            Plan.from_dicts([{"name": "iterative_pruning", **wrong}])
