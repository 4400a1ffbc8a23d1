"""Teachers other than the original: ensembles, maps inside the network, another architecture as student."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from planish.artifact import InputSpec
from planish.errors import TechniqueError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.models.storage import load_artifact, save_artifact
from planish.models.zoo import create
from planish.training import Distill, Student
from planish.training.distillation.distill import _averaged
from planish.training.distillation.feature_transfer import FeatureRecorder, FeatureStudent, stages

QUICK = {"batch_size": 32, "augmentation": "none"}


def accuracy(artifact, task) -> float:
    split = task.split("validation")
    outputs = TorchPredictor(artifact.module, artifact.preprocessing)(split.images(artifact.input_spec, artifact.preprocessing))
    return float(np.mean(outputs["logits"].argmax(1) == split.targets))


def test_a_student_learns_from_two_saved_teachers(artifact, task, tmp_path):
    for seed in (0, 1):
        save_artifact(Distill(epochs=5, seed=seed, **QUICK).apply(artifact, task), tmp_path / f"teacher{seed}")
    teachers = (str(tmp_path / "teacher0"), str(tmp_path / "teacher1"))
    learned = Distill(epochs=10, weight=1.0, teachers=teachers, **QUICK).apply(artifact, task)
    assert accuracy(learned, task) > 0.8


def test_a_teacher_that_is_not_there_or_knows_other_classes_is_refused(artifact, task, tmp_path):
    with pytest.raises(TechniqueError, match="nowhere"):
        Distill(teachers=(str(tmp_path / "nowhere"),)).apply(artifact, task)
    other = replace(artifact, class_names=tuple(reversed(artifact.class_names)))
    with pytest.raises(TechniqueError, match="same classes"):
        Distill(epochs=1, **QUICK).apply(replace(artifact, original=other), task)
    with pytest.raises(TechniqueError, match="without a teacher"):
        Distill(method="feature").apply(artifact, task)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:densenet121", "torchvision:vgg11_bn"])
def test_stages_end_where_the_size_changes(name):
    network = create(name, num_classes=4, channels=3, image_size=96).module.eval()
    found = stages(network, torch.zeros(1, 3, 96, 96))
    sizes = [tuple(m.shape[2:]) for m in found.values()]
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] == (3, 3)
    assert not network.training


def test_a_copy_of_the_teacher_is_at_no_distance_and_another_network_is():
    teacher = create("resnet8", num_classes=4, channels=1, image_size=16).module.eval()
    x = torch.randn(4, 1, 16, 16)
    student = FeatureStudent(copy.deepcopy(teacher), teacher, x, "attention").eval()
    watched = FeatureRecorder(teacher, student.teacher_layers)
    student(x), watched(x)
    assert student.distance(watched).item() < 1e-9
    other = FeatureStudent(create("resnet14", num_classes=4, channels=1, image_size=16).module, teacher, x, "attention").eval()
    other(x)
    assert other.distance(watched).item() > 1e-4


def test_attention_is_compared_as_published():
    """Zagoruyko and Komodakis 2017, equation 2, on one stage, written out with NumPy."""
    teacher = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1))
    student = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1))
    x = torch.randn(2, 1, 5, 5)
    pair = FeatureStudent(student, teacher, x, "attention")
    watched = FeatureRecorder(teacher, pair.teacher_layers)
    ours, theirs = pair(x).detach().numpy(), watched(x).detach().numpy()
    q = [(m**2).sum(1).reshape(2, -1) for m in (ours, theirs)]
    q = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in q]
    assert pair.distance(watched).item() == pytest.approx(((q[0] - q[1]) ** 2).sum(1).mean(), rel=1e-4)


def test_features_are_reached_by_learning_the_regressor_alone():
    """The student's map is a linear image of the teacher's, so a 1x1 convolution can bring the distance to nothing."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    student = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))
    with torch.no_grad():
        student[0].weight[:2], student[0].weight[2:] = teacher[0].weight, -teacher[0].weight
        student[0].bias[:2], student[0].bias[2:] = teacher[0].bias, -teacher[0].bias
    x = torch.randn(8, 1, 6, 6)
    pair = FeatureStudent(student, teacher, x, "feature")
    watched = FeatureRecorder(teacher, pair.teacher_layers)
    with torch.no_grad():
        watched(x), pair(x)
    first = pair.distance(watched).item()
    assert first == pytest.approx(F.mse_loss(pair.regressors[0](student(x)), teacher(x)).item() / teacher(x).var().item(), rel=1e-4)
    optimizer = torch.optim.Adam(pair.regressors.parameters(), lr=0.05)
    for _ in range(200):
        pair(x)
        loss = pair.distance(watched)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert pair.distance(watched).item() < 1e-3 < first


def test_maps_inside_the_student_come_near_the_teachers(artifact, task):
    """After attention transfer the student's maps are nearer to the teacher's than after learning from logits alone."""
    teacher = Distill(epochs=5, **QUICK).apply(artifact, task)
    images = (
        torch.from_numpy(np.array(task.split("validation").images(artifact.input_spec, artifact.preprocessing))).permute(0, 3, 1, 2) / 255
    )
    reached = {}
    for method in ("logits", "attention"):
        student = Student(model="resnet8", seed=3).apply(replace(teacher, original=teacher), task)
        student = Distill(method=method, epochs=5, **QUICK).apply(student, task)
        pair = FeatureStudent(student.module, teacher.module, images, "attention").eval()
        watched = FeatureRecorder(teacher.module, pair.teacher_layers)
        with torch.no_grad():
            pair(images), watched(images)
        reached[method] = pair.distance(watched).item()
    assert reached["attention"] < 0.8 * reached["logits"]


def test_a_student_of_another_architecture_is_taught_saved_and_loaded(artifact, task, tmp_path):
    teacher = Distill(epochs=6, **QUICK).apply(artifact, task)
    student = Student(model="resnet14x0.5").apply(replace(teacher, original=teacher), task)
    assert accuracy(student, task) < 0.6
    student = Distill(epochs=12, **QUICK).apply(student, task)
    assert accuracy(student, task) > 0.8
    save_artifact(student, tmp_path / "saved")
    again = load_artifact(tmp_path / "saved", module=artifact.module)
    assert again.module.state_dict().keys() != artifact.module.state_dict().keys()
    x = torch.randn(2, 1, 12, 12)
    torch.testing.assert_close(again.module(x), student.module(x))


def test_an_unknown_student_is_refused(artifact, task):
    with pytest.raises(TechniqueError, match="resnet8"):
        Student(model="resnet9000").apply(artifact, task)


def test_several_teachers_whose_outputs_cannot_be_averaged_are_refused():
    detector = create("resnet18", num_classes=3, channels=3, image_size=64, task="detection").module.eval()
    with pytest.raises(TechniqueError, match="2 teachers cannot be averaged"):
        _averaged([detector, detector], InputSpec(3, 64, 64))
