"""Timing that a busy machine cannot disturb: a clock that multiplications move on, one GMAC a second, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import shape_inference

from planish.devices import device
from planish.evaluation import latency
from planish.export.runtimes.packed_file import unpacked
from planish.export.runtimes.registry import load as plain_load

SECONDS = [0.0]  # that the clock shows
_A_CALL = 1e-6  # seconds beside the multiplications


def macs(file: Path | str) -> int:
    """Multiplications of an ONNX file's convolutions and linear layers for one image."""
    given = unpacked(Path(file))
    model = onnx.load_from_string(given) if isinstance(given, bytes) else onnx.load(given)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            total += prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total


def load(files: Sequence[Path | str], runtime: str, *, threads: int = 1, batch: int | None = None) -> Any:
    """The model in its real runtime; each call moves the clock on."""
    predictor, seconds = plain_load(files, runtime, threads=threads, batch=batch), macs(files[0]) / 1e9

    def predict(images: Any) -> Any:
        SECONDS[0] += _A_CALL + seconds * len(images)
        return predictor(images)

    return predict


class Worker:
    """In the place of a process that runs a file: its calls take as long as their multiplications, within half a percent."""

    number = itertools.count()

    def __init__(self, name: str, threads: int, timeout: float) -> None:
        self._noise = np.random.default_rng(next(self.number))

    def start_loading(self, loader: str, arguments: dict[str, Any], imports: Any, batch: int, images: Any) -> None:
        file = Path(arguments["files"][0])
        self._ms, self._bytes = 1e3 * (_A_CALL + batch * macs(file) / 1e9), file.stat().st_size

    def wait(self) -> Any:
        return {}, []

    def ask(self, do: str, calls: int = 1) -> Any:
        answer = {"warm_up": {"call_ms": self._ms}, "memory": {"peak_memory_bytes": self._bytes}}
        return answer.get(do, {}), [self._ms * self._noise.normal(1, 0.005, calls)]

    def close(self) -> None: ...


def time_by_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on ``measure_latency`` goes by multiplications."""
    ticks = itertools.count()
    monkeypatch.setattr(device, "WorkerProcess", Worker)
    monkeypatch.setattr(latency, "monotonic", lambda: 0.2 * next(ticks))
