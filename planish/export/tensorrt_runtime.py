"""TensorRT on an NVIDIA GPU. Not run yet; see ``tensorrt_engine``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


class TensorRt:
    """Runs ``.engine`` files; torch holds their memory on the GPU."""

    name: ClassVar[str] = "tensorrt"
    formats: ClassVar[tuple[str, ...]] = ("tensorrt",)
    install: ClassVar[str] = "pip install tensorrt (needs an NVIDIA GPU)"

    @staticmethod
    def version() -> str:
        if find_spec("tensorrt") is None:
            return ""
        import tensorrt
        import torch

        return str(tensorrt.__version__) if torch.cuda.is_available() else ""

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        return {}

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> TensorRtPredictor:
        import tensorrt

        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        return TensorRtPredictor(runtime, runtime.deserialize_cuda_engine(file.read_bytes()))

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        return {"int8": 0, "float": 0}  # an engine tells of its layers only if it was built to


class TensorRtPredictor:
    """An engine on the GPU; as many images a call as it was planned for."""

    def __init__(self, runtime: Any, engine: Any) -> None:
        self._runtime, self._engine = runtime, engine  # the engine does not keep the runtime alive
        self._context = engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._outputs = [name for name in names if name != "images"]

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        import torch

        given = torch.from_numpy(np.ascontiguousarray(images)).cuda()
        self._context.set_input_shape("images", tuple(given.shape))
        self._context.set_tensor_address("images", given.data_ptr())
        found = {name: torch.empty(tuple(self._context.get_tensor_shape(name)), device="cuda") for name in self._outputs}
        for name, values in found.items():
            self._context.set_tensor_address(name, values.data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("the engine did not run")
        stream.synchronize()
        return {name: values.cpu().numpy() for name, values in found.items()}
