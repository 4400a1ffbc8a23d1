"""The main command: compress a network within a limit on accuracy loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from planish.commands.options import Layout, Resize, Strength, TrainMode, at_least, source
from planish.errors import GoalError

if TYPE_CHECKING:
    from torch import nn

    from planish.data.sources.dataset import Dataset
    from planish.search.result import CandidateResult, Result


def optimize(
    data: str | Path | Dataset,
    *,
    model: str | nn.Module = "resnet20",
    weights: str | Path | None = None,
    max_drop: float | None = None,
    max_latency: str | float | None = None,
    max_size: str | float | None = None,
    risk: float | None = None,
    runtime: str = "auto",
    device: str | None = None,
    threads: int = 1,
    batch: int = 1,
    budget: str | float = "20m",
    out: str | Path | None = None,
    resume: bool = False,
    image_size: int | None = None,
    resize: Resize | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    epochs: int | None = None,
    augmentation: Strength = "light",
    train_mode: Annotated[TrainMode, Parameter(name="--train")] = "auto",
    task: str | None = None,
    metric: str | None = None,
    layout: Layout | None = None,
    students: Annotated[Sequence[str] | None, Parameter(name="--student")] = None,
    teachers: int = 1,
    skip_bad: bool = False,
    seed: int = 0,
    watch: Callable[[Sequence[CandidateResult]], None] | None = None,
) -> Result:
    """Make a network smaller and faster within a limit on accuracy loss, and prove it on the exported file.

    The folder of the run contains `report.html`, `result.json` and `bundle/`.

    Args:
        data: Dataset: a folder with one folder per class; a folder with COCO, Pascal VOC or YOLO annotations or with mask images; a COCO or
            YOLO file; a CSV or JSON Lines manifest; or a built-in one: fashion-mini, fashion-scenes, cifar10, fashion-mnist, mnist.
        model: Network: resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory. For a FILE.onnx, only what needs no training is tried.
        weights: Initial weights: imagenet, or a .safetensors or .pth file. A model already trained on these classes is not trained again.
        max_drop: Maximum drop of the metric, 1 point by default; in the metric's own unit if that is not percent.
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
        out: Folder of the run; by default runs/ and a name made from the dataset and the model.
        resume: Continue the run in --out; finished steps are not repeated.
        image_size: Input size in pixels; by default the size of the images, at most 224.
        resize: squash to the input size, or crop the centre; by default squash if images are roughly square.
        mean: Mean that FILE.onnx expects, on the scale 0 to 1: one value, or one per channel; 0.485,0.456,0.406 by default.
        std: Standard deviation that FILE.onnx expects, given like --mean; 0.229,0.224,0.225 by default.
        epochs: Maximum number of epochs per training; the budget may end it earlier.
        augmentation: Augmentation of training images.
        train_mode: Whether to train the original; auto trains it unless it was already trained on these classes.
        task: classification, detection, instance, semantic, or the name of an installed task; by default determined by the annotations.
        metric: What must not drop: accuracy (default), balanced-accuracy, macro-f1, auroc, log-loss, recall:CLASS, precision:CLASS or
            f1:CLASS; of boxes and masks map (default), map50, ..., map95; of pixels miou (default), dice, pixel-accuracy or iou:CLASS.
        layout: Layout of the dataset, if it could be read in more than one way.
        students: Another architecture to distill the original into; may be repeated; none tries no others. By default some small ones if
            the original is trained from scratch.
        teachers: Number of networks in the teacher ensemble: the original and others like it, trained in half of the budget.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, of initial weights and of training.
        watch: Called with all candidates whenever one of them changes.

    Returns:
        The result of the run.

    Raises:
        PlanishError: the images, the model, the goal or the device cannot be used.

    Example:
        $ planish optimize photos/ --model mobilenet_v2 --weights imagenet --max-drop 1 --max-latency 5ms --max-size 4MB
        $ planish optimize parts/ --metric recall:defective --max-drop 0.5
        $ planish optimize photos/ --max-latency 30ms --device ssh://pi@raspberry.local
    """
    from planish.commands.models import channel_list
    from planish.devices.device import using_device
    from planish.report import write_report
    from planish.search.optimize import Teaching, default_folder
    from planish.search.optimize import optimize as search
    from planish.settings import DeploymentTarget, GoalSettings, ModelSettings, OriginalSettings, RunSettings

    at_least(1, epochs=epochs, teachers=teachers, threads=threads, batch=batch)
    if resume and out is None:
        raise GoalError("--resume without --out", "it goes on with the run in that folder", "add --out FOLDER")
    read, name = source(data, layout), model if isinstance(model, str) else type(model).__name__
    folder = Path(out) if out is not None else default_folder(read, name)
    with using_device(device):
        result = search(
            read,
            model=ModelSettings(model, weights, image_size, resize, channel_list(mean), channel_list(std), task, metric),
            goal=GoalSettings(max_drop, max_latency, max_size, risk),
            target=DeploymentTarget(runtime, threads, batch),
            original=OriginalSettings(epochs, augmentation, train_mode),
            teaching=Teaching([] if students is not None and list(students) == ["none"] else students, teachers),
            run=RunSettings(folder, resume, budget, skip_bad, seed),
            watch=watch,
        )
    write_report(folder)
    return result
