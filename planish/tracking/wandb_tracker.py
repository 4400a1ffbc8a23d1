"""Weights & Biases and Trackio, which has the same interface: a job is a group of runs, one for itself and one for each candidate."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROJECT = "planish"


class WandbTracker:
    """Runs of one group.

    Args:
        kind: ``wandb`` or ``trackio``, which is the name of the library.
        name: name of the job and of the group.
        place: project, for ``wandb`` also ``ENTITY/PROJECT``; None for ``planish``.
        settings: configuration of the job's own run.
    """

    def __init__(self, kind: str, name: str, place: str | None, settings: Mapping[str, str]) -> None:
        self._library: Any = importlib.import_module(kind)
        self._is_wandb, self._name = kind == "wandb", name
        entity, _, project = (place or _PROJECT).rpartition("/")
        self._settings: dict[str, Any] = {"project": project, "group": name}
        if self._is_wandb:
            # sampling of the machine would disturb what is timed
            self._settings |= {"reinit": "create_new", "settings": self._library.Settings(x_disable_stats=True)}
            self._settings |= {"entity": entity} if entity else {}
        else:
            self._settings |= {"embed": False, "auto_log_gpu": False}
        self._runs: dict[str, Any] = {}
        self._run("", settings)

    def describe(self, part: str, values: Mapping[str, str]) -> None:
        """Set values of the configuration."""
        config = self._run(part, values).config
        if self._is_wandb:
            config.update(dict(values), allow_val_change=True)
        else:
            config.update(values)

    def log(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Store numbers. The step is one of them: the library's own would have to increase over epochs and measurements together."""
        self._run(part, {}).log({**values, "step": step})

    def save(self, path: Path) -> None:
        """Store a file or a folder."""
        if not self._is_wandb:
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            for file in files:
                self._library.save(str(file), project=self._settings["project"])
            return
        artifact = self._library.Artifact(f"{self._name}-{path.stem}".replace("/", "-"), type=path.suffix.removeprefix(".") or "model")
        (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
        self._run("", {}).log_artifact(artifact)

    def close(self, failed: bool) -> None:
        """End all runs."""
        for run in reversed(self._runs.values()):
            run.finish(exit_code=int(failed)) if self._is_wandb else run.finish()

    def _run(self, part: str, config: Mapping[str, str]) -> Any:
        if part not in self._runs:
            name = f"{self._name}: {part}" if part else self._name
            job_type = {"job_type": "candidate" if part else "job"} if self._is_wandb else {}
            self._runs[part] = self._library.init(name=name, config=dict(config), **self._settings, **job_type)
        return self._runs[part]
