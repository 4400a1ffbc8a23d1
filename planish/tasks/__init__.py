"""Tasks: classification now; detection and segmentation implement the same protocol."""

from planish.tasks.classification import Classification

__all__ = ["Classification"]
