"""Factorisation as a technique: what it chooses, what it refuses, what it leaves alone, and the chains it stands in."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pruning_nets import Residual, SharedWeights, Standardised, conv, randomised
from pydantic import ValidationError
from test_channel_pruning import TASK, artifact
from torch import Tensor, nn

from planish.compression import ChannelPruning, Factorize
from planish.compression.calibration import calibration_batches
from planish.compression.factorization import factor_choice
from planish.compression.factorization.factor_choice import Factors, Option, least_error, rank_grid
from planish.compression.factorization.factor_layers import find_layers, parameters
from planish.devices.layer_latency import ConvShape, Variant
from planish.errors import PlanError, TechniqueError
from planish.export import ToOnnx
from planish.models.batch_norm import reestimate_batch_norm
from planish.plan import Plan

EXAMPLE = torch.zeros(1, 3, 16, 16)


def outputs(module: nn.Module) -> Tensor:
    """On the images that calibration takes, so that what is fitted to them can be told from what is not."""
    with torch.no_grad():
        return torch.cat([module.eval()(images) for images, _ in calibration_batches(artifact(module), TASK)()])


def settle(module: nn.Module) -> nn.Module:
    """Give batch norm the statistics of these images, so that estimating them again changes nothing by itself."""
    reestimate_batch_norm(module, (images for images, _ in calibration_batches(artifact(module), TASK)()))
    return module


@pytest.mark.parametrize(
    "rule",
    [
        {"parameter_reduction": 0.4},
        {"energy": 0.8},
        {"parameter_reduction": 0.4, "data_aware": False},
        {"parameter_reduction": 0.3, "method": "svd"},
        {"parameter_reduction": 0.3, "method": "lu"},
        {"parameter_reduction": 0.3, "method": "cp"},
        {"layers": {"a.0": Factors("tucker", (8, 8)), "b.0": Factors("spatial", (8,)), "head": Factors("svd", (2,))}},
    ],
)
def test_applies_and_is_rebuilt(rule: dict[str, Any]) -> None:
    before = artifact(randomised(Residual()).train())
    state = copy.deepcopy(before.module.state_dict())
    technique = Factorize(**rule, runtime=None)
    after = technique.apply(before, TASK)
    step = after.lineage.steps[-1]
    assert len(step.structure["layers"]) > 0
    count, left = (sum(p.numel() for p in a.module.parameters() if p.ndim > 1) for a in (before, after))
    assert left <= (1 - rule.get("parameter_reduction", 0.1)) * count
    assert all(torch.equal(v, state[k]) for k, v in before.module.state_dict().items())
    assert all(m.training for m in after.module.modules())
    rebuilt = Factorize.rebuild(Residual(), json.loads(json.dumps(step.structure)))
    rebuilt.load_state_dict(after.module.state_dict())
    assert torch.equal(outputs(rebuilt), outputs(after.module))
    assert Plan.from_dicts(json.loads(Plan(technique).to_json())) == Plan(technique)


def test_a_low_rank_is_found_and_costs_nothing() -> None:
    net = randomised(Residual())
    with torch.no_grad():
        for layer, rank in ((net.a[0], 4), (net.b[0], 8)):
            u, s, v = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
            layer.weight.copy_(((u[:, :rank] * s[:rank]) @ v[:rank]).view_as(layer.weight))
    settle(net)
    after = Factorize(energy=1 - 1e-6, runtime=None, data_aware=False).apply(artifact(net), TASK)
    assert after.lineage.steps[-1].structure["layers"] == {
        "a.0": {"method": "svd", "ranks": [4], "bias": False},
        "b.0": {"method": "svd", "ranks": [8], "bias": False},
    }
    torch.testing.assert_close(outputs(after.module), outputs(net), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["svd", "spatial", "lu"])
def test_fitting_to_outputs_gets_nearer_to_them(method: Any) -> None:
    """On the whole: each layer is fitted to its own outputs, and for one network the errors of two may happen to add up."""
    errors = np.zeros(2)
    for seed in range(5):
        torch.manual_seed(seed)
        net = settle(randomised(Residual()))
        layers = {"a.0": Factors(method, (8,)), "b.0": Factors(method, (8,))}
        expected = outputs(net)
        for i, aware in enumerate((True, False)):
            found = outputs(Factorize(layers=layers, data_aware=aware).apply(artifact(net), TASK).module)
            errors[i] += float((found - expected).square().mean())
    assert errors[0] < errors[1]


def weighing(factor: float = 1.0) -> Any:
    """In place of a runtime: a layer takes its weights for milliseconds, those in a row ``factor`` times as much."""

    def latencies(variants: Sequence[Variant], runtime: str) -> list[float]:
        return [sum(map(parameters, v.layers)) * (1 if len(v.layers) == 1 else factor) for v in variants]

    return latencies


def test_what_is_slower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor_choice, "layer_latencies", weighing(factor=20))
    for rule in ({"speedup": 1.1}, {"parameter_reduction": 0.1}, {"energy": 0.1}):
        with pytest.raises(TechniqueError, match=r"no layer of this network is faster|splitting can bring"):
            Factorize(**rule).apply(artifact(randomised(Residual())), TASK)  # type: ignore[arg-type]


def test_the_speedup_is_reached_and_more_than_can_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor_choice, "layer_latencies", weighing())
    after = Factorize(speedup=1.5).apply(artifact(randomised(Residual())), TASK)
    count, left = (sum(p.numel() for p in m.parameters() if p.ndim > 1) for m in (Residual(), after.module))
    assert 1.5 <= count / left < 2.2
    with pytest.raises(TechniqueError, match="ask for speedup"):
        Factorize(speedup=100).apply(artifact(randomised(Residual())), TASK)


def test_the_least_error_is_the_best_that_its_cost_can_buy() -> None:
    """Everett's theorem, against all choices there are."""
    rng = np.random.default_rng(0)
    for _ in range(20):

        def option(cost: int) -> Option:
            return Option(None, 0.0, float(rng.exponential((100 - cost) / 100)), cost)

        options = {str(layer): [Option(None, 0.0, 0.0, 100), *map(option, rng.integers(5, 95, 5))] for layer in range(4)}
        budget = float(rng.uniform(100, 350))
        found = least_error(options, lambda o: float(o.parameters), budget)
        every = [c for c in itertools.product(*options.values()) if sum(o.parameters for o in c) <= budget]
        if not every:
            assert found is None
            continue
        assert found is not None
        cost, error = sum(o.parameters for o in found.values()), sum(o.error for o in found.values())
        assert cost <= budget
        assert error == pytest.approx(min(sum(o.error for o in c) for c in every if sum(o.parameters for o in c) <= cost))
    assert least_error({"a": [Option(None, 0.0, 0.0, 100)]}, lambda o: 100.0, 99.0) is None


@pytest.mark.parametrize("unit", [1e-15, 1e12])
def test_the_unit_of_the_outputs_does_not_matter(unit: float) -> None:
    """The squared outputs of a regression may be of any size."""
    layers = [[Option(None, 0.0, 0.0, 100), *(Option(None, 0.0, k / cost, cost) for cost in (20, 50, 80))] for k in range(1, 5)]

    def chosen(unit: float) -> list[int]:
        options = {str(k): [replace(o, error=unit * o.error) for o in some] for k, some in enumerate(layers)}
        found = least_error(options, lambda o: float(o.parameters), 230.0)
        return [o.parameters for o in (found or {}).values()]

    assert chosen(unit) == chosen(1.0) != []


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({}, "no layers are named"),
        ({"nowhere": Factors("svd", (2,))}, "no such layer"),
        ({"a.0": Factors("svd", (200,))}, r"full ranks are \[24\]"),
        ({"a.0": Factors("tucker", (2,))}, r"full ranks are \[16, 24\]"),
        ({"head": Factors("spatial", (2,))}, "1x1 layers take svd or lu"),
    ],
)
def test_layers_that_do_not_fit(layers: dict[str, Factors], message: str) -> None:
    with pytest.raises(TechniqueError, match=message):
        Factorize(layers=layers).apply(artifact(randomised(Residual())), TASK)


def test_exactly_one_rule() -> None:
    for rules in ({}, {"parameter_reduction": 0.5, "energy": 0.9}, {"speedup": 2, "runtime": None}):
        with pytest.raises(ValidationError):
            Factorize(**rules)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="exactly one of"):
        Plan.from_dicts([{"name": "factorize"}])


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 9, 3, groups=3), nn.Conv2d(9, 9, 3, padding_mode="reflect", padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)).mean((2, 3))


class Nosy(nn.Module):
    """Calls a layer, and looks at its weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16), nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).to(self.b.weight.dtype)).mean((2, 3)))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.attention, self.head = conv(3, 16), nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(y, y, y, need_weights=False)[0].mean(1))


def test_what_cannot_be_split_is_named() -> None:
    with pytest.raises(TechniqueError, match=r"a, it is grouped.*b, it pads with reflect"):
        find_layers(Grouped().eval(), EXAMPLE)
    with pytest.raises(TechniqueError, match="shares its weight"):
        Factorize(layers={"b": Factors("svd", (4,))}).apply(artifact(randomised(SharedWeights())), TASK)
    with pytest.raises(TechniqueError, match="without calling it"):
        Factorize(layers={"a": Factors("svd", (4,))}).apply(artifact(randomised(Standardised())), TASK)
    assert set(find_layers(Attending().eval(), EXAMPLE)[0]) == {"a.0", "head"}


def test_layers_that_the_code_reaches_into_stay_whole() -> None:
    net = randomised(Nosy())
    after = Factorize(layers={"b": Factors("svd", (4,)), "a.0": Factors("svd", (4,))}).apply(artifact(net), TASK)
    assert set(after.lineage.steps[-1].structure["layers"]) == {"a.0"}
    assert isinstance(after.module.b, nn.Conv2d)
    assert "Left whole, as the network's code reaches into them: b" in after.lineage.steps[-1].notes


def test_weights_that_are_not_numbers() -> None:
    net = randomised(Residual())
    net.a[0].weight.data[0, 0] = torch.nan
    with pytest.raises(TechniqueError, match=r"weights of a\.0 are not finite"):
        Factorize(parameter_reduction=0.5, runtime=None).apply(artifact(net), TASK)


def test_ranks_are_multiples_where_there_is_room() -> None:
    assert rank_grid("svd", ConvShape(64, 64, (3, 3)))[0] == (8,)
    assert all(r % 8 == 0 for (r,) in rank_grid("spatial", ConvShape(64, 64, (3, 3))))
    assert rank_grid("svd", ConvShape(3, 5))[-1][0] <= 3


def test_in_chains_with_pruning_and_export() -> None:
    task: Any = SimpleNamespace(split=TASK.split, loss=TASK.loss, batch_targets=TASK.batch_targets, scores=None)
    before = artifact(randomised(Residual()))
    plan = Plan(ChannelPruning(0.3), Factorize(parameter_reduction=0.4, runtime=None), ChannelPruning(0.3, round_to=4), ToOnnx())
    after = plan.apply(before, task)  # the export compares the file with the network
    assert after.format == "onnx"
    steps = [s.technique for s in after.lineage.steps]
    assert steps == ["channel_pruning", "factorize", "channel_pruning", "to_onnx"]
    module = Residual()
    for technique, step in zip((ChannelPruning, Factorize, ChannelPruning), after.lineage.steps[:3], strict=True):
        module = technique.rebuild(module, step.structure)  # type: ignore[attr-defined,assignment]
    outputs(module)


class TwoNames(nn.Module):
    """Two layers that the network holds under its own names and in a sequence, which is what it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.layers = nn.Sequential(self.a, nn.ReLU(), self.b, nn.ReLU())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


def test_a_layer_is_split_under_all_its_names() -> None:
    net = randomised(TwoNames())
    after = Factorize(layers={"b": Factors("svd", (4,))}).apply(artifact(net), TASK)
    assert after.module.layers[2] is after.module.b
    assert sum(p.numel() for p in after.module.parameters()) < sum(p.numel() for p in net.parameters())
    rebuilt = Factorize.rebuild(TwoNames(), after.lineage.steps[-1].structure)
    rebuilt.load_state_dict(after.module.state_dict())
    assert torch.equal(outputs(rebuilt.eval()), outputs(after.module.eval()))
