"""What an explanation says."""

from __future__ import annotations

from dataclasses import dataclass

from planish.explanation.findings.achievable_speed import AchievableSpeed
from planish.explanation.findings.finding import Alternative, Finding
from planish.explanation.signal_to_noise import LayerErrors


@dataclass(frozen=True)
class LayerRow:
    """One executed layer.

    Args:
        name: as the runtime calls it.
        source: the layer of the file that it computes; empty where that is not known.
        op: what was executed; ``kernel`` says by which code, where the runtime tells.
        kind: convolution, depthwise, linear, activation, conversion or other.
        ms: per call.
        share: of the call, 0 to 1.
        precision: of the arithmetic.
        shape: of the output.
        macs: per call.
        gops: achieved, billions of operations a second; None for layers that do not multiply matrices.
        reach_share: of what the machine reaches on a large matrix product in this precision; None where that is not known. Above 1 the
            peak was measured too low, and a note says so.
        conversions: nodes right before and after that quantize, dequantize, cast or reorder.
        conversions_ms: what they take.
        snr_db: signal-to-noise ratio of the output, see ``LayerErrors``; None where it was not measured.
        added_db: the same where only this output is rounded: the error that the layer adds.
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
    reach_share: float | None
    conversions: tuple[str, ...]
    conversions_ms: float
    snr_db: float | None
    added_db: float | None


@dataclass(frozen=True)
class Explanation:
    """Where time and error go, why, and what to do. ``str()`` gives the summary and the findings.

    Args:
        model: what was asked about.
        file: that was run.
        runtime: that ran it.
        threads: it computed with.
        batch: images in a batch.
        latency_ms: median call.
        cpu: the processor.
        reach: of the machine.
        layers: as executed, in order.
        kinds_ms: time by kind of layer; ``between layers`` is what no layer accounts for.
        findings: most costly first.
        errors: of quantization; None where none could be measured.
        preprocessing_ms: from image file to input, per image.
        alternatives: what was tried: other threads, batch, precision.
        notes: what was decided or could not be done.
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
