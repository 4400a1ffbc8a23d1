"""The model card of a bundle: the README.md of its repository on the Hugging Face Hub, with metadata that the Hub reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from planish.export.runtimes.registry import registered
from planish.measurement import Measurement, in_words
from planish.printable import printable
from planish.report import formatting as words
from planish.tasks.readme_text import lines

if TYPE_CHECKING:
    from planish.export.bundle.folder import Bundle
    from planish.hub.address import HubAddress
    from planish.search.result import Result

PIPELINES = {
    "classification": "image-classification",
    "detection": "object-detection",
    "instance": "image-segmentation",
    "semantic": "image-segmentation",
}
# Measurements of a bundle that are not metrics of its predictions on test.
_OF_THE_FILE = ("latency_ms", "latency_p95_ms", "size_bytes", "peak_memory_bytes", "macs")
_COMPARED = ("latency_ratio", "drop", "metric_validation", "drop_validation", "drop_risk")
_MOST_CLASSES, _WEAKEST = 100, 3


@dataclass(frozen=True)
class CardSettings:
    """What the owner of the model adds to its card.

    Args:
        license: licence of the weights as the Hub writes it: ``apache-2.0``; None if it is not stated.
        intended_use: text of the section of that name; None for one made from the task and the classes.
    """

    license: str | None = None
    intended_use: str | None = None


def model_card(bundle: Bundle, result: Result | None, address: HubAddress, settings: CardSettings) -> str:
    """Return the card of a bundle as Markdown, with the metadata that the Hub reads as YAML at its head.

    Args:
        bundle: the bundle.
        result: result of the run that made it; None if there is none.
        address: where the bundle is published.
        settings: what the owner adds.
    """
    from huggingface_hub import ModelCard, ModelCardData

    name, metrics = address.repository.partition("/")[2], metrics_on_test(bundle)
    data = ModelCardData(
        license=settings.license,
        library_name="planish",
        pipeline_tag=PIPELINES.get(bundle.task),
        tags=[*dict.fromkeys(("planish", bundle.format, bundle.runtime, *_techniques(bundle)))],
        metrics=[m.name for m in metrics] or None,
        model_name=name,
        eval_results=[_eval_result(bundle, result, m) for m in metrics] or None,
    )
    if data.eval_results is None:  # the Hub takes a name only together with results
        data.pop("model_name")
    text = "\n".join(_sections(bundle, result, address, settings))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def metrics_on_test(bundle: Bundle) -> list[Measurement]:
    """Return the metrics of a bundle's predictions on test, the primary one first; empty if it was not evaluated."""
    others = {*_OF_THE_FILE, *_COMPARED}
    return [m for name, m in bundle.measurements.items() if name not in others and math.isfinite(m.value)]


def _techniques(bundle: Bundle) -> list[str]:
    return [step.technique.replace("_", "-") for step in bundle.lineage.steps if not step.technique.startswith("to_")]


def _eval_result(bundle: Bundle, result: Result | None, measurement: Measurement) -> Any:
    from huggingface_hub import EvalResult

    data = _data_name(result)
    kind = re.sub(r"[^a-z0-9._-]+", "-", data.lower()).strip("-") or "images"
    interval = words.interval(measurement)
    detail = f"95% interval {interval}" if interval else measurement.unit
    return EvalResult(
        task_type=PIPELINES.get(bundle.task, "other"),
        dataset_type=kind,
        dataset_name=data,
        dataset_split="test",
        metric_type=measurement.name,
        metric_name=", ".join(filter(None, (words.title(measurement.name), detail))),
        metric_value=round(measurement.value, 4),
    )


def _data_name(result: Result | None) -> str:
    return PurePath(str(result.data.get("name") or "")).name or "own images" if result else "own images"


def _sections(bundle: Bundle, result: Result | None, address: HubAddress, settings: CardSettings) -> Iterator[str]:
    spec, name = bundle.input_spec, address.repository.partition("/")[2]
    yield f"# {name}\n"
    yield (
        f"A {lines(bundle.task).what} of {len(bundle.class_names)} classes, made with Planish from {_source(bundle)}."
        + (f" {_plain(result.verdict)}" if result else "")
        + "\n"
    )
    yield "| | |\n|---|---|"
    yield f"| model | `bundle/{bundle.files[0]}` ({bundle.format}), runs in {words.runtime_name(bundle.runtime)} |"
    yield f"| input | {spec.width} × {spec.height} pixels, {'RGB' if spec.channels == 3 else 'grey'}; the file normalises them itself |"
    yield f"| classes | {_classes(bundle.class_names)} |"
    yield f"| made | {bundle.created[:10]}, Planish {bundle.versions.get('planish', '')} |\n"
    yield from _quality(bundle, result)
    yield from _speed(bundle, result)
    yield from _lineage(bundle)
    yield "## Intended use\n"
    yield (settings.intended_use or _usual_use(bundle, result)).strip() + "\n"
    yield from _limits(bundle, result)
    yield from _use(address, bundle)
    yield from _licence(bundle, settings)


def _quality(bundle: Bundle, result: Result | None) -> Iterator[str]:
    metrics = metrics_on_test(bundle)
    yield "## Metrics\n"
    if not metrics:
        yield "This bundle was not evaluated on test images.\n"
        return
    images = f"{metrics[0].n:,} test images of {_plain(_data_name(result))}"
    yield f"On {images}, which were used neither for training nor for choosing the model.\n"
    yield from _table([(words.title(m.name), m) for m in metrics])
    if drop := bundle.measurements.get("drop"):
        yield (
            f"\nAgainst the original model on the same images: {words.change_in_unit(drop)} ({words.change_word(drop)}; "
            f"95% interval of the change {words.change_interval(drop)})."
        )
    yield ""


def _speed(bundle: Bundle, result: Result | None) -> Iterator[str]:
    found = [(in_words(name.removesuffix("_ms").removesuffix("_bytes")), bundle.measurements.get(name)) for name in _OF_THE_FILE]
    rows = [(title, m) for title, m in found if m is not None]
    yield "## Speed and size\n"
    latency = bundle.measurements.get("latency_ms")
    if latency is None:
        yield "The latency of this bundle was not measured; `planish verify` measures it on your machine.\n"
    else:
        device = latency.device or (str(result.machine.get("cpu", "")) if result else "") or "a machine that is not named"
        threads = f"{bundle.threads} thread{'s' * (bundle.threads > 1)}"
        yield f"Measured on {_plain(device)} with {words.runtime_name(bundle.runtime)}, {threads}, batch size {bundle.batch_size}.\n"
    if rows:
        yield from _table(rows)
        yield ""
    for runtime, ratio in (result.latency_ratios if result else {}).items():
        yield f"- {words.show(ratio)} as fast as the original in {words.runtime_name(runtime)} (95% interval {words.interval(ratio)})"
    yield ""


def _lineage(bundle: Bundle) -> Iterator[str]:
    yield "## How it was made\n"
    yield f"1. {_source(bundle)}"
    for number, step in enumerate(bundle.lineage.steps, 2):
        yield f"{number}. `{step.technique}`" + (f": {_plain(step.notes)}" if step.notes else "")
    yield "\n`bundle/bundle.json` holds all hyper-parameters, measurements and versions.\n"


def _usual_use(bundle: Bundle, result: Result | None) -> str:
    what = {"classification": "Classifying images", "semantic": "Segmenting images"}.get(bundle.task, "Finding objects in images")
    what = what if bundle.task in PIPELINES else "Predictions for images"
    return f"{what} like those of {_plain(_data_name(result))}: the same kind of camera, scene and classes. The owner states no other use."


def _limits(bundle: Bundle, result: Result | None) -> Iterator[str]:
    yield "## Limits\n"
    if bundle.task == "classification":
        yield "- An image that shows none of the classes is still given one of them."
    yield "- The metrics hold for images like the test images. With other cameras, places or times they must be measured again."
    yield "- The latency holds for the device, the runtime and the threads above; `planish verify` measures it on another machine."
    if result and not result.goal_met:
        yield f"- The goal of the run was not met: {_plain(result.shortfall)}"
    if result and len(result.per_class) > _WEAKEST:
        weakest = sorted((c for c in result.per_class if math.isfinite(c.chosen.value)), key=lambda c: c.chosen.value)[:_WEAKEST]
        named = ", ".join(f"{_plain(c.name)} ({words.show(c.chosen)}, 95% interval {words.interval(c.chosen)})" for c in weakest)
        yield f"- Weakest classes by {in_words(result.per_class[0].chosen.name)} on test: {named}."
    if bundle.runtime in registered() and (danger := registered()[bundle.runtime].danger):
        yield f"- Open the model only if you trust its owner: {danger}."
    yield ""


def _use(address: HubAddress, bundle: Bundle) -> Iterator[str]:
    name = address.repository.partition("/")[2]
    yield "## Use it\n"
    yield f"```sh\npip install 'planish[hub,serve]'\nplanish verify {address}\nplanish pull {address} {name}\nplanish serve {name}\n```\n"
    yield f"`verify` checks the hashes, reproduces {len(bundle.golden_samples)} golden samples, and measures the latency on your machine."
    yield "`bundle/README.md` has the lines of Python that run the model without Planish.\n"


def _licence(bundle: Bundle, settings: CardSettings) -> Iterator[str]:
    yield "## Licence\n"
    yield f"The weights: `{_plain(settings.license)}`." if settings.license else "The owner states no licence of the weights."
    source = bundle.lineage.source.name
    if stated := _licence_of_pretrained(source):
        yield f"timm states the licence `{stated}` for pretrained weights of `{source}`, should training have started from these."


def _licence_of_pretrained(source: str) -> str:
    if not source.startswith("timm:"):
        return ""
    from planish.models.weights.pretrained import licence_of

    try:
        return licence_of(source)
    except ImportError:  # a machine that only serves has no timm
        return ""


def _source(bundle: Bundle) -> str:
    """The network that the model started from; of a file only its name, without the folders of the machine that it lay on."""
    name = bundle.lineage.source.name
    return f"`{PurePath(name).name if re.search(r'[.](py:|onnx)', name) else name}`"


def _classes(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
    return ", ".join(_plain(name) for name in names[:_MOST_CLASSES]) + more


def _table(rows: Sequence[tuple[str, Measurement]]) -> Iterator[str]:
    yield "| | value | 95% interval | n |\n|---|---:|---:|---:|"
    for title, m in rows:
        yield f"| {_plain(title)} | {words.show(m)} | {words.interval(m)} | {m.n:,} |"


def _plain(text: str) -> str:
    """Text without line breaks and with nothing that Markdown or HTML would interpret."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(printable(text).split())).replace("<", "&lt;")
