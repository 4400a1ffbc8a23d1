"""Compression of a model by a hand-written plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Layout, Resize, source
from planish.errors import BundleError, ModelError
from planish.settings import DeploymentTarget
from planish.units import ImageSize

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset
    from planish.measurement import Measurement
    from planish.plan import Plan


@dataclass(frozen=True)
class Compressed:
    """The outcome of a plan: the output folder, and test metrics and size before and after."""

    folder: Path
    before: dict[str, Measurement]
    after: dict[str, Measurement]
    size_bytes_before: int
    size_bytes_after: int


def compress(
    model: str | Path,
    data: str | Path | Dataset,
    *,
    plan: str | Path | Plan,
    out: str | Path = "compressed",
    weights: str | Path | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    image_size: ImageSize | None = None,
    resize: Resize | None = None,
    task: str | None = None,
    layout: Layout | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> Compressed:
    """Apply a hand-written plan of techniques to a trained model, and report its metrics on test before and after.

    Images keep the splits the model was trained with.

    Args:
        model: Folder of a saved model; or the name of a network together with --weights: FILE.py:factory, timm:NAME, torchvision:NAME;
            or a classifier's .onnx file.
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        plan: YAML or JSON list of techniques: '- {name: channel_pruning, pruning_ratio: 0.5}'.
        out: Output folder.
        weights: Weights of a network given by name: a .safetensors or .pth file.
        mean: Mean the network expects, on the scale 0 to 1: one value, or one per channel, such as 0.485,0.456,0.406.
        std: Standard deviation the network expects, given like --mean, such as 0.229,0.224,0.225.
        image_size: Input size in pixels, or HEIGHTxWIDTH.
        resize: How images are brought to the input size.
        task: classification, detection, instance, semantic, or the name of an installed task.
        layout: Layout of the dataset, if it could be read in more than one way.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, if the model does not store one.

    Returns:
        The output folder, and test metrics and sizes before and after.

    Raises:
        PlanError: the plan cannot be read, or its steps cannot be combined.
        TechniqueError: a step cannot be applied; the message names it.

    Example:
        $ planish compress model/ photos/ --plan plan.yaml
        $ planish compress net.py:make photos/ --weights net.pth --mean 0.5 --std 0.25 --plan plan.yaml
    """
    from planish.commands.models import channel_list, open_with_images
    from planish.evaluation.evaluate import evaluate as evaluate_split
    from planish.export.bundle.folder import write_bundle
    from planish.export.runtimes.registry import available
    from planish.models.storage import save_artifact
    from planish.plan import Plan
    from planish.runs.open_model import open_model
    from planish.settings import ModelSettings
    from planish.split_assignment import assignment_beside
    from planish.tasks import task_for
    from planish.training import Distill

    folder = Path(out)
    if folder.exists():
        raise BundleError(f"{folder} exists already", "a model is never overwritten", "choose another --out")
    steps = plan if isinstance(plan, Plan) else Plan.load(Path(plan))
    teachers = [assignment_beside(Path(teacher)) for step in steps.steps if isinstance(step, Distill) for teacher in step.teachers]
    network = ModelSettings(str(model), weights, image_size, resize, channel_list(mean), channel_list(std), task)
    opened, images = open_with_images(network, source(data, layout), seed=seed, skip_bad=skip_bad, teachers=teachers)
    if opened.artifact is None:
        raise ModelError(
            f"{model} is an exported model", "a plan starts from a network in PyTorch", "name a saved model, or a network with --weights"
        )
    facts = steps.check(opened.artifact.facts)
    images.require("train", "validation", "test")
    split_task = task_for(opened.task, images.splits, images.class_names)
    after = steps.apply(opened.artifact, split_task)
    before_metrics = evaluate_split(opened.predictor(), split_task, "test", opened.input_spec, opened.preprocessing).metrics
    folder.parent.mkdir(parents=True, exist_ok=True)
    if facts["format"] == "torch":
        save_artifact(after, folder, images.assignment)
    else:
        runtime = available(facts["format"])[0]
        write_bundle(after, split_task, folder, target=DeploymentTarget(runtime), measurements={}, assignment=images.assignment)
    reopened = open_model(folder)
    after_metrics = evaluate_split(reopened.predictor(threads=2), split_task, "test", reopened.input_spec, reopened.preprocessing).metrics
    return Compressed(folder, before_metrics, after_metrics, opened.artifact.size_bytes, after.size_bytes)
