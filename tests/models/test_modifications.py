"""Every modification on networks people use and on a user's own: it applies, trains a step, is saved and built again, and exports."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

from planish.artifact import Artifact
from planish.compression import Width
from planish.errors import TechniqueError
from planish.export import ToOnnx
from planish.models.storage import load_artifact, save_artifact
from planish.models.surgery import (
    Activation,
    Depth,
    Downsampling,
    DropConnect,
    Dropout,
    Initialization,
    Kernels,
    Norm,
    Pooling,
    SqueezeExcitation,
    StochasticDepth,
)
from planish.models.surgery.graph import residual_branches
from planish.models.surgery.initialization import fans, gain_of
from planish.models.surgery.norm import StandardisedConv2d
from planish.models.surgery.pooling import AttentionPool, BlurPool, GeneralisedMean, GridMax, SpatialPyramid
from planish.models.surgery.regularization import DropBranch, DropConnectLinear
from planish.settings import ModelSettings
from planish.technique import Technique
from planish.testing import TechniqueConformance, write_shapes
from planish.training.prepare import Job, prepare_job

MODIFICATIONS: tuple[Technique, ...] = (
    *(Activation(kind) for kind in ("elu", "selu", "prelu")),
    *(Norm(kind) for kind in ("group", "layer", "instance", "standardised", "none", "batch")),
    *(Pooling(kind) for kind in ("max", "gem", "attention", "pyramid")),
    *(Downsampling(kind) for kind in ("average", "gem", "strided", "blur")),
    Initialization("matched"), Initialization("orthogonal"), Dropout(0.3), DropConnect(0.3), DropConnect(0.1, layers="all"),
    StochasticDepth(0.2), SqueezeExcitation(), SqueezeExcitation(reduction=0), Kernels(size=5), Kernels(form="spatial"),
    Kernels(form="separable"), Kernels(size=5, form="stacked"), Depth(2.0), Depth(0.5), Width(0.5), Width(1.5),
)  # fmt: skip
# what cannot apply, and the words that say why
REFUSED = {
    ("vgg11", "norm"): "no normalisation",
    ("vgg11", "stochastic_depth"): "no residual branch",
    ("vgg11", "pooling attention"): "7x7",
    ("vgg11", "pooling pyramid"): "7x7",
    ("mobilenet_v2", "downsampling average"): "no pooling with a stride",
    ("mobilenet_v2", "downsampling gem"): "no pooling with a stride",
    ("mobilenet_v2", "downsampling strided"): "no pooling with a stride",
    ("efficientnet_b0", "downsampling average"): "no pooling with a stride",
    ("efficientnet_b0", "downsampling gem"): "no pooling with a stride",
    ("efficientnet_b0", "downsampling strided"): "no pooling with a stride",
    ("efficientnet_b0", "squeeze-and-excitation /16"): "has 16 squeeze",
}


class Users(nn.Module):
    """A network as a user writes one: functions, not modules, wherever there is a choice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(2)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(2)))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.norm(self.stem(x))))
        x = torch.relu(x + self.conv2(F.relu(self.conv1(x))))
        return self.head(self.blocks(x).mean([2, 3]))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=20, size=64, channels=3)


@pytest.fixture(scope="module")
def users(images: Path) -> Job:
    torch.manual_seed(0)
    return prepare_job(images, ModelSettings(Users(), image_size=32))


def trains_a_step(artifact: Artifact) -> None:
    module, spec = artifact.module.train(), artifact.input_spec
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    images = torch.randn(4, spec.channels, spec.height, spec.width)
    loss = F.cross_entropy(module(images), torch.arange(4) % len(artifact.class_names))
    loss.backward()
    optimizer.step()
    module.eval()
    assert torch.isfinite(loss)
    moved = sum(not torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
    assert moved > 0.3 * len(before)  # without normalisation hardly anything reaches a deep random network's first layers


def comes_back(artifact: Artifact, folder: Path, given: nn.Module | None = None) -> None:
    save_artifact(artifact, folder)
    again = load_artifact(folder, module=given)
    images = torch.randn(2, artifact.input_spec.channels, artifact.input_spec.height, artifact.input_spec.width)
    with torch.no_grad():
        assert torch.equal(again.module(images), artifact.module(images))


@pytest.mark.parametrize("modification", MODIFICATIONS, ids=str)
def test_on_a_users_network(modification: Technique, users: Job, tmp_path: Path) -> None:
    if str(modification) == "no squeeze-and-excitation":
        with pytest.raises(TechniqueError, match="has no squeeze"):
            modification.apply(users.artifact, users.task)
        return
    applied = modification.apply(users.artifact, users.task)
    trains_a_step(applied)
    comes_back(applied, tmp_path / "saved", users.artifact.module)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v2", "efficientnet_b0", "vgg11"])
@pytest.mark.parametrize("modification", MODIFICATIONS, ids=str)
def test_on_networks_people_use(
    modification: Technique, network: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare_job(images, ModelSettings(f"torchvision:{network}", image_size=64))
    why = REFUSED.get((network, str(modification))) or REFUSED.get((network, modification.name))
    if why is None and (str(modification), network) in {("no squeeze-and-excitation", n) for n in ("resnet18", "mobilenet_v2", "vgg11")}:
        why = "has no squeeze"
    if why is not None:
        with pytest.raises(TechniqueError, match=why):
            modification.apply(job.artifact, job.task)
        return
    applied = modification.apply(job.artifact, job.task)
    print(applied.lineage.steps[-1].notes)
    trains_a_step(applied)
    comes_back(applied, tmp_path / "saved")
    ToOnnx().apply(applied, job.task)  # compares with PyTorch itself


class TestActivation(TechniqueConformance):
    technique = Activation("gelu")


class TestNorm(TechniqueConformance):
    technique = Norm("group", groups=8)


class TestPooling(TechniqueConformance):
    technique = Pooling("gem")


class TestDownsampling(TechniqueConformance):
    technique = Downsampling("blur")


class TestInitialization(TechniqueConformance):
    technique = Initialization("he_normal")


class TestDropout(TechniqueConformance):
    technique = Dropout(0.2)


class TestDropConnect(TechniqueConformance):
    technique = DropConnect(0.2)


class TestStochasticDepth(TechniqueConformance):
    technique = StochasticDepth(0.2)


class TestSqueezeExcitation(TechniqueConformance):
    technique = SqueezeExcitation()


class TestKernels(TechniqueConformance):
    technique = Kernels(size=5)


class TestDepth(TechniqueConformance):
    technique = Depth(2.0)
    model = "resnet14"


def test_functions_in_the_code_become_modules_and_the_network_computes_the_same(users: Job) -> None:
    applied = Activation("relu").apply(users.artifact, users.task)
    x = torch.randn(2, 3, 32, 32)
    assert sum(isinstance(m, nn.ReLU) for m in applied.module.modules()) == 5
    torch.testing.assert_close(applied.module(x), users.artifact.module.eval()(x))


class Squeezes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.last = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(x))
        x = x * self.squeeze(x) * x.mean((2, 3), keepdim=True)
        return self.head(self.last(x).flatten(1))  # type: ignore[no-any-return]


def test_the_pooling_before_the_classifier_is_the_one_that_runs_last(users: Job) -> None:
    applied = Pooling("gem").apply(replace(users.artifact, module=Squeezes().eval()), users.task)
    assert applied.lineage.steps[-1].notes == "last is gem"
    assert Pooling("max").apply(applied, users.task).lineage.steps[-1].notes == "last is max"


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.mean(input=torch.relu(input=self.conv(x)), dim=(2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("modification", [Activation("elu"), Pooling("gem")])
def test_functions_with_named_arguments_become_modules(modification: Technique, users: Job) -> None:
    assert modification.apply(replace(users.artifact, module=Named().eval()), users.task).lineage.steps


def test_batch_norm_in_place_of_batch_norm_changes_nothing(users: Job) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3, eps=1e-2), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module[0].running_mean.fill_(3)
    module[0].running_var.fill_(0.01)
    before = replace(users.artifact, module=module.eval())
    after, x = Norm("batch").apply(before, users.task), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(after.module(x), module(x))


@pytest.mark.parametrize("kind", [nn.MaxPool2d, nn.AvgPool2d])
def test_what_is_blurred_is_still_pooled_as_before(kind: type[nn.Module]) -> None:
    network = Downsampling.rebuild(nn.Sequential(kind(2)), {"kind": "blur", "at": {"0": 4}})
    assert type(network[0][0]) is kind


def test_new_weights_begin_with_new_statistics_in_every_batch_norm(users: Job) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 4))
    for i in (1, 4):
        module[i].running_mean.fill_(3)
    drawn = Initialization("he_normal").apply(replace(users.artifact, module=module.eval()), users.task).module
    assert [float(drawn[i].running_mean.max()) for i in (1, 4)] == [0, 0]


def test_generalised_mean_lies_between_average_and_maximum() -> None:
    x = torch.rand(2, 3, 6, 6) + 0.1
    pool = GeneralisedMean(nn.AdaptiveAvgPool2d(1))
    with torch.no_grad():
        pool.p.fill_(1.0)
        torch.testing.assert_close(pool(x), x.mean((2, 3), keepdim=True))
        pool.p.fill_(200.0)
        torch.testing.assert_close(pool(x), x.amax((2, 3), keepdim=True), rtol=0.03, atol=0)


def test_attention_begins_as_the_average_and_a_pyramid_has_one_length() -> None:
    x = torch.randn(2, 5, 7, 9)
    torch.testing.assert_close(AttentionPool(5)(x), x.mean((2, 3), keepdim=True))
    assert SpatialPyramid()(x).shape == SpatialPyramid()(torch.randn(2, 5, 13, 4)).shape == (2, 105, 1, 1)


@pytest.mark.parametrize(("height", "width", "side"), [(7, 9, 4), (4, 4, 4), (5, 3, 1), (2, 2, 7)])
def test_maxima_of_a_grid_are_torchs(height: int, width: int, side: int) -> None:
    x = torch.randn(2, 3, height, width)
    assert torch.equal(GridMax(side, side)(x), F.adaptive_max_pool2d(x, side))


def test_blur_keeps_a_constant_map_and_removes_the_finest_stripes() -> None:
    blur = BlurPool(2, 2)
    torch.testing.assert_close(blur(torch.full((1, 2, 8, 8), 3.0)), torch.full((1, 2, 4, 4), 3.0))
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 2, 8, 8)
    assert blur(stripes)[..., 1:].abs().max() < 1e-6


@pytest.mark.parametrize("layer", [nn.MaxPool2d((2, 1)), nn.AvgPool2d((1, 2)), nn.MaxPool2d(3, (1, 2), 1), nn.Conv2d(4, 4, 3, (1, 2), 1)])
def test_downsampling_of_one_side_stays_so(layer: nn.Module) -> None:
    x = torch.zeros(1, 4, 16, 16)
    for kind in ("average", "max", "gem", "strided", "blur"):
        network = Downsampling.rebuild(nn.Sequential(copy.deepcopy(layer)), {"kind": kind, "at": {"0": 4}})
        assert network(x).shape == layer(x).shape, kind


@pytest.mark.parametrize(
    ("activation", "gain"),
    [(nn.ReLU(), math.sqrt(2)), (nn.LeakyReLU(0.2), math.sqrt(2 / (1 + 0.2**2))), (nn.Identity(), 1.0), (nn.SELU(), 1.0)],
)
def test_the_gain_is_the_one_of_the_papers(activation: nn.Module, gain: float) -> None:
    assert gain_of(activation) == pytest.approx(gain, rel=1e-3)


@pytest.mark.parametrize("kind", [nn.SiLU, nn.Hardswish, nn.ELU])
def test_the_gain_does_not_depend_on_working_in_place(kind: type[nn.Module]) -> None:
    assert gain_of(kind(inplace=True)) == gain_of(kind())


def test_deviations_are_those_of_glorot_he_and_lecun(users: Job) -> None:
    conv = users.artifact.module.conv1
    for kind, std in (
        ("xavier_normal", math.sqrt(2 / (144 + 144))), ("xavier_uniform", math.sqrt(2 / 288)), ("he_normal", math.sqrt(2 / 144)),
        ("he_uniform", math.sqrt(2 / 144)), ("he_fan_out", math.sqrt(2 / 144)), ("lecun_normal", math.sqrt(1 / 144)), ("normal", 0.01),
    ):  # fmt: skip
        drawn = Initialization(kind).apply(users.artifact, users.task).module  # type: ignore[arg-type]
        assert float(drawn.conv1.weight.std()) == pytest.approx(std, rel=0.05), kind
        assert float(drawn.conv1.bias.abs().max()) == 0
    assert conv.weight.std() > 0
    assert fans(nn.Conv2d(32, 32, 3, groups=32)) == (9, 9)
    assert fans(nn.Conv2d(8, 16, 3)) == (72, 144)


def test_group_norm_is_torchs_and_keeps_what_was_learned(users: Job) -> None:
    with torch.no_grad():
        users.artifact.module.norm.weight.uniform_(0.5, 1.5)
    norm = Norm("group", groups=5).apply(users.artifact, users.task).module.norm
    assert norm.num_groups == 4
    assert torch.equal(norm.weight, users.artifact.module.norm.weight)


def test_standardised_weights_have_mean_0_and_keep_the_variance() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.mul_(7).add_(3)
    conv.__class__ = StandardisedConv2d
    x = torch.randn(8, 64, 16, 16)
    assert float(conv(F.relu(x))[:, :, 2:-2, 2:-2].var()) == pytest.approx(1.0, rel=0.25)


def test_larger_kernels_compute_what_the_old_ones_did(users: Job) -> None:
    x = torch.randn(2, 3, 32, 32)
    applied = Kernels(size=5).apply(users.artifact, users.task)
    assert applied.module.conv1.kernel_size == (5, 5)
    torch.testing.assert_close(applied.module(x), users.artifact.module.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 5), nn.Conv2d(4, 6, 7, padding=1), nn.Conv2d(4, 6, 7, 2, 3), nn.Conv2d(4, 6, 5, 2, 4), nn.Conv2d(4, 6, 11, 4, 2),
        nn.Conv2d(4, 6, 5, (1, 2), (0, 3)), nn.Conv2d(4, 6, 7, padding=6, dilation=2), nn.Conv2d(4, 6, 5, 3, 0), Conv2dSame(4, 6, 5, 2),
    ],
)  # fmt: skip
def test_feature_maps_keep_their_size(conv: nn.Conv2d) -> None:
    for modification in (
        *(Kernels(size=size) for size in (1, 3, 7)),
        *(Kernels(form=form) for form in ("spatial", "separable", "stacked")),
    ):
        network = Kernels.rebuild(nn.Sequential(conv), {"size": modification.size, "form": modification.form})
        for height, width in ((32, 33), (34, 35)):
            x = torch.zeros(1, 4, height, width)
            assert network(x).shape == conv(x).shape, modification


def test_stacked_kernels_replace_those_without_padding() -> None:
    made = Kernels.rebuild(nn.Sequential(nn.Conv2d(4, 6, 5)), {"size": None, "form": "stacked"})
    assert [m.kernel_size for m in made.modules() if isinstance(m, nn.Conv2d)] == [(3, 3), (3, 3)]


def test_dropped_weights_and_branches_keep_the_mean() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(50, 20)
    x = torch.rand(3, 50)
    expected = linear(x)
    linear.__class__ = DropConnectLinear
    linear.p = 0.4
    linear.train()
    torch.testing.assert_close(torch.stack([linear(x) for _ in range(4000)]).mean(0), expected, rtol=0.1, atol=0.03)
    assert torch.equal(linear.eval()(x), expected)
    branch = DropBranch(0.25).train()
    assert float(branch(torch.ones(20000, 1)).mean()) == pytest.approx(1.0, abs=0.02)
    assert sorted({round(float(v), 4) for v in branch(torch.ones(100, 1)).flatten()}) == [0.0, round(1 / 0.75, 4)]


def test_residual_branches_are_found_behind_projections_too() -> None:
    import torchvision

    found = residual_branches(torchvision.models.resnet18())
    assert found == [f"layer{s}.{b}.bn2" for s in (1, 2, 3, 4) for b in (0, 1)]
    assert len(residual_branches(torchvision.models.mobilenet_v2())) == 10
    assert residual_branches(torchvision.models.vgg11()) == []


@pytest.mark.parametrize(
    ("network", "times", "blocks"), [("resnet18", 2.0, 16), ("resnet34", 0.5, 9), ("vgg11", 2.0, 14), ("vgg13", 0.5, 5)]
)
def test_depth_multiplies_stages(network: str, times: float, blocks: int, images: Path) -> None:
    job = prepare_job(images, ModelSettings(f"torchvision:{network}", image_size=64))
    module = Depth(times).apply(job.artifact, job.task).module
    kind = "BasicBlock" if network.startswith("resnet") else "Conv2d"
    counted = sum(type(m).__name__ == kind for m in module.modules())
    assert counted == blocks


def test_width_multiplies_channels_of_every_layer(users: Job) -> None:
    module = Width(2.0).apply(users.artifact, users.task).module
    assert [module.stem.out_channels, module.conv1.in_channels, module.conv2.out_channels, module.head.in_features] == [32] * 4
    assert module.head.out_features == 3
