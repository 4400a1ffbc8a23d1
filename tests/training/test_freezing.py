"""What is frozen does not move, neither weights nor batch statistics; what learns more slowly moves less."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from planish.artifact import InputSpec
from planish.models import create
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.fit import fit
from planish.training.prepare import Job, prepare_job
from planish.training.schedules.freezing import LayerFreezer
from planish.training.settings import FitSettings


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepare_job(write_shapes(tmp_path_factory.mktemp("shapes"), per_class=20), ModelSettings("resnet8"))


def trained(job: Job, **settings: object) -> nn.Module:
    given = FitSettings(epochs=2, batch_size=16, learning_rate=0.05, augmentation="none", **settings)  # type: ignore[arg-type]
    return fit(job.artifact.module, job.task, job.artifact.input_spec, job.artifact.preprocessing, given).module


def moved(job: Job, module: nn.Module) -> dict[str, float]:
    before = job.artifact.module.state_dict()
    return {name: float((value.float() - before[name].float()).abs().max()) for name, value in module.state_dict().items()}


def test_a_frozen_backbone_does_not_move_its_batch_norm_included(job: Job) -> None:
    module = trained(job, freeze="backbone")
    changes = moved(job, module)
    assert all(p.requires_grad for p in module.parameters()), "a later training starts afresh"
    assert changes["fc.weight"] > 0
    assert {name for name, change in changes.items() if change > 0} == {"fc.weight", "fc.bias"}


def test_early_layers_do_not_move_and_need_no_backward_pass(job: Job) -> None:
    module = trained(job, freeze="early")
    still = {name for name, change in moved(job, module).items() if not change}
    assert {"conv1.weight", "bn1.weight", "bn1.running_mean"} <= still
    assert not any(name.startswith(("layer2.0.conv2", "layer3", "fc")) for name in still if not name.endswith("num_batches_tracked"))
    assert all(p.requires_grad for p in module.parameters())
    copied = prepare_copy(job)
    freezer, seen = LayerFreezer(copied, job.artifact.input_spec, "early", 1.0), list[bool]()
    freezer(0.9)
    copied.bn1.register_forward_hook(lambda *given: seen.append(given[2].requires_grad))
    spec = job.artifact.input_spec
    copied(torch.zeros(2, spec.channels, spec.height, spec.width)).sum().backward()
    assert seen == [False]


def test_gradual_unfreezing_reaches_every_layer_in_the_end(job: Job) -> None:
    changes = moved(job, trained(job, freeze="gradual"))
    assert all(change > 0 for name, change in changes.items() if name.endswith("conv1.weight"))


def test_parts_unfreeze_from_the_last_to_the_first(job: Job) -> None:
    module = prepare_copy(job)
    freezer = LayerFreezer(module, job.artifact.input_spec, "gradual", 1.0)
    seen = []
    for progress in (0.0, 0.13, 0.26, 0.38, 0.51):
        freezer(progress)
        seen.append({name for name, p in module.named_parameters() if p.requires_grad})
    assert seen[0] == {"fc.weight", "fc.bias"}
    assert all(a < b for a, b in itertools.pairwise(seen))
    assert seen[-1] == {name for name, _ in module.named_parameters()}
    assert "conv1.weight" not in seen[-2]


def test_frozen_layers_are_in_eval_mode_and_stay_so_when_the_network_is_put_to_train(job: Job) -> None:
    module = prepare_copy(job)
    freezer = LayerFreezer(module, job.artifact.input_spec, "backbone", 1.0)
    module.train()
    freezer(0.0, restart=True)
    assert not any(m.training for m in module.modules() if isinstance(m, nn.BatchNorm2d))


def test_earlier_layers_learn_more_slowly(job: Job) -> None:
    freezer = LayerFreezer(module := prepare_copy(job), job.artifact.input_spec, "none", 0.5)
    rates = {name: freezer.rate_of(p) for name, p in module.named_parameters()}
    assert rates["fc.weight"] == 1.0
    assert rates["conv1.weight"] == 0.5**4
    layers = [rate for name, rate in rates.items() if name.startswith("stages")]
    assert min(layers) < max(layers) <= 0.5


def test_parameters_that_ask_for_no_gradient_never_learn(job: Job) -> None:
    module = prepare_copy(job)
    module.conv1.weight.requires_grad_(False)
    freezer = LayerFreezer(module, job.artifact.input_spec, "gradual", 1.0)
    freezer(1.0)
    assert not module.conv1.weight.requires_grad
    assert module.fc.weight.requires_grad


def prepare_copy(job: Job) -> nn.Module:
    module: nn.Module = copy.deepcopy(job.artifact.module)
    torch.manual_seed(0)
    return module


@pytest.mark.parametrize(
    ("name", "task", "body"),
    [
        ("resnet18", "detection", "backbone.body."),
        ("resnet18", "semantic", "backbone.body."),
        ("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", "detection", "model.backbone.body."),
        ("torchvision:ssdlite320_mobilenet_v3_large", "detection", "model.backbone."),
        ("torchvision:lraspp_mobilenet_v3_large", "semantic", "model.backbone."),
    ],
)
def test_all_but_the_backbone_of_a_detector_is_trained(name: str, task: str, body: str) -> None:
    module = create(name, num_classes=3, channels=3, image_size=320, task=task).module
    LayerFreezer(module, InputSpec(3, 320, 320), "backbone", 1.0)(0.0)
    assert {name for name, p in module.named_parameters() if not p.requires_grad} == {
        name for name, _ in module.named_parameters() if name.startswith(body)
    }
