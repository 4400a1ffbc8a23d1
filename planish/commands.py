"""The commands, one Python function each, with the same words as on the command line."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import nn

from planish.artifact import Artifact
from planish.compression import Int8
from planish.data import ImageData, load_images
from planish.data.augmentation import augment, mixup_cutmix
from planish.data.contact_sheet import contact_sheet
from planish.errors import BundleError, DataError, ModelError
from planish.evaluation.calibration import temperature_scaling
from planish.evaluation.evaluate import evaluate as evaluate_split
from planish.evaluation.latency import LatencyReport, measure_latency
from planish.evaluation.machine import describe_machine
from planish.evaluation.robustness import robustness
from planish.evaluation.torch_predictor import TorchPredictor
from planish.explanation.explain import explain as explain_model
from planish.explanation.result import Explanation
from planish.export import ToOnnx, ToOpenVino
from planish.export.bundle import VerifyReport, write_bundle
from planish.export.bundle import verify as verify_bundle
from planish.export.runtimes import registered
from planish.measurement import Measurement
from planish.models.storage import save_artifact
from planish.plan import Plan
from planish.report import write_report
from planish.report.comparison import write_comparison
from planish.report.ensembles import write_ensembles
from planish.report.experiment import write_experiment
from planish.search import goal as units
from planish.search.compare import Comparison
from planish.search.compare import compare as run_comparison
from planish.search.ensembles import EnsembleStudy
from planish.search.ensembles import ensembles as run_ensembles
from planish.search.experiment import Experiment, experiment
from planish.search.opened import open_model
from planish.search.optimize import default_folder
from planish.search.optimize import optimize as search
from planish.search.result import Result
from planish.search.state import Watch
from planish.search.studies import STUDIES
from planish.task import SplitName, Task
from planish.tasks import Classification
from planish.training.original import TrainMode, train_original
from planish.training.prepare import prepare
from planish.training.recipe import Recipe, default_recipe, load_recipe, pull, set_values, shipped
from planish.training.settings import FitSettings

_SHOWN_IMAGES = 6  # of training, with what augmentation makes of them
# As much network as 7 minutes on two cores can train, compress and measure; few epochs, so augmentation would cost more than it brings.
DEMO = {"data": "fashion-mini", "model": "resnet8x2", "augmentation": "none"}


def optimize(
    data: str | Path, *, model: str | nn.Module = "resnet20", out: str | Path | None = None, command: str = "", **options: Any
) -> Result:
    """Make a network small and fast within a loss of accuracy, and prove it; see ``planish.search.optimize.optimize`` for the options.

    Returns:
        What was found. The run's folder, ``out`` or ``runs/`` and the result's name, holds ``report.html`` and ``bundle/``.
    """
    name = model if isinstance(model, str) else type(model).__name__
    folder = Path(out) if out is not None else default_folder(data, name)
    result = search(data, model=model, out=folder, command=command, **options)
    write_report(folder)
    return result


def demo(*, out: str | Path | None = None, budget: str = "7m50s", resume: bool = False, watch: Watch | None = None) -> Result:
    """The main job on the Fashion-MNIST images that come with the package."""
    command = shlex.join(["planish", "demo", "--budget", budget])
    return optimize(**DEMO, budget=budget, out=out, resume=resume, command=command, watch=watch)


def compare(data: str | Path, *, out: str | Path | None = None, **options: Any) -> Comparison:
    """Try many ways of one topic of compression on the same model, fairly; see ``planish.search.compare.compare`` for the options.

    Returns:
        What was found. The folder, ``out`` or ``runs/`` and the comparison's name, holds ``comparison.json`` and ``comparison.html``.
    """
    found = run_comparison(data, out=out, **options)
    write_comparison(Path(out) if out is not None else Path("runs") / found.name)
    return found


def vary(data: str | Path, *, factors: Mapping[str, Sequence[Any]], out: str | Path | None = None, **options: Any) -> Experiment:
    """A fair experiment over levers; see ``planish.search.experiment.experiment`` for the options.

    Returns:
        What was found. The folder, ``out`` or ``runs/`` and the experiment's name, holds ``experiment.json`` and ``experiment.html``.
    """
    found = experiment(data, factors=factors, out=out, **options)
    write_experiment(Path(out) if out is not None else Path("runs") / found.name)
    return found


def ensembles(data: str | Path, *, out: str | Path | None = None, **options: Any) -> EnsembleStudy:
    """What ensembles and averages of weights bring and cost; see ``planish.search.ensembles.ensembles`` for the options.

    Returns:
        What was found. The folder, ``out`` or ``runs/`` and the study's name, holds ``ensembles.json`` and ``ensembles.html``.
    """
    found = run_ensembles(data, out=out, **options)
    write_ensembles(Path(out) if out is not None else Path("runs") / found.name)
    return found


def recipes() -> dict[str, Recipe]:
    """The recipes that come with the package, by name."""
    return shipped()


def study(data: str | Path, topic: str, **options: Any) -> Experiment:
    """A ready-made experiment of ``planish.search.studies.STUDIES``; options take the place of what it says."""
    made = STUDIES[topic]
    given = {"model": made.model, "design": made.design, "recipe": made.recipe, **options}
    return vary(data, factors=made.factors, **given | {"changes": [*made.changes, *options.get("changes", ())]})


@dataclass(frozen=True)
class Trained:
    """A trained model: its artifact, where it lies, and its metrics on test."""

    artifact: Artifact
    folder: Path
    metrics: dict[str, Measurement]


def train(
    data: str | Path,
    *,
    model: str | nn.Module = "resnet20",
    weights: str | Path | None = None,
    out: str | Path = "model",
    recipe: Recipe | str | Path | None = None,
    changes: Sequence[str] = (),
    train_mode: TrainMode = "always",
    budget: str | float | None = None,
    skip_bad: bool = False,
    resume: bool = False,
    seed: int = 0,
) -> Trained:
    """Train a model by a recipe and evaluate it on test.

    Beside the model lie ``recipe.yaml``, as it was carried out, and ``augmented.png``: some images and what augmentation makes of them.

    Args:
        data: a folder, a manifest or a built-in name.
        model: a name, ``FILE.py:factory`` or a network.
        weights: ``imagenet`` or a file.
        out: folder for the model; must not exist unless ``resume``.
        recipe: a recipe, the name of one that comes with the package, or a YAML file; None for one that fits fresh or pretrained weights.
        changes: of its values: ``training.epochs=10``, ``norm=group``.
        train_mode: ``auto`` evaluates a model that came with weights first, and trains it only if it is hardly better than guessing.
        budget: wall-clock time, ``10m``.
        skip_bad: leave broken images out.
        resume: go on from the checkpoint of an interrupted training.
        seed: of the split, fresh weights and training.
    """
    folder = Path(out)
    checkpoint = folder.with_name(folder.name + ".checkpoint")
    if folder.exists():
        raise BundleError(f"{folder} exists already", "a model is never overwritten", "choose another --out")
    if checkpoint.exists() and not resume:
        raise BundleError(
            f"{checkpoint} is left from an interrupted training", "it is not thrown away unasked", "add --resume, or delete it"
        )
    named = recipe if isinstance(recipe, Recipe) else default_recipe(weights is not None) if recipe is None else load_recipe(recipe)
    resolved = set_values(named, [f"training.seed={seed}", *changes])
    job = prepare(
        data, model, weights=weights, image_size=resolved.image_size, normalisation=resolved.normalisation, skip_bad=skip_bad, seed=seed
    )
    job = replace(job, artifact=pull(job.artifact, job.task, resolved.techniques()))
    folder.parent.mkdir(parents=True, exist_ok=True)
    seconds = None if budget is None else units.seconds(budget)
    original = train_original(job, mode=train_mode, settings=resolved.training, checkpoint=checkpoint, seconds=seconds)
    predictor = TorchPredictor.fastest(original.artifact.module, original.artifact.preprocessing)
    found = evaluate_split(predictor, job.task, "test", original.artifact.input_spec, original.artifact.preprocessing)
    save_artifact(original.artifact, folder)
    (folder / "recipe.yaml").write_text(resolved.to_yaml())
    _what_it_saw(original.artifact, job.task, resolved.training).save(folder / "augmented.png")
    checkpoint.unlink(missing_ok=True)
    return Trained(original.artifact, folder, found.metrics)


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: SplitName = "test",
    runtime: str = "auto",
    calibrate: bool = False,
    corruptions: bool = False,
    seed: int = 0,
    skip_bad: bool = False,
) -> dict[str, Measurement]:
    """Metrics of a bundle, run, saved model or exported file on images, with intervals.

    Args:
        model: what to evaluate.
        data: a folder, a manifest or a built-in name.
        split: which images.
        runtime: ``auto`` takes the bundle's own.
        calibrate: also fit a temperature on validation, and say what it does to log loss and calibration error.
        corruptions: also evaluate on noisy, blurred, foggy and compressed images, 55 times up to 1000 of them.
        seed: of the split and the corruptions.
        skip_bad: leave broken images out.

    Raises:
        DataError: the images have other classes than the model; or the temperature would be judged on the images that it was fitted on.
    """
    if calibrate and split == "validation":
        raise DataError("a temperature for validation", "it is fitted there and judged on other images", "evaluate test")
    opened = open_model(model, runtime)
    spec, preprocessing = opened.input_spec, opened.preprocessing
    task = _task_for(data, opened.class_names, spec.channels, preprocessing.decode_side, seed, skip_bad)
    predictor = opened.predictor(threads=2)
    found = evaluate_split(predictor, task, split, spec, preprocessing)
    metrics = dict(found.metrics)
    if calibrate:
        validation = evaluate_split(predictor, task, "validation", spec, preprocessing)
        metrics |= temperature_scaling(validation.outputs["logits"], validation.targets, found.outputs["logits"], found.targets)
    if corruptions:
        metrics |= robustness(predictor, task, split, spec, preprocessing, seed=seed)
    return metrics


def compress(
    model: str | Path, data: str | Path, *, plan: str | Path | Plan, out: str | Path = "compressed", seed: int = 0, skip_bad: bool = False
) -> Compressed:
    """Carry out a plan written by hand, on a saved model; evaluate before and after, on test.

    Raises:
        PlanError: the plan cannot be read, or its steps do not combine.
        TechniqueError: a step does not apply; it is named.
    """
    folder = Path(out)
    if folder.exists():
        raise BundleError(f"{folder} exists already", "a model is never overwritten", "choose another --out")
    steps = plan if isinstance(plan, Plan) else Plan.load(Path(plan))
    opened = open_model(model)
    if opened.artifact is None:
        raise ModelError(
            f"{model} is an exported model", "a plan starts from a saved torch model", "run planish train, and give its --out folder"
        )
    facts = steps.check(opened.artifact.facts)
    task = _task_for(data, opened.class_names, opened.input_spec.channels, opened.preprocessing.decode_side, seed, skip_bad)
    after = steps.apply(opened.artifact, task)
    before_metrics = evaluate_split(opened.predictor(), task, "test", opened.input_spec, opened.preprocessing).metrics
    folder.parent.mkdir(parents=True, exist_ok=True)
    if facts["format"] == "torch":
        save_artifact(after, folder)
    else:
        runtime = next(name for name, kind in registered().items() if facts["format"] in kind.formats and kind.version())
        write_bundle(after, task, folder, runtime=runtime, measurements={}, threads=1, batch=1)
    reopened = open_model(folder)
    after_metrics = evaluate_split(reopened.predictor(threads=2), task, "test", reopened.input_spec, reopened.preprocessing).metrics
    return Compressed(folder, before_metrics, after_metrics, opened.artifact.size_bytes, after.size_bytes)


@dataclass(frozen=True)
class Compressed:
    """What a plan did: where the result lies, test metrics and size before and after."""

    folder: Path
    before: dict[str, Measurement]
    after: dict[str, Measurement]
    size_bytes_before: int
    size_bytes_after: int


def export(model: str | Path, data: str | Path, *, to: str, out: str | Path, int8: bool = False) -> Path:
    """Write a saved torch model as a bundle in another format. The images calibrate, and check the file against the model.

    Args:
        model: folder of a saved torch model.
        data: the images it was trained on.
        to: ``onnx`` or ``openvino``.
        out: the bundle's folder.
        int8: quantize to 8 bits; weights to 7 where this machine's kernels overflow with 8.
    """
    formats = {"onnx": (ToOnnx(),), "openvino": (ToOnnx(), ToOpenVino())}
    if to not in formats:
        raise ModelError(f"there is no format {to!r}", f"formats are {' and '.join(formats)}", "for example --to onnx")
    steps: list[Any] = list(formats[to])
    if int8:
        steps.insert(1, Int8.for_this_machine())
    return compress(model, data, plan=Plan(*steps), out=out).folder


def bench(models: Sequence[str | Path], *, runtime: str = "auto", threads: int = 1, batch: int = 1, seconds: float = 2.5) -> LatencyReport:
    """Time exported models side by side, each in a process of its own; the first is the baseline. Naming one twice is an A/A test.

    Args:
        models: bundles, runs or ``.onnx`` files.
        runtime: ``auto`` takes each bundle's own.
        threads: the runtime may use.
        batch: images a call.
        seconds: of timing for each model.
    """
    if len(models) < 2:
        raise ModelError(
            "there is only one model to time", "a speed is a ratio of two", "name two models; the same one twice shows this machine's noise"
        )
    names: list[str] = []
    for model in models:
        name, number = str(model), 2
        while name in names:
            name, number = f"{model} ({number})", number + 1
        names.append(name)
    subjects = {n: open_model(m, runtime).subject(threads, batch) for n, m in zip(names, models, strict=True)}
    return measure_latency(subjects, baseline=names[0], threads=threads, batch=batch, seconds=seconds)


def explain(model: str | Path, **options: Any) -> Explanation:
    """Where a model's time and error go, layer by layer, and why; see ``planish.explanation.explain.explain`` for the options."""
    return explain_model(model, **options)


def verify(bundle: str | Path) -> VerifyReport:
    """Replay a bundle's golden samples and check its files. The report says what failed."""
    place = Path(bundle)
    return verify_bundle(place / "bundle" if (place / "bundle" / "bundle.json").exists() else place)


def report(run: str | Path) -> Path:
    """Write the page of a run, a comparison, an experiment or a study of ensembles again."""
    folder = Path(run)
    if (folder / "experiment.json").exists():
        return write_experiment(folder)
    if (folder / "ensembles.json").exists():
        return write_ensembles(folder)
    return write_comparison(folder) if (folder / "comparison.json").exists() else write_report(folder)


def data(source: str | Path, *, seed: int = 0, skip_bad: bool = False) -> ImageData:
    """What is in a data set: classes, splits, broken files, duplicates, leaks."""
    return load_images(source, seed=seed, skip_bad=skip_bad)


def doctor() -> dict[str, Any]:
    """What this machine can run: hardware, versions, runtimes and what to install for those that are missing."""
    runtimes = {name: kind.version() or f"missing; {kind.install}" for name, kind in registered().items()}
    return {"machine": describe_machine(), "runtimes": runtimes, "free_disk_bytes": shutil.disk_usage(".").free}


def _what_it_saw(artifact: Artifact, task: Task, settings: FitSettings) -> Image:
    images = task.split("train").images(artifact.input_spec, artifact.preprocessing)
    shown = images[np.unique(np.linspace(0, len(images) - 1, _SHOWN_IMAGES).astype(int))]
    mixes = settings.mixup_alpha or settings.cutmix_alpha
    mix = mixup_cutmix(len(task.class_names), settings.mixup_alpha, settings.cutmix_alpha) if mixes else None
    change = augment(artifact.input_spec, settings.augmentation, settings.flip)
    return contact_sheet(shown, change, torch.Generator().manual_seed(settings.seed), mix=mix)


def _task_for(source: str | Path, class_names: tuple[str, ...], channels: int, decode_side: int, seed: int, skip_bad: bool) -> Task:
    images = load_images(source, seed=seed, skip_bad=skip_bad, decode_side=decode_side, channels=channels)
    if images.class_names != class_names:
        raise DataError(
            f"the images have the classes {', '.join(images.class_names[:8])}, the model {', '.join(class_names[:8])}",
            "both must have the same classes in the same order",
        )
    return Classification(images.splits, images.class_names)
