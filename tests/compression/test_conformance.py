"""Our techniques keep what every technique promises."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import pytest

from planish.artifact import Artifact
from planish.compression import (
    Binarize,
    BlockPruning,
    BlockReplacement,
    ChannelPruning,
    Factorize,
    HalfPrecision,
    Int8,
    IterativePruning,
    LatencyPruning,
    LearnedRounding,
    NMPruning,
    QuantizeAware,
    Resolution,
    Simplify,
    UnstructuredPruning,
    WeightSharing,
    Width,
)
from planish.compression.quantization import mixed_precision
from planish.devices.layer_latency import Variant, multiplications
from planish.export import Pack, Temperature, ToExecuTorch, ToLiteRt, ToOnnx, ToOpenVino, ToStableHlo, ToTorchExport
from planish.export.litert_file import PYTHON
from planish.task import Task
from planish.technique import registered
from planish.testing import TechniqueConformance
from planish.training import Distill, Student


class TestChannelPruning(TechniqueConformance):
    technique = ChannelPruning(pruning_ratio=0.5)


class TestFactorize(TechniqueConformance):
    technique = Factorize(parameter_reduction=0.4, runtime=None)


class TestFactorizeMeasured(TechniqueConformance):
    technique = Factorize(speedup=1.3)
    before = (ChannelPruning(pruning_ratio=0.25),)


class TestLatencyPruning(TechniqueConformance):
    technique = LatencyPruning(speedup=1.5)

    def test_the_same_seed_gives_the_same_result(self, job: tuple[Artifact, Task], applied: Artifact) -> None:
        again = self.technique.apply(*job)  # widths follow what was timed on this machine, which is remembered
        assert again.lineage.steps[-1].structure == applied.lineage.steps[-1].structure


class TestResolution(TechniqueConformance):
    technique = Resolution(scale=0.75)


class TestResolutionOfAFile(TechniqueConformance):
    technique = Resolution(scale=0.75)
    before = (ToOnnx(),)


class TestSimplify(TechniqueConformance):
    technique = Simplify()
    before = (ToOnnx(),)


class TestBlockPruning(TechniqueConformance):
    technique = BlockPruning(pruning_ratio=0.5)
    model = "resnet14"


class TestBlockReplacement(TechniqueConformance):
    technique = BlockReplacement(speedup=1.3, steps=5)
    model = "resnet14"


class TestUnstructuredPruning(TechniqueConformance):
    technique = UnstructuredPruning(sparsity=0.8)


class TestNMPruning(TechniqueConformance):
    technique = NMPruning()


class TestIterativePruning(TechniqueConformance):
    technique = IterativePruning(pruning=ChannelPruning(pruning_ratio=0.5), rounds=2)


class TestWeightSharing(TechniqueConformance):
    technique = WeightSharing()
    before = (UnstructuredPruning(sparsity=0.8),)


class TestPack(TechniqueConformance):
    technique = Pack()
    before = (WeightSharing(), ToOnnx())


class TestQuantizeAware(TechniqueConformance):
    technique = QuantizeAware(epochs=1, calibration_images=32)
    before = (ChannelPruning(pruning_ratio=0.5),)


class TestLearnedRounding(TechniqueConformance):
    technique = LearnedRounding(bits=2, granularity="block", calibration_images=32, steps=20)


class TestQuantizeAwareOnFewBits(TechniqueConformance):
    technique = QuantizeAware(epochs=1, calibration_images=32)
    before = (LearnedRounding(bits=4, calibration_images=32, steps=5),)


class TestBinarize(TechniqueConformance):
    technique = Binarize(epochs=1, activations="binary")
    before = (ChannelPruning(pruning_ratio=0.5),)


class TestDistill(TechniqueConformance):
    technique = Distill(epochs=1)
    before = (ChannelPruning(pruning_ratio=0.5),)


class TestDecoupledDistillation(TechniqueConformance):
    technique = Distill(method="decoupled", epochs=1)
    before = (ChannelPruning(pruning_ratio=0.5),)


class TestFeatureTransfer(TechniqueConformance):
    technique = Distill(method="feature", epochs=1)
    before = (ChannelPruning(pruning_ratio=0.5), Resolution(scale=0.75))


class TestAttentionTransfer(TechniqueConformance):
    technique = Distill(method="attention", epochs=1)
    before = (Student(model="resnet14"),)


class TestStudent(TechniqueConformance):
    technique = Student(model="torchvision:shufflenet_v2_x0_5")


class TestToOnnx(TechniqueConformance):
    technique = ToOnnx()
    before = (ChannelPruning(pruning_ratio=0.5),)


class TestInt8(TechniqueConformance):
    technique = Int8()
    before = (ToOnnx(),)


class TestInt8WithEverything(TechniqueConformance):
    technique = Int8(method="mse", equalise=True, max_slowdown=0.3)
    before = (ToOnnx(),)

    @pytest.fixture(autouse=True, scope="class")
    def _integers_are_faster(self) -> Iterator[None]:
        """On any processor, so that layers are left in integers."""

        def times(variants: Sequence[Variant], *_: object, **__: object) -> list[float]:
            return [multiplications(v) * (1.0 if v.precision == "int8" else 2.0) for v in variants]

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(mixed_precision, "layer_latencies", times)
            yield


class TestHalfPrecision(TechniqueConformance):
    technique = HalfPrecision()
    before = (ToOnnx(),)


class TestToOpenVino(TechniqueConformance):
    technique = ToOpenVino()
    before = (ToOnnx(), Int8())


class TestTemperature(TechniqueConformance):
    technique = Temperature()
    before = (ToOnnx(), Int8())


class TestWidth(TechniqueConformance):
    technique = Width(2.0)


class TestToTorchExport(TechniqueConformance):
    technique = ToTorchExport()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("litert_torch") is None and PYTHON not in os.environ, reason="LiteRT's converter is not installed")
class TestToLiteRt(TechniqueConformance):
    technique = ToLiteRt(int8=True)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("executorch") is None, reason="ExecuTorch is not installed")
class TestToExecuTorch(TechniqueConformance):
    technique = ToExecuTorch(int8=True)


@pytest.mark.skipif(find_spec("torchax") is None, reason="JAX and torchax are not installed")
class TestToStableHlo(TechniqueConformance):
    technique = ToStableHlo()


def test_every_registered_technique_is_here() -> None:
    """But for the modifications, which have tests of their own, and TensorRT's, which needs a GPU."""
    tried = {kind.technique.name for kind in TechniqueConformance.__subclasses__() if kind.__module__ == __name__}
    others = {name for name, kind in registered().items() if not kind.__module__.startswith("planish.models.surgery")}
    assert tried == others - {"to_tensorrt"}
