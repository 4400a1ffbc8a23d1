"""The OpenVINO runtime, on the CPU."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from planish.export.runtimes.packed_file import unpacked

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

_LAYERS = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}


class OpenVino:
    """Runs OpenVINO IR (``.xml`` and ``.bin``) and ``.onnx`` files, including packed ones."""

    name: ClassVar[str] = "openvino"
    formats: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "packed")
    install: ClassVar[str] = "pip install openvino"
    danger: ClassVar[str] = ""
    module: ClassVar[str] = "openvino"

    @staticmethod
    def version() -> str:
        if find_spec("openvino") is None:
            return ""
        import openvino

        return str(openvino.__version__)

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        # without the precision hint OpenVINO computes in bf16 if the processor supports it, which is neither exact nor always faster
        return {"INFERENCE_PRECISION_HINT": "f32", **_settings(threads)}

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> OpenVinoPredictor:
        import openvino

        core = openvino.Core()
        return OpenVinoPredictor(core, core.read_model(unpacked(file)), OpenVino.settings(threads), batch)

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        import openvino

        core = openvino.Core()
        model = core.read_model(unpacked(file))
        _fix_batch(model, 1)
        counts = {"int8": 0, "float": 0}
        for node in core.compile_model(model, "CPU", OpenVino.settings(1)).get_runtime_model().get_ops():
            if (info := node.get_rt_info())["layerType"].astype(str) in _LAYERS:
                counts["int8" if info["runtimePrecision"].astype(str) in ("u8", "i8") else "float"] += 1
        return counts


class OpenVinoDefault(OpenVino):
    """OpenVINO without a precision hint: float layers are computed in bf16 on processors with AMX or AVX512-BF16, in float32 on others."""

    name: ClassVar[str] = "openvino-default"

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        return _settings(threads)

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> OpenVinoPredictor:
        import openvino

        core = openvino.Core()
        return OpenVinoPredictor(core, core.read_model(unpacked(file)), _settings(threads), batch)


@cache
def default_precision() -> str:
    """The precision in which OpenVINO by default computes float32 files on this processor, as reported by a compiled model: ``f32``, or
    ``bf16`` on processors with AMX or AVX512-BF16."""
    import openvino
    from openvino import opset13

    image = opset13.parameter([1, 3, 8, 8], openvino.Type.f32)
    weights = opset13.constant(np.ones((4, 3, 3, 3), np.float32))
    convolved = opset13.convolution(image, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    compiled = openvino.Core().compile_model(openvino.Model([convolved], [image]), "CPU", _settings(1))
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())


def port_name(port: Any) -> str:
    """Return the name of an input or output: the tensor's, or the node's where the tensor has none, as after conversion from PyTorch."""
    return str(port.get_any_name() if port.get_names() else port.get_node().get_friendly_name())


def _settings(threads: int) -> dict[str, str]:
    return {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(threads)}


class OpenVinoPredictor:
    """A file loaded in OpenVINO. One batch size runs with static shapes, which is faster; all others share a second, dynamic copy."""

    def __init__(self, core: Any, model: Any, settings: dict[str, str], batch: int | None) -> None:
        self._core, self._model, self._settings, self._batch = core, model, settings, batch
        self._names: list[str] = [port_name(output) for output in model.outputs]
        self._requests: dict[int | None, Any] = {}
        self._request(batch)

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        request = self._request(self._batch if len(images) == self._batch else None)
        results = request.infer({0: images}, share_inputs=True)
        return {name: results[i] for i, name in enumerate(self._names)}

    def _request(self, batch: int | None) -> Any:
        if batch not in self._requests:
            model = self._model.clone()
            if batch is not None:
                _fix_batch(model, batch)
            self._requests[batch] = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        return self._requests[batch]


def _fix_batch(model: Any, batch: int) -> None:
    shape = model.input(0).get_partial_shape()
    shape[0] = batch
    model.reshape(shape)
