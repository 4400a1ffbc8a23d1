"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from planish.models.onnx.operators.convolution import layer_name, with_weights
from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import GraphTensor, UnsupportedError

_BATCH_NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS: dict[int, Any] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


@operator("BatchNormalization")
def batch_norm(call: NodeCall) -> GraphTensor:
    """Batch norm with running statistics."""
    if call.attribute("training_mode", 0) or call.outputs > 1:
        raise UnsupportedError("BatchNormalization in training mode")
    images = call.plain()
    scale, bias, mean, variance = (call.constant(index).astype(np.float32) for index in (1, 2, 3, 4))
    layer = _of_rank(call, _BATCH_NORMS, images.ndim)(
        len(scale), eps=call.attribute("epsilon", 1e-5), momentum=1 - call.attribute("momentum", 0.9), device="meta"
    )
    layer = with_weights(layer, scale, bias)
    layer.running_mean, layer.running_var = torch.from_numpy(mean.copy()), torch.from_numpy(variance.copy())
    layer.num_batches_tracked = torch.tensor(0)
    made: GraphTensor = call.builder.apply(layer.eval(), layer_name(call), images, key=(*call.names[1:], str(layer)))
    return made


@operator("InstanceNormalization")
def instance_norm(call: NodeCall) -> GraphTensor:
    """Instance norm."""
    images, scale, bias = call.plain(), call.constant(1), call.constant(2)
    kind = _of_rank(call, _INSTANCE_NORMS, images.ndim)
    layer = with_weights(kind(len(scale), eps=call.attribute("epsilon", 1e-5), affine=True, device="meta"), scale, bias)
    made: GraphTensor = call.builder.apply(layer, layer_name(call), images)
    return made


@operator("LayerNormalization")
def layer_norm(call: NodeCall) -> GraphTensor:
    """Layer norm over the last axes."""
    if call.outputs > 1:
        raise UnsupportedError("LayerNormalization that returns mean and deviation")
    x, scale, bias = call.plain(), call.constant(1), call.optional(2)
    shape = x.shape[call.attribute("axis", -1) % x.ndim :]
    layer = nn.LayerNorm(shape, eps=call.attribute("epsilon", 1e-5), bias=bias is not None, device="meta")
    full = [None if values is None else np.broadcast_to(values, shape).copy() for values in (scale, bias)]
    assert full[0] is not None
    made: GraphTensor = call.builder.apply(with_weights(layer, full[0], full[1]), layer_name(call), x)
    return made


@operator("GroupNormalization")
def group_norm(call: NodeCall) -> GraphTensor:
    """Group norm; before version 21 with one scale per group."""
    images, groups = call.plain(), call.attribute("num_groups")
    channels = images.shape[1]
    scale, bias = (np.repeat(values, channels // len(values)) for values in (call.constant(1), call.constant(2)))
    layer = with_weights(nn.GroupNorm(groups, channels, eps=call.attribute("epsilon", 1e-5), device="meta"), scale, bias)
    made: GraphTensor = call.builder.apply(layer, layer_name(call), images)
    return made


@operator("LRN")
def local_response_norm(call: NodeCall) -> GraphTensor:
    """Local response normalisation over neighbouring channels."""
    size = call.attribute("size")
    if size % 2 == 0:
        raise UnsupportedError("LRN of even size")
    alpha, beta, bias = (call.attribute(name, default) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    made: GraphTensor = call.builder.apply(nn.LocalResponseNorm(size, alpha, beta, bias), call.name, call.plain())
    return made


@operator("LpNormalization")
def lp_norm(call: NodeCall) -> GraphTensor:
    """Division by the norm along an axis."""
    x = call.plain()
    return call.builder.call(functional.normalize, x, float(call.attribute("p", 2)), call.attribute("axis", -1) % x.ndim)


def _of_rank(call: NodeCall, kinds: dict[int, Any], rank: int) -> Any:
    if rank not in kinds:
        raise UnsupportedError(f"{call.op_type} of a tensor with {rank} axes")
    return kinds[rank]
