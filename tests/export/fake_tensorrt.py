"""A stand-in for TensorRT and for the GPU, as strict as their documentation.

It computes with ONNX Runtime, but only where the caller did as the Python API of TensorRT 10 says: what would be undefined behaviour there
(a buffer that is too small, a result that is read before the stream has reached it) raises ``Misuse`` or leaves the buffer full of 0xCC.

References: docs.nvidia.com/deeplearning/tensorrt, Python API: Builder, IOptimizationProfile, OnnxParser, Runtime, ICudaEngine,
IExecutionContext.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

_PLAN = b"fake plan 10\n"


class Misuse(AssertionError):
    """What TensorRT or CUDA leaves undefined."""


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


_NUMPY = {
    DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT8: np.int8, DataType.INT32: np.int32, DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8, DataType.INT64: np.int64,
}  # fmt: skip
_ONNX = {
    "FLOAT": DataType.FLOAT, "FLOAT16": DataType.HALF, "INT8": DataType.INT8, "INT32": DataType.INT32, "BOOL": DataType.BOOL,
    "UINT8": DataType.UINT8, "INT64": DataType.INT64,
}  # fmt: skip


def nptype(dtype: DataType) -> Any:
    if dtype not in _NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return _NUMPY[dtype]


class Gpu:
    """Memory by address, streams with work that waits in order, and torch's part of both."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory: dict[int, torch.Tensor] = {}  # by address; nothing is ever freed, so that no address is used twice
        self.waiting: dict[int, list[Any]] = {0: []}
        self.current = Stream(self, 0)
        self.peak_batch = 0
        plain_cpu, plain_empty = torch.Tensor.cpu, torch.empty

        def empty(*shape: Any, device: Any = None, **options: Any) -> torch.Tensor:
            made = plain_empty(*shape, **options)
            return self.own(made, fill=True) if device == "cuda" else made

        def cpu(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() in self.memory:
                self.current.synchronize()  # copies to the host wait for the stream that is current, and for no other
                return tensor.clone()
            return plain_cpu(tensor)

        monkeypatch.setattr(torch, "empty", empty)
        monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: self.own(tensor.clone()))
        monkeypatch.setattr(torch.Tensor, "cpu", cpu)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(self, max(self.waiting) + 1))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self.within)

    def own(self, tensor: torch.Tensor, fill: bool = False) -> torch.Tensor:
        if fill and tensor.numel():
            ctypes.memset(tensor.data_ptr(), 0xCC, tensor.numel() * tensor.element_size())
        self.memory[tensor.data_ptr()] = tensor
        return tensor

    @contextlib.contextmanager
    def within(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def room(self, address: int, wanted: int, name: str) -> None:
        """Refuse to touch more bytes than lie at an address."""
        if address not in self.memory:
            raise Misuse(f"{name}: nothing was allocated at {address}")
        there = self.memory[address].numel() * self.memory[address].element_size()
        if there != wanted:
            raise Misuse(f"{name}: {wanted} bytes for a buffer of {there}")


class Stream:
    def __init__(self, gpu: Gpu, handle: int) -> None:
        self.gpu, self.cuda_stream = gpu, handle
        gpu.waiting.setdefault(handle, [])

    def synchronize(self) -> None:
        work = self.gpu.waiting[self.cuda_stream]
        while work:
            work.pop(0)()


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.shape, self.addresses = engine, None, dict[str, int]()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, 0)
        if len(shape) != len(least) or not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return False  # and the shape that was set before stays
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self.engine.get_tensor_shape(name)
        if name == self.engine.get_tensor_name(0):
            return self.shape or shape
        return tuple((self.shape or (-1,))[0] if i == 0 else side for i, side in enumerate(shape))

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in self.engine.tensors:
            return False
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu, engine = self.engine.gpu, self.engine
        if self.shape is None or self.addresses.keys() != engine.tensors.keys() or stream_handle not in gpu.waiting:
            return False
        shapes = {name: self.get_tensor_shape(name) for name in engine.tensors}
        if any(side < 0 for shape in shapes.values() for side in shape):
            return False  # sizes that only values tell need an IOutputAllocator
        addresses = dict(self.addresses)
        for name, shape in shapes.items():
            gpu.room(addresses[name], int(np.prod(shape)) * np.dtype(nptype(engine.get_tensor_dtype(name))).itemsize, name)
        gpu.peak_batch = max(gpu.peak_batch, shapes[engine.get_tensor_name(0)][0])

        def work() -> None:
            images = gpu.memory[addresses[engine.get_tensor_name(0)]].numpy().reshape(shapes[engine.get_tensor_name(0)])
            for name, values in zip(engine.outputs, engine.session.run(engine.outputs, {engine.get_tensor_name(0): images}), strict=True):
                values = np.ascontiguousarray(values, nptype(engine.get_tensor_dtype(name)))
                ctypes.memmove(addresses[name], values.ctypes.data, values.nbytes)

        gpu.waiting[stream_handle].append(work)
        return True


class Engine:
    """``ICudaEngine`` of an ONNX file."""

    def __init__(self, gpu: Gpu, profile: list[list[int]], data: bytes) -> None:
        self.gpu, self.profile = gpu, profile
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # Q/DQ pairs as they are written
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        graph = onnx.load_from_string(data).graph
        self.tensors = {value.name: value for value in (*graph.input, *graph.output)}
        self.outputs = [value.name for value in graph.output]
        self.num_io_tensors, self.num_optimization_profiles = len(self.tensors), 1
        self.out_of_memory = False
        self.location = TensorLocation.DEVICE
        self.dtypes = {n: _ONNX[onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type)] for n, v in self.tensors.items()}

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.OUTPUT if name in self.outputs else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.dtypes[name]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return self.location

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side.dim_value or -1 for side in self.tensors[name].type.tensor_type.shape.dim)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        if profile_index != 0 or self.get_tensor_mode(name) != TensorIOMode.INPUT:
            raise Misuse(f"{name} has no profile {profile_index}")
        return [tuple(shape) for shape in self.profile]

    def create_execution_context(self) -> Context | None:
        return None if self.out_of_memory else Context(self)


class Logger:
    ERROR = 1

    def __init__(self, severity: int = 2) -> None: ...


class Runtime:
    gpu: Gpu

    def __init__(self, logger: Logger) -> None: ...

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if not plan.startswith(_PLAN):
            return None
        profile, data = plan.removeprefix(_PLAN).split(b"\n", 1)
        return Engine(self.gpu, json.loads(profile), data)


class Network:
    def __init__(self, flags: int) -> None:
        self.strongly_typed, self.data = bool(flags >> NetworkDefinitionCreationFlag.STRONGLY_TYPED & 1), b""


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


class Parser:
    """Takes what TensorRT's parser takes of quantized files: symmetric INT8 with zero points of 0, and no integer biases."""

    def __init__(self, network: Network, logger: Logger) -> None:
        self.network, self.errors = network, list[str]()

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> str:
        return self.errors[index]

    def parse(self, data: bytes) -> bool:
        try:
            graph = onnx.load_from_string(data).graph
        except Exception:
            self.errors.append("failed to parse the ONNX model")
            return False
        constants = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
        for node in graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros(1, np.uint8)
            if zero.dtype != np.int8 or np.any(zero):
                self.errors.append(f"{node.name}: shiftIsAllZeros(zeroPoint), of INT8")
            if node.input[0] in constants and constants[node.input[0]].dtype != np.int8:
                self.errors.append(f"{node.name}: only INT8 is dequantized")
        self.network.data = data
        return not self.errors


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("min, opt and max are inconsistent")
        self.shapes[input] = [min, opt, max]


class Config:
    def __init__(self) -> None:
        self.profiles: list[Profile] = []

    def add_optimization_profile(self, profile: Profile) -> int:
        if not profile.shapes:
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1


class Builder:
    def __init__(self, logger: Logger) -> None:
        self.config = Config()

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return self.config

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        graph = onnx.load_from_string(network.data).graph
        wanted = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in graph.input}
        if not config.profiles or config.profiles[0].shapes.keys() != wanted.keys():
            return None  # inputs of open sizes need a profile
        (name, fixed), *_ = wanted.items()
        shapes = config.profiles[0].shapes[name]
        if not all(side in (0, given) for shape in shapes for side, given in zip(fixed, shape, strict=True)):
            return None
        if not network.strongly_typed:
            raise Misuse("a weakly typed network ignores Q/DQ types, and is gone in TensorRT 11")
        return _PLAN + json.dumps(shapes).encode() + b"\n" + network.data


def install(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Put the stand-ins where ``import tensorrt`` and torch's calls find them."""
    import sys

    from planish.export.runtimes import tensorrt as tensorrt_runtime

    module, gpu = ModuleType("tensorrt"), Gpu(monkeypatch)
    runtime = type("Runtime", (Runtime,), {"gpu": gpu})
    parts = {
        "__version__": "10.9", "Logger": Logger, "Runtime": runtime, "Builder": Builder, "OnnxParser": Parser, "DataType": DataType,
        "TensorIOMode": TensorIOMode, "TensorLocation": TensorLocation, "NetworkDefinitionCreationFlag": NetworkDefinitionCreationFlag,
        "nptype": nptype,
    }  # fmt: skip
    for name, part in parts.items():
        setattr(module, name, part)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(tensorrt_runtime, "find_spec", lambda name: module)
    return gpu
