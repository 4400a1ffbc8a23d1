"""Training in several processes, on several GPUs or machines."""

from planish.training.parallel.processes import Processes, connect

__all__ = ["Processes", "connect"]
