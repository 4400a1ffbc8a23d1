"""Choice of the layers that stay float in an INT8 file, by their sensitivity to quantization and the time that it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from planish.artifact import RAW
from planish.compression.graph.onnx_graph import session_for
from planish.devices.layer_latency import ConvShape, Precision, Variant, layer_latencies

if TYPE_CHECKING:
    from planish.artifact import Pixels
    from planish.progress import Stage

Floats = npt.NDArray[np.float64]

_LOWEST = "lowest_float32"


def worth_keeping_float(sensitivity: Floats, cost_ms: Floats, budget_ms: float) -> list[int]:
    """Choose the layers with the largest total sensitivity whose total extra time is within the budget (a knapsack problem)."""
    found = milp(
        -sensitivity / (sensitivity.max() or 1.0),  # the solver's tolerances are absolute, 1e-6, which is much for both numbers
        integrality=np.ones(len(sensitivity)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(cost_ms[None] / max(budget_ms, 1e-9), -np.inf, budget_ms / max(budget_ms, 1e-9)),
    )
    return [] if found.x is None else np.flatnonzero((found.x > 0.5) & (sensitivity > 0)).tolist()


def group_sensitivity(
    file: Path, groups: Sequence[Sequence[str]], quantize: Callable[[list[str], Path], None], images: Iterable[Pixels], stage: Stage
) -> Floats:
    """The mean squared error of the outputs, relative to their variance, when only one group of nodes is INT8.

    Args:
        file: the float file.
        groups: node names of each group, a layer and its activation.
        quantize: writes a file in which only the given nodes are INT8.
        images: calibration batches.
        stage: the progress stage, advanced after each group.
    """
    batches = list(images)
    expected = np.concatenate(_outputs(file, batches))
    alone = file.with_name("alone.onnx")
    sensitivity = []
    stage.total = len(groups)
    for group in groups:
        quantize(list(group), alone)
        sensitivity.append(float(np.mean((np.concatenate(_outputs(alone, batches)) - expected) ** 2) / expected.var()))
        stage.advance()
    return np.array(sensitivity)


def time_of_each(model: Any, names: Sequence[str], runtime: str) -> tuple[Floats, Floats]:
    """The latency in milliseconds of each convolution or linear layer in fp32 and in INT8, timed separately from the network.

    Args:
        model: the ONNX model, with shapes inferred.
        names: names of ``Conv`` and ``Gemm`` nodes.
        runtime: runtime in which layers are timed.
    """
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    variants = [_variant(nodes[name], shapes, weights) for name in names]
    both: list[Precision] = ["fp32", "int8"]
    times = layer_latencies([Variant((shape,), size, shape.in_channels, p) for p in both for shape, size in variants], runtime)
    return np.array(times[: len(names)]), np.array(times[len(names) :])


def shield(file: Path, names: Sequence[str]) -> None:
    """Insert a ``Clip`` without effect before each of these layers, in place.

    Otherwise ONNX Runtime would quantize the float weights of a layer between Q/DQ nodes when it loads the file (its
    ``WeightBiasQuantization``).
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(file))
    nodes = []
    for node in model.graph.node:
        if node.name in names:
            shielded = f"{node.input[0]}_of_{node.name}"
            nodes.append(helper.make_node("Clip", [node.input[0], _LOWEST], [shielded], f"{node.name}_shield"))
            node.input[0] = shielded
        nodes.append(node)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.finfo(np.float32).min, np.float32), _LOWEST))
    onnx.save(model, str(file))


def _variant(node: Any, shapes: dict[str, list[int]], weights: dict[str, list[int]]) -> tuple[ConvShape, tuple[int, int]]:
    weight = weights[node.input[1]]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        makes, reads = weight if transposed else weight[::-1]
        return ConvShape(reads, makes), (1, 1)
    given: dict[str, Any] = {a.name: list(a.ints) or a.i for a in node.attribute}
    groups = given.get("group", 1)
    pads, height, width = given.get("pads", [0, 0, 0, 0]), *shapes[node.input[0]][2:]
    stride, dilation = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    shape = ConvShape(weight[1] * groups, weight[0], (weight[2], weight[3]), tuple(stride), tuple(pads[:2]), tuple(dilation), groups)
    return shape, (height, width)


def _outputs(file: Path, batches: Iterable[Pixels]) -> list[Any]:
    import onnx

    model = onnx.load(str(file))
    made = [name for node in model.graph.node for name in node.output]
    names = [name for name in made if name.startswith(RAW)] or [output.name for output in model.graph.output]
    session = session_for(model, names)
    found = [session.run(names, {"images": images}) for images in batches]
    return [np.concatenate([values.reshape(len(values), -1) for values in batch], axis=1) for batch in found]
