"""Conformance suites that a technique, a format or a task must pass, ours and third parties', and small real images to run them on."""

from planish.testing.entry_points import entry_points
from planish.testing.format import FormatConformance
from planish.testing.images import write_shapes
from planish.testing.task import TaskConformance
from planish.testing.technique import TechniqueConformance

__all__ = ["FormatConformance", "TaskConformance", "TechniqueConformance", "entry_points", "write_shapes"]
