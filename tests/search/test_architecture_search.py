"""A network from nothing: latencies are sums of layers, proxies are what their papers say, and the search keeps its limits and resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import invoke
from macs_clock import time_by_macs
from scipy import stats
from torch import nn

from planish import commands
from planish.artifact import InputSpec
from planish.compression.pruning.width_costs import layer_calls
from planish.devices.layer_latency import multiplications
from planish.errors import GoalError
from planish.evaluation.size import macs
from planish.measurement import Measurement
from planish.models.space.network import SearchedNetwork
from planish.report.pages.architecture_search import outcome
from planish.runs.networks.network_files import NetworkFiles
from planish.search.architecture import architecture_search, candidates, trials
from planish.search.architecture.candidates import PredictedNetwork, choose
from planish.search.architecture.predicted_latency import LayerTable, fitted, layers_of
from planish.search.architecture.proxies import naswot, synflow
from planish.search.architecture.result import ArchitectureSearch, SearchCandidate, prediction_error, rank_correlation, rankings
from planish.search.architecture.sampling import WIDTHS, halvings, resolutions, sampled
from planish.search.architecture.trials import Extent
from planish.testing import write_shapes


@pytest.mark.parametrize("size", [24, 32, 96, 224])
def test_sampled_networks_suit_the_input_size(size: int) -> None:
    found = sampled(size, resolutions(size), 300, seed=0)
    assert found == sampled(size, resolutions(size), 300, seed=0) != sampled(size, resolutions(size), 300, seed=1)
    assert len({one.key for one in found}) == 300
    for one in found:
        stages = one.architecture.stages
        strides = one.architecture.stem_stride * math.prod(stage.stride for stage in stages)
        assert strides == 2 ** halvings(size)
        assert 4 <= size / strides <= 11
        assert {stage.width for stage in stages} <= set(WIDTHS)
        assert all(stage.kernel == 3 for stage in stages if stage.block == "residual")
    assert {stage.block for one in found for stage in one.architecture.stages} == {"residual", "separable", "inverted"}
    assert len({one.image_size for one in found}) == 2


def test_layers_found_block_by_block_are_those_of_the_whole_network() -> None:
    for one in sampled(28, (28, 20), 12, seed=3):
        found = layers_of(one, 3, 7, "int8")
        module = SearchedNetwork(one.architecture, 7, 3).eval()
        calls = layer_calls(module, torch.zeros(1, 3, one.image_size, one.image_size))
        assert sorted(map(str, found.layers)) == sorted(
            str(call.at(call.shape.in_channels, call.shape.out_channels, "int8")) for call in calls
        )
        assert found.parameters == sum(p.numel() for p in module.parameters())
        assert found.macs == macs(module, InputSpec(3, one.image_size, one.image_size)).value


def test_a_table_of_few_widths_predicts_what_is_proportional_to_macs() -> None:
    networks = sampled(32, (32,), 400, seed=0)
    layers = [layers_of(one, 3, 10, "int8").layers for one in networks]
    asked = []

    def times(variants):
        asked.extend(variants)
        return [1e-3 + multiplications(v) / 1e6 for v in variants]

    table = LayerTable((layer for one in layers for layer in one), times)
    distinct = {layer for one in layers for layer in one}
    assert len(asked) == len(set(asked)) == table.measured < 0.6 * len(distinct)
    for one in layers:
        wanted = sum(1e-3 + multiplications(layer) / 1e6 for layer in one)
        assert table.milliseconds(one) == pytest.approx(wanted, rel=1e-6), "the time is bilinear in the widths"


def test_overhead_and_factor_are_fitted_by_relative_errors() -> None:
    sums = np.array([0.1, 0.4, 2.0, 8.0])
    assert fitted([(1.0, s) for s in sums], 0.05 + 1.2 * sums) == pytest.approx((0.05, 1.2))
    overhead, factor = fitted([(1.0, s) for s in sums], 2 * sums - 0.01)
    assert overhead == 0.0, "no overhead is below 0"
    assert factor == pytest.approx(2, rel=0.1)


def test_synflow_is_the_sum_over_all_paths() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3, bias=False))
    a, b = module[0].weight.detach().abs().flatten().double(), module[3].weight.detach().abs().double()
    paths = float((b @ a).sum())  # every weight-times-gradient sum of a layer is the sum over all paths
    assert synflow(module, (1, 1, 1)) == pytest.approx(math.log(2 * paths))
    assert any(float(p.min()) < 0 for p in module.parameters()), "the network itself keeps its signs"


def test_naswot_counts_activations_that_agree() -> None:
    torch.manual_seed(0)
    module, images = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU()), torch.randn(5, 1, 6, 6)
    codes = (module[0](images) > 0).flatten(1).numpy()
    wanted = np.array([[float((a == b).sum()) for b in codes] for a in codes])
    assert naswot(module, images) == pytest.approx(np.linalg.slogdet(wanted)[1])
    assert naswot(module, torch.cat([images[:4], images[:1]])) < naswot(module, images), "two equal images"


def test_each_proxy_chooses_in_turn_from_different_families() -> None:
    networks = sampled(28, (28, 20), 60, seed=0)
    within = {one.key: PredictedNetwork(one, 100 + n, 1000 - n, 1.0, 1.0) for n, one in enumerate(networks)}
    scores = {
        key: {"macs": float(one.macs), "parameters": float(one.parameters), "synflow": float(n % 7)}
        for n, (key, one) in enumerate(within.items())
    }
    found = choose(within, scores, (), 3, seed=0)
    assert list(found.values()) == ["macs", "parameters", "synflow"]
    assert list(found)[:2] == [networks[-1].key, networks[0].key]
    more = choose(within, scores, found, 3, seed=1)
    assert list(more.values()) == ["random", "macs", "parameters"], "the turns go on, and no proxy naswot was computed"
    assert len({one.family for one in networks if one.key in found | more}) == 6
    rest = choose(within, scores, found | more, 60, seed=2)
    assert len(found | more | rest) == 60, "where families run out, networks that differ in width only"
    few = dict(list(within.items())[:5])
    assert choose(few, scores, (), 9, seed=0).keys() == few.keys()


def _trained(name: str, accuracy: float, **more: object) -> SearchCandidate:
    measured = Measurement("accuracy", accuracy, "%", 100, True, accuracy - 2, accuracy + 2)
    return SearchCandidate(name, name, 28, True, "macs", 1, 1, accuracies=[measured], **more)  # type: ignore[arg-type]


def test_proxies_are_ranked_by_what_was_trained() -> None:
    accuracies, good, bad = [70.0, 80.0, 75.0, 90.0, 85.0], [1.0, 3.0, 2.0, 5.0, 4.0], [5.0, 1.0, 2.0, 3.0, 4.0]
    found = rankings([_trained(f"{a}", a, proxies={"synflow": g, "macs": b}) for a, g, b in zip(accuracies, good, bad, strict=True)])
    assert [one.proxy for one in found] == ["synflow", "macs"]
    assert found[0].correlation.value == pytest.approx(1)
    assert found[1].correlation.value == pytest.approx(stats.spearmanr(bad, accuracies).statistic)
    assert found[1].correlation.low < found[1].correlation.value < found[1].correlation.high
    assert rank_correlation([1, 2, 3], [1, 2, 3]) is None, "three networks say nothing"


def test_the_outcome_says_what_was_not_compared_and_when_a_known_network_won() -> None:
    latency, size = Measurement("latency_ms", 2.0, "ms", 10, False, 1.9, 2.1), Measurement("size_bytes", 1e5, "bytes", 1, False)
    file = {"accuracy": Measurement("accuracy", 90.0, "%", 100, True, 88.0, 92.0), "latency_ms": latency, "size_bytes": size}

    def of(model: str, *found: SearchCandidate) -> str:
        return " ".join(
            outcome(
                ArchitectureSearch(
                    name="x", created="", command="", machine={}, data="photos", runtime="openvino", precision="int8", threads=1, batch=1,
                    max_latency_ms=2.0, max_size_bytes=None, sampled=9, within=5, layers_timed=7, prediction_error=latency,
                    candidates=list(found), as_good=[], rankings=[], model=model, image_size=28, epochs=1.0, files={"int8": file},
                    beside={}, noise_floor=latency,
                )
            )
        )  # fmt: skip

    one, other = _trained("resnet8", 90.0), _trained("searched:c8s1-r8n1k3s1", 80.0)
    assert "It is a known network" in of("resnet8", one, other)
    assert "no time to compare" in of("resnet8", one)
    text = of("searched:c8s1-r8n1k3s1", other, one)
    assert "It is a known network" not in text
    assert "not clearly within 2 ms" in text, "its interval goes beyond the limit"


def test_the_error_of_the_prediction_leaves_out_what_it_was_fitted_to() -> None:
    latency = Measurement("latency_ms", 2.0, "ms", 10, False)
    found = [_trained(str(ms), 50, predicted_ms=ms, latency=latency) for ms in (2.0, 2.2, 1.0)]
    assert prediction_error(found, {"2.0"}).value == pytest.approx(30)
    assert prediction_error(found, {"2.0"}).n == 2


@pytest.fixture
def by_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies by multiplications, and a tiny search: 1 GMAC takes a second."""
    time_by_macs(monkeypatch)
    monkeypatch.setattr(candidates, "layer_latencies", lambda variants, **_: [multiplications(v) / 1e6 for v in variants])
    monkeypatch.setattr(candidates, "_RANKED", 2)
    monkeypatch.setattr(candidates, "_DRAWN", 4)
    monkeypatch.setattr(trials, "_LEAST_SECONDS", 0.5)
    monkeypatch.setattr(architecture_search, "_QUICK", Extent(300, 2, 4, 1, 1))


def test_it_searches_within_the_limits_and_resumes(by_macs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out, exported = write_shapes(tmp_path / "shapes", per_class=30, size=16), tmp_path / "out", list[str]()
    options = {"max_latency": "0.5ms", "max_size": "300kB", "budget": "45s", "runtime": "onnxruntime", "out": out}
    plainly = NetworkFiles.export
    monkeypatch.setattr(NetworkFiles, "export", lambda self, name, *more: exported.append(name) or plainly(self, name, *more))

    def stop(many: Sequence[SearchCandidate]) -> None:
        if sum(len(one.accuracies) for one in many) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commands.search(data, watch=stop, **options)
    before = list(exported)
    found = commands.search(data, resume=True, **options)
    assert exported == before, "nothing is exported again"

    assert 0 < found.within < found.sampled == 300
    assert found.prediction_error.value < 2, "the clock goes by multiplications"
    searched = [one for one in found.candidates if one.searched]
    assert len([one for one in searched if not one.left_out]) == 4
    for one in searched:
        assert {"macs", "parameters"} <= one.proxies.keys()
        assert one.left_out or (one.latency.value <= 0.5 and one.size.value <= 300e3)
    assert {one.chosen_by for one in searched} >= {"macs", "parameters", "synflow", "naswot"}
    assert [one for one in found.candidates if not one.searched], "known networks are timed beside them"
    best = found.candidates[0]
    assert best.accuracy == max(one.accuracy for one in found.candidates if len(one.accuracies) == len(best.accuracies))
    assert (found.model, found.image_size) == (best.name, best.image_size)
    assert found.files.keys() == {"fp32", "int8"}
    assert found.beside.keys() <= {one.key for one in found.candidates if not one.searched}
    assert ArchitectureSearch.load(out / "search.json") == found
    page = (out / "search.html").read_text()
    assert all(text in page.replace("&#39;", "'") for text in outcome(found))

    measured = commands.evaluate(out / "model", data)
    assert measured["accuracy"].value == json.loads((out / "model" / "evaluation.json").read_text())["metrics"]["accuracy"]["value"]
    assert (out / "model" / "recipe.yaml").exists()

    again = commands.search(data, resume=True, **options)
    assert [one.accuracies for one in again.candidates] == [one.accuracies for one in found.candidates]
    assert again.files == found.files


def test_limits_that_nothing_meets_are_named(by_macs: None, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=30, size=16)
    with pytest.raises(GoalError, match=r"none of 300 networks is within 0.0001 ms\. the fastest is predicted to take"):
        commands.search(data, max_latency="0.1us", budget="60s", runtime="onnxruntime", out=tmp_path / "out")
    refused = invoke(["search", str(data), "--out", str(tmp_path / "other")])
    assert refused.exit_code == 2
    assert "--max-latency" in refused.stderr


@pytest.mark.slow
def test_the_real_clock_and_the_command_line(tmp_path: Path) -> None:
    data, out = write_shapes(tmp_path / "shapes", per_class=60, size=24), tmp_path / "out"
    done = invoke(["search", str(data), "--max-latency", "1ms", "--budget", "3m", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    best = found["candidates"][0]
    assert best["latency"]["value"] <= 1.0
    assert found["prediction_error"]["value"] < 50
    assert found["files"][found["precision"]]["accuracy"]["value"] > 60
    trained = invoke(["train", str(data), "--model", found["model"], "--epochs", "1", "--out", str(tmp_path / "again")])
    assert trained.exit_code == 0, trained.output
