"""The main job."""

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
    runtime: str = "auto",
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
    layout: Layout | None = None,
    students: Annotated[Sequence[str] | None, Parameter(name="--student")] = None,
    teachers: int = 1,
    skip_bad: bool = False,
    seed: int = 0,
    watch: Callable[[Sequence[CandidateResult]], None] | None = None,
) -> Result:
    """Make a network small and fast within a loss of accuracy, and prove it on the exported file.

    The run's folder holds `report.html`, `result.json` and `bundle/`.

    Args:
        data: Images: a folder with a folder per class, with annotations of COCO, Pascal VOC or YOLO, or with mask images; COCO's or YOLO's
            file; a CSV or JSON-lines manifest; or fashion-mini, fashion-scenes, cifar10, fashion-mnist, mnist.
        model: resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory; FILE.onnx for what needs no training.
        weights: imagenet, or a .safetensors or .pth file. A model that was already trained on these classes is not trained again.
        max_drop: Points that may be lost of the task's primary metric, 1 by default; in its unit where that is not in percent.
        max_latency: Of one batch: 5ms, 800us.
        max_size: Of the files that ship: 4MB, 512KiB.
        runtime: auto, onnxruntime, openvino, or another that `planish doctor` lists.
        threads: Threads of the runtime.
        batch: Batch size.
        budget: Wall-clock time for everything: 20m, 90s, 1h30m.
        out: The run's folder; by default runs/ and a name made from data and model.
        resume: Go on with the run in --out; no finished step is repeated.
        image_size: Pixels of the model's input; by default the images' own size, at most 224.
        resize: squash, or crop to the middle; by default squash for images that are about square.
        mean: Of FILE.onnx: subtracted from pixel / 255, one value or one per channel: 0.485,0.456,0.406 by default, or 0.
        std: Likewise, what it is then divided by: 0.229,0.224,0.225 by default, or 1.
        epochs: At most, of each training; the budget may cut it short.
        augmentation: Of training images.
        train_mode: auto trains the original unless it was already trained on these classes.
        task: classification, detection, instance, semantic, or one that is installed; by default what the data is annotated for.
        layout: How the data is laid out, where it could be read in several ways.
        students: Another architecture to distill the original into; may be repeated. none for none; by default some small ones where the
            original is trained from scratch.
        teachers: Networks that teach together: the original, and others like it, trained in half of the budget.
        skip_bad: Leave broken images out instead of stopping.
        seed: Of the split, fresh weights and training.
        watch: Called with all candidates whenever something about one becomes known.

    Returns:
        What was found.

    Raises:
        PlanishError: the images, the model or the goal cannot be used.

    Example:
        $ planish optimize photos/ --model mobilenet_v2 --weights imagenet --max-drop 1 --max-latency 5ms --max-size 4MB
    """
    from planish.commands.models import channel_list
    from planish.report import write_report
    from planish.search.optimize import Teaching, default_folder
    from planish.search.optimize import optimize as search
    from planish.settings import DeploymentTarget, GoalSettings, ModelSettings, OriginalSettings, RunSettings

    at_least(1, epochs=epochs, teachers=teachers, threads=threads, batch=batch)
    if resume and out is None:
        raise GoalError("--resume without --out", "it goes on with the run in that folder", "add --out FOLDER")
    read, name = source(data, layout), model if isinstance(model, str) else type(model).__name__
    folder = Path(out) if out is not None else default_folder(read, name)
    result = search(
        read,
        model=ModelSettings(model, weights, image_size, resize, channel_list(mean), channel_list(std), task),
        goal=GoalSettings(max_drop, max_latency, max_size),
        target=DeploymentTarget(runtime, threads, batch),
        original=OriginalSettings(epochs, augmentation, train_mode),
        teaching=Teaching([] if students is not None and list(students) == ["none"] else students, teachers),
        run=RunSettings(folder, resume, budget, skip_bad, seed),
        watch=watch,
    )
    write_report(folder)
    return result
