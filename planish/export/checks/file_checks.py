"""Comparison of an exported file with the network, before and after decoding: the outputs of PyTorch, and the tolerances."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.artifact import RAW, Artifact
from planish.devices.kernels import require_integers
from planish.errors import ExportError
from planish.export.checks.agreement import decoded_difference, differences, numeric_outputs
from planish.export.checks.rounding import jittered, rounded
from planish.export.checks.similarity import OutputSimilarity, agreement, likeness
from planish.export.runtimes.registry import executed_precisions, load

if TYPE_CHECKING:
    import torch
    from torch import nn

    from planish.artifact import Outputs, Pixels, Predictor

# For networks that amplify rounding, above all untrained ones: the tolerance as a multiple of PyTorch's float32 error, and its maximum.
_TIMES_OWN, _MOST_TOLERANCE = 8.0, 5e-2
# Power of the noise relative to that of the differences between images. INT8 files of trained and untrained networks had 0.003 to 0.08 if
# the network does not amplify noise; swapping red and blue gives 0.4 and more, the outputs of other images give infinity.
_NOISE = {"fp32": 0.02, "fp16": 0.05, "bf16": 0.05}
_NOISE_ROUNDED = 0.18
_ROUNDING = ("int8", "binary")  # precisions of PyTorch networks that round activations
# noise allowed, in multiples of that from simulated rounding, or from jittered pixels, which change less than rounding does
_TIMES_SIMULATED, _TIMES_JITTERED = 3.0, 9.0
_SCALE = 0.65  # smallest spread between images, relative to the expected one: half of it is refused
_UNLIKE = {"scores": 0.5, "classes": 0.5, "confidence": 0.1}
_AGREEMENT = 0.8  # of the clear predictions


def check_integers(files: Sequence[Path], runtime: str) -> None:
    """Check that at least one layer of a quantized file runs in integer arithmetic, if the runtime reports it.

    Raises:
        TechniqueError: no layer does.
    """
    if counts := executed_precisions(files, runtime):
        require_integers(counts, runtime)


@dataclass(frozen=True)
class Bound:
    """Limits for the ``OutputSimilarity`` of one output.

    Args:
        noise: maximum.
        snr_db: minimum.
        scale: minimum and maximum.
    """

    noise: float
    snr_db: float
    scale: tuple[float, float]

    @classmethod
    def of(cls, noise: float, near: OutputSimilarity | None, times: float) -> Bound:
        """The default limits, relaxed for networks that amplify rounding errors.

        Args:
            noise: default maximum.
            near: likeness of outputs with unavoidable rounding errors only; None for the defaults.
            times: noise allowed as a multiple of that of ``near``.
        """
        snr_db, own, scale = -10 * math.log10(noise), 0.0, 1.0
        if near is not None:
            snr_db, own = min(snr_db, near.snr_db - 10 * math.log10(times)), near.noise
            scale = 1.0 if near.scale is None else near.scale
        return cls(max(noise, times * own), snr_db, (_SCALE * min(1.0, scale), max(1.0, scale) / _SCALE))

    def faults(self, found: OutputSimilarity) -> Iterator[tuple[str, str]]:
        """For each limit that is exceeded, the value and the limit as text."""
        if not found.snr_db >= self.snr_db:
            yield f"the signal-to-noise ratio is {found.snr_db:.1f} dB", f"at least {self.snr_db:.1f} dB"
        if found.correlation is not None and not found.noise <= self.noise:
            least = 1 / math.sqrt(1 + self.noise)
            yield f"the correlation of what distinguishes the images is {found.correlation:.2f}", f"at least {least:.2f}"
        low, high = self.scale
        if found.scale is not None and not low <= found.scale <= high:
            yield f"images differ {found.scale:.2f} times as much", f"from {low:.2f} to {high:.2f} times"


@dataclass(frozen=True)
class Tolerances:
    """How far the outputs of a file may be from the expected ones.

    Args:
        largest: largest difference of a value, relative to the largest expected one; infinite for files that round intermediate values.
        bounds: limits by name of the outputs that are compared value by value.
        decoded_difference: limits by name of the decoded outputs, for files that round intermediate values.
    """

    largest: float
    bounds: Mapping[str, Bound]
    decoded_difference: Mapping[str, float] = field(default_factory=dict)


def float_limits(expected: Outputs, near: Outputs | None = None, least: float = 1e-3) -> Tolerances:
    """Tolerances for a file that computes in float32.

    Args:
        expected: outputs in float64, or of another float32 file.
        near: outputs of PyTorch in float32.
        least: difference that is always allowed, relative to the largest value.
    """
    numbers = numeric_outputs(expected)
    own_error = max((differences({n: expected[n]}, {n: near[n]})[n].value for n in numbers), default=0.0) if near is not None else 0.0
    bounds = {n: Bound.of(_NOISE["fp32"], None if near is None else likeness(expected[n], near[n]), _TIMES_OWN**2) for n in numbers}
    return Tolerances(max(least, min(_TIMES_OWN * own_error, _MOST_TOLERANCE)), bounds)


def rounded_limits(expected: Outputs, near: Outputs, precision: str = "int8", *, simulated: bool = False) -> Tolerances:
    """Tolerances for a file that rounds intermediate values.

    Args:
        expected: outputs that the file is compared with.
        near: the same outputs with rounding errors of a typical size: from simulated rounding, or from ``jittered`` images.
        precision: of the file.
        simulated: True if ``near`` is from simulated rounding, False if it is from jittered images.
    """
    times, noise = _TIMES_SIMULATED if simulated else _TIMES_JITTERED, _NOISE.get(precision, _NOISE_ROUNDED)
    bounds = {name: Bound.of(noise, likeness(expected[name], near[name]), times) for name in numeric_outputs(expected)}
    return Tolerances(
        math.inf, bounds, {name: max(_UNLIKE[name], times * value) for name, value in decoded_difference(expected, near).items()}
    )


def file_limits(predictor: Predictor, images: Pixels, expected: Outputs, precision: str, least: float = 1e-3) -> Tolerances:
    """Tolerances for a file that was converted from another file, with the same rounding.

    Args:
        predictor: runs the original file.
        images: inputs of both.
        expected: outputs of the original file for them.
        precision: of both files.
        least: for ``fp32``, see ``float_limits``.
    """
    return float_limits(expected, least=least) if precision == "fp32" else rounded_limits(expected, predictor(jittered(images)), precision)


def check_outputs(files: tuple[Path, ...], runtime: str, images: Pixels, expected: Outputs, limits: Tolerances, reference: str) -> None:
    """Compare the outputs of an exported file with those of the model that it was made from, for a batch and for a single image.

    Args:
        files: exported files; the first is the one the runtime opens.
        runtime: name of the runtime.
        images: inputs.
        expected: outputs of the original model for them.
        limits: tolerances.
        reference: name of the original model, for messages: ``PyTorch``.

    Raises:
        ExportError: outputs differ by more than the limits allow; the message names the measure.
    """
    predictor = load(files, runtime, batch=len(images))
    batch = predictor(images)
    _check_values(files[0], runtime, expected, batch, limits, reference)
    faults = [f"{what} ({rule})" for what, rule in _faults(expected, batch, limits)]
    if not faults:
        single = predictor(images[:1])
        _check_values(files[0], runtime, {name: values[:1] for name, values in expected.items()}, single, limits, reference)
        faults = [f"one image at a time, {what} ({rule})" for what, rule in _single_faults(expected, batch, single, limits)]
    if faults:
        raise ExportError(
            f"{files[0].name} in {runtime} does not give what {reference} gives: {'; '.join(faults)}",
            "the limits are what rounding can do to this network",
            "compare the preprocessing, the order of the classes and the calibration; another runtime or fp32 may work",
        )


def _check_values(file: Path, runtime: str, expected: Outputs, found: Outputs, limits: Tolerances, reference: str) -> None:
    """Check that all outputs are present and finite, and that no value differs by more than ``limits.largest``.

    Raises:
        ExportError: an output fails this check.
    """
    for name, difference in differences(expected, found).items():
        worst = difference.value
        if not worst <= limits.largest or worst == math.inf:  # also where it is NaN
            raise ExportError(
                f"{file.name} in {runtime} differs from {reference} by {worst:.3g} of the largest value in {name!r}",
                f"at most {limits.largest:g}" if math.isfinite(limits.largest) else "values must be finite, and of the same shape",
                "look for operations that depend on the batch, on random numbers or on training mode",
            )


def _faults(expected: Outputs, found: Outputs, limits: Tolerances) -> Iterator[tuple[str, str]]:
    """The faults in the outputs of a batch, each with the limit that it exceeds."""
    for name, bound in ((name, limits.bounds[name]) for name in numeric_outputs(expected)):
        for what, rule in bound.faults(likeness(expected[name], found[name])):
            yield f"in {name!r} {what}", rule
        agreeing = agreement(expected[name], found[name], bound.noise)
        if agreeing is not None and agreeing < _AGREEMENT:
            yield f"in {name!r} {100 * agreeing:.0f} % of the clear answers are the same", f"at least {100 * _AGREEMENT:.0f} %"
    yield from _unlike_faults(expected, found, limits)


def _single_faults(expected: Outputs, batch: Outputs, single: Outputs, limits: Tolerances) -> Iterator[tuple[str, str]]:
    """The faults in the outputs of the first image alone, compared with the file's outputs for it in a batch."""
    for name, bound in ((name, limits.bounds[name]) for name in numeric_outputs(expected)):
        values = np.asarray(expected[name], np.float64)
        variation = float(np.square(values - values.mean(0)).sum()) / len(values)
        apart = float(np.square(np.asarray(batch[name][:1], np.float64) - single[name]).sum())
        allowed = bound.noise * variation + 1e-6 * float(np.square(values[:1]).sum())  # kernels for another batch size sum in another order
        if len(values) > 1 and not apart <= allowed:
            yield f"in {name!r} it differs from the same image in a batch by {math.sqrt(apart):.3g}", f"at most {math.sqrt(allowed):.3g}"
    yield from _unlike_faults({name: values[:1] for name, values in batch.items()}, single, limits)


def _unlike_faults(expected: Outputs, found: Outputs, limits: Tolerances) -> Iterator[tuple[str, str]]:
    if limits.decoded_difference:
        for name, value in decoded_difference(expected, found).items():
            if not value <= limits.decoded_difference[name]:
                yield f"{name!r} are unlike by {value:.2f} (1 where nothing is in common)", f"at most {limits.decoded_difference[name]:.2f}"


def torch_outputs(artifact: Artifact, images: Pixels, *, least: float, int8: bool = False) -> tuple[Outputs, Tolerances]:
    """The outputs that an exported file is compared with, and the tolerances.

    They are computed in float64, since float32 differs from it by 6e-5 of the largest value for an Inception v3; but in float32 if the
    network rounds values on purpose or creates float32 tensors itself.

    Args:
        artifact: with the network.
        images: inputs of the file.
        least: see ``float_limits``.
        int8: True if the file computes in INT8 what the network computes in float.
    """
    import torch
    from torch import nn

    from planish.data.normalisation import Normalise
    from planish.models.outputs import each

    def run(dtype: torch.dtype, module: nn.Module = artifact.module, fed: Pixels = images) -> Any:
        network = nn.Sequential(Normalise.of(artifact.preprocessing), copy.deepcopy(module))
        with torch.no_grad():
            network = network.double() if dtype == torch.float64 else network.float()  # .to(dtype) would make complex buffers real
            return network.cpu().eval()(torch.from_numpy(fed))

    def read(outputs: Any) -> Outputs:
        with torch.no_grad():
            found = named(artifact.module, each(lambda values: values.float(), outputs))
        return {name: values.numpy() for name, values in found.items()}

    precision = artifact.facts["precision"]
    single = outputs = run(torch.float32)
    if precision == "fp32":
        with suppress(RuntimeError):
            outputs = run(torch.float64)
    _check_form(artifact.module, outputs)
    expected = read(outputs)
    if int8:
        return expected, rounded_limits(expected, read(run(torch.float32, rounded(artifact.module))), simulated=True)
    if precision in _ROUNDING:
        return expected, rounded_limits(expected, read(run(torch.float32, fed=jittered(images))), precision)
    return expected, float_limits(expected, read(single), least)


def _check_form(module: nn.Module, outputs: Any) -> None:
    """Check that the network returns outputs that can be exported.

    Raises:
        ExportError: it does not, or some values are not finite.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    from planish.models.outputs import decodes

    parts = tree_leaves(outputs)
    read = isinstance(outputs, torch.Tensor) or decodes(module)
    if not read or not all(isinstance(part, torch.Tensor) for part in parts):
        raise ExportError(
            f"the network returns {type(outputs).__name__}",
            "in eval mode it must return one tensor of logits, or tensors by name that its decode() reads",
            "wrap it in a module that does",
        )
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise ExportError("the network's outputs are not finite", "a model that returns NaN or infinity cannot ship", "train it again")


def named(network: nn.Module, outputs: Any) -> dict[str, torch.Tensor]:
    """The outputs of an exported file by name, and as ``raw.*`` the outputs of the network that they are decoded from."""
    from planish.models.outputs import decoded, raw

    return decoded(network, outputs) | {RAW + name: values for name, values in raw(network, outputs).items()}


def stages(expected: Outputs) -> list[tuple[bool, Outputs]]:
    """The outputs that a file is exported with and checked against, one set after the other, for formats whose outputs cannot be removed
    later.

    First including the outputs before decoding, if there are any (True), as these can be compared value by value; then the final ones
    (False).
    """
    shipped = {name: values for name, values in expected.items() if not name.startswith(RAW)}
    return [(True, expected)] * (len(shipped) < len(expected)) + [(False, shipped)]
