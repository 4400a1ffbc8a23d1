"""Our techniques keep what every technique promises."""

from __future__ import annotations

from planish.compression import Binarize, ChannelPruning, Int8, LearnedRounding, QuantizeAware, Resolution
from planish.export import ToOnnx, ToOpenVino
from planish.technique import registered
from planish.testing import TechniqueConformance
from planish.training import Distill


class TestChannelPruning(TechniqueConformance):
    technique = ChannelPruning(ratio=0.5)


class TestResolution(TechniqueConformance):
    technique = Resolution(scale=0.75)


class TestQuantizeAware(TechniqueConformance):
    technique = QuantizeAware(epochs=1, images=32)
    before = (ChannelPruning(ratio=0.5),)


class TestLearnedRounding(TechniqueConformance):
    technique = LearnedRounding(bits=2, granularity="block", images=32, steps=20)


class TestQuantizeAwareOnFewBits(TechniqueConformance):
    technique = QuantizeAware(epochs=1, images=32)
    before = (LearnedRounding(bits=4, images=32, steps=5),)


class TestBinarize(TechniqueConformance):
    technique = Binarize(epochs=1, activations="binary")
    before = (ChannelPruning(ratio=0.5),)


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
