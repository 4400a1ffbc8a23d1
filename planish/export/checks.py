"""An exported file is held against the network, where it is decoded and behind: what PyTorch says, and how far the file may be from it."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planish.artifact import RAW, Artifact
from planish.errors import ExportError
from planish.export.agreement import differences
from planish.export.runtimes import load

if TYPE_CHECKING:
    import torch
    from torch import nn

    from planish.artifact import Outputs, Pixels

# networks that amplify rounding, untrained ones above all: a file may be some times as far off as float32 in PyTorch is
_TIMES_OWN, _MOST_TOLERANCE = 8.0, 5e-2


def check_outputs(files: tuple[Path, ...], runtime: str, images: Pixels, expected: Outputs, tolerance: float, reference: str) -> None:
    """Compare the exported file with what it was made from, alone and in a batch.

    Raises:
        ExportError: outputs differ by more than ``tolerance`` times the largest expected value.
    """
    predictor = load(files, runtime, batch=len(images))
    for count in (len(images), 1):
        found, wanted = predictor(images[:count]), {name: values[:count] for name, values in expected.items()}
        for name, difference in differences(wanted, found).items():
            worst = difference.value
            if not worst <= tolerance:  # also where it is NaN
                raise ExportError(
                    f"{files[0].name} in {runtime} differs from {reference} by {worst:.3g} of the largest value in {name!r}",
                    f"at most {tolerance:g}",
                    "look for operations that depend on the batch, on random numbers or on training mode",
                )


def torch_outputs(artifact: Artifact, images: Pixels) -> tuple[Outputs, float]:
    """What the file is held against, and how far PyTorch's float32 is from it, as a share of the largest value.

    It is computed in float64, as float32 alone differs from that by 6e-5 of the largest value in an Inception v3; in float32 where the
    network rounds values on purpose, or makes float32 tensors of its own.
    """
    import torch
    from torch import nn

    from planish.data.normalisation import Normalise
    from planish.models.outputs import each

    def run(dtype: torch.dtype) -> Any:
        network = nn.Sequential(Normalise.of(artifact.preprocessing), copy.deepcopy(artifact.module))
        with torch.no_grad():
            return network.cpu().to(dtype).eval()(torch.from_numpy(images))

    single = outputs = run(torch.float32)
    if artifact.facts["precision"] == "fp32":
        with suppress(RuntimeError):
            outputs = run(torch.float64)
    parts, singles = outputs.values() if isinstance(outputs, dict) else [outputs], single.values() if isinstance(single, dict) else [single]
    read = not isinstance(outputs, dict) or hasattr(artifact.module, "decode")
    if not read or not all(isinstance(part, torch.Tensor) for part in parts):
        raise ExportError(
            f"the network returns {type(outputs).__name__}",
            "in eval mode it must return one tensor of logits, or tensors by name that its decode() reads",
            "wrap it in a module that does",
        )
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise ExportError("the network's outputs are not finite", "a model that returns NaN or infinity cannot ship", "train it again")
    own_error = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in zip(singles, parts, strict=True))
    with torch.no_grad():
        found = named(artifact.module, each(lambda values: values.float(), outputs))
    return {name: values.numpy() for name, values in found.items()}, own_error


def named(network: nn.Module, outputs: Any) -> dict[str, torch.Tensor]:
    """What the file returns, and what that is decoded from."""
    from planish.models.outputs import decoded, raw

    return decoded(network, outputs) | {RAW + name: values for name, values in raw(network, outputs).items()}


def allowed(least: float, own_error: float) -> float:
    """How far a file may be from the network, as a share of the largest value.

    Args:
        least: where float32 in PyTorch is exact.
        own_error: how far float32 in PyTorch is off.
    """
    return max(least, min(_TIMES_OWN * own_error, _MOST_TOLERANCE))


def stages(expected: Outputs) -> list[tuple[bool, Outputs]]:
    """What a file is written with and held against in turn, for formats whose outputs cannot be taken away afterwards.

    First with what is decoded, where anything is (True), since there the numbers tell; then as it ships (False).
    """
    shipped = {name: values for name, values in expected.items() if not name.startswith(RAW)}
    return [(True, expected)] * (len(shipped) < len(expected)) + [(False, shipped)]
