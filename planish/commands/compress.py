"""Compression of a model by a hand-written plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Layout, Resize, source
from planish.errors import BundleError
from planish.settings import DeploymentTarget
from planish.task import OUTPUTS
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
    unlabelled: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
) -> Compressed:
    """Apply a hand-written plan of techniques to a trained model, and report its metrics on test before and after.

    Images keep the splits the model was trained with. Without labels, the metric is the agreement with the model's own answers.

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
        task: classification, detection, instance, semantic, or the name of an installed task; outputs takes any network and images without
            labels, and compares its outputs as they are.
        layout: Layout of the dataset, if it could be read in more than one way.
        unlabelled: Ignore labels: all images below the folder are images without labels. Not needed for a folder without class folders.
        skip_bad: Skip broken images instead of stopping.
        seed: Seed of the split, if the model does not store one.

    Returns:
        The output folder, and test metrics and sizes before and after.

    Raises:
        PlanError: the plan cannot be read, or its steps cannot be combined.
        TechniqueError: a step cannot be applied; the message names it.

    Example:
        $ planish compress model/ photos/ --plan plan.yaml
        $ planish compress model.onnx images/ --plan int8.yaml
        $ planish compress net.py:make photos/ --weights net.pth --mean 0.5 --std 0.25 --plan plan.yaml
    """
    from planish.commands.models import channel_list, exported_model, open_with_images, open_without_labels
    from planish.data import is_unlabelled
    from planish.evaluation.evaluate import evaluate as evaluate_split
    from planish.evaluation.torch_predictor import TorchPredictor
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
    read = source(data, "unlabelled" if unlabelled or task == OUTPUTS else layout)
    if task == OUTPUTS or is_unlabelled(read, task):
        job = open_without_labels(network, read, seed=seed, skip_bad=skip_bad)
        artifact, images, split_task = job.artifact, job.data, job.task
    else:
        opened, images = open_with_images(network, read, seed=seed, skip_bad=skip_bad, teachers=teachers)
        if opened.artifact is None:
            raise exported_model(str(model))
        images.require("train", "validation", "test")
        artifact, split_task = opened.artifact, task_for(opened.task, images.splits, images.class_names)
    facts = steps.check(artifact.facts)
    after = steps.apply(artifact, split_task)
    predictor = TorchPredictor.fastest(artifact.module, artifact.preprocessing)
    before_metrics = evaluate_split(predictor, split_task, "test", artifact.input_spec, artifact.preprocessing).metrics
    folder.parent.mkdir(parents=True, exist_ok=True)
    if facts["format"] == "torch":
        save_artifact(after, folder, images.assignment)
    else:
        runtime = available(facts["format"])[0]
        write_bundle(after, split_task, folder, target=DeploymentTarget(runtime), measurements={}, assignment=images.assignment)
    reopened = open_model(folder)
    after_metrics = evaluate_split(reopened.predictor(threads=2), split_task, "test", reopened.input_spec, reopened.preprocessing).metrics
    return Compressed(folder, before_metrics, after_metrics, artifact.size_bytes, after.size_bytes)
