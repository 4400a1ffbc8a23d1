"""``evaluation.html``: the report of an evaluation, in one file that works offline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from planish.evaluation.drawing import LEAST_SCORE
from planish.evaluation.metrics.calibration import reliability
from planish.evaluation.metrics.classification import confusion_matrix, probabilities
from planish.evaluation.metrics.corruptions import CORRUPTIONS
from planish.evaluation.metrics.thresholds import precision_by_coverage, top_scores
from planish.files.reading import read_text
from planish.measurement import Measurement, Metric
from planish.report import formatting as words
from planish.report.pages import error_table as errors
from planish.report.pages.html import filled, write_page
from planish.report.pages.run import facts
from planish.report.plots import run as plots
from planish.report.plots.confusion import FEW_CLASSES, heat_map, shades
from planish.report.plots.evaluation import coverage_curve, reliability_diagram
from planish.report.plots.pictures import read_pictures, shown
from planish.report.plots.thumbnails import mistakes, sheet_uri
from planish.report.recomputation.classifier import classifier
from planish.report.recomputation.run_folder import read_history
from planish.runs.evaluation import Evaluation, Predicted, Scored, load_evaluation

_UNKNOWN = 100.0  # ratio of the ends of a temperature's confidence interval from which the temperature counts as undetermined
_NOTHING = 0.005  # tolerance of a mean of scores: points, or a share of a metric in another unit
_PROMISE = 95.0  # target precision in percent that is shown in the summary tiles, if it was evaluated


def write_evaluation(folder: Path) -> Path:
    """Write ``evaluation.html`` into a folder.

    Args:
        folder: with ``evaluation.json`` and ``evaluation.npz``; ``pictures.npz``, and ``history.json``, ``augmented.png`` and
            ``recipe.yaml`` of a training, are shown if they exist.

    Returns:
        Path of the page.

    Raises:
        BundleError: a file is missing or damaged.
    """
    found, predicted = load_evaluation(folder)
    primary = next(iter(found.metrics))
    recipe = folder / "recipe.yaml"
    page = filled(
        "evaluation.html.jinja",
        found=found,
        primary=primary,
        warning=_warning(found, predicted),
        said=None if isinstance(predicted, Scored) else _said(found, predicted),
        least_score=LEAST_SCORE,
        pictures=shown(read_pictures(folder / "pictures.npz", len(predicted.keys)), predicted.keys, Metric.of(found.metrics[primary])),
        errors=errors.of_one(found.metrics),
        errors_metric=errors.counted_in(primary, found.metrics),
        corrupted=_corrupted(found),
        training=plots.training(read_history(folder / "history.json"), Metric.of(found.metrics[primary])),
        sheet=sheet_uri(folder / "augmented.png"),
        recipe=read_text(recipe, errors="replace") if recipe.is_file() else "",
        machine=facts(found.machine),
    )
    return write_page(folder / "evaluation.html", page)


def _said(found: Evaluation, predicted: Predicted) -> dict[str, Any]:
    """Return the template values that are computed from logits: confusion matrix, errors, calibration, and precision over coverage."""
    names = [each.name for each in found.per_class]
    matrix = confusion_matrix(predicted.logits.argmax(axis=1), predicted.targets, len(names))
    few = len(names) <= FEW_CLASSES
    return {
        "names": names,
        "sureness": _sureness(found, predicted),
        "promise": next((t for t in found.thresholds if t.target_precision == _PROMISE), None),
        "classes": found.per_class if few else sorted(found.per_class, key=lambda c: c.measurements["f1"].value),
        "few": few,
        "matrix": matrix,
        "shades": shades,
        "heat": Markup() if few else heat_map(matrix, names),
        "mistakes": mistakes(predicted.pixels, predicted.worst.tolist(), predicted.logits, predicted.targets, predicted.keys, names),
        "diagrams": _diagrams(found, predicted),
        "curve": _curve(found, predicted),
    }


def _warning(found: Evaluation, predicted: Predicted | Scored) -> str:
    """Return a warning if the metric recomputed from the stored predictions differs from the stored one."""
    name, stored = next(iter(found.metrics.items()))
    if isinstance(predicted, Scored):
        scores = predicted.scores
    else:
        scores = classifier(name, [each.name for each in found.per_class]).scores({"logits": predicted.logits}, predicted.targets)
    recomputed, n = replace(stored, value=Metric.of(stored).scale * float(scores.mean())), len(scores)
    allowed = (
        50 / n
        if isinstance(predicted, Predicted) and name == "accuracy"
        else _NOTHING
        if stored.unit == "%"
        else _NOTHING * abs(stored.value)
    )
    if abs(stored.value - recomputed.value) <= allowed:
        return ""
    return f"{words.title(name)}: the file says {words.show(stored)}, the stored predictions give {words.show(recomputed)}."


def _sureness(found: Evaluation, predicted: Predicted) -> str:
    """Describe the calibration in words: mean confidence against accuracy, and the temperature."""
    sure = 100 * float(probabilities(predicted.logits).max(axis=1).mean())
    right = found.metrics["accuracy"]
    text = f"Mean confidence is {words.number(sure, 1)} %, accuracy {words.number(right.value, 1)} %"
    fitted = found.metrics.get("temperature")
    if fitted is None or fitted.low is None or fitted.high is None:
        return f"{text}."
    if fitted.high > _UNKNOWN * fitted.low:
        return f"{text}. The validation images are too few, or too easy, to tell a temperature."
    if fitted.low <= 1 <= fitted.high:
        return f"{text}. A temperature fitted on validation, {words.number(fitted.value, 2)}, is no different from 1: it is calibrated."
    kind = "overconfident" if fitted.value > 1 else "underconfident"
    text += f": the model is {kind}. Divided by a temperature of {words.number(fitted.value, 2)} the logits fit validation best"
    return f"{text}; planish export --calibrate builds that into the file." if found.runtime == "torch" else f"{text}."


def _diagrams(found: Evaluation, predicted: Predicted) -> list[tuple[str, Measurement | None, Markup]]:
    """Return title, calibration error and reliability diagram without temperature scaling and, if a temperature was fitted, with it."""
    pairs = [("As it is", "calibration_error", 1.0)]
    if "temperature" in found.metrics:
        pairs.append(("With the temperature", "calibration_error_scaled", found.metrics["temperature"].value))
    return [
        (title, found.metrics.get(name), reliability_diagram(reliability(predicted.logits / divisor, predicted.targets), title))
        for title, name, divisor in pairs
    ]


def _curve(found: Evaluation, predicted: Predicted) -> Markup:
    coverage, precision = precision_by_coverage(*top_scores(predicted.logits, predicted.targets))
    return Markup().join(coverage_curve(coverage, precision, found.thresholds, narrow) for narrow in (False, True))


def _corrupted(found: Evaluation) -> list[tuple[str, Measurement]]:
    """Return the metric on clean images, then on each kind of corrupted images, worst last; empty if there are none."""
    primary = next(iter(found.metrics))
    names = {f"{primary}_{name}": name.replace("_", " ") for name in ("corrupted", *CORRUPTIONS)}  # map_50 and others are no corruptions
    rows = [(names[name], m) for name, m in found.metrics.items() if name in names]
    rows.sort(key=lambda row: -row[1].value if row[1].higher_is_better else row[1].value)
    return [("clean", found.metrics[primary]), *rows] if rows else []
