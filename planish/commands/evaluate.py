"""Evaluation of a model on a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Layout, Resize, Split, source
from planish.errors import BundleError, DataError, GoalError
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.measurement import Measurement


def evaluate(
    model: str | Path,
    data: str | Path | Dataset,
    *,
    weights: str | Path | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    image_size: ImageSize | None = None,
    resize: Resize | None = None,
    task: str | None = None,
    metric: str | None = None,
    layout: Layout | None = None,
    split: Split | None = None,
    reference: str | Path | None = None,
    runtime: str = "auto",
    calibrate: bool = False,
    corruptions: bool = False,
    tile: int | None = None,
    out: str | Path | None = None,
    precision: float | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> dict[str, Measurement]:
    """Evaluate a model on a dataset, with confidence intervals.

    Images the model was made with keep their original split, even if the files were renamed; new images are assigned by content. If the
    model was made with none of the images, all are evaluated, unless the dataset has a test split.

    Args:
        model: A bundle, run, saved model or .onnx file; or the name of a network together with --weights: FILE.py:factory, timm:NAME,
            torchvision:NAME.
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        weights: Weights of a network given by name: a .safetensors or .pth file.
        mean: Mean the network expects, on the scale 0 to 1: one value, or one per channel, such as 0.485,0.456,0.406.
        std: Standard deviation the network expects, given like --mean, such as 0.229,0.224,0.225.
        image_size: Input size in pixels, or HEIGHTxWIDTH.
        resize: How images are brought to the input size.
        task: classification, detection, instance, semantic, or the name of an installed task.
        metric: Metric to report first, and on corrupted images; see `planish optimize --help`. By default the task's own.
        layout: Layout of the dataset, if it could be read in more than one way.
        split: Split to evaluate; test by default, or all images if the model was made with none of them.
        reference: Saved model, bundle or .onnx file whose answers take the place of labels: the agreement with it is measured, and labels
            are not needed.
        runtime: Runtime to use; auto uses the bundle's own.
        calibrate: Also fit a temperature on validation, and report log loss and calibration error with it.
        corruptions: Also evaluate up to 1000 images with noise, blur, fog and other corruptions, 55 versions of each.
        tile: Predict large images in tiles of this many pixels, as `planish tile` cuts them.
        out: Output folder for a page with per-class metrics, errors, calibration and thresholds, and for the predictions behind it.
        precision: Precision, in percent, that the thresholds on the page guarantee; 95 by default.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the corruptions, and of the split if the model does not store one.

    Returns:
        Measurements by name.

    Raises:
        DataError: the images have classes that the model lacks; the split is empty; or the temperature would be evaluated on the images
            that it was fitted on.
        GoalError: the precision is not between 0 and 100, or given without `out`.
        BundleError: `out` is a file or a bundle.

    Example:
        $ planish evaluate runs/demo/bundle photos/ --out evaluation/
        $ planish evaluate net.py:make photos/ --weights net.pth --mean 0.5 --std 0.25
        $ planish evaluate trees/ aerial/ --tile 512
        $ planish evaluate small.onnx images/ --reference large.onnx
    """
    from planish.commands.agreement import agreement
    from planish.commands.models import channel_list, open_with_images
    from planish.data import require_classes
    from planish.measurement import Measurements
    from planish.progress import collecting_notes, note
    from planish.report.pages.evaluation import write_evaluation
    from planish.runs.evaluation import EvaluationSettings, EvaluationSubject, evaluate_split, save_evaluation
    from planish.settings import ModelSettings
    from planish.tasks import require_defined, task_for

    network = ModelSettings(str(model), weights, image_size, resize, channel_list(mean), channel_list(std), task)
    if reference is not None:
        asked = {"metric": metric, "layout": layout, "split": split, "calibrate": calibrate, "corruptions": corruptions, "tile": tile}
        _check_reference(**asked, out=out)
        found = agreement(network, str(reference), source(data, "unlabelled"), runtime=runtime, seed=seed, skip_bad=skip_bad)
        return Measurements(found)
    read = source(data, layout)
    _check(out, precision, tile, corruptions)
    if calibrate:
        require_classes(read, "a temperature")
    if calibrate and split == "validation":
        raise DataError("a temperature for validation", "it is fitted there and evaluated on other images", "evaluate test")
    with collecting_notes() as notes:
        opened, images = open_with_images(network, read, seed=seed, skip_bad=skip_bad, runtime=runtime)
        spec, preprocessing = opened.input_spec, opened.preprocessing
        if split is None and opened.assignment is not None and not images.known and "test" not in images.given:
            kept: Split | None = "validation" if images.one_class_each and (calibrate or out is not None) else None
            images = images.all_in_test(but=kept)
            count = f"all {len(images.splits['test'])} images" + f" but {len(images.splits['validation'])} that calibrate" * (
                kept is not None
            )
            note(f"{model} was made with none of these images: {count} are evaluated")
        chosen: Split = split or "test"
        images.require(chosen)
        if calibrate:
            images.require("validation")
        measured = task_for(opened.task, images.splits, images.class_names, metric)
        if metric is not None:
            require_defined(measured, (chosen,))
        evaluated = evaluate_split(
            opened.predictor(threads=2), measured, chosen, spec, preprocessing,
            EvaluationSettings(calibrate or (out is not None and len(images.splits["validation"]) > 0), corruptions, seed, tile),
        )  # fmt: skip
    if out is not None:
        save_evaluation(
            Path(out), evaluated, spec, preprocessing, subject=EvaluationSubject(str(opened.path), str(read), opened.runtime),
            precision=95.0 if precision is None else precision, notes=notes,
        )  # fmt: skip
        write_evaluation(Path(out))
    return Measurements(evaluated.metrics)


def _check_reference(**asked: object) -> None:
    if given := [f"--{name}" for name, value in asked.items() if value]:
        raise GoalError(
            f"{', '.join(given)} with --reference", "agreement is measured on images without labels, and printed", "omit it or --reference"
        )


def _check(out: str | Path | None, precision: float | None, tile: int | None, corruptions: bool) -> None:
    if precision is not None and out is None:
        raise GoalError("--precision without --out", "the thresholds are in the page", "add --out FOLDER")
    if precision is not None and not 0 < precision < 100:
        raise GoalError(f"a precision of {precision:g} %", "it lies above 0 and below 100", "for example --precision 95")
    if tile is not None and (tile < 32 or corruptions):
        what = "corruptions of tiles" if corruptions else f"tiles of {tile} pixels"
        raise DataError(what, "tiles have at least 32 pixels, and corruptions are of whole images", "omit one of them")
    if out is not None and (Path(out).is_file() or (Path(out) / "bundle.json").exists()):
        what = "a file" if Path(out).is_file() else "a bundle, in which nothing else may lie"
        raise BundleError(f"{out} is {what}", "an evaluation has a folder of its own, or lies beside a saved model", "choose another --out")
