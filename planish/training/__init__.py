"""Training, and techniques that train a network."""

from planish.training.distillation.distill import Distill
from planish.training.distillation.student import Student
from planish.training.fit import Epoch, Fitted, fit
from planish.training.settings import FitSettings

__all__ = ["Distill", "Epoch", "FitSettings", "Fitted", "Student", "fit"]
