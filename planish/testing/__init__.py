"""Conformance suites that a technique or a format must pass, ours and third parties', and small real images to run them on."""

from planish.testing.format import FormatConformance
from planish.testing.images import write_shapes
from planish.testing.technique import TechniqueConformance

__all__ = ["FormatConformance", "TechniqueConformance", "write_shapes"]
