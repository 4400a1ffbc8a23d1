"""Interleaved latency benchmark of exported models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import at_least
from planish.errors import ModelError

if TYPE_CHECKING:
    from planish.evaluation.latency import LatencyReport


def bench(
    models: Sequence[str | Path],
    *,
    runtime: str = "auto",
    device: str | None = None,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 2.5,
) -> LatencyReport:
    """Time exported models side by side, each in its own process; give one twice to see this machine's noise.

    Args:
        models: Bundles, runs or .onnx files; the first is the baseline.
        runtime: Runtime to use; auto uses each bundle's own.
        device: Device that they run on: ssh://user@host:port/path/of/python; by default this machine. It needs Python 3.9 or later, numpy
            and the runtime.
        threads: Number of threads the runtime may use.
        batch: Batch size.
        seconds: Seconds of timing per model.

    Returns:
        Measurements and a verdict for each model.

    Raises:
        ModelError: there are fewer than two models, or one cannot be opened.
        DeviceError: the device cannot be reached.

    Example:
        $ planish bench runs/a/bundle runs/b/bundle --threads 1
        $ planish bench runs/a/bundle runs/b/bundle --device ssh://pi@raspberry.local
    """
    from planish.devices.device import using_device
    from planish.evaluation.latency import LatencySettings, measure_latency
    from planish.runs.open_model import open_model

    at_least(1, threads=threads, batch=batch)
    at_least(0.1, seconds=seconds)
    if len(models) < 2:
        raise ModelError(
            "there is only one model to time", "a speed is a ratio of two", "name two models; the same one twice shows this machine's noise"
        )
    names: list[str] = []
    for model in models:
        name, number = str(model), 2
        while name in names:
            name, number = f"{model} ({number})", number + 1
        names.append(name)
    settings = LatencySettings(threads, batch, seconds)
    with using_device(device):
        subjects = {n: open_model(m, runtime).subject(threads, batch) for n, m in zip(names, models, strict=True)}
        return measure_latency(subjects, names[0], settings)
