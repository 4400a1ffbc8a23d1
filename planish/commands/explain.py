"""Explanation of a model's latency and quantization error, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from planish.commands.options import at_least
from planish.errors import GoalError

if TYPE_CHECKING:
    from planish.explanation.result import Explanation


def explain(
    model: str | Path,
    *,
    runtime: str = "auto",
    threads: int = 1,
    batch: int = 1,
    data: str | Path | None = None,
    reference: str | Path | None = None,
    settings: Annotated[Mapping[str, str] | Sequence[str], Parameter(name="--setting")] = (),
) -> Explanation:
    """Show where a model's time and error come from, layer by layer, what makes it slow, and what to do about it.

    Args:
        model: A bundle, run, saved model, or any .onnx or OpenVINO .xml file.
        runtime: Runtime to use; auto uses the bundle's, or the one the file is made for.
        threads: Number of threads the runtime may use.
        batch: Batch size.
        data: Images on which to measure the error, instead of a bundle's golden samples; for other files, a .npy of inputs.
        reference: The float model it was quantized from; without it, only rounding of activations counts as error.
        settings: Setting of the runtime, as your program passes it: INFERENCE_PRECISION_HINT=bf16. May be repeated.

    Returns:
        The layers with their times, and the findings.

    Raises:
        ModelError: the model cannot be explained.
        ExportError: the runtime cannot run the file.

    Example:
        $ planish explain runs/demo/bundle
        $ planish explain model-int8.onnx --threads 2 --top 20
    """
    from planish.explanation.explain import explain as explain_model

    at_least(1, threads=threads, batch=batch)
    given = dict(settings) if isinstance(settings, Mapping) else dict(_setting(text) for text in settings)
    return explain_model(model, runtime=runtime, threads=threads, batch=batch, data=data, reference=reference, settings=given)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise GoalError(f"--setting {text}", "it is NAME=VALUE", "for example INFERENCE_PRECISION_HINT=bf16")
    return name, value
