"""The tasks: classification, detection, instance segmentation, semantic segmentation, raw outputs. They implement ``planish.task.Task``."""

from __future__ import annotations

from planish.tasks.agreement import AGREEMENT, Agreement
from planish.tasks.classification import Classification
from planish.tasks.detection import Detection
from planish.tasks.metric_names import require_defined
from planish.tasks.outputs import RawOutputs
from planish.tasks.registry import recipe_of, registered, task_for
from planish.tasks.segmentation import SemanticSegmentation

__all__ = [
    "AGREEMENT",
    "Agreement",
    "Classification",
    "Detection",
    "RawOutputs",
    "SemanticSegmentation",
    "recipe_of",
    "registered",
    "require_defined",
    "task_for",
]
