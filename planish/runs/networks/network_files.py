"""The exported files of several networks: each is exported once per precision, and all are timed side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from planish.artifact import Artifact
from planish.compression import Int8
from planish.evaluation.latency import LEAST_LAUNCHES, LatencyReport, LatencySettings
from planish.evaluation.size import size_bytes
from planish.export import ToOnnx
from planish.export.steps import steps_from_onnx
from planish.measurement import Measurement
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.progress import note
from planish.runs.runner import latency_once
from planish.runs.store import Store
from planish.settings import DeploymentTarget
from planish.task import Task

FilePrecision = Literal["fp32", "int8"]
FILE_PRECISIONS: tuple[FilePrecision, ...] = get_args(FilePrecision)

_CALIBRATION_IMAGES = 32  # only the speed of the INT8 files matters
_SECONDS = 1.0  # timing of each file


class NetworkFiles:
    """Exports networks in fp32 and INT8, and times the files.

    Args:
        store: store of the run.
        folder: folder for the files.
        target: threads and batch size.
        task_of: returns the task of a network, by name; its calibration images are the inputs.
    """

    def __init__(self, store: Store, folder: Path, target: DeploymentTarget, task_of: Callable[[str], Task]) -> None:
        self._store, self._folder, self._target, self._task_of = store, folder, target, task_of

    def folder(self, name: str) -> Path:
        """Return the folder of a network's files."""
        return self._folder / _file_name(name)

    def export(self, name: str, artifact: Artifact, precisions: Sequence[FilePrecision] = FILE_PRECISIONS) -> dict[str, Measurement]:
        """Export a network.

        Args:
            name: name of the network.
            artifact: the network.
            precisions: precisions of the files.

        Returns:
            The size of each file, by precision.

        Raises:
            PlanishError: it cannot be exported.
        """
        task, sizes = self._task_of(name), dict[str, Measurement]()
        onnx = ToOnnx().apply(artifact, task)
        for precision in precisions:
            file = onnx
            if precision == "int8":
                file = replace(Int8.for_device(), calibration_images=_CALIBRATION_IMAGES).apply(onnx, task)
            save_artifact(file, self.folder(name) / precision)
            sizes[precision] = size_bytes(file.files)
        return sizes

    def file(self, name: str, precision: FilePrecision, runtime: str) -> Artifact:
        """Return the file that a runtime runs."""
        return Plan(*steps_from_onnx(runtime)).apply(load_artifact(self.folder(name) / precision), self._task_of(name))

    def subject(self, name: str, precision: FilePrecision, runtime: str) -> tuple[Callable[[], Artifact], str]:
        """Return a file as a subject of ``latency_once``."""
        return partial(self.file, name, precision, runtime), runtime

    def fastest_runtime(self, name: str, runtimes: Sequence[str]) -> str:
        """Return the runtime in which the INT8 file of a network is fastest."""
        if len(runtimes) == 1:
            return runtimes[0]
        files = {runtime: self.subject(name, "int8", runtime) for runtime in runtimes}
        settings = LatencySettings(self._target.threads, self._target.batch, 0.6, LEAST_LAUNCHES)
        report = latency_once(self._store, "runtimes", self._task_of(name), files, runtimes[0], settings)
        runtime = min(runtimes, key=lambda each: report.measurements[each]["latency_ms"].value)
        note(f"files are timed in {runtime}, in which {name} is fastest here")
        return runtime

    def time(self, session: str, files: Iterable[tuple[str, FilePrecision]], runtime: str) -> LatencyReport:
        """Time files side by side.

        Args:
            session: name of the timing session, which is measured only once.
            files: names and precisions of the networks; ``NAME PRECISION`` is the name of a file in the report.
            runtime: runtime in which they are timed.
        """
        subjects = {f"{name} {precision}": self.subject(name, precision, runtime) for name, precision in files}
        task = self._task_of(next(iter(subjects)).rpartition(" ")[0])
        settings = LatencySettings(self._target.threads, self._target.batch, _SECONDS, LEAST_LAUNCHES)
        return latency_once(self._store, session, task, subjects, next(iter(subjects)), settings)


def limits_in_words(max_latency_ms: float | None, max_size_bytes: int | None) -> str:
    """Format the limits: ``5 ms and 4 MB``; empty if there are none."""
    latency = "" if max_latency_ms is None else f"{max_latency_ms:g} ms"
    return " and ".join(filter(None, (latency, "" if max_size_bytes is None else f"{max_size_bytes / 1e6:g} MB")))


def _file_name(name: str) -> str:
    short = "".join(c if c.isalnum() or c in "._-" else "_" for c in name.rpartition("/")[2])
    return f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"  # two files may have functions of one name
