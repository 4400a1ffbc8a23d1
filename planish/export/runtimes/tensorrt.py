"""The TensorRT runtime, written from the documentation of its Python API (versions 10 and 11). Never tested, as no GPU was available."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from planish.errors import ExportError

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

INPUT = "images"


class TensorRt:
    """Runs ``.engine`` files; PyTorch allocates the GPU memory of their inputs and outputs."""

    name: ClassVar[str] = "tensorrt"
    formats: ClassVar[tuple[str, ...]] = ("tensorrt",)
    install: ClassVar[str] = "pip install tensorrt (needs an NVIDIA GPU)"
    danger: ClassVar[str] = "a TensorRT engine is machine code, which may bring plugin libraries of its own"
    module: ClassVar[str] = "tensorrt"

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
        engine = runtime.deserialize_cuda_engine(file.read_bytes())
        if engine is None:
            raise ExportError(
                f"TensorRT {tensorrt.__version__} cannot read {file.name}; its log says why",
                "an engine only runs on the kind of GPU and the version of TensorRT that it was built with",
                "build it here, with planish export --to tensorrt",
            )
        return TensorRtPredictor(runtime, engine)

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        return {}  # an engine only describes its layers if it was built with detailed profiling


class TensorRtPredictor:
    """An engine on the GPU. It was built for a range of batch sizes; larger batches are split.

    Args:
        runtime: that loaded the engine.
        engine: with one input ``images``; its first optimization profile is used.

    Raises:
        ExportError: it was built for other inputs, has outputs in CPU memory or of a type that NumPy lacks, or the GPU lacks memory.
    """

    def __init__(self, runtime: Any, engine: Any) -> None:
        import tensorrt
        import torch

        self._runtime, self._engine = runtime, engine  # an engine does not keep its runtime alive, nor a context its engine
        modes = {name: engine.get_tensor_mode(name) for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors))}
        inputs = [name for name, mode in modes.items() if mode == tensorrt.TensorIOMode.INPUT]
        if inputs != [INPUT] or engine.get_tensor_dtype(INPUT) != tensorrt.DataType.UINT8:
            raise ExportError(f"the engine takes {', '.join(inputs)}", "it takes uint8 images, as Planish builds it", "build it again")
        self._dtypes = {name: _torch_dtype(tensorrt, engine, name) for name in modes if name not in inputs}
        least, _, most = engine.get_tensor_profile_shape(INPUT, 0)
        self._least, self._most, self._shape = int(least[0]), int(most[0]), tuple(most)[1:]
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ExportError("TensorRT cannot create an execution context", "the GPU needs memory for its activations", "free some")
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``.

        Raises:
            ExportError: the engine does not accept such images, has outputs whose shape depends on the data, or fails.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._shape or len(images) < self._least:
            raise ExportError(
                f"images {images.dtype} {images.shape}",
                f"the engine was built for uint8 (N, {', '.join(map(str, self._shape))}), N of {self._least} or more",
                "build it for this size",
            )
        pieces = [self._run(images[i : i + self._most]) for i in range(0, len(images), self._most)]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in self._dtypes}

    def _run(self, images: Pixels) -> Outputs:
        """Run one batch of at most the maximum batch size of the engine."""
        import torch

        stream = self._stream
        with torch.cuda.stream(stream):  # copies, the engine and PyTorch's allocator are all ordered by this stream
            pixels = torch.from_numpy(np.ascontiguousarray(images)).cuda()
            self._check(self._context.set_input_shape(INPUT, tuple(pixels.shape)), f"take images of shape {tuple(pixels.shape)}")
            self._check(self._context.set_tensor_address(INPUT, pixels.data_ptr()), f"read {INPUT}")
            found = {}
            for name, dtype in self._dtypes.items():
                shape = tuple(self._context.get_tensor_shape(name))  # known once the input shape is set
                self._check(min(shape, default=0) >= 0, f"say how large {name} is")
                found[name] = torch.empty(shape, dtype=dtype, device="cuda")
                self._check(self._context.set_tensor_address(name, found[name].data_ptr()), f"write {name}")
            self._check(self._context.execute_async_v3(stream.cuda_stream), "run")
            outputs = {name: values.cpu().numpy() for name, values in found.items()}
            stream.synchronize()
        return outputs

    @staticmethod
    def _check(done: bool, what: str) -> None:
        """Raise an error where TensorRT only returns False; continuing would use memory of another call."""
        if not done:
            raise ExportError(f"the engine does not {what}; TensorRT's log says why", "", "build it again")


def _torch_dtype(tensorrt: Any, engine: Any, name: str) -> Any:
    """The dtype of an output's buffer on the GPU; with a smaller type TensorRT would write beyond its end."""
    import torch

    kind = engine.get_tensor_dtype(name)
    if engine.get_tensor_location(name) != tensorrt.TensorLocation.DEVICE:
        raise ExportError(f"the engine returns {name} in the processor's memory", "outputs lie on the GPU", "build it again")
    try:
        return torch.from_numpy(np.empty(0, tensorrt.nptype(kind))).dtype
    except TypeError as error:  # bfloat16 and narrower
        raise ExportError(f"the engine returns {name} as {kind}", "outputs are of types that numpy has", "return float32") from error
