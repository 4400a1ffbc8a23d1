"""INT8 post-training quantization of an ONNX file, in the form that both ONNX Runtime and OpenVINO run with integer kernels."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.errors import TechniqueError
from planish.evaluation.kernels import onnxruntime_kernels
from planish.progress import Stage
from planish.technique import hyper_parameters
from planish.workspace import fresh_folder

if TYPE_CHECKING:
    from planish.artifact import Pixels
    from planish.task import Task

_BATCH = 16  # at most
_LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Int8:
    """Weights in signed 8 bits, one scale a channel; activations in unsigned 8 bits, one scale a tensor, calibrated on real images.

    Quantize and dequantize nodes are put around every operation that has an integer kernel (QDQ form); both runtimes fuse them. The
    normalisation of the pixels and the logits stay float. Signed activations would leave half the convolutions of ONNX Runtime in
    float, unsigned weights would make all of them slow.

    Args:
        images: calibration images, spread evenly over the calibration split.
        method: how the range of an activation is chosen: all that was seen (``minmax``), all but the rarest values
            (``percentile``, 99.999%), or what loses least information (``entropy``).
        per_channel: one weight scale an output channel; one a layer where False.
    """

    images: Annotated[int, Field(ge=1)] = 256
    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    per_channel: bool = True

    name: ClassVar[str] = "int8"
    reference: ClassVar[str] = "Jacob et al. 2018, arXiv:1712.05877; Nagel et al. 2021, arXiv:2106.08295"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("onnx",), "precision": ("fp32",)}

    @property
    def changes(self) -> dict[str, str]:
        return {"precision": "int8"}

    def __str__(self) -> str:
        return "INT8"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Quantize.

        Raises:
            TechniqueError: no layer can be quantized, or the quantizer cannot handle the file.
        """
        split = task.split("calibration").images(artifact.input_spec, artifact.preprocessing)
        chosen = np.unique(np.linspace(0, len(split) - 1, min(self.images, len(split))).astype(int))
        file = fresh_folder("int8-") / "model.onnx"
        with tempfile.TemporaryDirectory() as folder, _silence():
            prepared = Path(folder) / "prepared.onnx"
            try:
                _prepare(artifact.files[0], prepared)
                self._quantize(prepared, file, split, chosen)
            except TechniqueError:
                raise
            except Exception as error:  # the quantizer raises whatever its helpers do
                raise TechniqueError(
                    f"the quantizer cannot handle {artifact.files[0].name}: {type(error).__name__}: {error}",
                    "it takes ONNX files with float32 weights",
                    "leave this step out",
                ) from error
        kernels = {precision: len(names) for precision, names in onnxruntime_kernels(file).items()}
        params = hyper_parameters(self)
        step = Step(self.name, params, self.changes, notes=_describe(kernels, len(chosen)))
        result = artifact.with_step(step, files=(file,))
        _copy_metadata(artifact, result)
        return result

    def _quantize(self, prepared: Path, file: Path, split: Pixels, chosen: Any) -> None:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        graph = onnx.load(str(prepared)).graph
        if not any(node.op_type in _LAYERS for node in graph.node):
            raise TechniqueError(
                "the network has no convolution and no linear layer", "those are what INT8 speeds up", "leave this step out"
            )
        method = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}
        with Stage("calibrating INT8", len(chosen)) as stage:
            quantize_static(
                str(prepared),
                str(file),
                _Reader(split, chosen, stage),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=self.per_channel,
                calibrate_method=method[self.method],
                nodes_to_exclude=_head(graph),
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"], "CalibPercentile": 99.999},
            )


def _prepare(file: Path, prepared: Path) -> None:
    """Fold and fuse what can be, and infer shapes: the quantizer places its nodes by patterns."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)


def _head(graph: Any) -> list[str]:
    """Names of the nodes between the pixels and the first layer. Normalised pixels are quantized once, where that layer reads them."""
    reached = {graph.input[0].name}
    names = []
    for node in graph.node:  # in topological order
        if node.op_type in ("Cast", "Transpose", "Mul", "Add", "Sub", "Div") and any(name in reached for name in node.input):
            names.append(node.name)
            reached.update(node.output)
    return names


def _describe(kernels: dict[str, int], images: int) -> str:
    count, total = kernels["int8"], sum(kernels.values())
    text = f"calibrated on {images} images; {count} of {total} convolution and linear layers run integer kernels in ONNX Runtime"
    if 2 * count < total:
        text += "; fewer than half, so expect little speed from it"
    return text


def _copy_metadata(before: Artifact, after: Artifact) -> None:
    """The quantizer drops the file's metadata; put it back, with the lineage as it is now."""
    import onnx
    from pydantic import TypeAdapter

    from planish.artifact import Lineage

    model = onnx.load(str(after.files[0]))
    kept = {p.key: p.value for p in onnx.load(str(before.files[0]), load_external_data=False).metadata_props}
    kept["planish.lineage"] = TypeAdapter(Lineage).dump_json(after.lineage).decode()
    del model.metadata_props[:]
    for key, value in kept.items():
        model.metadata_props.add(key=key, value=value)
    model.graph.ClearField("value_info")
    onnx.save(model, str(after.files[0]))


class _Reader:
    """Feeds calibration images in small batches, as ONNX Runtime's ``CalibrationDataReader`` asks for them."""

    def __init__(self, split: Pixels, chosen: Any, stage: Stage) -> None:
        # the calibrators that count values need batches of one size
        size = next(size for size in range(_BATCH, 0, -1) if len(chosen) % size == 0)
        self._batches = iter([chosen[i : i + size] for i in range(0, len(chosen), size)])
        self._split, self._stage = split, stage

    def __iter__(self) -> Iterator[dict[str, Pixels]]:
        return self

    def __next__(self) -> dict[str, Pixels]:
        if (batch := self.get_next()) is None:
            raise StopIteration
        return batch

    def get_next(self) -> dict[str, Pixels] | None:
        if (indices := next(self._batches, None)) is None:
            return None
        self._stage.advance(len(indices))
        return {"images": np.ascontiguousarray(self._split[indices])}


@contextmanager
def _silence() -> Iterator[None]:
    """The quantizer logs and prints advice for its own developers."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
