"""Our techniques keep what every technique promises."""

from __future__ import annotations

from planish.compression import ChannelPruning, Int8, Resolution
from planish.export import ToOnnx, ToOpenVino
from planish.technique import registered
from planish.testing import TechniqueConformance
from planish.training import Distill, Student


class TestChannelPruning(TechniqueConformance):
    technique = ChannelPruning(ratio=0.5)


class TestResolution(TechniqueConformance):
    technique = Resolution(scale=0.75)


class TestDistill(TechniqueConformance):
    technique = Distill(epochs=1)
    before = (ChannelPruning(ratio=0.5),)


class TestDecoupledDistillation(TechniqueConformance):
    technique = Distill(method="decoupled", epochs=1)
    before = (ChannelPruning(ratio=0.5),)


class TestFeatureTransfer(TechniqueConformance):
    technique = Distill(method="feature", epochs=1)
    before = (ChannelPruning(ratio=0.5), Resolution(scale=0.75))


class TestAttentionTransfer(TechniqueConformance):
    technique = Distill(method="attention", epochs=1)
    before = (Student(model="resnet14"),)


class TestStudent(TechniqueConformance):
    technique = Student(model="torchvision:shufflenet_v2_x0_5")


class TestToOnnx(TechniqueConformance):
    technique = ToOnnx()
    before = (ChannelPruning(ratio=0.5),)


class TestInt8(TechniqueConformance):
    technique = Int8()
    before = (ToOnnx(),)


class TestToOpenVino(TechniqueConformance):
    technique = ToOpenVino()
    before = (ToOnnx(), Int8())


def test_every_registered_technique_is_here() -> None:
    tried = {kind.technique.name for kind in TechniqueConformance.__subclasses__() if kind.__module__ == __name__}
    assert tried == registered().keys()
