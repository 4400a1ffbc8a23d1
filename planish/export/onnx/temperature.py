"""Temperature scaling as part of an ONNX file, so that the deployed model has calibrated probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.errors import ModelError
from planish.export.onnx.onnx_file import metadata
from planish.export.runtimes.registry import load
from planish.files.workspace import fresh_folder
from planish.progress import note

if TYPE_CHECKING:
    from planish.task import Task

_LOGITS = "logits"


@dataclass(frozen=True)
class Temperature:
    """Divide the logits of an ONNX file by a temperature, so that confidence equals accuracy; the predicted classes do not change.

    The temperature minimises the log loss of the file's own predictions for the validation images: apply it after ``int8``, as
    quantization changes the confidence.

    Example:
        >>> print(Temperature())
        calibrated
    """

    name: ClassVar[str] = "temperature"
    reference: ClassVar[str] = "Guo et al. 2017, arXiv:1706.04599"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("onnx",)}

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        return "calibrated"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Fit the temperature and add the division to the file.

        Raises:
            ModelError: the file returns NaN, or no logits.
        """
        import onnx

        # not at the top: every process that loads a model file imports this package, and these modules import scipy
        from planish.evaluation.evaluate import evaluate
        from planish.evaluation.metrics.calibration import fit_temperature

        found = evaluate(load(artifact.files, "onnxruntime", batch=None), task, "validation", artifact.input_spec, artifact.preprocessing)
        if found.logits is None:
            raise ModelError(f"a model that returns {', '.join(found.outputs)}", "a temperature divides logits of classes", "omit it")
        fitted = fit_temperature(found.logits, found.targets)
        words = (
            f"logits divided by {fitted.value:.3f} [{fitted.low:.3f}, {fitted.high:.3f}], fitted on {len(found.targets)} validation images"
        )
        note(words)
        step = Step(self.name, {}, self.changes, structure={"temperature": fitted.value}, notes=words)
        file = fresh_folder("temperature-") / "model.onnx"
        result = artifact.with_step(step, files=(file,))
        model = onnx.load(str(artifact.files[0]))
        _divide_logits(model.graph, fitted.value)
        onnx.helper.set_model_props(model, metadata(result))
        onnx.save(model, str(file))
        return result


def _divide_logits(graph: Any, divisor: float) -> None:
    """Divide the output ``logits`` by a constant; changes ``graph`` in place."""
    from onnx import helper, numpy_helper

    undivided, name = f"{_LOGITS}_undivided", "temperature"
    while any(undivided in node.output for node in graph.node):  # the file has been calibrated before
        undivided, name = f"{undivided}_", f"{name}_"
    for node in graph.node:
        node.output[:] = [undivided if output == _LOGITS else output for output in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array(divisor, np.float32), name))
    graph.node.append(helper.make_node("Div", [undivided, name], [_LOGITS], f"{name}_division"))
