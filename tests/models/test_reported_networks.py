"""Networks and weights as public bug reports have them; each report is named beside its network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from torch import Tensor, nn

from planish.compression import ChannelPruning, Int8, QuantizeAware
from planish.data.normalisation import Normalise
from planish.devices.kernels import onnxruntime_kernels
from planish.errors import ModelError
from planish.export import ToOnnx
from planish.export.checks.file_checks import torch_outputs
from planish.models import create
from planish.models.storage import load_artifact, save_artifact
from planish.models.tracing import trace_graph
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import prepare_job

SIDE = 16


class Net(nn.Module):
    """Two convolutions with batch norm and a classifier; other networks here differ from it in one thing."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.c1, self.b1, self.c2, self.b2 = nn.Conv2d(3, 8, 3, 2, 1), norm(8), nn.Conv2d(8, 8, 3, 1, 1), norm(8)
        self.fc = nn.Linear(8, 3)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.b2(self.c2(F.relu(self.b1(self.c1(x)))))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class Squeezed(Net):  # anomalib#2883, BiDAF-pytorch#26
    def features(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.relu(self.c2(self.c1(x))), 1).squeeze()


class Named(Net):  # what segmentation and transformer libraries return
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        features = self.features(x)
        return {"features": features, "logits": self.fc(features)}


class AlwaysDropout(Net):  # Coderx7/SimpleNet#2, pytorch#26338
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(self.features(x), 0.5))


class PlainList(Net):  # pytorch#715, #666, #1053
    def __init__(self) -> None:
        super().__init__()
        self.more = {"blocks": [nn.Linear(8, 8) for _ in range(2)]}

    def features(self, x: Tensor) -> Tensor:
        x = super().features(x)
        for block in self.more["blocks"]:
            x = F.relu(block(x))
        return x


class Softmaxed(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Arguments(Net):  # arguments that callers may leave out
    def forward(self, x: Tensor, targets: Tensor | None = None, *, scale: float = 1.0, return_features: bool = False) -> Tensor:
        features = self.features(x) * scale
        if targets is not None:
            return F.cross_entropy(self.fc(features), targets)
        return features if return_features else self.fc(features)


class BatchStatistics(Net):
    def __init__(self) -> None:
        super().__init__(lambda width: nn.BatchNorm2d(width, track_running_stats=False))  # type: ignore[arg-type]


class Tied(Net):  # transformers#38870, keras-hub#3075
    def __init__(self) -> None:
        super().__init__()
        self.d, self.e = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.e.weight = self.d.weight

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.e(F.relu(self.d(F.relu(self.c1(x)))))).mean((2, 3))


class Spectral(Net):  # a filter in the frequency domain, with complex values
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.randn(8, 8, 5, dtype=torch.complex64))

    def features(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(self.c1(x)) * self.filter).mean((2, 3))


class Convert(Net):  # mmsegmentation#387, mmocr#398: convert_sync_batchnorm takes one- and two-dimensional layers
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.BatchNorm1d(8)

    def features(self, x: Tensor) -> Tensor:
        return self.head(super().features(x))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", per_class=12, size=SIDE, channels=3)


def notes_of(network: nn.Module) -> str:
    return " ".join(create(network, num_classes=3, channels=3, image_size=SIDE).notes)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Squeezed, r"\(3,\) for one image.*flatten"),
        (Named, r"a dict of features \(1, 8\), logits \(1, 3\)"),
        (AlwaysDropout, r"same images.*self\.training"),
        (PlainList, r"network's more holds layers.*plain dict.*ModuleList"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(network: type[nn.Module], words: str):
    with pytest.raises(ModelError, match=words):
        notes_of(network())


def test_what_may_be_meant_otherwise_is_noted():
    assert "probabilities" in notes_of(Softmaxed())
    assert "others in its batch" in notes_of(BatchStatistics())
    assert notes_of(Net()) == notes_of(Arguments()) == ""


def test_synchronised_batch_norm_becomes_ordinary_and_is_folded(shapes: Path):
    given = nn.SyncBatchNorm.convert_sync_batchnorm(Convert())
    job = prepare_job(shapes, ModelSettings(given))
    assert any("3 nn.SyncBatchNorm" in note for note in job.notes)
    kinds = [type(layer) for layer in job.artifact.module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert kinds == [nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm1d]
    assert isinstance(given.b1, nn.SyncBatchNorm)  # the network handed over stays as it was
    pruned = ChannelPruning(pruning_ratio=0.5).apply(job.artifact, job.task)
    assert pruned.module.c1.out_channels == 4


def test_other_arguments_of_forward_have_their_defaults(shapes: Path):
    job = prepare_job(shapes, ModelSettings(Arguments()))
    QuantizeAware(epochs=1).apply(job.artifact, job.task)
    graph = trace_graph(Arguments())
    assert [node.target for node in graph.nodes if node.op == "placeholder"] == ["x"]


def test_a_weight_that_layers_share_is_read_saved_and_quantized(shapes: Path, tmp_path: Path):
    torch.manual_seed(0)
    given = Tied()
    save_model(given, str(tmp_path / "weights.safetensors"))  # which holds one copy
    job = prepare_job(shapes, ModelSettings(Tied(), weights=tmp_path / "weights.safetensors"))
    assert torch.equal(job.artifact.module.e.weight, given.d.weight)
    save_artifact(job.artifact, tmp_path / "saved")
    assert torch.equal(load_artifact(tmp_path / "saved", module=Tied()).module.e.weight, given.d.weight)
    exported = ToOnnx().apply(job.artifact, job.task)
    assert len(onnxruntime_kernels(Int8(calibration_images=8).apply(exported, job.task).files[0])["int8"]) == 4


@pytest.mark.filterwarnings("error:Casting complex")
def test_complex_values_stay_complex_where_files_are_checked(shapes: Path):
    job = prepare_job(shapes, ModelSettings(Spectral()))
    images = job.task.split("test").images(job.artifact.input_spec, job.artifact.preprocessing)[:4]
    expected, _ = torch_outputs(job.artifact, images, least=1e-3)
    network = nn.Sequential(Normalise.of(job.artifact.preprocessing), job.artifact.module).eval()
    with torch.no_grad():
        np.testing.assert_allclose(expected["logits"], network(torch.from_numpy(np.ascontiguousarray(images))), rtol=1e-4, atol=1e-4)


def test_a_factory_with_keywords_is_given_the_number_of_classes(tmp_path: Path):
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n\ndef net(pretrained=False, **kwargs):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, kwargs['num_classes']))\n"
    )
    created = create(f"{file}:net", num_classes=3, channels=3, image_size=SIDE)
    assert created.module[-1].out_features == 3


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet18.pth", "file of weights.*--weights"),
        ("net.py", "FILE.py:factory"),
        ("timm/resnet18.no_such_tag", r"timm cannot make resnet18\.no_such_tag.*resnet18\.a1_in1k"),
        (Net, "the class Net"),
        (Net().state_dict(), "an? OrderedDict"),
        (Net().to("meta"), "meta device"),
    ],
    ids=["weights", "python", "tag", "class", "state_dict", "meta"],
)
def test_what_is_no_network_is_named(model: object, words: str):
    with pytest.raises(ModelError, match=words):
        create(model, num_classes=3, channels=3, image_size=SIDE)  # type: ignore[arg-type]


def test_networks_have_the_names_that_hugging_face_gives_them():
    created = create("timm/resnet18.a1_in1k", num_classes=3, channels=3, image_size=SIDE)
    assert created.source.name == "timm:resnet18.a1_in1k"


def test_weights_that_are_no_numbers_are_refused():
    network = Net()
    with torch.no_grad():
        network.c1.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        notes_of(network)


def test_the_file_of_a_factory_may_have_dataclasses(tmp_path: Path):
    file = tmp_path / "network.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n\n@dataclass\nclass Config:\n"
        "    width: int = 4\n\ndef make(num_classes):\n    width = Config().width\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))\n"
    )
    assert create(f"{file}:make", num_classes=5, channels=3, image_size=32).module(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
