"""Export of a PyTorch network to one ONNX file that takes pixels, checked against the network on real images."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from planish.artifact import RAW, Artifact, Step
from planish.errors import ExportError
from planish.export.checks.file_checks import check_integers, check_outputs, named, torch_outputs
from planish.export.quiet import explain_export, quiet
from planish.files.onnx_nodes import tensors_read
from planish.files.workspace import fresh_folder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from planish.artifact import Pixels
    from planish.task import Task

_TOLERANCE = 1e-4  # of the largest output; float32 sums in another order differ by about 1e-6
_CHECKED_IMAGES = 16


@dataclass(frozen=True)
class ToOnnx:
    """Export the network to one ONNX file, with the normalisation in its graph and batch norm folded into the convolutions.

    The file takes uint8 ``images`` ``(N, H, W, C)`` with any N and returns ``logits``, or the outputs of the network's ``decode``. Class
    names, input spec, preprocessing and lineage are in its metadata. The file is run in ONNX Runtime and compared with PyTorch on
    calibration images.
    """

    name: ClassVar[str] = "to_onnx"
    reference: ClassVar[str] = "https://onnx.ai"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",)}

    @property
    def changes(self) -> dict[str, str]:
        return {"format": "onnx"}

    def __str__(self) -> str:
        return "ONNX"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Export the network.

        Raises:
            ExportError: the network cannot be exported (the message names the operation or the line), or the outputs of the file differ.
            TechniqueError: the network was trained for INT8, and no layer of the file runs in integer arithmetic.
        """
        import onnx

        images = sample_images(artifact, task, _CHECKED_IMAGES)
        expected, limits = torch_outputs(artifact, images, least=_TOLERANCE)
        model = _export(artifact, list(expected))
        result = artifact.with_step(Step(self.name, {}, self.changes), format="onnx", module=None)
        for name, value in metadata(result).items():
            model.metadata_props.add(key=name, value=value)
        file = fresh_folder("onnx-") / "model.onnx"
        onnx.save(model, str(file))
        check_outputs((file,), "onnxruntime", images, expected, limits, "PyTorch")
        if artifact.facts["precision"] == "int8":
            check_integers((file,), "onnxruntime")
        if read := [name for name in expected if name.startswith(RAW)]:
            shipped = [output for output in model.graph.output if output.name not in read]
            model.graph.ClearField("output")
            model.graph.output.extend(shipped)
            onnx.save(model, str(file))
        return replace(result, files=(file,))


def sample_images(artifact: Artifact, task: Task, count: int) -> Pixels:
    """At most ``count`` calibration images, spread evenly over the split."""
    images = task.split("calibration").images(artifact.input_spec, artifact.preprocessing)
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    return np.ascontiguousarray(images[chosen])


def metadata(artifact: Artifact) -> dict[str, str]:
    """The metadata of an exported file, as JSON strings by key."""

    def dump(value: Any) -> str:
        return TypeAdapter(type(value)).dump_json(value).decode()

    return {
        "planish.class_names": json.dumps(artifact.class_names, ensure_ascii=False),
        "planish.input_spec": dump(artifact.input_spec),
        "planish.preprocessing": dump(artifact.preprocessing),
        "planish.lineage": dump(artifact.lineage),
    }


def _export(artifact: Artifact, names: list[str]) -> Any:
    import torch

    from planish.export.onnx.qdq import finish, translations
    from planish.models.quantized import widen

    reader = _quiet_copy(artifact.module)
    widen(reader)
    # folding would scale the weights of each channel differently, and a packed file could no longer share equal weights
    module = simplified(reader, fold=not artifact.facts["weights"].startswith("shared"))
    spec = artifact.input_spec
    example = torch.zeros(2, spec.height, spec.width, spec.channels, dtype=torch.uint8)
    try:
        with torch.no_grad(), quiet():
            # non-strict mode traces by running plain Python, which takes a third of the time and accepts more networks
            graph = torch.export.export(
                _fed_pixels(module, reader, artifact), (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
            )
            exported = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                verbose=False,
                optimize=True,
                input_names=["images"],
                output_names=names,
                custom_translation_table=translations(),
            )
            assert exported is not None
            model = exported.model_proto
            finish(model.graph)
    except Exception as error:  # the exporter does not catch what the network or its own passes raise
        raise ExportError(*explain_export(error)) from error
    pool_globally(model.graph)
    _strip(model)
    return model


def _quiet_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU, without gradients and in-place operations, which cost the exporter most time."""
    module = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(getattr(part, "inplace", None), bool):
            part.inplace = False  # type: ignore[assignment]
    return module


def _mean_of_plane(x: torch.Tensor, output_size: Any = 1) -> torch.Tensor:
    """Adaptive average pooling to 1x1. The exporter turns PyTorch's own into a dozen nodes of index arithmetic."""
    return x.mean((2, 3), keepdim=True)


def _pools_to_one_pixel(node: Any, layers: Mapping[str, nn.Module]) -> bool:
    from torch import nn
    from torch.nn import functional as F

    if node.op == "call_module":
        layer = layers[str(node.target)]
        return type(layer) is nn.AdaptiveAvgPool2d and layer.output_size in (1, (1, 1), [1, 1])
    size = node.kwargs.get("output_size", node.args[1] if len(node.args) > 1 else None)
    return node.op == "call_function" and node.target is F.adaptive_avg_pool2d and size in (1, (1, 1), [1, 1])


def simplified(module: nn.Module, *, fold: bool = True) -> nn.Module:
    """The network with batch norm folded into the preceding convolutions, and pooling to 1x1 as a plain mean.

    This halves the time of the export.

    Args:
        module: in eval mode; it may be modified.
        fold: False keeps the convolutions, and turns each batch norm into one product and one sum (runtimes fold these in memory).

    Returns:
        The simplified network, or ``module`` itself if its Python control flow cannot be traced (the exporter then folds what it can).
    """
    from torch import fx, nn

    from planish.models.folding import fold_batch_norm
    from planish.models.tracing import trace_graph

    if fold:
        fold_batch_norm(module)
    try:
        traced = fx.GraphModule(module, trace_graph(module))
    except Exception:  # anything that the network raises for a proxy instead of a tensor
        return module
    layers = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if _pools_to_one_pixel(node, layers):
            node.op, node.target = "call_function", _mean_of_plane
        elif not fold and node.op == "call_module":
            norm = layers[str(node.target)]
            if type(norm) is nn.BatchNorm2d and norm.track_running_stats:
                traced.set_submodule(str(node.target), _scale_and_shift(norm))
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _scale_and_shift(norm: nn.BatchNorm2d) -> nn.Module:
    """Batch norm in eval mode, as one product and one sum."""
    from torch import nn

    class ScaleAndShift(nn.Module):
        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.detach())
            shift = -norm.running_mean * scale + (0 if norm.bias is None else norm.bias.detach())
            self.register_buffer("scale", scale.view(1, -1, 1, 1))
            self.register_buffer("shift", shift.view(1, -1, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale + self.shift

    return ScaleAndShift()


def _fed_pixels(module: nn.Module, reader: nn.Module, artifact: Artifact) -> nn.Module:
    """The normalisation (for ``dataset``, as one product and one sum), the network, and then the ``decode`` of ``reader``.

    Both constants span a whole row of pixels: ONNX Runtime multiplies rows of 3 W values much faster than W times 3 values. As the sum
    comes before the transposition, an INT8 model, whose kernels are channels-last inside, needs no transposition at all.
    """
    import torch
    from torch import nn

    from planish.data.normalisation import normalise_each
    from planish.models.outputs import decodes

    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (artifact.preprocessing.mean, artifact.preprocessing.std))
    width = artifact.input_spec.width
    normalisation = artifact.preprocessing.normalisation

    class FedPixels(nn.Module):
        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network, self.reader = module, reader if decodes(reader) else None
            self.register_buffer("scale", (1 / (255 * std)).float().expand(1, 1, width, -1).contiguous())
            self.register_buffer("shift", (-mean / std).float().expand(1, 1, width, -1).contiguous())

        def forward(self, images: torch.Tensor) -> Any:
            pixels = images.float()
            pixels = pixels * self.scale + self.shift if normalisation == "dataset" else normalise_each(pixels, normalisation)
            return tuple(named(self.reader or module, self.network(pixels.permute(0, 3, 1, 2).contiguous())).values())

    return FedPixels().eval()


def pool_globally(graph: Any) -> None:
    """Replace means over height and width by ``GlobalAveragePool``: runtimes have integer kernels for it, but not for ``ReduceMean``."""
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in constants:
            continue
        keeps = all(helper.get_attribute_value(a) == 1 for a in node.attribute if a.name == "keepdims")
        if keeps and numpy_helper.to_array(constants[node.input[1]]).tolist() in ([2, 3], [-2, -1], [-1, -2]):
            node.op_type = "GlobalAveragePool"
            del node.input[1], node.attribute[:]


def _strip(model: Any) -> None:
    """Remove what only makes the file larger: stack traces and module names of all nodes, and constants that no node reads."""
    used = tensors_read(model.graph.node)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(kept)
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
