"""Matrix products: linear layers where one factor is constant."""

from __future__ import annotations

from operator import add, mul
from typing import Any

import numpy as np
import torch
from torch import nn

from planish.models.onnx.operators.convolution import layer_name, with_weights
from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import Array, GraphTensor, UnsupportedError


@operator("Gemm")
def gemm(call: NodeCall) -> GraphTensor:
    """``alpha * A @ B + beta * C``."""
    alpha, beta = (float(call.attribute(name, 1.0)) for name in ("alpha", "beta"))
    features = call.plain()
    if call.attribute("transA", 0):
        features = call.builder.call(torch.t, features)
    weight, bias = call.given(1), call.given(2)
    constant_bias = bias is None or (isinstance(bias, np.ndarray) and (bias.ndim < 2 or len(bias) == 1))
    if isinstance(weight, np.ndarray) and constant_bias:
        matrix = alpha * (weight if call.attribute("transB", 0) else weight.T)
        row = None if bias is None else np.broadcast_to(beta * bias.reshape(-1), len(matrix))  # type: ignore[union-attr]
        return _linear(call, features, matrix, row)
    factor = call.plain(1)
    if call.attribute("transB", 0):
        factor = call.builder.call(torch.t, factor)
    made = _scaled(call, call.builder.call(torch.matmul, features, factor), alpha)
    if bias is not None:
        made = call.builder.call(add, made, _scaled(call, call.plain(2), beta))
    return made


@operator("MatMul", "FusedMatMul")
def matmul(call: NodeCall) -> GraphTensor:
    """Matrix product; ONNX Runtime's ``FusedMatMul`` also scales and transposes."""
    if call.attribute("transBatchA", 0) or call.attribute("transBatchB", 0):
        raise UnsupportedError("FusedMatMul that transposes the batch")
    alpha, weight = float(call.attribute("alpha", 1.0)), call.given(1)
    features = call.plain()
    if call.attribute("transA", 0):
        features = call.builder.call(torch.transpose, features, -1, -2)
    if isinstance(weight, np.ndarray) and weight.ndim == 2 and features.ndim > 1:
        return _linear(call, features, alpha * (weight if call.attribute("transB", 0) else weight.T), None)
    factor = call.plain(1)
    if call.attribute("transB", 0):
        factor = call.builder.call(torch.transpose, factor, -1, -2)
    return _scaled(call, call.builder.call(torch.matmul, features, factor), alpha)


@operator("Einsum")
def einsum(call: NodeCall) -> GraphTensor:
    """Einstein's summation."""
    return call.builder.call(torch.einsum, call.attribute("equation"), *(call.plain(index) for index in range(len(call.inputs))))


def _linear(call: NodeCall, features: GraphTensor, matrix: Array, bias: Array | None) -> GraphTensor:
    layer = with_weights(nn.Linear(matrix.shape[1], matrix.shape[0], bias is not None, device="meta"), matrix, bias)
    key: tuple[Any, ...] = (*call.names[1:3], "Linear", str(sorted(call.attributes.items())))
    made: GraphTensor = call.builder.apply(layer, layer_name(call), features, key=key)
    return made


def _scaled(call: NodeCall, tensor: GraphTensor, factor: float) -> GraphTensor:
    return tensor if factor == 1 else call.builder.call(mul, tensor, factor)
