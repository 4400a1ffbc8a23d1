"""Training, and techniques that train."""

from planish.training.distill import Distill
from planish.training.fit import Epoch, Fitted, fit
from planish.training.settings import FitSettings
from planish.training.student import Student

__all__ = ["Distill", "Epoch", "FitSettings", "Fitted", "Student", "fit"]
