"""What parts of a search take, from what was timed of the original."""

from __future__ import annotations

from time import perf_counter

import torch

from planish.plan import Plan
from planish.search.state import Search, Shipped
from planish.task import SplitName

FINALISTS = 5  # that are measured side by side in the end
_MEASURING_SECONDS = 45.0  # that takes, and timing the chosen one once more, with the report
_TEST = 4.0  # times judging once: two models, their metrics by class, and their errors, on test
_BATCH = 32


def ship_seconds(search: Search) -> float:
    """Seconds that exporting a network and running it over validation take, from what they took for the original."""
    steps = search.deployment.steps().steps
    exports = sum(search.runner.store.seconds_of(f"artifact:{Plan(*steps[:count]).key}") for count in range(1, len(steps) + 1))
    return 1 + exports + forward_seconds(search, "validation")


def finish_seconds(search: Search, trials: int) -> float:
    """Seconds that the end of a run takes: as many finalists as there are, exported, measured and judged; then test."""
    runner, finalists = search.runner, min(FINALISTS, trials) + 1
    baseline = Shipped(Plan(), search.fp32[0])

    def judge() -> float:
        begun = perf_counter()
        runner.metrics(baseline.plan, baseline.runtime, "validation")
        return perf_counter() - begun

    judging = float(runner.store.once("seconds of judging", "searching", judge))
    test = _TEST * len(runner.task.split("test")) / len(runner.task.split("validation"))
    return _MEASURING_SECONDS + finalists * (ship_seconds(search) + judging) + test * judging


def forward_seconds(search: Search, split: SplitName) -> float:
    """Seconds that the original takes over a split: by the fastest of a few batches, as one disturbed moment must not decide the search."""
    runner = search.runner

    def fastest() -> float:
        spec, module = runner.original.input_spec, runner.original.module.eval()
        images = torch.randn(_BATCH, spec.channels, spec.height, spec.width, device=next(module.parameters()).device)
        seconds = []
        with torch.no_grad():
            for _ in range(5):
                begun = perf_counter()
                module(images)
                seconds.append(perf_counter() - begun)
        return min(seconds) / _BATCH

    return len(runner.task.split(split)) * float(runner.store.once("seconds an image", "searching", fastest))
