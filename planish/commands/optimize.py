"""The main command: compress a network within a limit on accuracy loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from planish.commands.options import Layout, Resize, Strength, TrainMode, at_least, source
from planish.errors import GoalError
from planish.task import OUTPUTS
from planish.units import ImageSize

if TYPE_CHECKING:
    from torch import nn

    from planish.data.sources.dataset import Dataset
    from planish.search.result import CandidateResult, Result

_TRACKED_FILES = ("report.html", "result.json", "bundle")


def optimize(
    data: str | Path | Dataset,
    *,
    model: str | nn.Module = "resnet20",
    weights: str | Path | None = None,
    max_drop: float | None = None,
    max_change: float | None = None,
    max_latency: str | float | None = None,
    max_size: str | float | None = None,
    risk: float | None = None,
    runtime: str = "auto",
    device: str | None = None,
    threads: int = 1,
    batch: int = 1,
    budget: str | float = "20m",
    workers: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    image_size: ImageSize | None = None,
    resize: Resize | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    epochs: int | None = None,
    augmentation: Strength = "light",
    train_mode: Annotated[TrainMode, Parameter(name="--train")] = "auto",
    task: str | None = None,
    metric: str | None = None,
    layout: Layout | None = None,
    unlabelled: bool = False,
    extra_images: str | Path | None = None,
    students: Annotated[Sequence[str] | None, Parameter(name="--student")] = None,
    teachers: int = 1,
    skip_bad: bool = False,
    track: str | None = None,
    seed: int = 0,
    watch: Callable[[Sequence[CandidateResult]], None] | None = None,
) -> Result:
    """Make a network smaller and faster within a limit on accuracy loss, and prove it on the exported file.

    The folder of the run contains `report.html`, `result.json` and `bundle/`.

    Args:
        data: Dataset: a folder with one folder per class; a folder with COCO, Pascal VOC or YOLO annotations or with mask images; a COCO or
            YOLO file; a CSV or JSON Lines manifest; or a built-in one: fashion-mini, fashion-scenes, cifar10, fashion-mnist, mnist. For a
            trained classifier also a folder of images without labels: agreement with its own answers is then measured.
        model: Network: resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory; or a classifier's FILE.onnx, which is made a network
            again where that is possible.
        weights: Initial weights: imagenet, or a .safetensors or .pth file. A model already trained on these classes is not trained again.
        max_drop: Maximum drop of the metric, 1 point by default; in the metric's own unit if that is not percent.
        max_change: For images without labels, in place of max-drop: maximum share of the original's answers that change, in percent.
        max_latency: Maximum latency of one batch: 5ms, 800us.
        max_size: Maximum size of the shipped files: 4MB, 512KiB.
        risk: Accepted probability that the shipped model loses more than the maximum drop on new images, 0.2 by default. 0.05 needs more
            validation images to ship a faster model; 0.5 ships whatever is within the limit on validation.
        runtime: Runtime to deploy to: auto, onnxruntime, openvino, or another listed by `planish doctor`. OpenVINO is also tried
            in its default precision where that is bf16.
        device: Device to deploy to, on which everything is timed: ssh://user@host:port/path/of/python; by default this machine.
        threads: Number of threads the runtime may use.
        batch: Batch size.
        budget: Total wall-clock time: 20m, 90s, 1h30m.
        workers: Other processes that share the trainings: ray, ray?cores=2, ray://HOST:10001, or postgresql://USER@HOST/DATABASE for
            those of `planish worker`. By default this process does them all.
        out: Folder of the run; by default runs/ and a name made from the dataset and the model.
        resume: Continue the run in --out; finished steps are not repeated.
        image_size: Input size in pixels, or HEIGHTxWIDTH; by default the size of the images, at most 224.
        resize: squash to the input size, or crop the centre; by default squash if images are roughly square.
        mean: Mean that FILE.onnx expects, on the scale 0 to 1: one value, or one per channel; 0.485,0.456,0.406 by default. Without labels
            also for FILE.py:factory.
        std: Standard deviation that FILE.onnx expects, given like --mean; 0.229,0.224,0.225 by default.
        epochs: Maximum number of epochs per training; the budget may end it earlier.
        augmentation: Augmentation of training images.
        train_mode: Whether to train the original; auto trains it unless it was already trained on these classes.
        task: classification, detection, instance, semantic, or the name of an installed task; by default determined by the annotations.
            outputs takes any network and images without labels, and compares its outputs as they are.
        metric: What must not drop: accuracy (default), balanced-accuracy, macro-f1, auroc, log-loss, recall:CLASS, precision:CLASS or
            f1:CLASS; of boxes and masks map (default), map50, ..., map95; of pixels miou (default), dice, pixel-accuracy or iou:CLASS.
        layout: Layout of the dataset, if it could be read in more than one way.
        unlabelled: Ignore labels: all images below the folder are images without labels. Not needed for a folder without class folders.
        extra_images: Folder of images without labels on which candidates are also distilled, with the original's own answers as labels.
            Images that are also in the dataset are left out.
        students: Another architecture to distill the original into; may be repeated; none tries no others. By default some small ones if
            the original is trained from scratch.
        teachers: Number of networks in the teacher ensemble: the original and others like it, trained in half of the budget.
        skip_bad: Skip broken images instead of stopping.
        track: Experiment tracker for numbers and files: mlflow, tensorboard, wandb or trackio; after a colon, where it stores them:
            mlflow:http://localhost:5000, tensorboard:logs. If it fails, the run goes on without it.
        seed: Seed of the split, of initial weights and of training.
        watch: Called with all candidates whenever one of them changes.

    Returns:
        The result of the run.

    Raises:
        PlanishError: the images, the model, the goal or the device cannot be used.

    Example:
        $ planish optimize photos/ --model mobilenet_v2 --weights imagenet --max-drop 1 --max-latency 5ms --max-size 4MB
        $ planish optimize parts/ --metric recall:defective --max-drop 0.5
        $ planish optimize images/ --model classifier.onnx --max-change 1
        $ planish optimize photos/ --extra-images unsorted/
        $ planish optimize photos/ --max-latency 30ms --device ssh://pi@raspberry.local
    """
    from planish.commands.models import channel_list
    from planish.devices.device import using_device
    from planish.report import write_report
    from planish.runs.workers import working_with
    from planish.search.optimize import Teaching, default_folder
    from planish.search.optimize import optimize as search
    from planish.settings import DeploymentTarget, GoalSettings, ModelSettings, OriginalSettings, RunSettings
    from planish.tracking.tracker import tracking

    at_least(1, epochs=epochs, teachers=teachers, threads=threads, batch=batch)
    if resume and out is None:
        raise GoalError("--resume without --out", "it goes on with the run in that folder", "add --out FOLDER")
    if unlabelled and layout is not None:
        raise GoalError(f"--unlabelled with --layout {layout}", "a layout is how labels are read", "omit one of them")
    if task == OUTPUTS and layout is not None:
        raise GoalError(f"--task {OUTPUTS} with --layout {layout}", "outputs are compared on images without labels", "omit one of them")
    read, name = (
        source(data, "unlabelled" if unlabelled or task == OUTPUTS else layout),
        model if isinstance(model, str) else type(model).__name__,
    )
    folder = Path(out) if out is not None else default_folder(read, name)
    extra = None if extra_images is None else str(extra_images)
    settings = {
        "data": read, "model": name, "weights": weights, "max_drop": max_drop, "max_change": max_change, "max_latency": max_latency,
        "max_size": max_size, "risk": risk, "runtime": runtime, "threads": threads, "batch": batch, "budget": budget,
        "image_size": image_size, "epochs": epochs, "augmentation": augmentation, "train": train_mode, "task": task, "metric": metric,
        "teachers": teachers, "seed": seed, "device": device, "extra_images": extra,
    }  # fmt: skip
    with using_device(device), working_with(workers), tracking(track, folder.absolute().name, settings) as tracked:
        result = search(
            read,
            model=ModelSettings(model, weights, image_size, resize, channel_list(mean), channel_list(std), task, metric),
            goal=GoalSettings(max_drop, max_latency, max_size, risk, max_change),
            target=DeploymentTarget(runtime, threads, batch),
            original=OriginalSettings(epochs, augmentation, train_mode),
            teaching=Teaching([] if students is not None and list(students) == ["none"] else students, teachers, extra),
            run=RunSettings(folder, resume, budget, skip_bad, seed),
            watch=watch,
        )
        write_report(folder)
        compared = {"drop": result.drop, "latency_ratio": result.latency_ratio, "size_ratio": result.size_ratio}
        tracked.result(result.chosen.measurements | compared, [folder / name for name in _TRACKED_FILES], result.verdict)
    return result
