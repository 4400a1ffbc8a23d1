"""INT8 post-training quantization of an ONNX file, in the form that both ONNX Runtime and OpenVINO run with integer kernels."""

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
from planish.compression.graph.onnx_graph import fold, readers, separate_constants, set_metadata
from planish.compression.quantization.activation_ranges import Calibrator, Range, activation_ranges
from planish.compression.quantization.bias_correction import add_biases, correct_biases
from planish.compression.quantization.equalization import equalise
from planish.compression.quantization.mixed_precision import group_sensitivity, shield, time_of_each, worth_keeping_float
from planish.compression.quantization.weight_ranges import shared_weight_ranges
from planish.devices.kernels import onnxruntime_kernels, require_integers
from planish.devices.machine import saturates
from planish.errors import TechniqueError, first_line
from planish.files.workspace import fresh_folder
from planish.progress import Stage
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.artifact import Pixels
    from planish.task import Task

_BATCH = 16
_WEIGHED = 4  # batches that sensitivity and mean errors are measured on
_LAYERS = ("Conv", "Gemm", "MatMul")
_NORMALISING = ("Cast", "Transpose", "Mul", "Add", "Sub", "Div", "ReduceMin", "ReduceMax", "ReduceMean", "Sqrt", "Clip", "Max")
FLOAT_LAYERS = "float_layers"  # in the structure of a step: what a planner wants to stay float


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Int8:
    """Weights in signed 8 (or 7) bits, one scale per channel; activations in unsigned 8 bits, one scale per tensor, calibrated on images.

    Quantize and dequantize nodes are put around every operation that has an integer kernel (QDQ form); both runtimes fuse them. The
    normalisation of the pixels and the logits stay float. Signed activations would leave half the convolutions of ONNX Runtime in
    float, unsigned weights would make all of them slow.

    Args:
        calibration_images: number of calibration images, spread evenly over the split.
        method: how the range of an activation is chosen: the full range (``minmax``), all but the rarest values (``percentile``),
            the least loss of information (``entropy``) or the least squared error (``mse``).
        per_channel: one weight scale per output channel; False for one per layer.
        weight_bits: 7 for processors whose integer kernels overflow with 8 (x86 without VNNI, see ``evaluation.machine.saturates``).
        equalise: first scale channels that two layers share, where nothing or a ReLU lies between them (cross-layer equalisation).
        correct_bias: afterwards take the mean error of each channel off its bias.
        max_slowdown: mixed precision: how much slower than all INT8 the layers may be together, 0.1 for a tenth. Those whose rounding harms
            the outputs most for the time it saves stay float.
        runtime: runtime in which layers are timed for that.
        float_layers: names of layers of the network that stay float; those that an earlier step of the plan chose do so as well.
    """

    calibration_images: Annotated[int, Field(ge=1)] = 256
    method: Calibrator = "minmax"
    per_channel: bool = True
    weight_bits: Literal[7, 8] = 8
    equalise: bool = False
    correct_bias: bool = False
    max_slowdown: Annotated[float, Field(ge=0)] = 0.0
    runtime: str = "onnxruntime"
    float_layers: tuple[str, ...] = ()

    name: ClassVar[str] = "int8"
    reference: ClassVar[str] = "Jacob et al. 2018, arXiv:1712.05877; Nagel et al. 2021, arXiv:2106.08295"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("onnx",), "precision": ("fp32",)}

    @classmethod
    def for_this_machine(cls) -> Int8:
        """With weights of as many bits as this machine's integer kernels compute exactly."""
        return cls(weight_bits=7 if saturates() else 8)

    @property
    def changes(self) -> dict[str, str]:
        return {"precision": "int8"}

    def __str__(self) -> str:
        added = [f"{self.method} ranges"] * (self.method != "minmax") + ["7-bit weights"] * (self.weight_bits == 7)
        added += ["equalised"] * self.equalise
        added += ["biases corrected"] * self.correct_bias + [f"float layers for {100 * self.max_slowdown:g} % of its time"] * (
            self.max_slowdown > 0
        )
        added += [f"{len(self.float_layers)} layers float"] * bool(self.float_layers)
        return "INT8" + (f" ({', '.join(added)})" if added else "")

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Quantize.

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
                notes = self._quantize(artifact.files[0], prepared, file, [split[part] for part in _parts(chosen)], shared, planned)
            except TechniqueError:
                raise
            except Exception as error:  # the quantizer raises whatever its helpers do
                raise TechniqueError(
                    f"the quantizer cannot handle {artifact.files[0].name}: {type(error).__name__}: {error}",
                    "it takes ONNX files with float32 weights",
                    "leave this step out",
                ) from error
        try:
            kernels = {precision: len(names) for precision, names in onnxruntime_kernels(file).items()}
        except Exception as error:  # its bindings raise many kinds without a common base
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
        self, given: Path, prepared: Path, file: Path, calibration: Sequence[Pixels], shared: bool, planned: set[str]
    ) -> list[str]:
        """Write the quantized file; returns what is worth telling.

        Args:
            given: the float file.
            prepared: where it is put with all shapes known.
            file: where the quantized one is put.
            calibration: batches of images.
            shared: its layers have few different weights.
            planned: names of layers that a planner wants to stay float.
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
        left_float = [*_head(graph), *_float_neighbours(graph), *_decoding(graph), *_weights_first(graph)]
        kept = self._named(layers, planned)
        left_float += [name for node in layers if node.name in kept for name in (node.name, *_activations_behind(graph, node))]
        write = partial(self._write, prepared, ends, calibration[0][:1])
        if self.max_slowdown:
            timed = [node for node in layers if node.op_type in ("Conv", "Gemm") and node.name not in kept]
            groups = [[node.name, *_activations_behind(graph, node)] for node in timed]
            with Stage("measuring sensitivity of layers", len(timed)) as stage:
                sensitivity = group_sensitivity(
                    prepared, groups, lambda names, to: write(to, left_float, names), calibration[:_WEIGHED], stage
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
                notes.append(f"{correct_biases(prepared, file, lambda: calibration[:_WEIGHED], stage)} biases corrected")
        return notes

    def _named(self, layers: Sequence[Any], planned: set[str]) -> list[str]:
        """The nodes of layers that shall stay float."""
        nodes: dict[str, list[str]] = {}
        for node in layers:  # several of one layer that runs more than once, see ``separate_constants``
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
        """Put the nodes in; of all operations, or of those named."""
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


def _parts(chosen: Any) -> list[Any]:
    return np.split(chosen, range(_BATCH, len(chosen), _BATCH))


def _head(graph: Any) -> list[str]:
    """Names of the nodes between the pixels and the first layer. Normalised pixels are quantized once, where that layer reads them."""
    reached = {graph.input[0].name}
    names = []
    for node in graph.node:  # in topological order
        if node.op_type in _NORMALISING and any(name in reached for name in node.input):
            names.append(node.name)
            reached.update(node.output)
    return names


def _decoding(graph: Any) -> list[str]:
    """Names of the nodes that make boxes, classes and masks of what the layers return: eight bits would not place a box."""
    reached: set[str] = set()
    names = []
    for node in graph.node:  # in topological order
        if any(name in reached or name.startswith(RAW) for name in node.input):
            names.append(node.name)
            reached.update(node.output)
    return names


def _weights_first(graph: Any) -> list[str]:
    """Names of the products whose constant is on the left, for which there is no integer kernel with one scale an output."""
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[0] in constants]


def _float_neighbours(graph: Any) -> list[str]:
    """Batch norm that no convolution took in, other normalisations, and concatenations that only batch norm reads: without an integer
    kernel for them, rounding them costs accuracy and time, and OpenVINO 2026.4 crashed on a DenseNet-121 made so.
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
    """What an activation alone reads is rounded behind it only, so that it takes that range."""
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
    """Give the quantizer's file the metadata of the one it was made from, and leave out the shapes it noted."""
    import onnx

    model = onnx.load(str(after.files[0]))
    set_metadata(model, onnx.load(str(before.files[0]), load_external_data=False), after.lineage)
    model.graph.ClearField("value_info")
    onnx.save(model, str(after.files[0]))


class _Reader:
    """The quantizer insists on calibrating; as every range is given, one image will do."""

    def __init__(self, image: Pixels) -> None:
        self._images = iter([image])

    def get_next(self) -> dict[str, Pixels] | None:
        image = next(self._images, None)
        return None if image is None else {"images": np.ascontiguousarray(image)}


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
