"""Steps of a run that other processes carry out: on a Ray cluster, or wherever ``planish worker`` runs."""

from planish.runs.workers.connect import working_with
from planish.runs.workers.share import share_steps, worker_count

__all__ = ["share_steps", "worker_count", "working_with"]
