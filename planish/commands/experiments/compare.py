"""Controlled comparison of compression techniques."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from planish.commands.options import Layout, Strength, TrainMode, at_least, results_folder, source
from planish.units import ImageSize

if TYPE_CHECKING:
    from torch import nn

    from planish.data.sources.dataset import Dataset
    from planish.experiments.compression import Comparison, Row

Topic = Literal["pruning", "quantization", "planning"]


def compare(
    data: str | Path | Dataset,
    *,
    topic: Topic = "pruning",
    model: str | nn.Module = "resnet20",
    weights: str | Path | None = None,
    epochs: int | None = None,
    recovery_epochs: int = 2,
    augmentation: Strength = "light",
    train_mode: Annotated[TrainMode, Parameter(name="--train")] = "auto",
    runtime: str = "onnxruntime",
    device: str | None = None,
    threads: int = 1,
    batch: int = 1,
    image_size: ImageSize | None = None,
    task: str | None = None,
    metric: str | None = None,
    layout: Layout | None = None,
    workers: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    watch: Callable[[Sequence[Row]], None] | None = None,
) -> Comparison:
    """Compare compression techniques at several levels on one model: size, measured speed-up, change in accuracy.

    Every technique starts from the same original and is distilled for the same number of epochs. Nothing is selected, so all are evaluated
    on test; their files and the original's are timed in one interleaved run. The output folder contains `comparison.json` and
    `comparison.html`.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        topic: Family of techniques to compare.
        model: Network: resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory.
        weights: Initial weights: imagenet, or a file. A model already trained on these classes is not trained again.
        epochs: Epochs of training for the original.
        recovery_epochs: Epochs of distillation for every technique that involves training.
        augmentation: Augmentation of training images.
        train_mode: Whether to train the original; auto trains it unless it was already trained on these classes.
        runtime: Runtime for all files.
        device: Device that files and layers are timed on: ssh://user@host:port/path/of/python; by default this machine.
        threads: Number of threads the runtime may use.
        batch: Batch size.
        image_size: Input size in pixels, or HEIGHTxWIDTH.
        task: classification, detection, instance, semantic, or the name of an installed task; by default determined by the annotations.
        metric: Metric to compare by; see `planish optimize --help`. By default the task's own.
        layout: Layout of the dataset, if it could be read in more than one way.
        workers: Other processes that share the trainings: ray, ray?cores=2, ray://HOST:10001, or postgresql://USER@HOST/DATABASE for
            those of `planish worker`. By default this process does them all.
        out: Output folder; by default runs/ and a name made from the topic, the dataset and the model.
        resume: Continue the comparison in --out.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, of initial weights and of training.
        watch: Called with all rows whenever one is finished.

    Returns:
        The comparison.

    Raises:
        PlanishError: the images, the model, the topic or the device cannot be used.

    Example:
        $ planish compare fashion-mini --topic pruning --model resnet8x2 --epochs 8
        $ planish compare fashion-mini --topic quantization --model resnet8x2 --device ssh://pi@raspberry.local
    """
    from planish.devices.device import using_device
    from planish.experiments.compression import compare as run
    from planish.report.pages.comparison import write_comparison
    from planish.runs.workers import working_with
    from planish.settings import DeploymentTarget, ModelSettings, OriginalSettings, RunSettings

    at_least(1, epochs=epochs, recovery_epochs=recovery_epochs, threads=threads, batch=batch)
    with using_device(device), working_with(workers):
        found = run(
            source(data, layout),
            topic=topic,
            model=ModelSettings(model, weights, image_size, task=task, metric=metric),
            original=OriginalSettings(epochs, augmentation, train_mode),
            recovery_epochs=recovery_epochs,
            target=DeploymentTarget(runtime, threads, batch),
            run=RunSettings(out, resume, None, skip_bad, seed),
            watch=watch,
        )
    write_comparison(results_folder(out, found.name))
    return found
