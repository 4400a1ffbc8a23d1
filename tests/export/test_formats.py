"""One suite over all formats: small networks in every run, published and pruned ones where there is time."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from planish.artifact import Artifact
from planish.compression import ChannelPruning, Int8
from planish.data.normalisation import Normalise
from planish.errors import RuntimeMissingError
from planish.export import ToExecuTorch, ToLiteRt, ToOnnx, ToOpenVino, ToStableHlo, ToTorchExport, litert_file
from planish.export.checks.agreement import decoded_difference, numeric_outputs
from planish.export.checks.similarity import likeness
from planish.export.runtimes.litert import read_metadata
from planish.export.runtimes.registry import executed_precisions
from planish.export.stablehlo_file import require_torchax
from planish.models.batch_norm import reestimate_batch_norm
from planish.task import Task
from planish.testing import FormatConformance

PUBLISHED = ("torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:shufflenet_v2_x1_0", "torchvision:efficientnet_b0")


def _converter() -> bool:
    try:
        litert_file.converter_python()
    except RuntimeMissingError:
        return False
    return find_spec("ai_edge_litert") is not None


needs_litert = pytest.mark.skipif(not _converter(), reason="LiteRT and its converter are not installed")
needs_jax = pytest.mark.skipif(find_spec("torchax") is None, reason="JAX and torchax are not installed")
needs_executorch = pytest.mark.skipif(find_spec("executorch") is None, reason="ExecuTorch is not installed")


class Onnx(FormatConformance):
    exporters, runtime = (ToOnnx(),), "onnxruntime"

    def embedded_metadata(self, file: Path) -> dict[str, str]:
        return {p.key: p.value for p in onnx.load(str(file)).metadata_props}


class OpenVino(FormatConformance):
    exporters, runtime = (ToOnnx(), ToOpenVino()), "openvino"

    def embedded_metadata(self, file: Path) -> dict[str, str]:
        import openvino

        said = openvino.Core().read_model(file).get_rt_info()["planish"]
        return {f"planish.{name}": value.astype(str) for name, value in said.items()}


class LiteRt(FormatConformance):
    exporters, runtime = (ToLiteRt(),), "litert"

    def embedded_metadata(self, file: Path) -> dict[str, str]:
        return read_metadata(file)


class ExecuTorch(FormatConformance):
    exporters, runtime = (ToExecuTorch(),), "executorch"

    def embedded_metadata(self, file: Path) -> dict[str, str]:
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(file)
        names = [name for name in program.method_names if name.startswith("planish_")]
        return {name.replace("_", ".", 1): program.load_method(name).execute([])[0] for name in names}


class TorchExport(FormatConformance):
    exporters, runtime = (ToTorchExport(),), "torch"

    def embedded_metadata(self, file: Path) -> dict[str, str]:
        said = dict.fromkeys(["planish.class_names", "planish.preprocessing", "planish.input_spec", "planish.lineage"], "")
        torch.export.load(file, extra_files=said)
        return said


class StableHlo(FormatConformance):
    exporters, runtime = (ToStableHlo(),), "jax"

    def embedded_metadata(self, file: Path) -> dict[str, str]:
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist()}


class Quantized:
    """INT8 that really is: integer layers, and a file of half the size or less."""

    def agrees(self, expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        """The networks are untrained, but an image must still be told from others as before."""
        found_like = [likeness(expected[name], found[name]) for name in numeric_outputs(expected)]
        alike = all(one.snr_db > 6.1 and one.noise < 0.5 and (one.scale or 1) > 0.65 for one in found_like)
        return alike and all(value < 0.5 for value in decoded_difference(expected, found).values())

    def test_it_is_smaller(self, exported: tuple[Artifact, Artifact, Any]) -> None:
        before, after, _ = exported
        assert after.size_bytes < 0.6 * before.size_bytes  # in this small network, the text of the graph counts
        assert after.facts["precision"] == "int8"
        counts = executed_precisions(after.files, self.runtime)  # type: ignore[attr-defined]
        assert sum(counts.values()) == 0 or counts["int8"] >= 0.9 * sum(counts.values())


class Detects:
    """Boxes, scores and labels, which suppression picks within the file."""

    task = "detection"
    image_size = 64


class Labels:
    """A class for each pixel, and its confidence."""

    task = "semantic"
    image_size = 64


class TestOnnx(Onnx):
    pass


class TestOnnxDetection(Detects, Onnx):
    pass


class TestOpenVinoDetection(Detects, OpenVino):
    pass


class TestTorchExportDetection(Detects, TorchExport):
    pass


class TestTorchExportLabels(Labels, TorchExport):
    pass


@needs_litert
@pytest.mark.slow
class TestLiteRtDetection(Detects, LiteRt):
    pass


@needs_litert
@pytest.mark.slow
class TestLiteRtLabels(Labels, LiteRt):
    pass


@needs_executorch
@pytest.mark.slow
class TestExecuTorchDetection(Detects, ExecuTorch):
    pass


@needs_executorch
@pytest.mark.slow
class TestExecuTorchLabels(Labels, ExecuTorch):
    pass


class TestOpenVino(OpenVino):
    pass


@needs_litert
class TestLiteRt(LiteRt):
    networks = ("resnet8", "torchvision:shufflenet_v2_x0_5")


@needs_executorch
class TestExecuTorch(ExecuTorch):
    pass


class TestTorchExport(TorchExport):
    pass


@needs_jax
class TestStableHlo(StableHlo):
    networks = ("resnet8", "torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x0_5")
    image_size = 32


@needs_jax
class TestStableHloDetection(Detects, StableHlo):
    pass


@needs_jax
class TestStableHloLabels(Labels, StableHlo):
    pass


class TestOnnxInt8(Quantized, Onnx):
    exporters = (ToOnnx(), Int8(calibration_images=32))


class TestOpenVinoInt8(Quantized, OpenVino):
    exporters = (ToOnnx(), Int8(calibration_images=32), ToOpenVino())


@needs_litert
class TestLiteRtInt8(Quantized, LiteRt):
    exporters = (ToLiteRt(int8=True),)


@needs_executorch
class TestExecuTorchInt8(Quantized, ExecuTorch):
    exporters = (ToExecuTorch(int8=True),)


@needs_litert
@pytest.mark.slow
class TestLiteRtDetectionInt8(Detects, TestLiteRtInt8):
    pass


@needs_executorch
@pytest.mark.slow
class TestExecuTorchDetectionInt8(Detects, TestExecuTorchInt8):
    pass


def with_statistics(artifact: Artifact, task: Task) -> None:
    """Batch statistics of these images."""
    pixels = torch.from_numpy(task.split("calibration").images(artifact.input_spec, artifact.preprocessing).copy())
    reestimate_batch_norm(artifact.module, [Normalise.of(artifact.preprocessing)(pixels)])


class PublishedDetects(Detects):
    networks = ("ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn")
    image_size = 320

    def prepared(self, network: str, folder: Path) -> tuple[Artifact, Task]:
        artifact, task = FormatConformance.prepared(self, network, folder)  # type: ignore[arg-type]
        with_statistics(artifact, task)
        for name, part in artifact.module.named_modules():  # SSDLite's softmax, which has learned nothing, is sure of nothing
            if "classification_head" in name and isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1):
                nn.init.normal_(part.weight, std=0.3)
        return artifact, task


class PublishedLabels(Labels):
    networks = ("deeplabv3_mobilenet_v3_large",)
    image_size = 128


@pytest.mark.slow
class TestTorchExportPublishedDetection(PublishedDetects, TorchExport):
    pass


@pytest.mark.slow
class TestTorchExportPublishedLabels(PublishedLabels, TorchExport):
    pass


@needs_litert
@pytest.mark.slow
class TestLiteRtPublishedDetection(PublishedDetects, LiteRt):
    pass


@needs_litert
@pytest.mark.slow
class TestLiteRtPublishedLabels(PublishedLabels, LiteRt):
    pass


@needs_executorch
@pytest.mark.slow
class TestExecuTorchPublishedDetection(PublishedDetects, ExecuTorch):
    pass


@needs_executorch
@pytest.mark.slow
class TestExecuTorchPublishedLabels(PublishedLabels, ExecuTorch):
    pass


class Published:
    """Networks people use, with batch statistics of these images, and one of them pruned."""

    networks = (*PUBLISHED, "pruned torchvision:resnet18")
    image_size = 64

    def prepared(self, network: str, folder: Path) -> tuple[Artifact, Task]:
        *pruned, name = network.split()
        artifact, task = FormatConformance.prepared(self, name, folder)  # type: ignore[arg-type]
        with_statistics(artifact, task)
        return (ChannelPruning(pruning_ratio=0.3).apply(artifact, task) if pruned else artifact), task


@pytest.mark.slow
class TestOnnxPublished(Published, Onnx):
    pass


@pytest.mark.slow
class TestOpenVinoPublished(Published, OpenVino):
    pass


@needs_litert
@pytest.mark.slow
class TestLiteRtPublished(Published, LiteRt):
    pass


@needs_executorch
@pytest.mark.slow
class TestExecuTorchPublished(Published, ExecuTorch):
    pass


@pytest.mark.slow
class TestTorchExportPublished(Published, TorchExport):
    pass


PRUNED = ("pruned torchvision:resnet18",)


@pytest.mark.slow
class TestOnnxPrunedInt8(Published, TestOnnxInt8):
    networks = PRUNED


@pytest.mark.slow
class TestOpenVinoPrunedInt8(Published, TestOpenVinoInt8):
    networks = PRUNED


@needs_litert
@pytest.mark.slow
class TestLiteRtPrunedInt8(Published, TestLiteRtInt8):
    networks = PRUNED


@needs_executorch
@pytest.mark.slow
class TestExecuTorchPrunedInt8(Published, TestExecuTorchInt8):
    networks = PRUNED


def test_without_its_converter_litert_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(litert_file.PYTHON, raising=False)
    monkeypatch.setattr(litert_file, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match="pip install litert-torch"):
        litert_file.converter_python()


@needs_jax
def test_stablehlo_does_not_change_where_networks_live() -> None:
    """torchax registers JAX as PyTorch's accelerator."""
    require_torchax("")
    wrapped = nn.DataParallel(nn.Linear(2, 3))
    assert {weight.device.type for weight in wrapped.parameters()} == {"cpu"}
    assert wrapped(torch.zeros(4, 2)).shape == (4, 3)
