"""Single layers timed in a real runtime, and the cache of what was timed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import macs_clock
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from planish.devices import latency_worker, layer_latency
from planish.devices.kernels import onnxruntime_kernels
from planish.devices.layer_latency import ConvShape, Variant, layer_latencies
from planish.export.runtimes import registry
from planish.export.runtimes.registry import available, load

CONV = ConvShape(64, 64, (3, 3), (1, 1), (1, 1))


def variant(layers: int = 1, **options: Any) -> Variant:
    return Variant((CONV,) * layers, (28, 28), 64, **options)


@pytest.mark.parametrize("runtime", available("onnx"))
def test_a_layer_takes_what_it_adds_to_the_file(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", macs_clock.load)
    monkeypatch.setattr(latency_worker, "time", SimpleNamespace(perf_counter=lambda: macs_clock.SECONDS[0]))
    one, four, again = layer_latencies([variant(1), variant(4), variant(1)], runtime, cache_dir=tmp_path)
    assert again == one
    assert one == pytest.approx(28 * 28 * 64 * 64 * 9 / 1e6, rel=0.01)
    assert four / one == pytest.approx(4, rel=0.01)


def test_what_was_timed_is_not_timed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def turns(variants: list[Variant], *_: Any) -> list[float]:
        asked.append(len(variants) - 2)
        speed = 1.0 if len(asked) == 1 else 3.0  # the machine is slower the second time
        return [speed * ms for ms in (1.0, 0.5, *(0.5 + len(v.layers) for v in variants[2:]))]

    monkeypatch.setattr(layer_latency, "_take_turns", turns)
    given = [variant(1), variant(2)]
    assert layer_latencies(given, "onnxruntime", cache_dir=tmp_path) == [1.0, 2.0]
    assert layer_latencies([*given, variant(3), variant(2, precision="int8")], "onnxruntime", cache_dir=tmp_path) == [1.0, 2.0, 3.0, 2.0]
    assert asked == [2, 1, 1]
    assert layer_latencies(given, "onnxruntime", threads=2, cache_dir=tmp_path) == [3.0, 6.0]  # another file, begun on a slow day
    for file in (tmp_path / "layer-latency").iterdir():
        file.write_text("{damaged")
    assert layer_latencies(given, "onnxruntime", cache_dir=tmp_path) == [3.0, 6.0]


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "openvino-default"])
def test_another_version_of_the_runtime_is_timed_anew(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = registry.registered() | {kind.name: kind for kind in registry.DEFAULT_PRECISION.values()}
    times = iter([3.0, 5.0])
    monkeypatch.setattr(layer_latency, "_take_turns", lambda variants, *_: [1.0, 0.0, next(times)])
    for version, expected in (("1.0", 3.0), ("1.0", 3.0), ("1.1", 5.0)):
        monkeypatch.setattr(kinds[runtime], "version", lambda version=version: version)
        assert layer_latencies([variant()], runtime, cache_dir=tmp_path) == [expected]


def test_the_file_computes_the_layers(tmp_path: Path) -> None:
    layers = (ConvShape(8, 12, (3, 1), (2, 1), (1, 0)), ConvShape(12, 12, (1, 3), (1, 1), (0, 2), (1, 2), 12), ConvShape(12, 4))
    path = tmp_path / "layers.onnx"
    path.write_bytes(layer_latency._model(Variant(layers, (9, 10), 8), 2))
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t)) for t in onnx.load(path).graph.initializer}
    x = np.random.default_rng(0).random((2, 8, 9, 10), dtype=np.float32)
    y = F.max_pool2d(torch.from_numpy(x), 3, 1, 1)
    for n, s in enumerate(layers):
        y = F.conv2d(y, weights[f"weight{n}"], None, s.stride, s.padding, s.dilation, s.groups)
    found: Any = load((path,), "onnxruntime")(x)  # type: ignore[arg-type]
    np.testing.assert_allclose(found["outputs"], y.mean((2, 3), keepdim=True), rtol=1e-4, atol=1e-5)


def test_int8_layers_run_integer_kernels(tmp_path: Path) -> None:
    path = tmp_path / "layers.onnx"
    path.write_bytes(layer_latency._model(variant(3, precision="int8"), 1))
    assert {kind: len(nodes) for kind, nodes in onnxruntime_kernels(path).items()} == {"int8": 3, "float": 0}
