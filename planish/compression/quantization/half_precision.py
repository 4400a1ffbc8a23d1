"""Storage of weights in 16 bits; computation stays in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.compression.graph.onnx_graph import set_metadata
from planish.errors import TechniqueError
from planish.files.workspace import fresh_folder
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class HalfPrecision:
    """Store the weights of an ONNX file in 16 bits; the runtime casts them to float32 when it loads the file.

    The file is half as large, and the model is not faster.

    Args:
        kind: ``fp16`` has 11 significant bits and a maximum of 65504; ``bf16`` has 8 significant bits and the range of float32.
    """

    kind: Literal["fp16", "bf16"] = "fp16"

    name: ClassVar[str] = "half_precision"
    reference: ClassVar[str] = "IEEE 754-2019; Kalamkar et al. 2019, arXiv:1905.12322"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("onnx",), "precision": ("fp32",)}

    @property
    def changes(self) -> dict[str, str]:
        return {"precision": f"{self.kind}_weights"}

    def __str__(self) -> str:
        return f"{self.kind} weights"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Store the weights in 16 bits.

        Raises:
            TechniqueError: a weight is outside the range of the format.
        """
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        model = onnx.load(str(artifact.files[0]))
        casts, count = [], 0
        for tensor in model.graph.initializer:
            if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
                continue  # biases and constants are few, and some operations need them in float32
            values, name = numpy_helper.to_array(tensor), tensor.name
            narrow = _narrowed(values, self.kind)
            if not np.isfinite(narrow.astype(np.float32)).all():
                raise TechniqueError(f"a weight of {name} is {np.abs(values).max():.3g}", f"{self.kind} ends before that", "use bf16")
            tensor.CopyFrom(numpy_helper.from_array(narrow, f"{name}_{self.kind}"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}_widened", to=TensorProto.FLOAT))
            count += narrow.size
        nodes = [*casts, *model.graph.node]
        model.graph.ClearField("node")
        model.graph.node.extend(nodes)
        step = Step(self.name, hyper_parameters(self), self.changes, notes=f"{count:,} weights stored in 16 bits, computed with in 32")
        file = fresh_folder("half-") / "model.onnx"
        result = artifact.with_step(step, files=(file,))
        set_metadata(model, model, result.lineage)
        onnx.save(model, str(file))
        return result


def _narrowed(values: Any, kind: str) -> Any:
    import ml_dtypes

    with np.errstate(over="ignore"):
        return values.astype(np.float16 if kind == "fp16" else ml_dtypes.bfloat16)
