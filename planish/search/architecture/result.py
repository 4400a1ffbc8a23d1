"""The result of an architecture search."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import field
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from scipy import stats

from planish.evaluation.statistics.intervals import NORMAL_95
from planish.files.atomic import read_result
from planish.measurement import Measurement
from planish.runs.record import RunRecord
from planish.search.architecture.proxies import REFERENCES

_STRICT = ConfigDict(extra="forbid")
_LEAST_NETWORKS = 4  # for a rank correlation with an interval


@dataclass(frozen=True, config=_STRICT)
class SearchCandidate:
    """A network that was exported and timed.

    Args:
        key: name and input size, ``NAME@SIZE``.
        name: name of the network, as ``planish train --model`` takes it.
        image_size: input size in pixels.
        searched: whether it is of the search space; otherwise it is a known network to compare with.
        chosen_by: the proxy that ranked it highest, or ``random``; empty for a known network.
        parameters: number of parameters.
        macs: multiply-accumulate operations for one image.
        proxies: scores of the untrained network, by proxy.
        predicted_ms: its latency as predicted before it was built; None for a known network.
        latency: latency of the exported file.
        size: size of the exported file.
        accuracies: accuracy on validation after each round of training; each round is longer than the one before and begins anew.
        epochs: epochs of the last one.
        left_out: why it was not trained; empty if it was.
    """

    key: str
    name: str
    image_size: int
    searched: bool
    chosen_by: str
    parameters: int
    macs: int
    proxies: dict[str, float] = Field(default_factory=dict)
    predicted_ms: float | None = None
    latency: Measurement | None = None
    size: Measurement | None = None
    accuracies: list[Measurement] = field(default_factory=list)
    epochs: float = 0.0
    left_out: str = ""

    @property
    def accuracy(self) -> float:
        """Accuracy after the last round; minus infinity if it was not trained."""
        return self.accuracies[-1].value if self.accuracies else -math.inf


@dataclass(frozen=True, config=_STRICT)
class ProxyRanking:
    """How well a proxy ranked the networks that were trained.

    Args:
        proxy: name of the proxy.
        reference: where it was proposed.
        correlation: Spearman's rank correlation with the accuracy after the first round, in which all are trained for the same time.
    """

    proxy: str
    reference: str
    correlation: Measurement


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ArchitectureSearch(RunRecord):
    """A network that was searched for these images, and what it was chosen from; ``search.json``.

    Args:
        runtime: runtime in which the files were timed.
        precision: precision of the files: that in which networks of the space are faster.
        threads: number of threads of the runtime.
        batch: batch size.
        max_latency_ms: maximum latency of one batch.
        max_size_bytes: maximum size of the file; None for none.
        sampled: number of networks whose latency was predicted.
        within: number of those predicted to be within the limits.
        layers_timed: number of layers that were timed for the prediction.
        prediction_error: median error of the predicted latency, in % of the measured one; of networks that the prediction was not fitted
            to.
        candidates: networks that were exported, the best first: those trained longest by accuracy, then the others.
        as_good: keys of networks whose difference to the first is no difference on these images, fastest first.
        rankings: how well each proxy ranked the trained networks of the space, the best first; empty if too few were trained.
        model: name of the network that was trained to the end.
        image_size: its input size in pixels.
        epochs: epochs of its last training.
        files: measurements of its exported files by precision: ``accuracy`` on test, ``latency_ms``, ``peak_memory_bytes``, ``size_bytes``.
        beside: latency of known networks in the same timing session, by key.
        noise_floor: of that session, see ``LatencyReport``.
    """

    data: str
    runtime: str
    precision: str
    threads: int
    batch: int
    max_latency_ms: float
    max_size_bytes: int | None
    sampled: int
    within: int
    layers_timed: int
    prediction_error: Measurement
    candidates: list[SearchCandidate]
    as_good: list[str]
    rankings: list[ProxyRanking]
    model: str
    image_size: int
    epochs: float
    files: dict[str, dict[str, Measurement]]
    beside: dict[str, Measurement]
    noise_floor: Measurement

    @classmethod
    def load(cls, path: Path) -> ArchitectureSearch:
        """Read ``search.json``; raises ``BundleError`` if the file is not valid."""
        return read_result(path, ArchitectureSearch)


def rank_correlation(scores: Sequence[float], accuracies: Sequence[float]) -> Measurement | None:
    """Return Spearman's rank correlation with the interval of Bonett and Wright; None for fewer than four networks or equal values.

    D. G. Bonett and T. A. Wright, Sample size requirements for estimating Pearson, Kendall and Spearman correlations, Psychometrika 2000.

    Args:
        scores: scores of the networks by a proxy.
        accuracies: their accuracies.
    """
    count = len(scores)
    if count < _LEAST_NETWORKS or len(set(scores)) < 2 or len(set(accuracies)) < 2:
        return None
    value = float(stats.spearmanr(scores, accuracies).statistic)
    middle, half = np.arctanh(np.clip(value, -0.999, 0.999)), NORMAL_95 * math.sqrt((1 + value**2 / 2) / (count - 3))
    low, high = float(np.tanh(middle - half)), float(np.tanh(middle + half))
    return Measurement("rank_correlation", value, "", count, True, min(low, value), max(high, value))


def rankings(candidates: Sequence[SearchCandidate]) -> list[ProxyRanking]:
    """Return how well each proxy ranked the trained networks of the space, the best first; proxies without a correlation are omitted."""
    trained = [one for one in candidates if one.searched and one.accuracies]
    found = []
    for proxy, reference in REFERENCES.items():
        known = [one for one in trained if proxy in one.proxies]
        correlation = rank_correlation([one.proxies[proxy] for one in known], [one.accuracies[0].value for one in known])
        if correlation is not None:
            found.append(ProxyRanking(proxy, reference, correlation))
    return sorted(found, key=lambda one: -one.correlation.value)


def prediction_error(candidates: Sequence[SearchCandidate], fitted_to: Collection[str]) -> Measurement:
    """Return the median error of predicted latencies, in percent of the measured ones.

    Args:
        candidates: networks with both.
        fitted_to: keys of networks that the prediction was fitted to, which do not count.
    """
    pairs = [(one.predicted_ms, one.latency.value) for one in candidates if one.predicted_ms is not None and one.latency is not None
             and one.key not in fitted_to]  # fmt: skip
    errors = [100 * abs(predicted / measured - 1) for predicted, measured in pairs]
    return Measurement("latency_prediction_error", float(np.median(errors)) if errors else 0.0, "%", len(errors), False)
