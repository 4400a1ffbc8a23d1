"""Export to ExecuTorch (``.pte``), for phones and small devices, with XNNPACK's kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.devices.kernels import require_integers
from planish.errors import ExportError, first_line
from planish.export.checks.file_checks import check_outputs, stages, torch_outputs
from planish.export.onnx.onnx_file import metadata, sample_images
from planish.export.quiet import quiet
from planish.export.runtimes.executorch import OUTPUTS
from planish.export.runtimes.registry import find
from planish.files.trust import trust
from planish.files.workspace import fresh_folder
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.artifact import Pixels
    from planish.task import Task

_LAYERS = ("aten.conv", "aten.linear")
_TOLERANCE = 1e-3
_CHECKED_IMAGES, _CALIBRATION_IMAGES = 16, 128
_MOST_IMAGES = 8  # maximum batch size; the memory of the file is planned for it


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ToExecuTorch:
    """Export to ``model.pte`` with a maximum batch size of 8, or of 1 where 8 fails. Operators that XNNPACK lacks run on ExecuTorch's
    portable kernels.

    The scales of ``int8`` and ``qat`` are part of an ONNX graph and cannot be transferred, so INT8 is calibrated again here.

    Args:
        int8: quantize weights and activations, calibrated on 128 images.
    """

    name: ClassVar[str] = "to_executorch"
    reference: ClassVar[str] = "https://docs.pytorch.org/executorch"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    int8: bool = False

    @property
    def changes(self) -> dict[str, str]:
        return {"format": "executorch"} | ({"precision": "int8"} if self.int8 else {})

    def __str__(self) -> str:
        return "ExecuTorch" + (", INT8" if self.int8 else "")

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Export the network.

        Raises:
            RuntimeMissingError: ExecuTorch is not installed.
            ExportError: the network cannot be exported, or the file's outputs differ from the network's.
            TechniqueError: no layer of the INT8 file runs in integer arithmetic.
        """
        find("executorch")

        images = sample_images(artifact, task, _CHECKED_IMAGES)
        expected, limits = torch_outputs(artifact, images, least=_TOLERANCE, int8=self.int8)
        result = artifact.with_step(Step(self.name, hyper_parameters(self), self.changes), format="executorch", module=None)
        constants = {name.replace(".", "_"): text for name, text in metadata(result).items()}  # become methods that return a string
        file = fresh_folder("executorch-") / "model.pte"
        # ExecuTorch's passes fail on integer layers whose outputs are both decoded and returned (1.5.1)
        written = stages(expected)[-1:] if self.int8 else stages(expected)
        calibration = sample_images(artifact, task, _CALIBRATION_IMAGES) if self.int8 else None
        for most in (_MOST_IMAGES, 1):  # networks with channel shuffles are only correct at batch size 1 (1.5.1)
            try:
                for raw, wanted in written:
                    file.write_bytes(_lowered(artifact, most, raw, calibration, constants | {OUTPUTS: json.dumps(list(wanted))}))
                    trust(file)
                    check_outputs((file,), "executorch", images, wanted, limits, "PyTorch")
            except (ExportError, RuntimeError) as error:
                if most > 1:
                    continue
                if isinstance(error, ExportError):
                    raise
                raise ExportError(f"ExecuTorch cannot run its file: {first_line(error)}", "", "export to onnx") from error
            break
        return replace(result, files=(file,))


def _lowered(artifact: Artifact, most: int, raw: bool, calibration: Pixels | None, constants: Mapping[str, str]) -> Any:
    """The content of the ``.pte`` file.

    Args:
        artifact: of format torch.
        most: maximum batch size.
        raw: also return the outputs before decoding; for float files only.
        calibration: calibration images; None for a float file.
        constants: values of the methods that return a string, by name.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from planish.export.torch_program import program

    exported = program(artifact, most, raw=raw) if calibration is None else _quantized(artifact, most, calibration)
    try:
        with quiet():
            edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()], constant_methods=dict(constants))
            return edge.to_executorch().buffer
    except Exception as error:  # ExecuTorch's passes raise many types
        why = f"{first_line(error)}" + (f" ({type(error.__cause__).__name__}: {first_line(error.__cause__)})" if error.__cause__ else "")
        raise ExportError(f"ExecuTorch cannot convert the network: {why}", "", "export to onnx") from error


def _quantized(artifact: Artifact, most: int, images: Pixels) -> Any:
    """Like ``program``, with INT8 layers; the decoding of their outputs stays float."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from planish.export.torch_program import program, read_by, traced

    layers = program(artifact, most, reads=False).module()
    prepared = prepare_pt2e(layers, XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True)))
    with torch.no_grad():
        for start in range(0, len(images), most):
            prepared(torch.from_numpy(images[start : start + most]))
    converted = convert_pt2e(prepared)
    require_integers(_layers_by_input(converted), "ExecuTorch")  # ExecuTorch's runtime does not report its kernels
    return traced(read_by(artifact.module, converted), images[: min(most, 2)], most)


def _layers_by_input(graph: Any) -> dict[str, int]:
    """Numbers of convolution and linear layers of a converted ``torch.fx.GraphModule``; ``int8`` counts those with a quantized input."""
    counts = {"int8": 0, "float": 0}
    for node in graph.graph.nodes:
        if any(word in str(node.target) for word in _LAYERS):
            counts["int8" if "dequantize" in str(node.args[0].target) else "float"] += 1
    return counts
