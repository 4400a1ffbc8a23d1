"""Conformance tests of tasks: reading data, loss, metrics, export, serving and monitoring."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from planish.artifact import Artifact
from planish.evaluation.evaluate import Evaluated, evaluate
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.bundle.folder import write_bundle
from planish.export.bundle.verify import verify
from planish.export.runtimes.registry import load
from planish.models.storage import load_artifact, save_artifact
from planish.runs.open_model import open_model
from planish.settings import DeploymentTarget, ModelSettings
from planish.task import PLAIN_LOSS, SPLITS, AugmentSettings, Kind, Task, metric_of
from planish.tasks import registered
from planish.tasks.localisation import View
from planish.testing.format import make_sure
from planish.training.prepare import Job, prepare_job
from planish.training.recipe import load_recipe

_BATCH, _STEPS = 16, 12
_OPTIONS = {"why", "threshold"}


class TaskConformance:
    """Conformance tests of a task. Inherit from it in a test class and set the attributes::

        class TestRegression(TaskConformance):
            task = "regression"

            def data(self, folder: Path) -> Path:
                return write_images(folder)

    Attributes:
        task: name of the task, which is registered.
        network: network to test it with.
        image_size: size of the images, in pixels.
    """

    task: str
    network: str = "resnet8"
    image_size: int = 32

    def data(self, folder: Path) -> str | Path:
        """Return a small data set: its path, written to the folder, or its name."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def job(self, tmp_path_factory: pytest.TempPathFactory) -> Job:
        torch.manual_seed(0)
        job = prepare_job(
            self.data(tmp_path_factory.mktemp("data")), ModelSettings(self.network, image_size=self.image_size, task=self.task)
        )
        make_sure(job.artifact.module)
        return job

    @pytest.fixture(scope="class")
    def evaluated(self, job: Job) -> Evaluated:
        return _evaluated(job.artifact, job.task)

    @pytest.fixture(scope="class")
    def exported(self, job: Job) -> Artifact:
        return ToOnnx().apply(job.artifact, job.task)

    def test_it_is_registered_and_known_without_images(self, job: Job) -> None:
        bare = registered()[self.task]({}, job.task.class_names)
        assert (bare.name, bare.class_names) == (self.task, job.task.class_names)
        assert callable(bare.annotations) or bare.annotations in get_args(Kind)
        assert bare.largest_side >= 8
        if bare.recipe:
            load_recipe(bare.recipe)

    def test_data_is_read_into_four_splits_with_a_target_an_image(self, job: Job) -> None:
        assert job.data.task == self.task
        keys = {name: set(job.task.split(name).keys) for name in SPLITS}
        assert all(keys.values())
        assert keys["calibration"] <= keys["train"]
        for one, other in combinations((keys["train"], keys["validation"], keys["test"]), 2):
            assert not one & other
        for name in SPLITS:
            split = job.task.split(name)
            assert len(split) == len(split.keys) == len(split.targets)

    def test_the_model_keeps_the_task_when_it_is_saved_and_opened(self, job: Job, tmp_path: Path) -> None:
        save_artifact(job.artifact, tmp_path / "model", job.data.assignment)
        assert load_artifact(tmp_path / "model").class_names == job.task.class_names
        assert open_model(tmp_path / "model").task == self.task

    def test_its_loss_is_finite_and_falls_in_a_few_steps(self, job: Job) -> None:
        network, images, targets = _batch(job)
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
        losses = []
        for _ in range(_STEPS):
            loss = job.task.loss(network, network(images), targets, PLAIN_LOSS)
            assert loss.ndim == 0
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        assert all(map(math.isfinite, losses))
        assert min(losses[_STEPS // 2 :]) < losses[0]

    @pytest.mark.parametrize("augmentation", ["none", "light", "standard"])
    def test_augmented_images_and_targets_still_fit(self, job: Job, augmentation: Any) -> None:
        task, spec = job.task, job.artifact.input_spec
        pixels = torch.from_numpy(_pixels(job)).permute(0, 3, 1, 2)
        targets = task.batch_targets(task.split("train").targets, np.arange(len(pixels)), spec)
        change = task.augment(spec, AugmentSettings(augmentation=augmentation))
        changed, moved = change(pixels, targets, torch.Generator().manual_seed(0))
        assert changed.shape == pixels.shape
        network, _, _ = _batch(job)
        assert task.loss(network, network(_normal(job, changed)), moved).isfinite()

    def test_a_student_that_equals_its_teacher_has_nothing_to_learn(self, job: Job) -> None:
        network, images, _ = _batch(job)
        with torch.no_grad():
            outputs = network.eval()(images)
            other = network(images.flip(0))
        same, apart = (float(job.task.distillation_loss(network, outputs, teacher, 2.0)) for teacher in (outputs, other))
        assert math.isfinite(apart)
        assert same < apart
        assert same == pytest.approx(0, abs=1e-5)

    def test_the_primary_metric_comes_first_and_is_the_mean_of_the_scores(self, job: Job, evaluated: Evaluated) -> None:
        metric, measured = metric_of(job.task), evaluated.metrics
        first = measured[next(iter(measured))]
        assert (first.name, first.unit, first.higher_is_better) == (metric.name, metric.unit, metric.higher_is_better)
        scores = np.asarray(job.task.scores(evaluated.outputs, evaluated.targets))
        assert scores.shape == (len(evaluated.targets),)
        assert scores.dtype == np.float64
        assert metric.scale * scores.mean() == pytest.approx(first.value, abs=0.005 * metric.scale / 100, rel=1e-3)
        for name, one in measured.items():
            assert one.name == name
            assert one.low is None or one.high is None or one.low - 1e-9 <= one.value <= one.high + 1e-9

    def test_guessing_is_worse_than_a_model_without_errors(self, job: Job) -> None:
        metric, guessed = metric_of(job.task), job.task.guessing(job.task.split("validation").targets)
        assert math.isfinite(guessed)
        assert guessed < metric.best if metric.higher_is_better else guessed > metric.best

    def test_a_model_has_no_more_errors_than_itself(self, job: Job, evaluated: Evaluated) -> None:
        of_kinds = job.task.errors(evaluated.outputs, evaluated.targets)
        same = job.task.errors(evaluated.outputs, evaluated.targets, evaluated.outputs)
        assert of_kinds.keys() == same.keys()
        assert all(one.value == pytest.approx(0) for one in same.values())
        assert set(job.task.per_class(evaluated.outputs, evaluated.targets)) <= set(job.task.class_names)

    def test_what_is_drawn_are_pictures(self, job: Job, evaluated: Evaluated) -> None:
        pixels, outputs = _test_pixels(job)[:2], {name: values[:2] for name, values in evaluated.outputs.items()}
        targets = [evaluated.targets[i] for i in range(2)]
        drawn = [job.task.draw(pixels, of, targets) for of in (None, outputs)]
        if any(one is not None for one in drawn):
            for one in drawn:
                assert one is not None
                assert one.dtype == np.uint8
                assert one.ndim == 4
                assert one.shape[::3] == (2, 3)

    def test_answers_are_json_one_an_image(self, job: Job, evaluated: Evaluated) -> None:
        task = registered()[self.task]({}, job.task.class_names)
        count = len(evaluated.targets)
        responses = task.responses(evaluated.outputs, [View(40, 60)] * count)
        assert len(json.loads(json.dumps(responses, allow_nan=False))) == count
        assert set(task.options) <= _OPTIONS
        for answer in responses:
            assert set(task.response_classes(answer)) <= set(task.class_names)
            assert "why" not in task.options or 0 <= answer["confidence"] <= 1
        boxes = task.detected_boxes(evaluated.outputs)
        assert len(boxes) == count
        assert all(set(one) == {"class", "confidence", "shares"} for image in boxes for one in image)

    def test_statistics_are_finite_numbers_of_each_image(self, job: Job, evaluated: Evaluated) -> None:
        found = job.task.statistics(evaluated.outputs)
        assert len(found) == len(evaluated.targets)
        for values, named in found:
            assert all(math.isfinite(value) for value in values.values())
            assert named is None or named in job.task.class_names

    def test_an_exported_file_scores_as_the_network_does(self, job: Job, evaluated: Evaluated, exported: Artifact) -> None:
        found = evaluate(load(exported.files, "onnxruntime"), job.task, "test", exported.input_spec, exported.preprocessing)
        assert set(found.outputs) == set(evaluated.outputs)
        ours, theirs = (np.mean(job.task.scores(each.outputs, each.targets)) for each in (evaluated, found))
        assert theirs == pytest.approx(ours, rel=0.02, abs=0.02)

    def test_its_bundle_verifies_and_its_readme_prints_an_answer(self, job: Job, exported: Artifact, tmp_path: Path) -> None:
        folder = tmp_path / "bundle"
        write_bundle(exported, job.task, folder, target=DeploymentTarget("onnxruntime"), measurements={}, golden=4)
        assert verify(folder, latency=False).failures == []
        assert open_model(folder).task == self.task
        found = load(exported.files, "onnxruntime")(_test_pixels(job)[:1])
        lines, standard_output = job.task.readme, io.StringIO()
        seen: dict[str, Any] = {"np": np, "b": json.loads((folder / "bundle.json").read_text())}
        seen |= {lines.output: found[lines.output]} if lines.output else {"y": {name: values[0] for name, values in found.items()}}
        with contextlib.redirect_stdout(standard_output):
            exec(lines.printed, seen)
        assert standard_output.getvalue() or "boxes" in found, "an image may hold no object"


def _pixels(job: Job) -> Any:
    images = job.task.split("train").images(job.artifact.input_spec, job.artifact.preprocessing)
    return np.ascontiguousarray(images[:_BATCH])


def _test_pixels(job: Job) -> Any:
    return np.ascontiguousarray(job.task.split("test").images(job.artifact.input_spec, job.artifact.preprocessing)[:4])


def _normal(job: Job, pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (job.artifact.preprocessing.mean, job.artifact.preprocessing.std))
    return (pixels.float() / 255 - mean) / std


def _batch(job: Job) -> tuple[nn.Module, torch.Tensor, Any]:
    """Return a copy of the network in training mode, and a batch of normalized images with their targets."""
    task, pixels = job.task, _pixels(job)
    targets = task.batch_targets(task.split("train").targets, np.arange(len(pixels)), job.artifact.input_spec)
    return copy.deepcopy(job.artifact.module).train(), _normal(job, torch.from_numpy(pixels).permute(0, 3, 1, 2)), targets


def _evaluated(artifact: Artifact, task: Task) -> Evaluated:
    predictor = TorchPredictor(artifact.module, artifact.preprocessing)
    return evaluate(predictor, task, "test", artifact.input_spec, artifact.preprocessing)
