"""A fair comparison of techniques of compression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from planish.commands.options import Layout, Strength, TrainMode, at_least, results_folder, source

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
    threads: int = 1,
    batch: int = 1,
    image_size: int | None = None,
    task: str | None = None,
    layout: Layout | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    watch: Callable[[Sequence[Row]], None] | None = None,
) -> Comparison:
    """Compare techniques of compression at several levels on the same model: size, measured speed-up, change of accuracy.

    Every technique starts from the same original and is distilled for the same number of epochs. Nothing is chosen, so all are evaluated on
    test; their files are timed in one interleaved run beside the original's. The folder holds `comparison.json` and `comparison.html`.

    Args:
        data: Images: a folder, a manifest, or a built-in name; see `planish optimize --help`.
        topic: What is compared.
        model: resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory.
        weights: imagenet, or a file. A model that was already trained on these classes is not trained again.
        epochs: Of the original's training.
        recovery_epochs: Of distillation, for every technique that trains.
        augmentation: Of training images.
        train_mode: auto trains the original unless it was already trained on these classes.
        runtime: That runs all files.
        threads: Threads of the runtime.
        batch: Batch size.
        image_size: Pixels of the model's input.
        task: classification, detection, instance, semantic, or one that is installed; by default what the data is annotated for.
        layout: How the data is laid out, where it could be read in several ways.
        out: Folder for the results; by default runs/ and a name made from topic, data and model.
        resume: Go on with the comparison in --out.
        skip_bad: Leave broken images out instead of stopping.
        seed: Of the split, fresh weights and training.
        watch: Called with the rows whenever one is finished.

    Returns:
        What was found.

    Raises:
        PlanishError: the images, the model or the topic cannot be used.

    Example:
        $ planish compare fashion-mini --topic pruning --model resnet8x2 --epochs 8
    """
    from planish.experiments.compression import compare as run
    from planish.report.pages.comparison import write_comparison
    from planish.settings import DeploymentTarget, ModelSettings, OriginalSettings, RunSettings

    at_least(1, epochs=epochs, recovery_epochs=recovery_epochs, threads=threads, batch=batch)
    found = run(
        source(data, layout),
        topic=topic,
        model=ModelSettings(model, weights, image_size, task=task),
        original=OriginalSettings(epochs, augmentation, train_mode),
        recovery_epochs=recovery_epochs,
        target=DeploymentTarget(runtime, threads, batch),
        run=RunSettings(out, resume, None, skip_bad, seed),
        watch=watch,
    )
    write_comparison(results_folder(out, found.name))
    return found
