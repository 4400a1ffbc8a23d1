"""The check that a bundle is whole, still gives the same answers, and is as fast here as it was promised to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planish.data.preprocessing import prepare
from planish.errors import GoalError, PlanishError
from planish.evaluation.latency import Subject, measure_latency
from planish.export.agreement import difference
from planish.export.bundle import EXPECTED, Bundle, changed_files, read_bundle
from planish.export.runtimes import load
from planish.measurement import Measurement

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

_MODEL = "the bundle's model"
_TIMED_SECONDS, _LAUNCHES = 1.0, 3


@dataclass(frozen=True)
class VerifyReport:
    """What a check of a bundle found.

    Args:
        folder: the bundle.
        samples: golden samples replayed.
        worst: largest difference from a known output, as a share of the largest known value.
        tolerance: how much is allowed.
        failures: one line each; empty where all is well.
        latency: of one call here, by the median, with the bundle's batch and threads; None where it was not measured.
        promised: the same as it was measured when the bundle was made; None where it was not.
    """

    folder: str
    samples: int
    worst: float
    tolerance: float
    failures: list[str] = field(default_factory=list)
    latency: Measurement | None = None
    promised: Measurement | None = None

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        if self.failures:
            lines = [f"{self.folder} does not verify:", *(f"  {line}" for line in self.failures)]
        else:
            lines = [
                f"{self.folder} verifies: all files are unchanged, and {self.samples} golden samples give the known outputs "
                f"(largest difference {self.worst:.1e} of the largest output, allowed {self.tolerance:g})"
            ]
        return "\n".join([*lines, *self._speed()])

    def _speed(self) -> list[str]:
        """The latency beside what was promised, in words; nothing where it was not measured."""
        if self.latency is None:
            return []
        here = f"{self.latency} on {self.latency.device} ({self.latency.runtime})"
        if self.promised is None:
            return [f"latency: {here}; the bundle promises none"]
        there = f"{self.promised} on {self.promised.device or 'a machine it does not name'}"
        times = self.latency.value / self.promised.value
        return [f"latency: promised {there}, here {here}: {times:.2g}x as long"]


def verify(folder: Path, *, latency: bool = False, max_latency_ms: float | None = None) -> VerifyReport:
    """Check that every file is there, unchanged, and that nothing was added; then replay the golden samples from their image files.

    The model runs in the bundle's runtime with the bundle's settings. Outputs may differ by ``Bundle.tolerance`` of the largest known value
    (another processor rounds differently), and the top class must be the known one wherever it leads by more than that.

    Args:
        folder: the bundle.
        latency: also measure it, in a process of its own, which takes some seconds. Slower than promised is no failure: this is another
            machine, or a busy one.
        max_latency_ms: more than that is a failure.

    Raises:
        BundleError: the folder is not a bundle at all, or its description cannot be trusted.
        RuntimeMissingError: the bundle's runtime is not installed.
        ModelError: the model cannot be timed.
        GoalError: a limit for what is not measured.
    """
    if max_latency_ms is not None and not latency:
        raise GoalError("a limit for a latency that is not measured", "it is measured to be held against it", "leave --no-latency away")
    bundle = read_bundle(folder)
    failures = changed_files(folder, bundle)
    if failures:  # what was tampered with is not run
        return VerifyReport(str(folder), 0, 0.0, bundle.tolerance, failures)
    predictor = load([folder / name for name in bundle.files], bundle.runtime, threads=bundle.threads, batch=1)
    with np.load(folder / EXPECTED, allow_pickle=False) as saved:
        expected: Outputs = {name: saved[name] for name in saved.files}
    worst, images = 0.0, []
    for i, name in enumerate(bundle.golden):
        try:
            images.append(prepare((folder / name).read_bytes(), bundle.input_spec, bundle.preprocessing))
            found = predictor(images[-1][None])
        except (PlanishError, RuntimeError) as error:
            failures.append(f"{name}: {error}")
            continue
        one = {key: values[i] for key, values in expected.items()}
        for key, values in expected.items():
            far, failure = _compare(key, found, one, float(np.abs(values).max()), bundle.tolerance)
            worst = max(worst, far)
            if failure:
                failures.append(f"{name}: {key} {failure}")
    measured = _latency(folder, bundle, np.stack(images)) if latency and images else None
    if measured is not None and max_latency_ms is not None and measured.value > max_latency_ms:
        failures.append(f"a call takes {measured} (batch {bundle.batch}, threads {bundle.threads}), at most {max_latency_ms:g} ms")
    promised = bundle.measurements.get("latency_ms")
    return VerifyReport(str(folder), len(bundle.golden), worst, bundle.tolerance, failures, measured, promised)


def _latency(folder: Path, bundle: Bundle, images: Pixels) -> Measurement:
    """Median milliseconds of a call with the bundle's batch and threads, as a search measures it."""
    arguments = {
        "files": [str((folder / name).resolve()) for name in bundle.files],
        "runtime": bundle.runtime,
        "threads": bundle.threads,
        "batch": bundle.batch,
    }
    subject = Subject("planish.export.runtimes:load", arguments, images, bundle.runtime, imports=(bundle.runtime,))
    found = measure_latency(
        {_MODEL: subject}, baseline=_MODEL, threads=bundle.threads, batch=bundle.batch, seconds=_TIMED_SECONDS, launches=_LAUNCHES
    )
    return found.measurements[_MODEL]["latency_ms"]


def _compare(key: str, found: Outputs, expected: Outputs, scale: float, tolerance: float) -> tuple[float, str]:
    """Largest difference of one output as a share of ``scale``, and what is wrong, if anything is."""
    wanted = expected[key]
    if key not in found or found[key].shape != (1, *wanted.shape):
        return 0.0, f"has another shape than {wanted.shape}"
    far = difference(key, {name: values[0] for name, values in found.items()}, expected, scale)
    if not far <= tolerance:  # also where it is NaN
        return far, f"differs by {far:.2g} of the largest value, allowed {tolerance:g}"
    if key == "logits" and len(wanted) > 1:
        second, first = np.sort(wanted)[-2:]
        if first - second > tolerance * scale and found[key][0].argmax() != wanted.argmax():
            return far, f"has {found[key][0].argmax()} on top instead of {wanted.argmax()}"
    return far, ""
