"""Pruning to a speed: widths follow times and sensitivity, and the exported network is as fast as was reckoned."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from planish.artifact import Artifact
from planish.compression import ChannelPruning, Int8, LatencyPruning
from planish.compression.graph import structure as structures
from planish.compression.pruning import latency_pruning
from planish.compression.pruning.divergence import Divergence, reads
from planish.compression.pruning.sensitivity import _input_moments, _interpolated, rounding_sensitivity, width_sensitivity
from planish.compression.pruning.width_choice import Choice, time_of
from planish.compression.pruning.width_costs import width_costs
from planish.decisions import remembering
from planish.devices.layer_latency import Variant, multiplications
from planish.errors import TechniqueError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.models.storage import load_artifact, save_artifact
from planish.models.zoo import create
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training import FitSettings
from planish.training.original import train_original
from planish.training.prepare import Job, prepare_job


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    return prepare_job(write_shapes(tmp_path_factory.mktemp("shapes")), ModelSettings("resnet8"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = prepare_job(write_shapes(tmp_path_factory.mktemp("more shapes"), per_class=150), ModelSettings("resnet8"))
    settings = FitSettings(epochs=12, batch_size=32, learning_rate=0.05)
    return replace(job, artifact=train_original(job, settings, mode="always").artifact)


def macs_as_time(variants: list[Variant], runtime: str, *, threads: int = 1, batch: int = 1) -> list[float]:
    return [multiplications(v) / 1e6 for v in variants]


@pytest.mark.parametrize("name", ["resnet8", "torchvision:mobilenet_v2", "torchvision:densenet121", "torchvision:shufflenet_v2_x0_5"])
def test_costs_of_uncut_layers_are_those_of_the_network(name: str) -> None:
    """With multiplications for milliseconds, the sum over layers is what torch counts, whole and with widths cut alike."""
    network = create(name, num_classes=5, channels=3, image_size=64).module.eval()
    example = torch.randn(1, 3, 64, 64)
    graph = structures.trace(network, example)
    decided = list(latency_pruning._decisions(graph).values())
    kept = np.array([[1.0, 0.5]] * len(decided))
    costs, _ = width_costs(network, example, graph, decided, kept, "fp32", partial(macs_as_time, runtime="none"))
    whole = [0] * len(costs)
    assert time_of(costs, Choice([0] * len(decided), whole)) == pytest.approx(counted(network, example) / 1e6, rel=1e-6)
    half = structures.prune(network, graph, [u for groups in decided for g in groups for u in g.units[: len(g.units) // 2]])
    assert time_of(costs, Choice([1] * len(decided), whole)) == pytest.approx(counted(half, example) / 1e6, rel=0.1)


def counted(network: nn.Module, example: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(example)
    return counter.get_total_flops() // 2


def test_insensitive_layers_go_first(job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_pruning, "layer_latencies", macs_as_time)
    artifact = copy.deepcopy(job.artifact)
    name, block = [(n, m) for n, m in artifact.module.named_modules() if hasattr(m, "conv2")][1]
    half = block.conv1.out_channels // 2
    with torch.no_grad():  # half of its channels are zero, so that they can go for nothing
        block.conv1.weight[half:] = 0
        block.bn1.weight[half:] = 0
        block.bn1.bias[half:] = 0
    pruned = LatencyPruning(speedup=1.1, round_to=1).apply(artifact, job.task)
    assert pruned.module.get_submodule(name).conv1.out_channels <= half
    assert torch.isfinite(pruned.module(torch.zeros(1, 1, 24, 24))).all()


def test_it_loses_less_than_uniform_pruning_of_an_unevenly_filled_network(trained: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that has three of four channels too many, and the same multiplications in the end: loss on images of no choice."""
    monkeypatch.setattr(latency_pruning, "layer_latencies", macs_as_time)
    example, split = torch.zeros(1, 1, 24, 24), trained.task.split("test")
    artifact = copy.deepcopy(trained.artifact)
    block = next(m for m in artifact.module.modules() if hasattr(m, "conv2"))
    channels = block.conv1.out_channels
    with torch.no_grad():  # a block that makes nothing with most of its channels
        for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
            tensor[channels // 4 :] = 0

    def loss(network: Artifact) -> float:
        images = split.images(network.input_spec, network.preprocessing)
        logits = TorchPredictor(network.module, network.preprocessing)(images)["logits"]
        return float(nn.functional.cross_entropy(torch.from_numpy(logits), torch.as_tensor(split.targets)))

    chosen = LatencyPruning(speedup=1.25, round_to=1).apply(artifact, trained.task)
    target = counted(chosen.module, example)
    uniform = min(
        (ChannelPruning(pruning_ratio=ratio, round_to=1).apply(artifact, trained.task) for ratio in (0.08, 0.12, 0.16)),
        key=lambda network: abs(counted(network.module, example) - target),
    )
    assert target <= counted(artifact.module, example) / 1.2
    assert counted(uniform.module, example) == pytest.approx(target, rel=0.1)
    assert loss(chosen) < loss(uniform)


def test_a_channel_that_others_can_replace_is_insensitive(job) -> None:
    """Two channels of one filter: without one of them the layer behind reads the other twice."""
    network = copy.deepcopy(job.artifact.module).eval()
    block = next(m for m in network.modules() if hasattr(m, "conv2"))
    with torch.no_grad():
        for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias, block.bn1.running_mean, block.bn1.running_var):
            tensor[1] = tensor[0]
    name = next(n for n, m in network.named_modules() if m is block.conv1)
    images = torch.rand(16, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    graph = structures.trace(network, images[:1])
    units = [int(unit) for unit in graph.classes[f"{name}.weight", 0]]
    # squared distances, as the divergences of this untrained network are near their rounding errors
    sensitivity = width_sensitivity(network, graph, [[[], [units[1]]], [[], [units[2]]]], images, SQUARED)
    assert sensitivity[0, 1] < 1e-2 * sensitivity[1, 1]
    masked = structures.masked(network, graph, [units[1]])
    assert SQUARED.distillation_loss(masked, masked(images), network(images), 1.0) > 5 * sensitivity[0, 1]


SQUARED = SimpleNamespace(distillation_loss=lambda _, outputs, teacher, __: (outputs - teacher).double().square().mean())


def test_few_widths_are_measured_and_those_between_are_close(job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against each width measured alone: the same where it is measured, and of about the same rank elsewhere."""
    network, images = job.artifact.module, torch.rand(16, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    graph = structures.trace(network, images[:1])
    groups = [group.units for group in graph.groups if group.name][:3]
    cuts = [[list(units[: len(units) * eighths // 8]) for eighths in range(8)] for units in groups]
    masks, plain = [], structures.masked
    monkeypatch.setattr(structures, "masked", lambda *given: masks.append(1) or plain(*given))
    found = width_sensitivity(network, graph, cuts, images, SQUARED)
    assert 3 * len(groups) <= len(masks) <= 4 * len(groups)
    alone = np.hstack([width_sensitivity(network, graph, [[widths[eighths]] for widths in cuts], images, SQUARED) for eighths in range(8)])
    exact = [0, 2, 5, 7]  # eighths that are removed
    np.testing.assert_allclose(found[:, exact], alone[:, exact], rtol=1e-6)
    assert (found[:, 0] == 0).all()
    assert spearmanr(found.ravel(), alone.ravel()).statistic > 0.9


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_errors_that_follow_a_power_law_are_interpolated_exactly(exponent: float) -> None:
    known = {count: 0.1 * count**exponent for count in (16, 40, 56)}
    for count in range(57):
        assert _interpolated(known, count) == pytest.approx(0.1 * count**exponent)


def test_cuts_for_nothing_stay_for_nothing() -> None:
    assert _interpolated({2: 0.0, 5: 0.0, 7: 0.0}, 3) == 0
    half = {2: 0.0, 5: 0.4, 7: 0.8}
    assert _interpolated(half, 1) < 1e-3 < _interpolated(half, 4) < 0.4


def test_a_jump_between_two_widths_is_looked_for(job) -> None:
    """The first half of the units does nothing, and what follows does: the width between them is measured."""
    network, images = copy.deepcopy(job.artifact.module), torch.rand(16, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    block = next(m for m in network.modules() if hasattr(m, "conv2"))
    half = block.conv1.out_channels // 2
    with torch.no_grad():
        for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias, block.bn1.running_mean):
            tensor[:half] = 0
    graph = structures.trace(network, images[:1])
    name = next(n for n, m in network.named_modules() if m is block.conv1)
    units = [int(unit) for unit in graph.classes[f"{name}.weight", 0]]
    (errors,) = width_sensitivity(network, graph, [[units[: len(units) * eighths // 8] for eighths in range(8)]], images, SQUARED)
    assert 10 * errors[:5].max() < errors[5:].min()


def test_only_factorizations_that_are_faster_are_measured(job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each split layer takes longer, none is measured; the network is that of the widths alone."""
    monkeypatch.setattr(latency_pruning, "layer_latencies", slow_in_two_parts)
    monkeypatch.setattr(latency_pruning, "form_sensitivity", lambda *_: pytest.fail("measured"))
    whole, split = (LatencyPruning(speedup=1.5, low_rank=low_rank, round_to=1).apply(job.artifact, job.task) for low_rank in (False, True))
    assert [tuple(p.shape) for p in whole.module.parameters()] == [tuple(p.shape) for p in split.module.parameters()]


def slow_in_two_parts(variants: list[Variant], runtime: str, *, threads: int = 1, batch: int = 1) -> list[float]:
    return [multiplications(v) / 1e6 + 1e3 * (len(v.layers) - 1) for v in variants]


def test_a_run_stores_what_is_measured_for_all_its_speeds(job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run, in a process that has measured nothing, prunes by the stored sensitivity."""
    monkeypatch.setattr(latency_pruning, "layer_latencies", macs_as_time)
    stored: dict[str, str] = {}

    def remember(key: str, work: Callable[[], Any]) -> Any:
        assert len(key) <= 200
        if key not in stored:
            stored[key] = json.dumps(work())
        return json.loads(stored[key])

    settings = {"low_rank": True, "mixed_precision": True, "precision": "int8"}
    networks = []
    for measuring in (True, False):
        latency_pruning._known.cache_clear()
        if not measuring:
            for name in ("width_sensitivity", "form_sensitivity", "rounding_sensitivity", "moments"):
                monkeypatch.setattr(latency_pruning, name, lambda *_: pytest.fail("measured again"))
        with remembering(remember):
            networks += [LatencyPruning(speedup=speedup, **settings).apply(job.artifact, job.task) for speedup in (1.5, 2.0)]
    for first, again in zip(networks[:2], networks[2:], strict=True):
        for a, b in zip(first.module.parameters(), again.module.parameters(), strict=True):
            assert torch.equal(a, b)


def test_correlations_of_channels_are_those_of_the_whole_map() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1)).eval()
    maps = torch.rand(8, 2, 128, 128, generator=torch.Generator().manual_seed(0))
    maps[..., 0] = 0  # the border is unlike the rest
    (found,) = _input_moments(network, [maps]).values()
    rows = maps.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(found, rows @ rows.T / rows.shape[1], rtol=0.05, atol=0)


def test_divergence_is_a_mean_over_images(job) -> None:
    network = copy.deepcopy(job.artifact.module).eval()
    changed = copy.deepcopy(network)
    with torch.no_grad():
        next(changed.parameters()).mul_(1.5)
    images = torch.rand(33, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    images[32] *= 5  # alone in its batch
    divergence = Divergence(network, images, job.task, reads({0: [next(name for name, _ in network.named_parameters())]}))
    assert sum(map(len, divergence.batches)) == 33
    with torch.no_grad():
        expected = job.task.distillation_loss(changed, changed(images), network(images), 1.0).item()
    assert divergence(changed) == pytest.approx(expected, rel=1e-3)


def test_layers_are_split_where_the_outputs_change_less(job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose kernels are outer products is split for nothing; the result is rebuilt from what is saved."""
    monkeypatch.setattr(latency_pruning, "layer_latencies", macs_as_time)
    artifact = copy.deepcopy(job.artifact)
    name, block = [(n, m) for n, m in artifact.module.named_modules() if hasattr(m, "conv2")][-1]
    with torch.no_grad():
        weight = block.conv2.weight
        weight.copy_(torch.einsum("orh,irw->oihw", torch.randn(len(weight), 4, 3), torch.randn(weight.shape[1], 4, 3)) / 20)
    found = LatencyPruning(speedup=1.2, low_rank=True, round_to=1).apply(artifact, job.task)
    assert isinstance(found.module.get_submodule(f"{name}.conv2"), nn.Sequential)
    save_artifact(found, tmp_path / "saved")
    x = torch.rand(2, 1, 24, 24)
    again = load_artifact(tmp_path / "saved", module=artifact.module).module
    torch.testing.assert_close(again.eval()(x), found.module.eval()(x))


def test_a_layer_that_is_sensitive_to_rounding_stays_float_in_the_file(job, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel of a layer reads values a thousand times those of the others, so that 256 steps are too few for the rest."""
    monkeypatch.setattr(latency_pruning, "layer_latencies", cheaper_in_integers)
    artifact = copy.deepcopy(job.artifact)
    name, block = next((n, m) for n, m in artifact.module.named_modules() if hasattr(m, "conv2"))
    with torch.no_grad():
        block.bn1.weight[0] *= 1000
        block.conv2.weight[:, 0] = 0
    planned = LatencyPruning(speedup=1.1, precision="int8", mixed_precision=True, round_to=1).apply(artifact, job.task)
    assert f"{name}.conv2" in planned.lineage.steps[-1].structure["float_layers"]
    file = Plan(ToOnnx(), Int8()).apply(planned, job.task).files[0]
    model = onnx.load(str(file))
    makers = {output: node for node in model.graph.node for output in node.output}
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    is_float = [makers.get(n.input[1]) is None for n in layers]  # its weight is no dequantized integer
    assert 0 < sum(is_float) == len(planned.lineage.steps[-1].structure["float_layers"]) < len(layers)


def cheaper_in_integers(variants: list[Variant], runtime: str, *, threads: int = 1, batch: int = 1) -> list[float]:
    return [multiplications(v) / 1e6 * (1.0 if v.precision == "int8" else 1.5) for v in variants]


def test_rounding_of_a_linear_network_is_what_its_steps_say() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    images = torch.rand(64, 3, 2, 2)
    squared = SimpleNamespace(distillation_loss=lambda network, a, b, _: (a - b).square().mean())
    before = network[1].weight.detach().clone()
    sensitivity = rounding_sensitivity(network, images, squared)["1"]
    assert torch.equal(network[1].weight, before)
    # uniform errors within half a step: of inputs in 256 steps of 1, of weights in 127 steps a row
    of_inputs = before.square().sum(1).mean() * (1 / 255) ** 2 / 12
    of_weights = ((before.abs().amax(1) / 127) ** 2 / 12).mean() * images.flatten(1).square().sum(1).mean()
    assert sensitivity == pytest.approx(float(of_inputs + of_weights), rel=0.5)


def test_by_multiplications_nothing_is_timed(job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_pruning, "layer_latencies", lambda *_, **__: pytest.fail("timed"))
    pruned = LatencyPruning(speedup=2, cost="macs", round_to=1).apply(job.artifact, job.task)
    before, after = (counted(m, torch.zeros(1, 1, 24, 24)) for m in (job.artifact.module, pruned.module))
    assert before / after == pytest.approx(2, rel=0.1)


def convs(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_channels_are_weighed_once_for_all_speeds_and_again_on_other_images(job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_pruning, "layer_latencies", macs_as_time)
    latency_pruning._known.cache_clear()
    measured, plain = [], latency_pruning.width_sensitivity
    monkeypatch.setattr(latency_pruning, "width_sensitivity", lambda *given: measured.append(1) or plain(*given))
    for speedup in (1.5, 2):
        LatencyPruning(speedup=speedup).apply(job.artifact, job.task)
    assert len(measured) == 1
    others = prepare_job(write_shapes(tmp_path / "others", per_class=20), ModelSettings("resnet8"))
    LatencyPruning(speedup=2).apply(job.artifact, others.task)
    assert len(measured) == 2


def test_more_than_can_be_had_is_refused(job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_pruning, "layer_latencies", macs_as_time)
    with pytest.raises(TechniqueError, match="as fast, not 1000x"):
        LatencyPruning(speedup=1000).apply(job.artifact, job.task)


def test_a_network_without_anything_to_cut_is_refused(tmp_path: Path) -> None:
    job = prepare_job(write_shapes(tmp_path / "shapes", per_class=12), ModelSettings(nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 3))))
    with pytest.raises(TechniqueError, match="no channel"):
        LatencyPruning(speedup=2).apply(job.artifact, job.task)
