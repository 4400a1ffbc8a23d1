"""Result types of an explanation."""

from __future__ import annotations

from dataclasses import dataclass

from planish.explanation.findings.achievable_speed import AchievableSpeed
from planish.explanation.findings.finding import Alternative, Finding
from planish.explanation.signal_to_noise import LayerErrors


@dataclass(frozen=True)
class LayerRow:
    """One executed layer.

    Args:
        name: the runtime's name of the layer.
        source: name of the corresponding layer in the file; empty if unknown.
        op: the executed operation.
        kernel: its implementation, if the runtime reports it.
        kind: convolution, depthwise, linear, activation, conversion or other.
        ms: time per call.
        share: share of the whole call's time, 0 to 1.
        precision: of the arithmetic.
        shape: of the output.
        macs: per call.
        gops: achieved speed in billions of operations per second; None for layers without MACs.
        peak_share: ``gops`` as a share of this machine's speed on a large matrix product in this precision; None if unknown. Above 1,
            the peak was measured too low; the explanation's notes report this.
        conversions: adjacent nodes that quantize, dequantize, cast or reorder.
        conversions_ms: time of these nodes per call.
        snr_db: signal-to-noise ratio of the output, see ``LayerErrors``; None if not measured.
        added_db: signal-to-noise ratio if only this output is rounded: the error that this layer adds.
    """

    name: str
    source: str
    op: str
    kernel: str
    kind: str
    ms: float
    share: float
    precision: str
    shape: tuple[int, ...]
    macs: int
    gops: float | None
    peak_share: float | None
    conversions: tuple[str, ...]
    conversions_ms: float
    snr_db: float | None
    added_db: float | None


@dataclass(frozen=True)
class Explanation:
    """Where a model's latency and error come from, and how to reduce them. ``str()`` gives the summary and the findings.

    Args:
        model: the target, as given by the user.
        file: name of the model file that was run.
        runtime: that executed it.
        threads: number of threads.
        batch: batch size.
        latency_ms: median latency of a call.
        cpu: model name of the processor.
        reach: peak speed measured on this machine.
        layers: in order of execution.
        kinds_ms: time by kind of layer; ``between layers`` is time that belongs to no layer.
        findings: wrong results first, then by cost in descending order.
        errors: quantization errors; None if not measured.
        preprocessing_ms: from image file to model input, per image; None if not measured.
        alternatives: measurements with other numbers of threads, batch size or precision.
        notes: decisions made automatically, and what could not be measured.
    """

    model: str
    file: str
    runtime: str
    threads: int
    batch: int
    latency_ms: float
    cpu: str
    reach: AchievableSpeed
    layers: tuple[LayerRow, ...]
    kinds_ms: dict[str, float]
    findings: tuple[Finding, ...]
    errors: LayerErrors | None
    preprocessing_ms: float | None
    alternatives: dict[str, Alternative]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        matrix = [x for x in self.layers if x.macs]
        counts = {p: sum(x.precision == p for x in matrix) for p in dict.fromkeys(x.precision for x in matrix)}
        run_in = ", ".join(f"{n} in {p}" for p, n in counts.items())
        return (
            f"{self.latency_ms:.3g} ms a call, {self.threads} {'thread' if self.threads == 1 else 'threads'}, batch {self.batch}; "
            f"{len(matrix)} convolution and linear layers: {run_in or 'none'}"
        )

    def __str__(self) -> str:
        lines = [f"{self.model} in {self.runtime}: {self.summary}"]
        for number, finding in enumerate(self.findings, 1):
            cost = "wrong results" if finding.wrong_results else f"{finding.cost_ms:.3g} ms"
            lines += [f"{number}. {finding.what} ({cost})", f"   why: {finding.why}", f"   fix: {finding.fix}"]
        return "\n".join(lines if self.findings else [*lines, "no finding"])
