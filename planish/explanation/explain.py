"""Profile a model, measure alternative settings, and derive findings."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from planish.data.preprocessing import preprocess
from planish.devices.machine import cpu_model, instruction_sets
from planish.errors import ModelError
from planish.evaluation.latency import LatencySettings, Subject, measure_latency
from planish.explanation.findings.achievable_speed import AchievableSpeed, measure_peak_speed
from planish.explanation.findings.finders import find_all
from planish.explanation.findings.finding import Alternative, Evidence
from planish.explanation.model_file import ModelFile
from planish.explanation.opening import ExplainedModel, dynamic_size_notes, open_explained, open_reference
from planish.explanation.overflow import overflow_share
from planish.explanation.profiles.onnxruntime import profile_onnxruntime
from planish.explanation.profiles.openvino import profile_openvino
from planish.explanation.profiles.profile import LayerProfile, Profile
from planish.explanation.result import Explanation, LayerRow
from planish.explanation.signal_to_noise import LayerErrors, measure_errors
from planish.export.runtimes.registry import imports
from planish.progress import Stage

_PROFILERS = {"onnxruntime": profile_onnxruntime, "openvino": profile_openvino, "openvino-default": profile_openvino}
_TIMED_FILES = 16


def explain(
    target: str | Path,
    *,
    runtime: str = "auto",
    threads: int = 1,
    batch: int = 1,
    data: str | Path | None = None,
    reference: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Explanation:
    """Explain where a model's latency and quantization error come from, and how to reduce them.

    Args:
        target: a bundle, a run (its bundle), a saved model (its fp32 export), or any ``.onnx`` or ``.xml`` file.
        runtime: ``onnxruntime`` or ``openvino``; ``auto`` selects the bundle's runtime, or the one that matches the file's format.
        threads: number of threads for the runtime.
        batch: batch size.
        data: images, in any layout that the other commands accept; for a file that Planish did not write, a ``.npy`` file with an array of
            inputs. By default a bundle's golden samples are used; for other models the quantization error is then not measured.
        reference: the float model that the file was quantized from. Without it, only the rounding of activations counts as error.
        settings: runtime settings that override Planish's defaults, to reproduce how another program runs the file:
            ``{"INFERENCE_PRECISION_HINT": "bf16"}`` for OpenVINO, session configuration entries for ONNX Runtime.

    Raises:
        ModelError: the target cannot be explained.
        DataError: the images cannot be used.
        ExportError: the runtime cannot run the file.
    """
    if threads < 1 or batch < 1:
        raise ModelError(f"threads {threads}, batch {batch}", "both are at least 1")
    with Stage("profiling", 4) as stage:
        opened = open_explained(target, runtime=runtime, threads=threads, batch=batch, data=data, settings=settings or {})
        model = opened.model
        before = measure_peak_speed(min(threads, _usable_cores()))
        profile = _PROFILERS[model.runtime](model)
        stage.advance()
        reach = before.best(measure_peak_speed(before.threads))
        stage.advance()
        errors, notes = _errors(opened, reference)
        stage.advance()
        alternatives = _alternatives(profile, model)
        stage.advance()
    evidence = Evidence(
        profile=profile,
        reach=reach,
        x86=platform.machine() in ("x86_64", "AMD64"),
        instruction_sets=instruction_sets(),
        usable_cores=_usable_cores(),
        alternatives=alternatives,
        preprocessing_ms=_preprocessing_ms(opened),
        overflow_share=overflow_share(model.path) if model.path.suffix == ".onnx" else 0.0,
    )
    rows = tuple(_rows(profile, reach, errors))
    return Explanation(
        model=str(target),
        file=model.path.name,
        runtime=model.runtime,
        threads=threads,
        batch=batch,
        latency_ms=profile.latency_ms,
        cpu=cpu_model(),
        reach=reach,
        layers=rows,
        kinds_ms=_kinds(profile),
        findings=tuple(find_all(evidence)),
        errors=errors,
        preprocessing_ms=evidence.preprocessing_ms,
        alternatives=dict(alternatives),
        notes=(*opened.notes, *dynamic_size_notes(model), *notes, *_doubtful(rows)),
    )


def _rows(profile: Profile, reach: AchievableSpeed, errors: LayerErrors | None) -> list[LayerRow]:
    rows = []
    for layer in profile.layers:
        around = profile.conversions(layer) if layer.macs else []
        ms = profile.ms(layer)
        rows.append(
            LayerRow(
                name=layer.name,
                source=layer.source,
                op=layer.op,
                kernel=layer.kernel,
                kind=layer.kind,
                ms=ms,
                share=ms / profile.latency_ms,
                precision=layer.precision,
                shape=layer.shape,
                macs=layer.macs,
                gops=layer.gops if layer.macs and layer.ms > 0 else None,
                peak_share=_peak_share(layer, reach),
                conversions=tuple(x.op for x in around),
                conversions_ms=profile.total_ms(around),
                added_db=errors.added_db.get(layer.source) if errors and layer.source else None,
                snr_db=errors.layers_db.get(layer.source) if errors and layer.source else None,
            )
        )
    return rows


def _peak_share(layer: LayerProfile, reach: AchievableSpeed) -> float | None:
    """Return a layer's speed as a share of the peak; None if the peak is unknown, or for Winograd kernels, whose real MACs are fewer."""
    peak = reach.gops(layer.precision)
    return layer.gops / peak if peak and layer.macs and layer.ms > 0 and "wino" not in layer.kernel.lower() else None


def _doubtful(rows: Sequence[LayerRow]) -> list[str]:
    """Return a note if any layer is faster than the measured peak speed of this machine."""
    beyond = [row.peak_share for row in rows if row.peak_share is not None and row.peak_share > 1]
    if not beyond:
        return []
    return [
        f"reach is unreliable: {len(beyond)} layers come to more than 100 % of it, up to {100 * max(beyond):.0f} %; the machine was busy "
        "while its peak was measured, so explain again when it is idle"
    ]


def _kinds(profile: Profile) -> dict[str, float]:
    kinds: dict[str, float] = {}
    for layer in profile.layers:
        kinds[layer.kind] = kinds.get(layer.kind, 0.0) + profile.ms(layer)
    rest = profile.latency_ms - sum(kinds.values())
    ordered = dict(sorted(kinds.items(), key=lambda item: -item[1]))
    return ordered | ({"between layers": rest} if rest > 0 else {})


def _errors(opened: ExplainedModel, reference: str | Path | None) -> tuple[LayerErrors | None, list[str]]:
    if opened.images is None:
        given = ["no error was measured: that takes images; give --data"]
        return None, given if reference is not None or _is_quantized(opened.model) else []
    name, shape, _ = opened.model.inputs()[0]
    size = shape[0]
    images = opened.images if len(opened.images) >= size else np.concatenate([opened.images] * -(-size // len(opened.images)))
    batches = [{name: np.ascontiguousarray(images[i : i + size])} for i in range(0, len(images) - size + 1, size)]
    found = measure_errors(opened.model, batches, None if reference is None else open_reference(reference))
    return found, []


def _is_quantized(model: ModelFile) -> bool:
    """Guess from the file's bytes whether the model is quantized; only used to decide whether to print a note."""
    data = model.path.read_bytes()
    return b"DequantizeLinear" in data or b"FakeQuantize" in data


def _preprocessing_ms(opened: ExplainedModel) -> float | None:
    """Return the median preprocessing time of one image file."""
    if not opened.image_files or opened.input_spec is None or opened.preprocessing is None:
        return None
    times = []
    for _ in range(3):
        for file in opened.image_files[:_TIMED_FILES]:
            begun = time.perf_counter()
            preprocess(file, opened.input_spec, opened.preprocessing)
            times.append(time.perf_counter() - begun)
    return float(np.median(times)) * 1e3


def _alternatives(profile: Profile, model: ModelFile) -> dict[str, Alternative]:
    """Measure settings that could be faster than the requested ones, interleaved with them."""
    tried: dict[str, ModelFile] = {}
    if any(x.precision == "bf16" for x in profile.layers):
        tried["f32"] = model.with_settings(settings={**model.settings, "INFERENCE_PRECISION_HINT": "f32"})
    if model.threads > 1:
        tried["1 thread"] = model.with_settings(threads=1)
        if 1 < _usable_cores() < model.threads:
            tried[f"{_usable_cores()} threads"] = model.with_settings(threads=_usable_cores())
    if model.batch > 1 and _any_batch(model):
        tried["batch 1"] = model.with_settings(batch=1)
    if not tried:
        return {}
    subjects = {name: _subject(m) for name, m in {"asked": model, **tried}.items()}
    report = measure_latency(subjects, "asked", LatencySettings(model.threads, seconds=1.0, launches=3))
    asked = report.measurements["asked"]["latency_ms"].value
    return {name: Alternative(report.measurements[name]["latency_ms"].value, report.verdicts[name], asked) for name in tried}


def _any_batch(model: ModelFile) -> bool:
    """Whether the file also accepts a batch of one."""
    try:
        one = model.with_settings(batch=1)
        one.load()(one.random_inputs())
    except Exception:  # the batch size is fixed; each runtime raises a different exception
        return False
    return True


def _subject(model: ModelFile) -> Subject:
    arguments = {
        "path": str(model.path), "runtime": model.runtime, "threads": model.threads, "batch": model.batch, "settings": dict(model.settings),
        "sides": list(model.sides),
    }  # fmt: skip
    cue = np.zeros((1, 1, 1, 1), dtype=np.uint8)
    return Subject("planish.explanation.model_file:load_for_bench", arguments, cue, model.runtime, imports=imports(model.runtime))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
