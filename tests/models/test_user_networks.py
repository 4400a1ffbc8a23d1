"""Networks and Python files as users have them: what their code does in training mode, to torch, and beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import invoke
from torch import fx, nn

from planish.artifact import Artifact
from planish.compression import QuantizeAware
from planish.errors import ModelError, TechniqueError, TrainingError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.models import create
from planish.models.storage import load_artifact, save_artifact
from planish.models.surgery.activation import with_activation_modules
from planish.models.surgery.graph import traced
from planish.models.tracing import trace_graph
from planish.settings import ModelSettings
from planish.technique import resolve
from planish.testing import write_shapes
from planish.training.fit import fit
from planish.training.prepare import Job, prepare_job
from planish.training.schedules.freezing import LayerFreezer
from planish.training.settings import FitSettings

SIDE = 16
NETWORKS = """
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, num_classes)

    def features(self, x):
        return F.relu(self.b(F.relu(self.a(x)))).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


class Dropping(Net):
    def forward(self, x):
        x = F.dropout(self.features(x), 0.5, self.training)
        return self.fc(torch.where(x > 0.1, x, torch.zeros(())))


class OtherInTraining(Net):
    def forward(self, x):
        return {"logits": self.fc(self.features(x))} if self.training else self.fc(self.features(x))


class Inputs(Net):
    def forward(self, *inputs, **options):
        return self.fc(self.features(inputs[0]))


class MeanBuffer(Net):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def features(self, x):
        x = F.batch_norm(self.a(x), self.mean, self.var, training=self.training)
        return F.relu(self.b(F.relu(x))).mean((2, 3))


class Fourier(Net):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.filter = nn.Parameter(torch.ones(8, 8, 5, 2))

    def features(self, x):
        return F.relu(torch.fft.irfft2(torch.fft.rfft2(self.a(x)) * torch.view_as_complex(self.filter), s=(8, 8))).mean((2, 3))


class Cosine(Net):
    def __init__(self, num_classes=3):
        super().__init__()
        del self.fc
        self.classes = nn.Parameter(torch.randn(num_classes, 8))

    def forward(self, x):
        return 8 * F.linear(F.normalize(self.features(x)), F.normalize(self.classes))


class AnswersAnyName(Net):
    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return None


class ChangesInPlace(Net):
    def features(self, x):
        x = F.relu(self.a(x))
        x += 1
        return F.relu_(self.b(x) + x).mean((2, 3))


class Detached(Net):
    def forward(self, x):
        return super().forward(x).detach()


class AutoEncoder(Net):
    def decode(self, x):
        return x.argmax(1)

    def loss(self, x, y):
        return F.cross_entropy(x, y)


def one_logit():
    return Net(1)


def ready(num_classes, in_channels=1):
    net = Net(num_classes)
    net.a = nn.Conv2d(in_channels, 8, 3, 2, 1)
    return net


an_instance = Net(3)
"""
SPACE: dict[str, type[nn.Module]] = {}
exec(NETWORKS, SPACE)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", per_class=12, size=SIDE, channels=3)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NETWORKS)
    return tmp_path / "net.py"


def job_of(code: Path, shapes: Path, name: str) -> Job:
    return prepare_job(shapes, ModelSettings(f"{code}:{name}"))


def logits(artifact: Artifact) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    return TorchPredictor(artifact.module, artifact.preprocessing)(pixels)["logits"]


def test_a_rewritten_network_keeps_its_dropout_and_is_loaded_as_it_was(code: Path, shapes: Path, tmp_path: Path):
    job = job_of(code, shapes, "Dropping")
    changed = resolve("activation")(kind="elu").apply(job.artifact, job.task)  # type: ignore[call-arg]
    save_artifact(changed, tmp_path / "model")
    assert np.allclose(logits(load_artifact(tmp_path / "model")), logits(changed), atol=1e-6)
    again = with_activation_modules(changed.module)
    images = torch.randn(8, 3, SIDE, SIDE)
    for module in (changed.module, again):
        assert not torch.equal(module.train()(images), module(images)), "dropout is active in training"
        assert torch.equal(module.eval()(images), module(images))


def test_other_operations_in_training_mode_are_refused():
    module = SPACE["OtherInTraining"]().train()
    module.a.eval()  # type: ignore[union-attr]
    with pytest.raises(TechniqueError, match="other operations in training mode"):
        traced(module)
    assert module.training
    assert not module.a.training  # type: ignore[union-attr]


def test_images_among_arguments_of_any_number_are_an_input_of_their_own():
    module = SPACE["Inputs"]().eval()
    graph = trace_graph(module)
    assert [str(node.target) for node in graph.nodes if node.op == "placeholder"] == ["image"]
    images = torch.randn(2, 3, SIDE, SIDE)
    assert torch.equal(fx.GraphModule(module, graph)(images), module(images))


@pytest.mark.parametrize("name", ["MeanBuffer", "Fourier", "Inputs"])
def test_only_real_numbers_that_are_computed_are_quantized(code: Path, shapes: Path, name: str):
    job = job_of(code, shapes, name)
    quantized = QuantizeAware(epochs=1, batch_size=16, mixed_precision="off").apply(job.artifact, job.task)
    assert np.isfinite(logits(quantized)).all()


def test_logits_need_no_layer_of_their_own(code: Path, shapes: Path, tmp_path: Path):
    torch.manual_seed(1)
    trained = SPACE["Cosine"]()
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    created = create(f"{code}:Cosine", num_classes=3, channels=3, image_size=SIDE, weights=tmp_path / "w.pth")
    images = torch.randn(2, 3, SIDE, SIDE)
    assert torch.equal(created.module.eval()(images), trained.eval()(images))
    assert not created.new_classifier
    with pytest.raises(ModelError, match=r"another shape: classes \(3, 8\) instead of \(5, 8\)"):
        create(f"{code}:Cosine", num_classes=5, channels=3, image_size=SIDE, weights=tmp_path / "w.pth")
    freezer = LayerFreezer(created.module, job_of(code, shapes, "Cosine").artifact.input_spec, "backbone", 1.0)
    freezer(0.0)
    assert [name for name, p in created.module.named_parameters() if p.requires_grad] == ["classes"]


def test_methods_of_the_users_own_are_not_those_of_a_detector(code: Path, shapes: Path):
    assert np.isfinite(logits(job_of(code, shapes, "AnswersAnyName").artifact)).all()
    with pytest.raises(ModelError, match=r"method decode\(\).*another name"):
        job_of(code, shapes, "AutoEncoder")


def test_one_logit_for_two_classes_is_explained(code: Path):
    with pytest.raises(ModelError, match=r"returns 1 logit\..*2 classes.*zeros_like"):
        create(f"{code}:one_logit", num_classes=2, channels=3, image_size=SIDE)


def test_a_factory_may_call_its_channels_in_channels(code: Path):
    assert create(f"{code}:ready", num_classes=3, channels=3, image_size=SIDE).module.a.in_channels == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("import sys\nsys.exit('no GPU')", r"ends the program: SystemExit: no GPU.*__main__"),
        ("def make(num_classes):\n    raise SystemExit(3)", "ends the program: SystemExit: 3"),
        ("from near import thing", r"No module named 'near'.*PYTHONPATH="),
        ("from .near import thing", r"relative import.*without the leading dot.*PYTHONPATH="),
        ("make = Net(3)", r"make .* is a network.*def make\(\): return make"),
    ],
)
def test_what_a_file_may_not_do_is_said_in_one_line(tmp_path: Path, extra: str, words: str):
    (tmp_path / "near.py").write_text("thing = 1")
    (tmp_path / "net.py").write_text(f"{NETWORKS}\n{extra}\n")
    with pytest.raises(ModelError, match=words):
        create(f"{tmp_path / 'net.py'}:make", num_classes=3, channels=3, image_size=SIDE)


def test_a_file_sees_no_arguments_and_changes_no_settings_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = "import sys\nassert sys.argv[1:] == []\ntorch.set_grad_enabled(False)\ntorch.set_default_dtype(torch.float64)"
    (tmp_path / "net.py").write_text(f"{NETWORKS}\n{script}\n")
    monkeypatch.setattr("sys.argv", ["planish", "train", "--epochs", "3"])
    created = create(f"{tmp_path / 'net.py'}:Net", num_classes=3, channels=3, image_size=SIDE)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert {p.dtype for p in created.module.parameters()} == {torch.float32}


def test_what_a_network_prints_is_no_part_of_the_json_document(tmp_path: Path, shapes: Path):
    printing = "class Loud(Net):\n    def forward(self, x):\n        print(x.shape)\n        return super().forward(x)"
    (tmp_path / "net.py").write_text(f"{NETWORKS}\nprint('loaded')\n{printing}\n")
    result = invoke(["evaluate", f"{tmp_path / 'net.py'}:Loud", str(shapes), "--mean", "0", "--std", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    assert "loaded" in result.stderr


@pytest.mark.parametrize(("name", "words"), [("ChangesInPlace", "changes in place"), ("Detached", "no gradient.*detach")])
def test_what_prevents_gradients_is_explained(code: Path, shapes: Path, name: str, words: str):
    job = job_of(code, shapes, name)
    with pytest.raises(TrainingError, match=words):
        fit(
            job.artifact.module, job.task, job.artifact.input_spec, job.artifact.preprocessing, FitSettings(epochs=1, mixed_precision="off")
        )
