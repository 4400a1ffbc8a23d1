"""Our techniques keep what every technique promises."""

from __future__ import annotations

from planish.compression import ChannelPruning, Factorize, Int8, Resolution
from planish.export import ToOnnx, ToOpenVino
from planish.technique import registered
from planish.testing import TechniqueConformance
from planish.training import Distill


class TestChannelPruning(TechniqueConformance):
    technique = ChannelPruning(ratio=0.5)


class TestFactorize(TechniqueConformance):
    technique = Factorize(ratio=0.4, runtime=None)


class TestFactorizeMeasured(TechniqueConformance):
    technique = Factorize(speedup=1.3)
    before = (ChannelPruning(ratio=0.25),)


class TestResolution(TechniqueConformance):
    technique = Resolution(scale=0.75)


class TestDistill(TechniqueConformance):
    technique = Distill(epochs=1)
    before = (ChannelPruning(ratio=0.5),)


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
