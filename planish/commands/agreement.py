"""Agreement of a model with another one, on images whose labels are not needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planish.errors import ModelError

if TYPE_CHECKING:
    from planish.measurement import Measurement
    from planish.runs.open_model import Opened
    from planish.settings import ModelSettings


def agreement(
    network: ModelSettings, reference: str, data: str, *, runtime: str = "auto", seed: int = 0, skip_bad: bool = False
) -> dict[str, Measurement]:
    """Compare a model's answers with those of another one.

    Both see each image as they are fed themselves. If one of them was made with some of the images, only those in test are used.

    Args:
        network: the model, see ``open_with_images``; its preprocessing is also that of the reference if neither stores its own.
        reference: path of the other one: a saved model, bundle, run or .onnx file.
        data: images; a source whose labels are ignored.
        runtime: for exported files.
        seed: of the split, if neither model stores one.
        skip_bad: skip broken images.

    Returns:
        ``agreement`` of classifiers; of other models the metrics of their task, with what the reference finds as targets.

    Raises:
        ModelError: the models have different tasks or numbers of classes.
        PlanishError: the images or a model cannot be used.
    """
    from planish.commands.models import is_network, refuse_preprocessing, unlabelled_task
    from planish.data import Decoding, load_unlabelled
    from planish.evaluation.evaluate import evaluate
    from planish.progress import note
    from planish.split_assignment import combined

    other = replace(network, model=reference, weights=None)
    if not is_network(network) and not is_network(other):
        refuse_preprocessing(network)
    judge, model = (_opened(each, data, runtime, seed, skip_bad) for each in (other, network))
    if (model.task, len(model.class_names)) != (judge.task, len(judge.class_names)):
        raise ModelError(
            f"{model.path} is for {model.task} with {len(model.class_names)} classes, {judge.path} for {judge.task} with "
            f"{len(judge.class_names)}",
            "only models for the same classes can agree",
        )
    images = load_unlabelled(
        data, Decoding(judge.preprocessing.decode_side, judge.input_spec.channels), seed=seed, skip_bad=skip_bad,
        assignment=combined([judge.assignment, model.assignment]),
    )  # fmt: skip
    images = replace(images if images.known else images.all_in_test(), task=judge.task, class_names=judge.class_names)
    images.require("test")
    task: Any = unlabelled_task(images)
    outputs = [
        evaluate(opened.predictor(threads=2), task, "test", opened.input_spec, opened.preprocessing).outputs for opened in (judge, model)
    ]
    note(f"{len(images.splits['test']):,} images; {judge.path} takes the place of labels, and whether it is right is not measured")
    found: dict[str, Measurement] = task.metrics(outputs[1], task.answers(outputs[0], judge.input_spec))
    return found


def _opened(network: ModelSettings, data: str, runtime: str, seed: int, skip_bad: bool) -> Opened:
    from planish.commands.models import is_network
    from planish.runs.converted_onnx import is_external_onnx
    from planish.runs.external_onnx import file_job
    from planish.runs.open_model import Opened, open_model
    from planish.runs.open_network import unlabelled_job

    path = Path(network.name)
    if is_external_onnx(network.name):
        artifact = file_job(data, network, skip_bad=skip_bad, seed=seed, unlabelled=True).artifact
        name = "onnxruntime" if runtime == "auto" else runtime
        return Opened(path, "onnx", name, artifact.files, artifact.input_spec, artifact.preprocessing, artifact.class_names)
    if is_network(network):
        job = unlabelled_job(data, network, skip_bad=skip_bad, seed=seed)
        artifact = job.artifact
        return Opened(
            path, "torch", "torch", (), artifact.input_spec, artifact.preprocessing, artifact.class_names, job.data.task, artifact,
            job.data.assignment if network.weights is not None else None,
        )  # fmt: skip
    return open_model(network.name, runtime)
