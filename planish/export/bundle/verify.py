"""Verification of a bundle: unchanged files, expected outputs, and the latency on the current device compared with the recorded one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.data.preprocessing import preprocess
from planish.devices.device import current_device
from planish.errors import BundleError, DeviceError, GoalError, PlanishError
from planish.evaluation.latency import LatencySettings, Subject, measure_latency
from planish.export.bundle.folder import SIGNATURE, Bundle, changed_files, read_bundle, read_expected, unnamed_classes
from planish.export.bundle.signature import check_signature
from planish.export.checks.agreement import compact_outputs, differences
from planish.export.runtimes.registry import find, imports, require_runtime, run_checked
from planish.measurement import Measurement
from planish.printable import printable

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

_MODEL = "the bundle's model"
_SIGNATURES = {
    "verified": "signature: it is as the owner of the key signed it",
    "unchecked": "signature: there is one, but it was not checked, as no --public-key was given; hashes show accidents, not forgeries",
    "none": "signature: none; its hashes show accidents, not forgeries (planish sign BUNDLE --key KEY signs it)",
}
_TIMED_SECONDS, _LAUNCHES = 1.0, 3
_MOST_EXPECTED = 1_000_000_000  # bytes of all expected outputs, unpacked


@dataclass(frozen=True)
class VerifyReport:
    """The result of verifying a bundle.

    Args:
        folder: the bundle.
        samples: number of golden samples that were checked.
        worst: largest difference from an expected output, relative to the largest expected value.
        tolerance: largest difference allowed.
        failures: one line each; empty if the bundle is valid.
        latency: median latency of one call, with the bundle's batch size and threads; None if it was not measured.
        promised: the latency measured when the bundle was made; None if it was not measured.
        signature: ``verified``; ``unchecked`` if there is one but no key was given; or ``none``.
        notes: one line for each setting of the runtime that is another one than recorded; these are not failures.
        device: address and processor of the device that the model ran on; empty for this machine.
    """

    folder: str
    samples: int
    worst: float
    tolerance: float
    failures: list[str] = field(default_factory=list)
    latency: Measurement | None = None
    promised: Measurement | None = None
    signature: str = "none"
    notes: list[str] = field(default_factory=list)
    device: str = ""

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        if self.failures:
            lines = [f"{self.folder} does not verify:", *(f"  {line}" for line in self.failures)]
        else:
            lines = [
                f"{self.folder} verifies: all files are unchanged, and {self.samples} golden samples give the known outputs "
                + f"on {self.device} " * bool(self.device)
                + f"(largest difference {self.worst:.1e} of the largest output, allowed {self.tolerance:g})"
            ]
        return "\n".join([*lines, _SIGNATURES[self.signature], *self.notes, *self._speed()])

    def _speed(self) -> list[str]:
        """The latency compared with the recorded one, as lines of text; empty if it was not measured."""
        if self.latency is None:
            return []
        here = f"{self.latency} on {self.latency.device} ({self.latency.runtime})"
        if self.promised is None:
            return [f"latency: {here}; the bundle promises none"]
        there = f"{self.promised} on {self.promised.device or 'a machine it does not name'}"
        times = self.latency.value / self.promised.value
        return [f"latency: promised {there}, here {here}: {times:.2g}x as long"]


def verify(folder: Path, *, latency: bool = False, max_latency_ms: float | None = None, public_key: Path | None = None) -> VerifyReport:
    """Check that no file is missing, changed or added; then run the model on the golden samples, starting from their image files.

    The model runs on the current device (``planish.devices.device``), in the bundle's runtime with the bundle's number of threads. Outputs
    may differ by ``Bundle.tolerance`` of the largest expected value (another processor rounds differently), and the top-1 class must be
    the expected one wherever its margin exceeds that.

    Args:
        folder: the bundle.
        latency: also measure the latency, in a separate process, which takes a few seconds. A higher latency than the recorded one is not
            a failure, since the machine may be a different or a busy one.
        max_latency_ms: a higher latency is a failure.
        public_key: PEM file of the key that the bundle must be signed with; None accepts any bundle, signed or not.

    Raises:
        BundleError: the folder is not a bundle, its description cannot be trusted, or its expected outputs cannot be read.
        RuntimeMissingError: the bundle's runtime is not installed.
        DeviceError: the connection to the device was lost.
        ModelError: the latency cannot be measured.
        GoalError: ``max_latency_ms`` is given without ``latency``.
    """
    if max_latency_ms is not None and not latency:
        raise GoalError("a limit for a latency that is not measured", "it is measured to be held against it", "leave --no-latency away")
    bundle = read_bundle(folder)
    failures = changed_files(folder, bundle)
    signature = "unchecked" if (folder / SIGNATURE).is_file() else "none"
    if public_key is not None:
        try:
            check_signature(folder, public_key)
            signature = "verified"
        except BundleError as error:
            failures.append(str(error))
    if failures:  # a model that may have been tampered with is not run
        return VerifyReport(str(folder), 0, 0.0, bundle.tolerance, failures, signature=signature)
    require_runtime(bundle.runtime)
    device = current_device()
    expected = read_expected(folder, bundle, _MOST_EXPECTED)
    images: list[Pixels] = []
    outputs_now: dict[int, Outputs] = {}
    with device.predictor([folder / name for name in bundle.files], bundle.runtime, bundle.threads) as predictor:
        for i, name in enumerate(bundle.golden_samples):
            try:
                images.append(preprocess((folder / name).read_bytes(), bundle.input_spec, bundle.preprocessing))
                outputs = run_checked(predictor, images[-1][None], bundle.files[0])
                if fault := unnamed_classes(outputs, bundle):
                    failures.append(f"{name}: {fault}")
                outputs_now[i] = compact_outputs(outputs)
            except DeviceError:
                raise
            except (PlanishError, OSError) as error:
                failures.append(f"{name}: {error}")
    worst, wrong = _compare(bundle, expected, outputs_now)
    failures += wrong
    measured = _latency(folder, bundle, np.stack(images)) if latency and images else None
    if measured is not None and max_latency_ms is not None and measured.value > max_latency_ms:
        failures.append(f"a call takes {measured} (batch {bundle.batch_size}, threads {bundle.threads}), at most {max_latency_ms:g} ms")
    promised = bundle.measurements.get("latency_ms")
    notes, where = _other_settings(bundle), f"{device.address} ({device.name})" if device.address else ""
    samples = len(bundle.golden_samples)
    return VerifyReport(str(folder), samples, worst, bundle.tolerance, failures, measured, promised, signature, notes, where)


def _other_settings(bundle: Bundle) -> list[str]:
    """The settings of the runtime that differ from the recorded ones: they depend on the processor and on the version of Planish."""
    recorded, here = bundle.runtime_settings, find(bundle.runtime).settings(bundle.threads)
    where = "there" if current_device().address else "here"
    return [
        printable(f"note: {bundle.runtime} runs with {key}={here.get(key, 'default')} {where}, recorded is {recorded.get(key, 'default')}")
        for key in sorted({*recorded, *here})
        if recorded.get(key) != here.get(key)
    ]


def _latency(folder: Path, bundle: Bundle, images: Pixels) -> Measurement:
    """The median latency of a call in ms with the bundle's batch size and threads, measured as in a search."""
    arguments = {
        "files": [str((folder / name).resolve()) for name in bundle.files],
        "runtime": bundle.runtime,
        "threads": bundle.threads,
        "batch": bundle.batch_size,
    }
    subject = Subject("planish.export.runtimes.registry:load", arguments, images, bundle.runtime, imports=imports(bundle.runtime))
    settings = LatencySettings(bundle.threads, bundle.batch_size, seconds=_TIMED_SECONDS, launches=_LAUNCHES)
    found = measure_latency({_MODEL: subject}, _MODEL, settings)
    return found.measurements[_MODEL]["latency_ms"]


def _compare(bundle: Bundle, expected: Outputs, outputs_now: dict[int, Outputs]) -> tuple[float, list[str]]:
    """The largest difference from the expected outputs, relative to the largest expected value, and the failures, one line each.

    Args:
        bundle: the bundle that is verified.
        expected: outputs of all golden samples.
        outputs_now: present outputs, by index of the sample.
    """
    wrong = []
    for i, found in list(outputs_now.items()):
        for key, values in expected.items():
            if key not in found or found[key].shape != (1, *values.shape[1:]):
                wrong.append(f"{bundle.golden_samples[i]}: {key} has another shape than {values.shape[1:]}")
                outputs_now.pop(i, None)
    if not outputs_now:
        return 0.0, wrong
    rows = list(outputs_now)
    known = {key: values[rows] for key, values in expected.items()}
    found = {key: np.concatenate([outputs_now[i][key] for i in rows]) for key in expected}
    worst = 0.0
    for key, difference in differences(known, found).items():
        worst = max(worst, difference.value)
        allowed = f"of the largest value, allowed {bundle.tolerance:g}"
        if difference.together:
            if not difference.value <= bundle.tolerance:
                first = bundle.golden_samples[rows[int(difference.shares.argmax())]]
                wrong.append(f"{first}: most of all, {key} differs; over all samples by {difference.value:.2g} {allowed}")
            continue
        tops = _other_tops(known[key], found[key], bundle.tolerance)
        for i, share, top in zip(rows, difference.shares, tops, strict=True):
            if not share <= bundle.tolerance:
                wrong.append(f"{bundle.golden_samples[i]}: {key} differs by {share:.2g} {allowed}")
            elif top:
                wrong.append(f"{bundle.golden_samples[i]}: {key} {top}")
    return worst, wrong


def _other_tops(known: Any, found: Any, tolerance: float) -> list[str]:
    """For each row of ``(N, values)``, a message if the top-1 class differs although its margin exceeds the tolerance, else ``""``."""
    changes = [""] * len(known)
    if known.ndim == 2 and known.shape[1] > 1 and known.dtype.kind != "b":
        allowed = tolerance * float(np.abs(known).max())
        for i, (ours, theirs) in enumerate(zip(known, found, strict=True)):
            second, first = np.sort(ours)[-2:]
            if first - second > allowed and theirs.argmax() != ours.argmax():
                changes[i] = f"has {theirs.argmax()} on top instead of {ours.argmax()}"
    return changes
