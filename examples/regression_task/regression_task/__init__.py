"""Images to numbers, as a task for Planish: ``planish train parts.csv --task regression``."""

from regression_task.task import Regression

__all__ = ["Regression"]
