"""Latency of all contestants in one interleaved run, accuracy on the same test images, and which peer is the one to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.contestants import PLANISH, Contestant
from benchmarks.peers.finished import Finished
from planish.evaluation.latency import LatencyReport, LatencySettings, measure_latency, verdict
from planish.evaluation.size import size_bytes
from planish.evaluation.statistics.intervals import paired_difference, proportion
from planish.measurement import Measurement
from planish.search.choice import choose_candidate
from planish.search.result import CandidateResult
from planish.task import SplitName


@dataclass(frozen=True)
class Compared:
    """What was found.

    Args:
        contestants: in the order of the table.
        measurements: by key and name: ``accuracy``, ``drop``, ``drop_validation``, ``latency_ms``,
            ``latency_ratio_onnxruntime`` and ``latency_ratio_openvino`` (fp32 original / this), ``size_bytes``.
        latency: the interleaved run.
        best: key of the peer that Planish's rule of choice takes, None where no peer is within the allowed drop on validation.
        sentence: Planish against that peer.
    """

    contestants: tuple[Contestant, ...]
    measurements: dict[str, dict[str, Measurement]]
    latency: LatencyReport
    best: str | None
    sentence: str


def compare(run: Finished, everyone: Sequence[Contestant], seconds: float) -> Compared:
    """Measure, choose the best peer as Planish chooses among its candidates, and only then read test.

    Args:
        run: whose goal and original count.
        everyone: the originals, Planish's and the peers.
        seconds: of timing for each.
    """
    by_key = {c.key: c for c in everyone}
    baseline = f"original@{run.result.baseline.runtime}"
    subjects = {key: c.model.subject(run.threads, run.batch) for key, c in by_key.items()}
    latency = measure_latency(subjects, baseline, LatencySettings(run.threads, run.batch, seconds))
    before = by_key[baseline].scores(run, "validation")
    candidates = {key: _candidate(run, c, before, latency) for key, c in by_key.items()}
    chosen = choose_candidate([candidates[c.key] for c in everyone if c.is_peer], candidates[baseline], run.result.goal)
    best = chosen.key if by_key[chosen.key].is_peer else None

    tested = {key: c.scores(run, "test") for key, c in by_key.items()}
    measurements = {}
    for key, candidate in candidates.items():
        right = tested[key]
        low, high = proportion(int(right.sum()), len(right))
        accuracy = Measurement("accuracy", 100 * float(right.mean()), "%", len(right), True, 100 * low, 100 * high)
        ratios = {f"latency_ratio_{r}": latency.ratio(f"original@{r}", key) for r in ("onnxruntime", "openvino")}
        drop = _drop(tested[baseline], right, "test")
        measurements[key] = candidate.measurements | ratios | {"accuracy": accuracy, "drop": drop}
    sentence = _sentence(run, by_key, best, tested, latency)
    return Compared(tuple(everyone), measurements, latency, best, sentence)


def _drop(before: Any, after: Any, split: SplitName) -> Measurement:
    value, low, high = paired_difference(before, after)
    name = "drop" if split == "test" else f"drop_{split}"
    return Measurement(name, 100 * value, "points", len(after), False, 100 * low, 100 * high)


def _candidate(run: Finished, contestant: Contestant, before: Any, latency: LatencyReport) -> CandidateResult:
    """A contestant as Planish's own choice looks at it."""
    drop = _drop(before, contestant.scores(run, "validation"), "validation")
    known = latency.measurements[contestant.key] | {
        "drop_validation": drop,
        "size_bytes": size_bytes(contestant.model.files),
    }
    return CandidateResult(contestant.key, [], contestant.done, contestant.model.runtime, "measured", known)


def _sentence(run: Finished, by_key: dict[str, Contestant], best: str | None, tested: dict[str, Any], latency: LatencyReport) -> str:
    """Planish against the best peer, in words."""
    allowed = f"the allowed drop of {run.result.goal.max_drop_points:g} points on validation"
    if best is None:
        return f"No peer is within {allowed}, so Planish's model is compared with none."
    ratio, peer = latency.ratio(best, PLANISH), by_key[best]
    mine, its = (latency.measurements[key]["latency_ms"] for key in (PLANISH, best))
    speed = {
        "faster": f"Planish's is {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] as fast",
        "slower": f"Planish's is slower, {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] as fast",
        "no difference": f"that is no difference ({ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}])",
    }[verdict(ratio, latency.noise_floor)]
    gain = _drop(tested[PLANISH], tested[best], "test")
    assert gain.low is not None
    assert gain.high is not None
    sure = "" if gain.low > 0 or gain.high < 0 else ", which is no difference"
    return (
        f"A call takes {mine.value:.3f} ms with Planish's model and {its.value:.3f} ms with the peer the same rule takes within {allowed}"
        f" ({peer.done}, {peer.model.runtime}): {speed}; Planish's test accuracy is {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] "
        f"points above the peer's{sure}."
    )
