"""ONNX Runtime on the CPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from planish.errors import ExportError
from planish.evaluation.kernels import exact_integers, onnxruntime_kernels
from planish.export.packed_file import unpacked

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


def _settings() -> dict[str, str]:
    # threads wait busily within a call and rest between calls, so that an idle model costs nothing
    return {"session.force_spinning_stop": "1", **exact_integers()}


class OnnxRuntime:
    """Runs ``.onnx`` files, packed ones as well."""

    name: ClassVar[str] = "onnxruntime"
    formats: ClassVar[tuple[str, ...]] = ("onnx", "packed")
    install: ClassVar[str] = "pip install onnxruntime"

    @staticmethod
    def version() -> str:
        if find_spec("onnxruntime") is None:
            return ""
        import onnxruntime

        return str(onnxruntime.__version__)

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        return {"intra_op_num_threads": str(threads), "inter_op_num_threads": "1", "execution_mode": "sequential", **_settings()}

    @staticmethod
    def session_options(threads: int) -> Any:
        """ONNX Runtime's ``SessionOptions`` with which every file is run, timed and profiled."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        for name, value in _settings().items():
            options.add_session_config_entry(name, value)
        return options

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> OnnxRuntimePredictor:
        import onnxruntime

        options = OnnxRuntime.session_options(threads)
        return OnnxRuntimePredictor(onnxruntime.InferenceSession(unpacked(file), options, providers=["CPUExecutionProvider"]))

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        return {precision: len(nodes) for precision, nodes in onnxruntime_kernels(unpacked(file)).items()}


class OnnxRuntimeCuda(OnnxRuntime):
    """ONNX Runtime on an NVIDIA GPU. Not run yet: no machine with one was at hand."""

    name: ClassVar[str] = "onnxruntime-cuda"
    install: ClassVar[str] = "pip install onnxruntime-gpu"
    provider: ClassVar[str] = "CUDAExecutionProvider"

    @classmethod
    def version(cls) -> str:
        if find_spec("onnxruntime") is None:
            return ""
        import onnxruntime

        return str(onnxruntime.__version__) if cls.provider in onnxruntime.get_available_providers() else ""

    @classmethod
    def load(cls, file: Path, threads: int, batch: int | None) -> OnnxRuntimePredictor:
        import onnxruntime

        session = onnxruntime.InferenceSession(
            unpacked(file), OnnxRuntime.session_options(threads), providers=[cls.provider, "CPUExecutionProvider"]
        )
        if cls.provider not in session.get_providers():  # it falls back without a word
            raise ExportError(f"{cls.provider} does not start", "its libraries and a GPU are needed", cls.install)
        return OnnxRuntimePredictor(session)


class OnnxRuntimeTensorRt(OnnxRuntimeCuda):
    """ONNX Runtime with TensorRT's kernels. Not run yet: no machine with them was at hand."""

    name: ClassVar[str] = "onnxruntime-tensorrt"
    install: ClassVar[str] = "pip install onnxruntime-gpu tensorrt"
    provider: ClassVar[str] = "TensorrtExecutionProvider"


class OnnxRuntimePredictor:
    """A file loaded in ONNX Runtime; any batch size."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input: str = session.get_inputs()[0].name
        self._outputs: list[str] = [output.name for output in session.get_outputs()]

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: images}), strict=True))
