"""ONNX Runtime on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from planish.devices.device import current_device
from planish.devices.kernels import LAYERS, exact_integers, onnxruntime_kernels, open_session
from planish.devices.machine import saturates
from planish.errors import ExportError
from planish.export.runtimes.packed_file import unpacked

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


# threads spin during a call and sleep between calls, so that an idle model uses no CPU
_SETTINGS = {"session.force_spinning_stop": "1"}


class OnnxRuntime:
    """Runs ``.onnx`` files, including packed ones."""

    name: ClassVar[str] = "onnxruntime"
    formats: ClassVar[tuple[str, ...]] = ("onnx", "packed")
    install: ClassVar[str] = "pip install onnxruntime"
    danger: ClassVar[str] = ""
    module: ClassVar[str] = "onnxruntime"

    @staticmethod
    def version() -> str:
        if find_spec("onnxruntime") is None:
            return ""
        import onnxruntime

        return str(onnxruntime.__version__)

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        own = {"intra_op_num_threads": str(threads), "inter_op_num_threads": "1", "execution_mode": "sequential"}
        return own | _SETTINGS | exact_integers(current_device().saturates)

    @staticmethod
    def session_options(threads: int) -> Any:
        """ONNX Runtime's ``SessionOptions`` that every file is run, timed and profiled with."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        for name, value in (_SETTINGS | exact_integers(saturates())).items():
            options.add_session_config_entry(name, value)
        return options

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> OnnxRuntimePredictor:
        return OnnxRuntimePredictor(open_session(unpacked(file), OnnxRuntime.session_options(threads)))

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        return {precision: len(nodes) for precision, nodes in onnxruntime_kernels(unpacked(file)).items()}


# Execution providers by name of the runtime, in order of priority.
PROVIDERS = {
    "onnxruntime-cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


class OnnxRuntimeCuda(OnnxRuntime):
    """ONNX Runtime on an NVIDIA GPU. Never tested, as no machine with one was available.

    ONNX Runtime falls back to the CPU if a provider does not start, and for layers that the provider has no kernels for, both without an
    error. Here both are errors: a session is refused unless all convolutions and linear layers run on the GPU.
    """

    name: ClassVar[str] = "onnxruntime-cuda"
    install: ClassVar[str] = "pip install onnxruntime-gpu"

    @classmethod
    def version(cls) -> str:
        if find_spec("onnxruntime") is None:
            return ""
        import onnxruntime

        return str(onnxruntime.__version__) if PROVIDERS[cls.name][0] in onnxruntime.get_available_providers() else ""

    @classmethod
    def settings(cls, threads: int) -> dict[str, str]:
        return {**OnnxRuntime.settings(threads), "providers": ",".join(PROVIDERS[cls.name])}

    @classmethod
    def load(cls, file: Path, threads: int, batch: int | None) -> OnnxRuntimePredictor:
        return OnnxRuntimePredictor(cls._session(file, threads))

    @classmethod
    def executed_precisions(cls, file: Path) -> dict[str, int]:
        # a provider replaces the layers by nodes with names of its own
        return {"int8": 0, "float": 0}

    @classmethod
    def _session(cls, file: Path, threads: int) -> Any:
        import onnxruntime

        providers, options = list(PROVIDERS[cls.name]), OnnxRuntime.session_options(threads)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = onnxruntime.InferenceSession(unpacked(file), options, providers=providers, enable_fallback=0)
        started = session.get_providers()
        if providers[0] not in started:
            raise ExportError(
                f"{providers[0]} does not start, and ONNX Runtime went on with {', '.join(started)}",
                "its libraries and a GPU are needed", cls.install,
            )  # fmt: skip
        layers: dict[str, int] = {}
        for part in session.get_provider_graph_assignment_info():
            layers[part.ep_name] = layers.get(part.ep_name, 0) + sum(node.op_type in LAYERS for node in part.get_nodes())
        if layers.get("CPUExecutionProvider") or not layers.get(providers[0]):
            found = ", ".join(f"{count} by {name}" for name, count in layers.items() if count) or "none"
            raise ExportError(
                f"{cls.name} does not run {file.name} on the GPU: of its layers run {found}",
                f"no convolution or linear layer may run on the CPU, and some run by {providers[0]}",
                "export in fp32, or choose another runtime",
            )  # fmt: skip
        return session


class OnnxRuntimeTensorRt(OnnxRuntimeCuda):
    """ONNX Runtime with TensorRT's kernels, and CUDA's where TensorRT has none. Never tested, as no machine with a GPU was available."""

    name: ClassVar[str] = "onnxruntime-tensorrt"
    install: ClassVar[str] = "pip install onnxruntime-gpu tensorrt"


class OnnxRuntimePredictor:
    """A file loaded in ONNX Runtime, for any batch size."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input: str = session.get_inputs()[0].name
        self._outputs: list[str] = [output.name for output in session.get_outputs()]

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: images}), strict=True))
