"""The first phase of a search: selecting the runtime and precision in which candidates are deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from planish.measurement import Measurement
from planish.plan import Plan
from planish.progress import note
from planish.search.choice import standard_error
from planish.search.state import ORIGINAL_SESSION, DeployedCandidate, RuntimeVariant, Search
from planish.search.time_estimates import session_seconds, writing_seconds

_SESSION_SHARE = 0.25
_OTHER_RUNTIME = 2.0  # time for another runtime, relative to the first: the model is exported and then converted
_ROUNDING_POINTS = 0.2  # INT8 drop of the original, less its standard error, above which some layers may stay in float


def deploy(search: Search) -> Search:
    """Measure the original in each runtime and precision; candidates are deployed in the fastest one within the accuracy limit.

    Returns:
        The search with ``fp32``, ``defaults``, ``deployment`` and ``mixed_precision`` set.
    """
    runner, original = search.runner, Plan()
    is_file = runner.original.module is None
    if not is_file:
        runner.outputs(original, "torch", "validation")
    floats = (*search.fp32, *search.defaults)
    runtimes = dict.fromkeys((*search.allowed, *(variant.runtime for variant in floats)))
    wanted = [*floats, *(RuntimeVariant("int8", runtime, is_file) for runtime in search.allowed)]
    variants = {variant: DeployedCandidate(original, variant) for runtime in runtimes for variant in wanted if variant.runtime == runtime}
    reference = next(iter(variants.values()))
    drops: dict[RuntimeVariant, Measurement] = {}
    begun = search.seconds_left
    for variant, shipped in list(variants.items()):
        if variant.runtime != reference.runtime and not _has_time_for_another(search, drops, begun):
            note(f"{variant.precision} in {variant.runtime} is left out: the budget leaves no time to export it and measure it")
            del variants[variant]
            continue

        def drop(shipped: DeployedCandidate = shipped) -> Measurement:
            return search.drop(shipped, reference)

        if shipped != reference and (why := runner.store.attempt(f"deploy:{variant}", "searching", drop)):
            note(f"{variant.precision} in {variant.runtime} is left out: {why}")
            del variants[variant]
        else:
            drops[variant] = drop()
    subjects = {str(variant): shipped for variant, shipped in variants.items()}
    at_most = _SESSION_SHARE * search.seconds_left
    found = search.latency(ORIGINAL_SESSION, subjects, str(reference.variant), seconds=0.6, launches=3, at_most=at_most).measurements
    for variant, shipped in variants.items():
        known = found[str(variant)] | {"size_bytes": runner.size(shipped.plan, variant.runtime), "drop_validation": drops[variant]}
        search.show(str(variant), shipped, "baseline" if variant in floats else "screened", known)

    def latency_ms(variant: RuntimeVariant) -> float:
        return found[str(variant)]["latency_ms"].value

    # Pruned networks lose about as much in INT8 as the original does: if INT8 alone exceeds the maximum drop here, it is not used for them.
    fit = [
        w for w in variants if w.runtime in search.allowed and drops[w].value <= max(search.goal.max_drop_points, 0.5 * search.goal.point)
    ]
    chosen = min(fit, key=latency_ms)
    fp32 = tuple(sorted((w for w in search.fp32 if w in variants), key=latency_ms))
    note(f"candidates ship as {chosen.precision} for {chosen.runtime}; the fastest fp32 runtime here is {fp32[0].runtime}")
    mixed = chosen.precision == "int8" and drops[chosen].value - standard_error(drops[chosen]) > _ROUNDING_POINTS * search.goal.point
    defaults = tuple(w for w in search.defaults if w in variants)
    return replace(search, fp32=fp32, defaults=defaults, deployment=chosen, mixed_precision=mixed)


def _has_time_for_another(search: Search, done: Mapping[RuntimeVariant, Measurement], begun: float) -> bool:
    """Whether there is time to export the original to another runtime (judging by the previous ones) and to time it in both sessions."""
    exporting = _OTHER_RUNTIME * (begun - search.seconds_left) / len(done)
    processes = session_seconds(search, len(done) + 1) + session_seconds(search, len(done) + 1)
    return search.seconds_left > exporting + processes + writing_seconds(search.journal.process_seconds)
