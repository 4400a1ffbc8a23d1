"""Networks as people write and wrap them are trained, saved, opened, pruned and exported like any other."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from planish.compression import ChannelPruning, QuantizeAware
from planish.errors import ModelError, TechniqueError
from planish.export import ToOnnx
from planish.models import create
from planish.models.plain import bake_norms, unwrapped
from planish.models.storage import load_artifact, save_artifact
from planish.progress import collecting_notes
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.fit import fit
from planish.training.prepare import Job, prepare_job
from planish.training.settings import FitSettings

SIDE = 16
SETTINGS = FitSettings(epochs=1, batch_size=16, augmentation="none")


class Tutorial(nn.Module):
    """Flattens with ``view``, as PyTorch's own tutorial does."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 16, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(16 * 4 * 4, 20), nn.Linear(20, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


class Auxiliary(nn.Module):
    """Has further classifiers in training, in a list or by name."""

    def __init__(self, by_name: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.by_name = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2), by_name
        self.early, self.late = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> object:
        first = F.relu(self.a(x))
        second = F.relu(self.b(first))
        early, late = self.early(first.mean((2, 3))), self.late(second.mean((2, 3)))
        if not self.training:
            return late
        return {"maps": second, "aux": early, "logits": late} if self.by_name else [late, early]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn, self.fc = nn.Conv2d(3, 8, 3, 2), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(F.relu(self.conv(x)).mean(2).transpose(1, 2))[0].mean(1))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.low, self.high, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = self.high(x) if x.mean().item() > 100 else self.low(x)
        return self.fc(x.mean((2, 3)))


def normed(norm: object) -> nn.Module:
    return nn.Sequential(
        norm(nn.Conv2d(3, 8, 3, 2)), nn.BatchNorm2d(8), nn.ReLU(), norm(nn.Conv2d(8, 8, 3)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", per_class=12, size=SIDE, channels=3)


def trained(job: Job) -> Job:
    artifact = job.artifact
    fitted = fit(artifact.module, job.task, artifact.input_spec, artifact.preprocessing, SETTINGS)
    assert any(
        not torch.equal(a, b) for a, b in zip(fitted.module.state_dict().values(), artifact.module.state_dict().values(), strict=True)
    )
    return job


@pytest.mark.parametrize(
    "network", [Tutorial, Auxiliary, lambda: Auxiliary(by_name=True), Recurrent], ids=["view", "list", "mapping", "recurrent"]
)
def test_it_trains_exports_and_is_quantized(shapes: Path, network: object):
    torch.manual_seed(0)
    job = trained(prepare_job(shapes, ModelSettings(network())))
    ToOnnx().apply(job.artifact, job.task)
    QuantizeAware(epochs=1).apply(job.artifact, job.task)


def test_an_auxiliary_classifier_learns(shapes: Path):
    torch.manual_seed(0)
    network = Auxiliary()
    job = prepare_job(shapes, ModelSettings(network))
    fitted = fit(job.artifact.module, job.task, job.artifact.input_spec, job.artifact.preprocessing, SETTINGS)
    assert not torch.equal(fitted.module.early.weight, job.artifact.module.early.weight)


def test_the_loss_of_several_outputs_is_that_of_the_first_and_a_share_of_the_others(shapes: Path):
    task = prepare_job(shapes, ModelSettings(Auxiliary())).task
    late, early, targets = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = F.cross_entropy(late, targets) + 0.3 * F.cross_entropy(early, targets)
    for outputs in ([late, early], (late, early), {"aux": early, "logits": late, "maps": torch.zeros(4, 3, 2, 2)}):
        assert torch.allclose(task.loss(nn.Identity(), outputs, targets), expected)


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
def test_weight_norms_are_computed_into_the_weights(shapes: Path, tmp_path: Path, norm: object):
    torch.manual_seed(0)
    network = normed(norm).eval()
    images = torch.randn(2, 3, SIDE, SIDE)
    expected = network(images)
    with collecting_notes() as notes:
        job = prepare_job(shapes, ModelSettings(network))
    assert any("computed into their weights" in note for note in notes)
    torch.testing.assert_close(job.artifact.module(images), expected)
    trained(job)
    ToOnnx().apply(ChannelPruning(pruning_ratio=0.5).apply(job.artifact, job.task), job.task)
    save_artifact(job.artifact, tmp_path / "saved")
    again = load_artifact(tmp_path / "saved", module=normed(norm))
    torch.testing.assert_close(again.module(images), expected)


@pytest.mark.parametrize(
    "wrap",
    [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.double(), lambda m: torch.compile(m, backend="eager"), nn.DataParallel],
    ids=["half", "bfloat16", "double", "compiled", "dataparallel"],
)
def test_wrapped_networks_and_other_precisions_are_taken(shapes: Path, tmp_path: Path, wrap: object):
    torch.manual_seed(0)
    given = wrap(Tutorial())
    job = trained(prepare_job(shapes, ModelSettings(given)))
    assert {p.dtype for p in job.artifact.module.parameters()} == {torch.float32}
    assert not [name for name in job.artifact.module.state_dict() if name.startswith(("module.", "_orig_mod."))]
    save_artifact(job.artifact, tmp_path / "saved")
    load_artifact(tmp_path / "saved", module=given)


def test_lazy_layers_get_their_sizes():
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(3))
    created = create(network, num_classes=3, channels=3, image_size=SIDE)
    assert created.module[4].in_features == 16


def test_what_cannot_be_taken_is_named():
    network = Tutorial()
    network.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"lock is a _thread\.lock"):
        unwrapped(network, 3, SIDE)
    with pytest.raises(ModelError, match="TorchScript"):
        unwrapped(torch.jit.script(Tutorial()), 3, SIDE)

    class NoLogits(Tutorial):
        def forward(self, x: Tensor) -> object:
            logits = super().forward(x)
            return (x, logits) if self.training else logits

    with pytest.raises(ModelError, match="in training the network returns"):
        create(NoLogits(), num_classes=3, channels=3, image_size=SIDE)


def test_bfloat16_that_does_not_run_is_not_chosen(shapes: Path, monkeypatch: pytest.MonkeyPatch):
    class Numpy(Tutorial):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            x.detach().numpy()  # numpy has no bfloat16
            return x

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    with collecting_notes() as notes:
        trained(prepare_job(shapes, ModelSettings(Numpy())))
    assert any("float32" in note and "does not run in bfloat16" in note for note in notes)


def test_pruning_is_refused_where_values_choose_the_layers(shapes: Path):
    job = prepare_job(shapes, ModelSettings(Branching()))
    with pytest.raises(TechniqueError, match=r"chooses by the values.*high did not"):
        ChannelPruning(pruning_ratio=0.5).apply(job.artifact, job.task)


def test_baking_says_nothing_where_there_is_nothing_to_bake():
    assert bake_norms(Tutorial()) == []


@pytest.mark.parametrize("norm", [weight_norm, parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_classifier_with_weight_norm_is_found_and_replaced(norm: object, tmp_path: Path):
    def network(classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), norm(nn.Linear(8, classes)))

    how = {"channels": 3, "image_size": SIDE}
    assert create(network(3), num_classes=3, **how).module[4].out_features == 3
    created = create(network(8), num_classes=3, **how)  # as many as the layer before has
    assert (created.module[3].out_features, created.module[4].out_features) == (8, 3)
    torch.save(network(8).state_dict(), tmp_path / "weights.pth")
    created = create(network(3), num_classes=3, weights=tmp_path / "weights.pth", **how)
    assert created.new_classifier
    assert any("a classifier of 8 outputs: a fresh one of 3" in note for note in created.notes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_a_gpu_is_taken_on_the_cpu_and_itself_stays_where_it_is():
    given = Tutorial().cuda()
    created = create(given, num_classes=3, channels=3, image_size=SIDE)
    assert {p.device.type for p in created.module.parameters()} == {"cpu"}
    assert {p.device.type for p in given.parameters()} == {"cuda"}
    assert any("cuda:0" in note for note in created.notes)
