"""INT8 post-training quantization of ONNX files, in the QDQ format that ONNX Runtime and OpenVINO both run with integer kernels."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.artifact import RAW, Artifact, Step
from planish.compression.graph.onnx_graph import fold, separate_constants, set_metadata
from planish.compression.quantization.activation_ranges import Calibrator, Range, activation_ranges
from planish.compression.quantization.bias_correction import add_biases, correct_biases
from planish.compression.quantization.equalization import equalise
from planish.compression.quantization.mixed_precision import group_sensitivity, shield, time_of_each, worth_keeping_float
from planish.compression.quantization.weight_ranges import shared_weight_ranges
from planish.devices.device import current_device
from planish.devices.kernels import onnxruntime_kernels, require_integers
from planish.errors import TechniqueError, first_line
from planish.files.onnx_nodes import readers
from planish.files.workspace import fresh_folder
from planish.progress import Stage
from planish.task import OUTPUTS
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.artifact import Pixels
    from planish.task import Task

_BATCH = 16
_SENSITIVITY_BATCHES = 4  # number of batches on which sensitivity and mean errors are measured
_BIAS_BYTES = 5_000_000  # of calibration images for bias correction: 33 with 224 pixels a side
_LAYERS = ("Conv", "Gemm", "MatMul")
_NORMALISING = ("Cast", "Transpose", "Mul", "Add", "Sub", "Div", "ReduceMin", "ReduceMax", "ReduceMean", "Sqrt", "Clip", "Max")
FLOAT_LAYERS = "float_layers"  # key in the structure of a step: the layers that an earlier step chose to stay float


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Int8:
    """Quantize weights to signed 8 (or 7) bits with one scale per output channel, and activations to unsigned 8 bits with one per tensor.

    Activation ranges are calibrated on images. Quantize and dequantize nodes are placed around every operation with an integer kernel (QDQ
    format); both runtimes fuse them. The normalisation of the pixels and the logits stay float. With signed activations, ONNX Runtime would
    run half the convolutions in float; with unsigned weights, all convolutions would be slow.

    Args:
        calibration_images: number of calibration images, spread evenly over the split.
        method: how the range of an activation is chosen: the full range (``minmax``), clipped at a percentile (``percentile``), with the
            least loss of information (``entropy``) or with the least squared error (``mse``).
        per_channel: one weight scale per output channel; False for one per layer.
        weight_bits: 7 for processors whose integer kernels overflow with 8 (x86 without VNNI, see ``devices.machine.saturates``).
        equalise: before quantization, rescale the channels between two layers with nothing or a ReLU between them (cross-layer
            equalisation).
        correct_bias: after quantization, subtract the mean error of each channel from its bias, which leaves about half the error of the
            outputs (Nagel et al. 2019, arXiv:1906.04721).
        max_slowdown: for mixed precision, how much slower the layers together may be than with INT8 only, 0.1 for 10 %. The layers whose
            quantization changes the outputs most for the time it saves stay float.
        runtime: runtime in which layers are timed for ``max_slowdown``.
        float_layers: names of layers of the network that stay float, besides those that an earlier step of the plan chose.
    """

    calibration_images: Annotated[int, Field(ge=1)] = 256
    method: Calibrator = "minmax"
    per_channel: bool = True
    weight_bits: Literal[7, 8] = 8
    equalise: bool = False
    correct_bias: bool = True
    max_slowdown: Annotated[float, Field(ge=0)] = 0.0
    runtime: str = "onnxruntime"
    float_layers: tuple[str, ...] = ()

    name: ClassVar[str] = "int8"
    reference: ClassVar[str] = "Jacob et al. 2018, arXiv:1712.05877; Nagel et al. 2021, arXiv:2106.08295"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("onnx",), "precision": ("fp32",)}

    @classmethod
    def for_device(cls) -> Int8:
        """Create the technique with the largest ``weight_bits`` that the current device's integer kernels compute exactly."""
        return cls(weight_bits=7 if current_device().saturates else 8)

    @property
    def changes(self) -> dict[str, str]:
        return {"precision": "int8"}

    def __str__(self) -> str:
        added = [f"{self.method} ranges"] * (self.method != "minmax") + ["7-bit weights"] * (self.weight_bits == 7)
        added += ["equalised"] * self.equalise
        added += ["biases not corrected"] * (not self.correct_bias)
        added += [f"float layers for {100 * self.max_slowdown:g} % of its time"] * (self.max_slowdown > 0)
        added += [f"{len(self.float_layers)} layers float"] * bool(self.float_layers)
        return "INT8" + (f" ({', '.join(added)})" if added else "")

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Quantize the file.

        Raises:
            TechniqueError: no layer can be quantized, or the quantizer cannot handle the file.
        """
        split = task.split("calibration").images(artifact.input_spec, artifact.preprocessing)
        chosen = np.unique(np.linspace(0, len(split) - 1, min(self.calibration_images, len(split))).astype(int))
        file = fresh_folder("int8-") / "model.onnx"
        with tempfile.TemporaryDirectory() as folder, _silence():
            prepared = Path(folder) / "prepared.onnx"
            try:
                shared = artifact.facts["weights"].startswith("shared")
                planned = {name for step in artifact.lineage.steps for name in step.structure.get(FLOAT_LAYERS, ())}
                as_is = artifact.lineage.source.task == OUTPUTS
                notes = self._quantize(artifact.files[0], prepared, file, [split[part] for part in _parts(chosen)], shared, planned, as_is)
            except TechniqueError:
                raise
            except Exception as error:  # the quantizer raises many exception types
                raise TechniqueError(
                    f"the quantizer cannot handle {artifact.files[0].name}: {type(error).__name__}: {error}",
                    "it takes ONNX files with float32 weights",
                    "leave this step out",
                ) from error
        try:
            kernels = {precision: len(names) for precision, names in onnxruntime_kernels(file).items()}
        except Exception as error:  # the bindings raise many exception types without a common base class
            raise TechniqueError(
                f"ONNX Runtime does not open the quantized file: {first_line(error)}", "", "leave this step out"
            ) from error
        require_integers(kernels, "ONNX Runtime")
        notes = [_describe(kernels, len(chosen)), *notes]
        step = Step(self.name, hyper_parameters(self), self.changes, notes="; ".join(notes))
        result = artifact.with_step(step, files=(file,))
        _finish(artifact, result)
        return result

    def _quantize(
        self, given: Path, prepared: Path, file: Path, calibration: Sequence[Pixels], shared: bool, planned: set[str], as_is: bool
    ) -> list[str]:
        """Write the quantized file; returns the notes of the step.

        Args:
            given: the float file.
            prepared: path for the folded file with all shapes inferred.
            file: path for the quantized file.
            calibration: batches of calibration images.
            shared: whether the layers use weight sharing.
            planned: names of layers that an earlier step chose to stay float.
            as_is: whether the outputs are compared as they are, so that what computes them from the last layers stays float.
        """
        import onnx

        notes = []
        fold(given, prepared)
        model = onnx.load(str(prepared))
        graph = model.graph
        layers = [node for node in graph.node if node.op_type in _LAYERS]
        if not layers:
            raise TechniqueError(
                "the network has no convolution and no linear layer", "those are what INT8 speeds up", "leave this step out"
            )
        copied = separate_constants(graph)
        if self.equalise:
            notes.append(f"{equalise(graph)} pairs of layers equalised")
        if self.correct_bias:
            add_biases(graph)
        if copied or self.equalise or self.correct_bias:
            onnx.save(model, str(prepared))

        with Stage("calibrating INT8", (1 if self.method == "minmax" else 2) * sum(map(len, calibration))) as stage:

            def batches() -> Iterator[Pixels]:
                for images in calibration:
                    yield images
                    stage.advance(len(images))

            ranges = _through_activations(graph, activation_ranges(prepared, batches, self.method))
        ends: dict[str, list[dict[str, Any]]] = {
            name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in ranges.items()
        }
        if shared:
            ends |= shared_weight_ranges(graph, self.per_channel)
        left_float = [*_head(graph), *_float_neighbours(graph), *_decoding(graph), *_weights_first(graph), *(_tail(graph) if as_is else ())]
        kept = self._named(layers, planned)
        left_float += [name for node in layers if node.name in kept for name in (node.name, *_activations_behind(graph, node))]
        write = partial(self._write, prepared, ends, calibration[0][:1])
        if self.max_slowdown:
            timed = [node for node in layers if node.op_type in ("Conv", "Gemm") and node.name not in kept]
            groups = [[node.name, *_activations_behind(graph, node)] for node in timed]
            with Stage("measuring sensitivity of layers", len(timed)) as stage:
                sensitivity = group_sensitivity(
                    prepared, groups, lambda names, to: write(to, left_float, names), calibration[:_SENSITIVITY_BATCHES], stage
                )
            fp32_ms, int8_ms = time_of_each(onnx.shape_inference.infer_shapes(model), [node.name for node in timed], self.runtime)
            chosen = worth_keeping_float(sensitivity, np.maximum(fp32_ms - int8_ms, 0), self.max_slowdown * float(int8_ms.sum()))
            left_float += [name for i in chosen for name in groups[i]]
            kept += [timed[i].name for i in chosen]
            notes.append(f"float layers: {', '.join(kept) or 'none'}")
        write(file, left_float)
        if kept:
            shield(file, kept)
        if self.correct_bias:
            with Stage("correcting biases", len(layers)) as stage:
                notes.append(f"{correct_biases(prepared, file, _for_biases(calibration), stage)} biases corrected")
        return notes

    def _named(self, layers: Sequence[Any], planned: set[str]) -> list[str]:
        """The nodes of the layers that are to stay float."""
        nodes: dict[str, list[str]] = {}
        for node in layers:  # a layer that runs more than once has several nodes, see ``separate_constants``
            nodes.setdefault(node.input[1].removeprefix("network.").partition(".weight")[0], []).append(node.name)
        if missing := [name for name in self.float_layers if name not in nodes]:
            raise TechniqueError(
                f"there is no layer {missing[0]!r} to stay float", f"layers are {', '.join(nodes)}", "see planish explain for their times"
            )
        return [node for name, found in nodes.items() if name in planned or name in self.float_layers for node in found]

    def _write(
        self,
        prepared: Path,
        ends: Mapping[str, list[dict[str, Any]]],
        image: Pixels,
        file: Path,
        left_float: Sequence[str],
        nodes: Sequence[str] | None = None,
    ) -> None:
        """Write a file with Q/DQ nodes around all operations, or around those in ``nodes``."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        quantize_static(
            str(prepared),
            str(file),
            _Reader(image),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=self.per_channel,
            reduce_range=self.weight_bits == 7,
            nodes_to_quantize=None if nodes is None else list(nodes),
            nodes_to_exclude=list(left_float),
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"], "TensorQuantOverrides": dict(ends)},
        )


def _for_biases(calibration: Sequence[Pixels]) -> Sequence[Pixels]:
    """The first batches of calibration images, fewer of large ones, whose activations are held in memory."""
    count = min(_SENSITIVITY_BATCHES, _BIAS_BYTES // max(1, calibration[0].nbytes))
    return calibration[: max(1, count)]


def _parts(chosen: Any) -> list[Any]:
    return np.split(chosen, range(_BATCH, len(chosen), _BATCH))


def _head(graph: Any) -> list[str]:
    """The names of the nodes between the pixels and the first layer; normalised pixels are quantized once, at that layer's input."""
    reached = {graph.input[0].name}
    names = []
    for node in graph.node:  # in topological order
        if node.op_type in _NORMALISING and any(name in reached for name in node.input):
            names.append(node.name)
            reached.update(node.output)
    return names


def _decoding(graph: Any) -> list[str]:
    """The names of the nodes that decode raw outputs to boxes, classes and masks; 8 bits are too coarse for box coordinates."""
    reached: set[str] = set()
    names = []
    for node in graph.node:  # in topological order
        if any(name in reached or name.startswith(RAW) for name in node.input):
            names.append(node.name)
            reached.update(node.output)
    return names


def _tail(graph: Any) -> list[str]:
    """The names of the nodes after the last layers with weights: what they compute, such as coordinates, are the outputs themselves."""
    needed: set[str] = set()
    names = []
    for node in reversed(graph.node):  # in reverse topological order
        if node.op_type in _LAYERS or any(name in needed for name in node.output):
            needed.update(node.input)
        else:
            names.append(node.name)
    return names


def _weights_first(graph: Any) -> list[str]:
    """The names of ``MatMul`` nodes with the constant on the left, for which no integer kernel has one scale per output channel."""
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[0] in constants]


def _float_neighbours(graph: Any) -> list[str]:
    """The names of batch-norm nodes not folded into a convolution, other normalisations, and concatenations that only batch norm reads.

    They have no integer kernel, so quantizing them costs accuracy and time, and OpenVINO 2026.4 crashed on such a DenseNet-121.
    """
    reads = readers(graph)
    names = []
    for node in graph.node:
        reading = reads.get(node.output[0], [])
        if node.op_type in ("BatchNormalization", "InstanceNormalization", "GroupNormalization") or (
            node.op_type == "Concat" and reading and all(reader.op_type == "BatchNormalization" for reader in reading)
        ):
            names.append(node.name)
    return names


def _activations_behind(graph: Any, layer: Any) -> list[str]:
    return [node.name for node in readers(graph).get(layer.output[0], []) if node.op_type in ("Relu", "Clip")]


def _through_activations(graph: Any, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Give a tensor that only a ReLU or Clip reads the range of its output, as the runtimes quantize only after the activation."""
    reads, found = readers(graph), dict(ranges)
    for node in graph.node:
        if node.op_type in ("Relu", "Clip") and len(reads[node.input[0]]) == 1 and node.input[0] in found and node.output[0] in found:
            found[node.input[0]] = found[node.output[0]]
    return found


def _describe(kernels: dict[str, int], images: int) -> str:
    count, total = kernels["int8"], sum(kernels.values())
    text = f"calibrated on {images} images; {count} of {total} convolution and linear layers run integer kernels in ONNX Runtime"
    if 2 * count < total:
        text += "; fewer than half, so expect little speed from it"
    return text


def _finish(before: Artifact, after: Artifact) -> None:
    """Copy the metadata of the original file to the quantized file, and remove the stored intermediate shapes."""
    import onnx

    model = onnx.load(str(after.files[0]))
    set_metadata(model, onnx.load(str(before.files[0]), load_external_data=False), after.lineage)
    model.graph.ClearField("value_info")
    onnx.save(model, str(after.files[0]))


class _Reader:
    """A calibration reader with a single image, which the quantizer requires although all ranges are given."""

    def __init__(self, image: Pixels) -> None:
        self._images = iter([image])

    def get_next(self) -> dict[str, Pixels] | None:
        image = next(self._images, None)
        return None if image is None else {"images": np.ascontiguousarray(image)}


@contextmanager
def _silence() -> Iterator[None]:
    """Within this block, suppress the messages that the quantizer logs and prints for its own developers."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
