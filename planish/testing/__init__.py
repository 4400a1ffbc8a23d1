"""Conformance tests for techniques, formats and tasks, built-in ones and those of other packages, and small images to run them on."""

from planish.testing.entry_points import entry_points
from planish.testing.format import FormatConformance
from planish.testing.images import write_shapes
from planish.testing.task import TaskConformance
from planish.testing.technique import TechniqueConformance

__all__ = ["FormatConformance", "TaskConformance", "TechniqueConformance", "entry_points", "write_shapes"]
