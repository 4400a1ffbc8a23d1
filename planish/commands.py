"""The commands, one Python function each, with the same words as on the command line."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import nn

from planish import units
from planish.artifact import Artifact
from planish.compression import Int8
from planish.data import ImageData, load_images, require_classes, tile_images
from planish.datacentric.few_shot import FewShot
from planish.datacentric.few_shot import few_shot as probe
from planish.datacentric.folds import Folds
from planish.datacentric.folds import folds as cross_validate
from planish.datacentric.label_issues import LabelIssues
from planish.datacentric.label_issues import find_label_issues as find_suspects
from planish.datacentric.learning_curve import LearningCurve
from planish.datacentric.learning_curve import learning_curve as find_learning_curve
from planish.datacentric.retrain import Retraining, retrain
from planish.devices.machine import describe_machine
from planish.errors import BundleError, DataError, GoalError, ModelError, RuntimeMissingError
from planish.evaluation.evaluate import evaluate as evaluate_split
from planish.evaluation.latency import LatencyReport, measure_latency
from planish.evaluation.torch_predictor import TorchPredictor
from planish.experiments.compression import Comparison
from planish.experiments.compression import compare as run_comparison
from planish.experiments.ensembles import EnsembleStudy
from planish.experiments.ensembles import ensembles as run_ensembles
from planish.experiments.experiment import Experiment, experiment
from planish.experiments.studies import STUDIES
from planish.explanation.explain import explain as explain_model
from planish.explanation.result import Explanation
from planish.export import Temperature, ToExecuTorch, ToLiteRt, ToOnnx, ToOpenVino, ToTensorRt, ToTorchExport
from planish.export.bundle.folder import bundle_folder, write_bundle
from planish.export.bundle.signature import sign as sign_bundle
from planish.export.bundle.verify import VerifyReport
from planish.export.bundle.verify import verify as verify_bundle
from planish.export.litert_file import converter_python
from planish.export.runtimes.registry import available, registered
from planish.files.reading import damage_reported
from planish.measurement import Measurement
from planish.models.storage import save_artifact
from planish.plan import Plan
from planish.progress import collecting_notes, note
from planish.report import write_report
from planish.report.pages.comparison import write_comparison
from planish.report.pages.ensembles import write_ensembles
from planish.report.pages.evaluation import write_evaluation
from planish.report.pages.experiment import write_experiment
from planish.report.pages.label_issues import write_label_issues
from planish.report.pages.learning_curve import write_learning_curve
from planish.runs.evaluation import judge, keep
from planish.runs.open_model import Opened, open_model
from planish.runs.open_network import Network, open_network
from planish.runs.original import write_training
from planish.runs.resumable import resumable
from planish.search.budget import is_kept
from planish.search.optimize import default_folder
from planish.search.optimize import optimize as search
from planish.search.result import Result
from planish.search.state import Watch
from planish.search.time_estimates import training_seconds
from planish.serving.monitoring.monitor import Monitored
from planish.serving.monitoring.monitor import monitor as look_for_drift
from planish.split_assignment import assignment_beside, combined
from planish.task import SplitName
from planish.tasks import task_for
from planish.training import Distill
from planish.training.original import TrainMode, train_original
from planish.training.prepare import prepare_job
from planish.training.recipe import Recipe, apply_modifications, resolved_recipe, shipped, warn_of_fresh_weights

# As much network as so many minutes on two cores can train, compress and measure; few epochs, so augmentation would cost more than it
# brings, and for networks that small no other is looked for as a student.
_PLACES = {"data": "fashion-scenes-2000", "model": "timm:resnet10t", "image_size": 96, "students": (), "budget": "9m"}
DEMOS: dict[str, dict[str, Any]] = {
    "classification": {"data": "fashion-mini", "model": "resnet8x2", "budget": "7m50s"},
    "detection": {**_PLACES, "task": "detection"},
    "instance": {**_PLACES, "task": "instance", "budget": "8m"},  # a thousand scenes of masks take a minute to judge
    "semantic": {**_PLACES, "task": "semantic"},
}


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


def demo(
    task: str = "classification",
    *,
    out: str | Path | None = None,
    budget: str | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> Result:
    """The main job on the Fashion-MNIST images that come with the package: single ones, or scenes of several.

    Args:
        task: ``classification``, ``detection``, ``instance`` or ``semantic``.
        out: the run's folder.
        budget: wall-clock time; None for what the demo of that task needs.
        resume: go on with the run in ``out``.
        watch: see ``optimize``.
    """
    if task not in DEMOS:
        raise DataError(f"there is no demo of {task!r}", f"there are {', '.join(DEMOS)}")
    settings = DEMOS[task] | ({} if budget is None else {"budget": budget})
    command = shlex.join(["planish", "demo", "--task", task, "--budget", settings["budget"]])
    return optimize(**settings, augmentation="none", out=out, resume=resume, command=command, watch=watch)


def compare(data: str | Path, *, out: str | Path | None = None, **options: Any) -> Comparison:
    """Try many ways of one topic of compression on the same model, fairly; see ``planish.experiments.compression.compare`` for the options.

    Returns:
        What was found. The folder, ``out`` or ``runs/`` and the comparison's name, holds ``comparison.json`` and ``comparison.html``.
    """
    found = run_comparison(data, out=out, **options)
    write_comparison(Path(out) if out is not None else Path("runs") / found.name)
    return found


def vary(data: str | Path, *, factors: Mapping[str, Sequence[Any]], out: str | Path | None = None, **options: Any) -> Experiment:
    """A fair experiment over modifications; see ``planish.experiments.experiment.experiment`` for the options.

    Returns:
        What was found. The folder, ``out`` or ``runs/`` and the experiment's name, holds ``experiment.json`` and ``experiment.html``.
    """
    found = experiment(data, factors=factors, out=out, **options)
    write_experiment(Path(out) if out is not None else Path("runs") / found.name)
    return found


def ensembles(data: str | Path, *, out: str | Path | None = None, **options: Any) -> EnsembleStudy:
    """What ensembles and averages of weights bring and cost; see ``planish.experiments.ensembles.ensembles`` for the options.

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
    """A ready-made experiment of ``planish.experiments.studies.STUDIES``; options take the place of what it says."""
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
    task: str | None = None,
    skip_bad: bool = False,
    resume: bool = False,
    seed: int = 0,
    command: str = "",
    begun: float | None = None,
) -> Trained:
    """Train a model by a recipe and evaluate it on test.

    Beside the model lie ``recipe.yaml``, as it was carried out; ``augmented.png``: some images and what augmentation makes of them; and
    ``evaluation.html``, the page of ``evaluate``, with the training's course in it.

    Args:
        data: a folder, a manifest or a built-in name.
        model: a name, ``FILE.py:factory`` or a network.
        weights: ``imagenet`` or a file.
        out: folder for the model; must not exist unless ``resume``.
        recipe: a recipe, the name of one that comes with the package, or a YAML file; None for one that fits fresh or pretrained weights.
        changes: of its values: ``training.epochs=10``, ``norm=group``.
        train_mode: ``auto`` evaluates a model that came with weights first, and trains it only if it is hardly better than guessing.
        budget: wall-clock time for all of it, ``10m``.
        task: ``classification``, ``detection``, ``instance`` or ``semantic``; None for what the data is for.
        skip_bad: leave broken images out.
        resume: go on from the checkpoint of an interrupted training.
        seed: of the split, fresh weights and training.
        command: the command line, for the page.
        begun: on the clock of ``time.monotonic``, when the budget began to run; None for now.
    """
    folder = Path(out)
    interrupted = folder.with_name(folder.name + ".checkpoint").exists()  # then a model that is there is its own, not evaluated yet
    if folder.exists() and not (resume and interrupted):
        raise BundleError(f"{folder} exists already", "a model is never overwritten", "choose another --out")
    begun = monotonic() if begun is None else begun
    name = model if isinstance(model, str) else type(model).__name__
    resolved = resolved_recipe(recipe, [f"training.seed={seed}", *changes], data, pretrained=weights is not None, task=task, model=model)
    settings = {
        "data": str(data), "model": name, "weights": str(weights or ""), "recipe": resolved.to_yaml(), "train": train_mode,
        "budget": budget, "task": task, "skip_bad": skip_bad, "seed": seed,
    }  # fmt: skip
    with ExitStack() as stack:
        notes = stack.enter_context(collecting_notes())
        checkpoint = stack.enter_context(resumable(folder, settings, resume=resume))
        job = prepare_job(
            data, model, weights=weights, image_size=resolved.image_size, normalisation=resolved.normalisation, task=task,
            skip_bad=skip_bad, seed=seed,
        )  # fmt: skip
        warn_of_fresh_weights(recipe, job.pretrained)
        job = replace(job, artifact=apply_modifications(job.artifact, job.task, resolved.techniques()))
        allowed = None if budget is None else units.seconds(budget)
        seconds = None if allowed is None else training_seconds(job, allowed, monotonic() - begun)
        original = train_original(job, mode=train_mode, settings=resolved.training, checkpoint=checkpoint, seconds=seconds)
        artifact = original.artifact
        spec, preprocessing = artifact.input_spec, artifact.preprocessing
        save_artifact(artifact, folder, job.data.assignment)  # before it is evaluated, so that nothing that follows can lose it
        judged = judge(TorchPredictor.fastest(artifact.module, preprocessing), job.task, "test", spec, preprocessing)
        (folder / "recipe.yaml").write_text(resolved.to_yaml())
        write_training(original, job.task, folder)
        if allowed is not None and not is_kept(allowed, taken := monotonic() - begun):
            note(f"the training took {taken:.0f} s of a budget of {allowed:.0f} s, {seconds or 0:.0f} s of which were left for its epochs")
        keep(folder, judged, spec, preprocessing, model=name, data=str(data), runtime="torch", command=command, notes=notes)
        write_evaluation(folder)
    return Trained(artifact, folder, judged.found.metrics)


def continue_from(served: str | Path, data: str | Path, added: str | Path, **options: Any) -> Retraining:
    """Take new images in, and compare what comes of it with what is served; see ``planish.datacentric.retrain.continue_from``."""
    return retrain(served, data, added, **options)


def folds(data: str | Path, **options: Any) -> Folds:
    """How accurate a recipe is by cross-validation, test untouched; see ``planish.datacentric.folds.folds`` for the options.

    Returns:
        What was found; ``out``, or ``runs/`` and its name, holds it as ``folds.json``, with what was said of each image.
    """
    return cross_validate(data, **options)


def evaluate(
    model: str | Path | Network,
    data: str | Path,
    *,
    split: SplitName | None = None,
    runtime: str = "auto",
    calibrate: bool = False,
    corruptions: bool = False,
    out: str | Path | None = None,
    precision: float = 95.0,
    tile: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    command: str = "",
) -> dict[str, Measurement]:
    """Metrics of a bundle, run, saved model or exported file on images, with intervals.

    Images that the model was made with are in the split that they were in then, whatever their files are called now; new ones are assigned
    by their content. Where the model knows none of the images, all of them are evaluated, unless the data has a test split of its own.

    With ``out``, that folder holds ``evaluation.html``: classes, mistakes, calibration, and thresholds that keep a promise; beside it
    ``evaluation.json`` and the predictions it was made of.

    Args:
        model: what to evaluate, or how a network is named with its weights.
        data: a folder, a manifest or a built-in name.
        split: which images; None for test, or for all where the model knows none.
        runtime: ``auto`` takes the bundle's own.
        calibrate: also fit a temperature on validation, and say what it does to log loss and calibration error.
        corruptions: also evaluate on noisy, blurred, foggy and compressed images, 55 times up to 1000 of them.
        out: folder for the page, which also calibrates; earlier ones are replaced.
        precision: in percent, that the page's thresholds shall keep.
        tile: pixels of the tiles that large images are answered in, tile by tile; None for whole images.
        seed: of the corruptions, and of the split where the model keeps none.
        skip_bad: leave broken images out.
        command: the command line, for the page.

    Raises:
        DataError: the images have classes that the model lacks; none is in the split; or the temperature would be judged on the images
            that it was fitted on.
        GoalError: the precision is not between 0 and 100.
        BundleError: nothing can be written to ``out``.
    """
    if not 0 < precision < 100:
        raise GoalError(f"a precision of {precision:g} %", "it lies above 0 and below 100", "for example --precision 95")
    if tile is not None and (tile < 32 or corruptions):
        what = "corruptions of tiles" if corruptions else f"tiles of {tile} pixels"
        raise DataError(what, "tiles have at least 32 pixels, and corruptions are of whole images", "leave one of them away")
    if calibrate:
        require_classes(data, "a temperature")
    if calibrate and split == "validation":
        raise DataError("a temperature for validation", "it is fitted there and judged on other images", "evaluate test")
    if out is not None and (Path(out).is_file() or (Path(out) / "bundle.json").exists()):
        what = "a file" if Path(out).is_file() else "a bundle, in which nothing else may lie"
        raise BundleError(f"{out} is {what}", "an evaluation has a folder of its own, or lies beside a saved model", "choose another --out")
    with collecting_notes() as notes:
        if isinstance(model, Network):
            opened, images = open_network(model, data, seed=seed, skip_bad=skip_bad)
        else:
            opened = open_model(model, runtime)
            images = _images_for(opened, data, seed, skip_bad)
        spec, preprocessing = opened.input_spec, opened.preprocessing
        if split is None and opened.assignment is not None and not images.known and "test" not in images.given:
            kept: SplitName | None = "validation" if images.task == "classification" and (calibrate or out is not None) else None
            images = images.all_in_test(but=kept)
            count = f"all {len(images.splits['test'])} images" + f" but {len(images.splits['validation'])} that calibrate" * (
                kept is not None
            )
            note(f"{model} was made with none of these images: {count} are evaluated")
        chosen: SplitName = split or "test"
        images.require(chosen)
        if calibrate:
            images.require("validation")
        task = task_for(opened.task, images.splits, images.class_names)
        judged = judge(
            opened.predictor(threads=2), task, chosen, spec, preprocessing,
            calibrate=calibrate or (out is not None and len(images.splits["validation"]) > 0),
            corruptions=corruptions, seed=seed, tile=tile,
        )  # fmt: skip
    if out is not None:
        keep(
            Path(out), judged, spec, preprocessing, model=str(opened.path), data=str(data), runtime=opened.runtime, precision=precision,
            command=command, notes=notes,
        )  # fmt: skip
        write_evaluation(Path(out))
    return judged.metrics


def compress(
    model: str | Path | Network,
    data: str | Path,
    *,
    plan: str | Path | Plan,
    out: str | Path = "compressed",
    seed: int = 0,
    skip_bad: bool = False,
) -> Compressed:
    """Carry out a plan written by hand, on a trained model; evaluate before and after, on test.

    Images have the splits that the model keeps.

    Args:
        model: folder of a saved torch model, or how a network is named with its weights.
        data: the images.
        plan: a plan, or a YAML or JSON file.
        out: folder for the result.
        seed: of the split, where the model keeps none.
        skip_bad: leave broken images out.

    Raises:
        PlanError: the plan cannot be read, or its steps do not combine.
        TechniqueError: a step does not apply; it is named.
    """
    folder = Path(out)
    if folder.exists():
        raise BundleError(f"{folder} exists already", "a model is never overwritten", "choose another --out")
    steps = plan if isinstance(plan, Plan) else Plan.load(Path(plan))
    teachers = [assignment_beside(Path(folder)) for step in steps.steps if isinstance(step, Distill) for folder in step.teachers]
    if isinstance(model, Network):
        beside = assignment_beside(Path(model.weights)) if model.weights else None
        opened, images = open_network(model, data, seed=seed, skip_bad=skip_bad, assignment=combined([beside, *teachers]))
    else:
        opened = open_model(model)
        images = None
    if opened.artifact is None:
        raise ModelError(
            f"{model} is an exported model", "a plan starts from a network in PyTorch", "name a saved model, or give --model and --weights"
        )
    facts = steps.check(opened.artifact.facts)
    if images is None:
        images = _images_for(replace(opened, assignment=combined([opened.assignment, *teachers])), data, seed, skip_bad)
    images.require("train", "validation", "test")
    task = task_for(opened.task, images.splits, images.class_names)
    after = steps.apply(opened.artifact, task)
    before_metrics = evaluate_split(opened.predictor(), task, "test", opened.input_spec, opened.preprocessing).metrics
    folder.parent.mkdir(parents=True, exist_ok=True)
    if facts["format"] == "torch":
        save_artifact(after, folder, images.assignment)
    else:
        runtime = available(facts["format"])[0]
        write_bundle(after, task, folder, runtime=runtime, measurements={}, threads=1, batch=1, assignment=images.assignment)
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


def export(
    model: str | Path | Network,
    data: str | Path,
    *,
    to: str,
    out: str | Path,
    int8: bool = False,
    calibrate: bool = False,
    seed: int = 0,
    skip_bad: bool = False,
) -> Path:
    """Write a trained model as a bundle in another format. The images calibrate, and check the file against the model.

    Args:
        model: folder of a saved torch model, or how a network is named with its weights.
        data: the images it was trained on.
        to: ``onnx``, ``openvino``, ``litert``, ``executorch``, ``torch_export`` or ``tensorrt``.
        out: the bundle's folder.
        int8: quantize to 8 bits; weights to 7 where this machine's kernels overflow with 8.
        calibrate: divide the logits by a temperature that is fitted on the validation images.
        seed: of the split, where the model keeps none.
        skip_bad: leave broken images out.
    """
    by_way_of_onnx: dict[str, tuple[Any, ...]] = {"onnx": (), "openvino": (ToOpenVino(),), "tensorrt": (ToTensorRt(),)}
    directly: dict[str, Any] = {"litert": ToLiteRt(int8=int8), "executorch": ToExecuTorch(int8=int8), "torch_export": ToTorchExport()}
    if to in directly:
        if calibrate or (int8 and to == "torch_export"):
            what = "a temperature" if calibrate else "INT8"
            raise ModelError(
                f"{what} in a {to} file", "it is written into ONNX files, and what is made of them", "export to onnx or openvino"
            )
        steps = [directly[to]]
    elif to in by_way_of_onnx:
        steps = [ToOnnx(), *[Int8.for_this_machine()] * int8, *[Temperature()] * calibrate, *by_way_of_onnx[to]]
    else:
        raise ModelError(f"there is no format {to!r}", f"formats are {', '.join([*by_way_of_onnx, *directly])}", "for example --to onnx")
    return compress(model, data, plan=Plan(*steps), out=out, seed=seed, skip_bad=skip_bad).folder


def bench(models: Sequence[str | Path], *, runtime: str = "auto", threads: int = 1, batch: int = 1, seconds: float = 2.5) -> LatencyReport:
    """Time exported models side by side, each in a process of its own; the first is the baseline. Naming one twice is an A/A test.

    Args:
        models: bundles, runs or ``.onnx`` files.
        runtime: ``auto`` takes each bundle's own.
        threads: the runtime may use.
        batch: images in a batch.
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


def sign(bundle: str | Path, *, key: str | Path) -> Path:
    """Sign a bundle, so that whoever runs it can tell who made it; see ``planish.export.bundle.signature``.

    Args:
        bundle: its folder, or a run's.
        key: a private Ed25519 key, a PEM file.
    """
    return sign_bundle(bundle_folder(Path(bundle)), Path(key))


def verify(
    bundle: str | Path, *, latency: bool = True, max_latency: str | float | None = None, public_key: str | Path | None = None
) -> VerifyReport:
    """Check a bundle's files, replay its golden samples, and measure its latency. The report says what failed.

    Args:
        bundle: its folder, or a run's.
        latency: measure it, and set it beside what the bundle promised.
        max_latency: of one call, ``5ms``; more is a failure.
        public_key: of whoever must have signed it, a PEM file.
    """
    limit = None if max_latency is None else units.milliseconds(max_latency)
    key = None if public_key is None else Path(public_key)
    return verify_bundle(bundle_folder(Path(bundle)), latency=latency, max_latency_ms=limit, public_key=key)


def serve(bundles: Sequence[str | Path], **options: Any) -> None:
    """Answer images over HTTP until stopped; see ``planish.serving.serve.serve`` for the options."""
    from planish.serving.serve import serve as listen

    listen(bundles, **options)


def monitor(source: str | Path, bundles: Sequence[str | Path] = (), **options: Any) -> list[Monitored]:
    """Look for drift in a service's log, or ask the service; see ``planish.serving.monitoring.monitor.monitor`` for the options."""
    return look_for_drift(source, bundles, **options)


def worth_labelling(log: str | Path, out: str | Path, count: int, bundles: Sequence[str | Path] = ()) -> int:
    """Copy the logged images that are most worth a label; see ``planish.serving.monitoring.labelling.worth_labelling``."""
    from planish.serving.monitoring.labelling import worth_labelling as copy

    return copy(Path(log), Path(out), count, bundles)


def report(run: str | Path) -> Path:
    """Write the page of a run, a comparison, an experiment, an evaluation, a study of ensembles, suspects or a learning curve again."""
    folder = Path(run)
    pages = {
        "result": write_report, "experiment": write_experiment, "comparison": write_comparison, "evaluation": write_evaluation,
        "ensembles": write_ensembles, "label_issues": write_label_issues, "learning_curve": write_learning_curve,
    }  # fmt: skip
    write = next((write for name, write in pages.items() if (folder / f"{name}.json").exists()), write_report)
    with damage_reported(folder, BundleError, "its files are as they were written, and fit together", "run it again"):
        return write(folder)


def data(source: str | Path, *, task: str | None = None, seed: int = 0, skip_bad: bool = False) -> ImageData:
    """What is in a data set: its task and layout, what is left out, classes, splits, duplicates, leaks.

    Args:
        source: see ``planish.data.load_images``; ``yolo:photos`` is read in that layout.
        task: ``classification``, ``detection``, ``instance`` or ``semantic``; None for what the data is for.
        seed: of the split.
        skip_bad: leave broken images, and annotations that make no sense, out.
    """
    return load_images(source, task=task, seed=seed, skip_bad=skip_bad)


def tile(source: str | Path, *, size: int, out: str | Path, **options: Any) -> int:
    """Cut large images into overlapping tiles; see ``planish.data.tile_images`` for the options.

    Returns:
        How many tiles there are.
    """
    return tile_images(source, out, size=size, **options)


def suspects(source: str | Path, *, out: str | Path | None = None, **options: Any) -> LabelIssues:
    """Images whose label is probably wrong; see ``planish.datacentric.label_issues.suspects`` for the options.

    Returns:
        What was found. The folder, ``out`` or ``runs/`` and its name, holds ``label_issues.json`` and ``label_issues.html``.
    """
    found = find_suspects(source, out=out, **options)
    write_label_issues(Path(out) if out is not None else Path("runs") / found.name)
    return found


def learning_curve(source: str | Path, *, out: str | Path | None = None, **options: Any) -> LearningCurve:
    """Would more images help? See ``planish.datacentric.learning_curve.learning_curve`` for the options.

    Returns:
        What was found. The folder, ``out`` or ``runs/`` and its name, holds ``learning_curve.json`` and ``learning_curve.html``.
    """
    found = find_learning_curve(source, out=out, **options)
    write_learning_curve(Path(out) if out is not None else Path("runs") / found.name)
    return found


def few_shot(source: str | Path, **options: Any) -> FewShot:
    """What a few images a class are enough for on a frozen network; see ``planish.datacentric.few_shot.few_shot`` for the options."""
    return probe(source, **options)


def doctor() -> dict[str, Any]:
    """What this machine is, what it can run, and what to install for what is missing."""
    runtimes = {name: kind.version() or f"missing; {kind.install}" for name, kind in registered().items()}
    extras = {
        name: "installed" if find_spec(package) else f"missing; pip install 'planish[{name}]'"
        for name, package in {
            "serve": "fastapi",
            "ray": "ray",
            "sign": "cryptography",
            "litert": "ai_edge_litert",
            "executorch": "executorch",
        }.items()
    }
    try:
        extras["litert's converter"] = converter_python()
    except RuntimeMissingError as error:
        extras["litert's converter"] = f"missing; {error.fix}"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] + ["Apple GPU"] * torch.backends.mps.is_available()
    training = {"devices": ", ".join(devices) or "the processor alone"}
    return {
        "machine": describe_machine() | {"free_disk_bytes": shutil.disk_usage(".").free},
        "training": training,
        "runtimes": runtimes,
        "extras": extras,
    }


def _images_for(opened: Opened, source: str | Path, seed: int, skip_bad: bool) -> ImageData:
    """These images for a model, in the splits that it keeps."""
    if opened.assignment is None:
        note(f"{opened.path} keeps no splits: images are split with seed {seed}, and may be in train of the model and in test here")
    side, channels = opened.preprocessing.decode_side, opened.input_spec.channels
    return load_images(
        source, seed=seed, skip_bad=skip_bad, decode_side=side, channels=channels, task=opened.task, assignment=opened.assignment,
        class_names=opened.class_names,
    )  # fmt: skip
