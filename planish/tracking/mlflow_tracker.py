"""MLflow: the job is a run, and each candidate a nested run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

_EXPERIMENT = "planish"
_MOST_TEXT = 5000  # characters of a tag or parameter
# A server that does not answer must not use up the budget of a job; the library would try for minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class MlflowTracker:
    """A run of MLflow, with nested runs.

    Args:
        name: name of the run.
        place: tracking URI: ``http://localhost:5000``, ``sqlite:///runs.db``; None for that of the environment.
        settings: parameters of the run.
    """

    def __init__(self, name: str, place: str | None, settings: Mapping[str, str]) -> None:
        for key, value in _PATIENCE.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client, self._name = MlflowClient(place), name
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        known = self._client.get_experiment_by_name(experiment)
        self._experiment = self._client.create_experiment(experiment) if known is None else known.experiment_id
        self._runs: dict[str, str] = {}
        self._client.log_batch(self._run(""), params=[Param(key, value[:_MOST_TEXT]) for key, value in settings.items()])

    def describe(self, part: str, values: Mapping[str, str]) -> None:
        """Set tags, which unlike parameters may change."""
        from mlflow.entities import RunTag

        self._client.log_batch(self._run(part), tags=[RunTag(key, value[:_MOST_TEXT]) for key, value in values.items()])

    def log(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Store metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run(part), metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def save(self, path: Path) -> None:
        """Store a file, or a folder under its name, as artifacts of the job."""
        if path.is_dir():
            self._client.log_artifacts(self._run(""), str(path), path.name)
        else:
            self._client.log_artifact(self._run(""), str(path))

    def close(self, failed: bool) -> None:
        """End all runs."""
        for run in reversed(self._runs.values()):
            self._client.set_terminated(run, "FAILED" if failed else "FINISHED")

    def _run(self, part: str) -> str:
        if part not in self._runs:
            tags = {"mlflow.parentRunId": self._runs[""]} if part else {}
            run = self._client.create_run(self._experiment, run_name=part or self._name, tags=tags)
            self._runs[part] = run.info.run_id
        return self._runs[part]
