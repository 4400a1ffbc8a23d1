"""Finders for settings: precision, threads, batch size and preprocessing."""

from __future__ import annotations

from planish.explanation.findings.finding import Evidence, Finder, Finding, slowest

_CLEARLY = 1.1  # ratio of latencies that counts as different; repeated medians of the same file differ by less


def bf16_hint(evidence: Evidence) -> Finding | None:
    """OpenVINO running layers in bf16 where fp32 is faster."""
    profile, other = evidence.profile, evidence.alternatives.get("f32")
    layers = [x for x in profile.matrix_layers if x.precision == "bf16"]
    if not layers or other is None or other.verdict != "faster":
        return None
    return Finding(
        "bf16_hint",
        f"{len(layers)} layers run in bf16; in fp32 a call takes {other.latency_ms:.3g} ms instead of {other.requested_ms:.3g} ms",
        "OpenVINO takes bf16 wherever the processor knows it, unless told otherwise; on some processors its peak is no higher than that of "
        "fp32, and everywhere it is less exact",
        "set INFERENCE_PRECISION_HINT=f32, as Planish's runtime openvino does",
        other.requested_ms - other.latency_ms,
        slowest(profile, layers),
    )


def threads(evidence: Evidence) -> Finding | None:
    """More threads than are useful."""
    profile = evidence.profile
    too_many = profile.threads > evidence.usable_cores
    better = {
        name: x
        for name, x in evidence.alternatives.items()
        # threads that share a core make latencies so noisy that no confidence interval excludes a ratio of 1, but the cause is known
        if name.endswith(("thread", "threads")) and (x.verdict == "faster" or (too_many and x.requested_ms > _CLEARLY * x.latency_ms))
    }
    if not better:
        return None
    name, best = min(better.items(), key=lambda item: item[1].latency_ms)
    return Finding(
        "threads",
        f"with {profile.threads} threads a call takes {best.requested_ms:.3g} ms, with {name} {best.latency_ms:.3g} ms",
        f"this process may use {evidence.usable_cores} cores, and threads that share one wait for each other"
        if too_many
        else "the layers are so small that waking and waiting for threads takes longer than the work they share",
        f"run it with {name}; use the other cores for other images",
        best.requested_ms - best.latency_ms,
    )


def batch(evidence: Evidence) -> Finding | None:
    """A batch that is slower than the same images one at a time."""
    profile, one = evidence.profile, evidence.alternatives.get("batch 1")
    if profile.batch <= 1 or one is None or one.requested_ms <= _CLEARLY * profile.batch * one.latency_ms:
        return None
    apart = profile.batch * one.latency_ms
    return Finding(
        "batch",
        f"a batch of {profile.batch} takes {one.requested_ms:.3g} ms, its images one by one {apart:.3g} ms",
        "the maps of a batch do not fit the processor's caches any more, so layers wait for memory, and a smaller or integer "
        "model gains less",
        "feed images one by one, or in smaller batches on several cores",
        one.requested_ms - apart,
    )


def preprocessing(evidence: Evidence) -> Finding | None:
    """Decoding and resizing that takes longer than the model."""
    profile, each = evidence.profile, evidence.preprocessing_ms
    if each is None or each * profile.batch <= profile.latency_ms:
        return None
    return Finding(
        "preprocessing",
        f"decoding and resizing an image takes {each:.3g} ms, the model {profile.latency_ms / profile.batch:.3g} ms",
        "however fast the model becomes, a user still waits for the image",
        "store or send images near the model's input size, or decode in other threads while the model runs",
        each * profile.batch - profile.latency_ms,
    )


FINDERS: tuple[Finder, ...] = (bf16_hint, threads, batch, preprocessing)
