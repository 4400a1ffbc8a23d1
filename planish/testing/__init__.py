"""Conformance suites that a technique must pass, ours and third parties', and small real images to run them on."""

from planish.testing.images import write_shapes
from planish.testing.technique import TechniqueConformance

__all__ = ["TechniqueConformance", "write_shapes"]
