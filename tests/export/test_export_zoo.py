"""Networks people use: exported, equal in both runtimes, and integer where INT8 is asked for. Untrained, with real batch statistics."""

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from export_fakes import PREPROCESSING, FakeTask
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Source
from planish.compression import Int8
from planish.data.normalisation import Normalise
from planish.export import ToOnnx, ToOpenVino
from planish.export.runtimes.registry import executed_precisions, load
from planish.models.batch_norm import reestimate_batch_norm

# share of convolution and linear layers that must run integer kernels in ONNX Runtime
ZOO = {
    "resnet18": 1.0,
    "mobilenet_v2": 1.0,
    "mobilenet_v3_small": 1.0,
    "shufflenet_v2_x1_0": 1.0,
    "efficientnet_b0": 1.0,
    "densenet121": 1.0,
    "regnet_y_400mf": 1.0,
    "convnext_tiny": 1.0,
    "squeezenet1_1": 1.0,
    "googlenet": 1.0,
    "mnasnet0_5": 1.0,
}
_SPEC = InputSpec(3, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_published_networks(name: str, task: FakeTask) -> None:
    torch.manual_seed(0)
    extra: dict[str, Any] = {"init_weights": True} if name == "googlenet" else {}
    net: nn.Module = getattr(torchvision.models, name)(weights=None, **extra).eval()
    pixels = torch.from_numpy(task.split("calibration").images(_SPEC, PREPROCESSING))
    reestimate_batch_norm(net, [Normalise(PREPROCESSING.mean, PREPROCESSING.std)(pixels)])
    artifact = Artifact("torch", _SPEC, PREPROCESSING, tuple(map(str, range(1000))), Lineage(Source("module", 1000, 3)), module=net)
    images = task.split("validation").images(_SPEC, PREPROCESSING)[:9]
    with torch.no_grad():
        expected = net(Normalise(PREPROCESSING.mean, PREPROCESSING.std)(torch.from_numpy(images))).numpy()

    exported = ToOnnx().apply(artifact, task)
    for files, runtime in (
        (exported.files, "onnxruntime"),
        (exported.files, "openvino"),
        (ToOpenVino().apply(exported, task).files, "openvino"),
    ):
        found = load(files, runtime)(images)["logits"]
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), runtime
    quantized = Int8().apply(exported, task)
    for runtime in ("onnxruntime", "openvino"):
        counts = executed_precisions(quantized.files, runtime)
        assert counts["int8"] >= ZOO[name] * sum(counts.values()), f"{runtime}: {counts}"
    assert quantized.size_bytes < 0.35 * exported.size_bytes
