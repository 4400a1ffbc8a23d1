"""Channel pruning as a technique: what it chooses, what it records, what it leaves alone."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from pruning_nets import Grouped, LiteralSplit, Residual, randomised
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.compression.calibration import calibration_batches
from planish.compression.graph import structure
from planish.compression.pruning.channel_pruning import ChannelPruning, choose
from planish.compression.pruning.importance import IMPORTANCES, Importance, activation, hessian, unit_scores
from planish.errors import PlanError, TechniqueError
from planish.models.batch_norm import reestimate_batch_norm
from planish.plan import Plan


class Noise:
    """40 images of noise with five classes."""

    def __init__(self) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
        self.targets = np.arange(40) % 5

    def __len__(self) -> int:
        return 40

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Any:
        return self.pixels


TASK: Any = SimpleNamespace(
    split=lambda name: Noise(),
    loss=lambda network, outputs, targets: F.cross_entropy(outputs, targets),
    batch_targets=lambda targets, rows, spec: torch.as_tensor(np.asarray(targets)[rows]),
)


def artifact(module: nn.Module) -> Artifact:
    return Artifact(
        format="torch",
        input_spec=InputSpec(3, 16, 16),
        preprocessing=Preprocessing(16, "squash", (0.5,) * 3, (0.25,) * 3),
        class_names=tuple("abcde"),
        lineage=Lineage(Source("module", 5, 3)),
        module=module,
    )


def weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("importance", get_args(Importance))
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_applies_and_is_rebuilt(importance: Importance, scope: Any) -> None:
    before = artifact(randomised(Residual()).train())
    state = copy.deepcopy(before.module.state_dict())
    technique = ChannelPruning(pruning_ratio=0.5, importance=importance, scope=scope)
    after = technique.apply(before, TASK)
    assert weights(after.module) < 0.5 * weights(before.module)
    assert all(torch.equal(v, state[k]) for k, v in before.module.state_dict().items())
    assert before.module.training
    assert after.module.training
    assert after.original is before
    step = after.lineage.steps[-1]
    assert step.params["pruning_ratio"] == 0.5
    assert f"{weights(before.module):,} → {weights(after.module):,}" in step.notes
    rebuilt = ChannelPruning.rebuild(Residual(), json.loads(json.dumps(step.structure)))
    rebuilt.load_state_dict(after.module.state_dict())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(rebuilt.eval()(images), after.module.eval()(images))


def test_unimportant_channels_go() -> None:
    """Eight of the 24 hidden channels are made nearly dead: every importance but chance finds just these."""
    torch.manual_seed(0)
    net = randomised(Residual())
    dead = torch.arange(0, 24, 3)
    net.a[0].weight.data[dead] *= 1e-3
    net.a[1].weight.data[dead] *= 1e-3
    net.a[1].bias.data[dead] = 0
    net.b[0].weight.data[:, dead] *= 1e-3
    graph = structure.trace(net, torch.randn(1, 3, 16, 16))
    expected = set(graph.classes["a.0.weight", 0][dead].tolist())
    batch = [(torch.randn(8, 3, 16, 16), torch.arange(8) % 5)]
    for kind in (name for name in IMPORTANCES if name != "random"):
        scores = unit_scores(kind, net, graph, lambda: batch * 4, TASK.loss)
        chosen = choose(graph, scores, 1 / 3, "uniform", 8)
        assert set(next(units for group, units in chosen.items() if len(group.units) == 24)) == expected, kind
        assert set(scores) == {unit for group in graph.groups for unit in group.units}


def test_every_importance_has_a_name() -> None:
    assert tuple(IMPORTANCES) == get_args(Importance)


def test_activation_is_what_the_next_layers_read() -> None:
    net = randomised(Grouped())
    images = torch.randn(6, 3, 16, 16)
    graph = structure.trace(net, images[:1])
    scores = activation(net, graph, lambda: [(images[:2], images), (images[2:], images)], TASK.loss)
    with torch.no_grad():
        hidden = net.a(net.stem(images)).abs().mean((0, 2, 3)).numpy()  # read by `b` alone, in two groups of 16 channels
    classes = graph.classes["b.0.weight", 1]
    expected = {c: hidden.reshape(2, 16).sum(0)[classes == c].mean() for c in set(classes.tolist())}
    mean = np.mean(list(expected.values()))
    for unit, value in expected.items():
        assert scores[unit] == pytest.approx(value / mean, rel=1e-4)


def test_curvature_is_the_trace_of_the_hessian() -> None:
    """The estimate from many random signs comes near what all second derivatives give."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).eval()
    images, targets = torch.randn(8, 1, 3, 3), torch.arange(8) % 3
    graph = structure.trace(net, images[:1])
    scores = hessian(net, graph, lambda: [(images, targets)] * 250, TASK.loss)
    parts = {}
    for name, axis in (("0.weight", 0), ("3.weight", 1)):
        weight = net.get_parameter(name).detach()
        second = torch.autograd.functional.hessian(
            lambda w, name=name: F.cross_entropy(torch.func.functional_call(net, {name: w}, images), targets), weight
        )
        diagonal = second.reshape(weight.numel(), -1).diagonal().view(weight.shape)
        channels = [range(i, i + 1) if axis == 0 else range(4 * i, 4 * i + 4) for i in range(4)]
        slices = [(diagonal.transpose(0, axis)[list(c)], weight.transpose(0, axis)[list(c)]) for c in channels]
        # a channel of the convolution is one slice, of the linear layer four
        sums = [(h.sum(1), (w**2).sum(1)) if axis else (h.sum(), (w**2).sum()) for h, w in slices]
        values = [(h.abs() * w).mean() for h, w in sums]
        parts[name] = np.array(values) / np.mean(values)
    expected = (parts["0.weight"] + parts["3.weight"]) / 2
    found = [scores[u] for u in graph.classes["0.weight", 0].tolist()]
    np.testing.assert_allclose(found, expected / expected.mean(), atol=0.15)


def test_a_network_without_second_derivative() -> None:
    net, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.randn(4, 3, 2, 2)
    graph = structure.trace(net, images[:1])
    with pytest.raises(TechniqueError, match="second derivative"):
        hessian(net, graph, lambda: [(images, images)], lambda network, outputs, _: outputs.sum())


def test_ratios_by_layer() -> None:
    before = artifact(randomised(Residual()))
    technique = ChannelPruning(0.5, round_to=1, pruning_ratios={"a.0": 0.75})
    plan = Plan(technique)
    assert Plan.from_dicts(json.loads(plan.to_json())) == plan
    assert Plan.from_dicts(yaml.safe_load(plan.to_yaml())) == plan
    assert str(plan) == "channels −50 %, 1 layers otherwise"
    after = technique.apply(before, TASK).module
    assert (after.stem[0].out_channels, after.a[0].out_channels) == (8, 6)
    alone = ChannelPruning(0, round_to=1, scope="global", pruning_ratios={"a.0": 0.25}).apply(before, TASK).module
    assert (alone.stem[0].out_channels, alone.a[0].out_channels) == (16, 18)
    with pytest.raises(TechniqueError, match=r"'a\.9'.*begin at a\.0, stem\.0.*did you mean 'a\.0'"):
        ChannelPruning(0.5, pruning_ratios={"a.9": 0.5}).apply(before, TASK)
    with pytest.raises(PlanError, match="pruning_ratios"):
        Plan.from_dicts([{"name": "channel_pruning", "pruning_ratio": 0.5, "pruning_ratios": {"a.0": 1.0}}])


@pytest.mark.parametrize(("ratio", "widths"), [(0.0, (16, 24)), (0.1, (16, 24)), (0.3, (8, 16)), (0.5, (8, 16)), (0.9, (8, 8))])
def test_widths_are_multiples(ratio: float, widths: tuple[int, int]) -> None:
    pruned = ChannelPruning(ratio, recalibrate=False).apply(artifact(randomised(Residual())), TASK).module
    assert (pruned.stem[0].out_channels, pruned.a[0].out_channels) == widths


def test_widths_of_tied_channels() -> None:
    pruned = ChannelPruning(0.5, round_to=4).apply(artifact(randomised(Grouped())), TASK).module
    assert pruned.a[0].out_channels == 16
    assert pruned.a[0].groups == 4
    narrow = ChannelPruning(0.95, round_to=1).apply(artifact(randomised(Residual())), TASK).module
    assert narrow.a[0].out_channels == 1


def test_global_scope_takes_more_where_it_matters_less() -> None:
    graph = structure.trace(Residual().eval(), torch.randn(1, 3, 16, 16))
    wide, narrow = sorted(graph.groups, key=lambda g: -len(g.units))
    scores = dict.fromkeys(wide.units, 0.5) | dict.fromkeys(narrow.units, 1.0)
    chosen = choose(graph, scores, 0.4, "global", 1)
    assert (len(chosen[wide]), len(chosen[narrow])) == (16, 0)


def test_batch_statistics_are_those_of_the_images() -> None:
    net = randomised(Residual()).train()
    net.stem[1].momentum, net.a[1].training = 0.3, False
    images = torch.randn(40, 3, 16, 16)
    with torch.no_grad():
        seen = [net.stem[0](part) for part in images.split(20)]
    reestimate_batch_norm(net, images.split(20))
    torch.testing.assert_close(net.stem[1].running_mean, torch.stack([s.mean((0, 2, 3)) for s in seen]).mean(0))
    torch.testing.assert_close(net.stem[1].running_var, torch.stack([s.var((0, 2, 3)) for s in seen]).mean(0))
    assert net.stem[1].momentum == 0.3
    assert net.training
    assert not net.a[1].training


def test_recalibration_is_a_choice() -> None:
    net = randomised(Residual())
    kept = ChannelPruning(0.5, recalibrate=False).apply(artifact(net), TASK).module.stem[1].running_var
    assert set(kept.tolist()) <= set(net.stem[1].running_var.tolist())
    assert not set(ChannelPruning(0.5).apply(artifact(net), TASK).module.stem[1].running_var.tolist()) & set(kept.tolist())


def test_says_what_could_not_be_cut() -> None:
    after = ChannelPruning(0.5).apply(artifact(randomised(LiteralSplit())), TASK)
    assert "sizes written into it" in after.lineage.steps[-1].notes
    assert after.module.a[0].out_channels == 16


def test_nothing_to_cut_is_an_error() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(TechniqueError, match="quantization"):
        ChannelPruning(0.5).apply(artifact(net), TASK)


def test_in_plans() -> None:
    plan = Plan(ChannelPruning(pruning_ratio=0.5))
    assert str(plan) == "channels −50 %"
    assert Plan.from_dicts(json.loads(plan.to_json())) == plan
    with pytest.raises(PlanError, match="pruning_ratio"):
        Plan.from_dicts([{"name": "channel_pruning", "pruning_ratio": 1}])


def test_batches_of_calibration_images_are_alike() -> None:
    """A small rest would weigh as much as a whole batch in re-estimated statistics, and classes in turn would hide their differences."""
    batches = [targets for _, targets in calibration_batches(artifact(Residual()), TASK)()]
    assert [len(targets) for targets in batches] == [20, 20]
    assert sorted(torch.cat(batches).tolist()) == sorted(Noise().targets)
    first, second = ([i for i, _ in calibration_batches(artifact(Residual()), TASK, n)()] for n in (32, 33))
    assert len(first) == 1
    assert [len(i) for i in second] == [17, 16]
