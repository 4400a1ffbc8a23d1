"""An exported file, ours or anybody's, with what it takes to run it: the runtime's settings and something to feed it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planish.errors import ExportError, ModelError, first_line
from planish.export.onnxruntime_runtime import OnnxRuntime
from planish.export.openvino_runtime import OpenVino
from planish.export.runtimes import find

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(double)": np.float64,
          "tensor(int8)": np.int8, "tensor(int64)": np.int64, "tensor(int32)": np.int32}  # fmt: skip
_FREE_SIDE = 224  # pixels, where a file leaves height and width open
PROFILED = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class ModelFile:
    """A file and how it is run.

    Args:
        path: the ``.onnx`` or ``.xml`` file.
        runtime: that runs it.
        threads: it may compute with.
        batch: images a call.
        settings: of the runtime, over Planish's own: OpenVINO's properties, ONNX Runtime's session configuration entries.
    """

    path: Path
    runtime: str
    threads: int = 1
    batch: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        find(self.runtime)
        if self.runtime not in PROFILED:
            raise ModelError(f"{self.runtime} does not tell what each layer takes", f"explain asks {' or '.join(PROFILED)}")

    def with_settings(self, **changes: Any) -> ModelFile:
        return replace(self, **changes)

    @property
    def all_settings(self) -> dict[str, str]:
        return {**find(self.runtime).settings(self.threads), **self.settings}

    def onnxruntime_options(self) -> Any:
        """Session options.

        Raises:
            ModelError: ONNX Runtime does not take a setting.
        """
        options = OnnxRuntime.session_options(self.threads)
        try:
            for name, value in self.settings.items():
                options.add_session_config_entry(name, value)
        except Exception as error:  # its bindings raise bare RuntimeError
            raise _bad_setting(self, error) from error
        return options

    def onnxruntime_session(self, options: Any, path: Path | None = None) -> Any:
        """Load the file, or another one in its place.

        Raises:
            ExportError: it cannot be loaded.
        """
        import onnxruntime

        try:
            return onnxruntime.InferenceSession(str(path or self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its bindings raise many kinds without a common base
            raise ExportError(f"ONNX Runtime cannot open {self.path}: {first_line(error)}", "it opens .onnx files") from error

    def openvino_model(self) -> Any:
        """Read the file; the batch is fixed.

        Raises:
            ExportError: it cannot be read.
        """
        import openvino

        try:
            model = openvino.Core().read_model(str(self.path))
            shapes = {}
            for node in model.inputs:
                shape = node.get_partial_shape()
                sides = [_side(i, None if side.is_dynamic else side.get_length(), self.batch) for i, side in enumerate(shape)]
                shapes[node] = openvino.PartialShape(sides)
            model.reshape(shapes)
            return model
        except Exception as error:
            raise ExportError(
                f"OpenVINO cannot open {self.path} for a batch of {self.batch}: {first_line(error)}",
                "it opens .xml with .bin and .onnx files",
            ) from error

    def openvino_compiled(self, model: Any, **settings: Any) -> Any:
        """Compile what ``openvino_model`` read.

        Raises:
            ModelError: OpenVINO does not take a setting.
        """
        import openvino

        try:
            return openvino.Core().compile_model(model, "CPU", {**OpenVino.settings(self.threads), **self.settings, **settings})
        except Exception as error:
            if self.settings:
                raise _bad_setting(self, error) from error
            raise ExportError(
                f"OpenVINO cannot compile {self.path}: {first_line(error)}", "it opens .xml with .bin and .onnx files"
            ) from error

    def load(self) -> Run:
        """Load the file; returns a function from inputs by name to outputs by name."""
        if self.runtime == "onnxruntime":
            session = self.onnxruntime_session(self.onnxruntime_options())
            names = [output.name for output in session.get_outputs()]
            return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))
        model = self.openvino_model()
        request = self.openvino_compiled(model).create_infer_request()
        order = [node.get_any_name() for node in model.inputs]
        outputs = [node.get_any_name() for node in model.outputs]

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            results = request.infer({i: inputs[name] for i, name in enumerate(order)}, share_inputs=True)
            return {name: results[i] for i, name in enumerate(outputs)}

        return run

    def random_inputs(self) -> dict[str, Array]:
        """Something of the right kind: random pixels for uint8 inputs, normal numbers for float ones."""
        rng = np.random.default_rng(0)

        def draw(shape: list[int], kind: Any) -> Array:
            if np.issubdtype(kind, np.floating):
                return rng.standard_normal(shape).astype(kind)
            return rng.integers(0, 256 if kind == np.uint8 else 2, shape).astype(kind)

        return {name: draw(shape, kind) for name, shape, kind in self.inputs()}

    def inputs(self) -> list[tuple[str, list[int], Any]]:
        """Name, shape for this batch, and numpy type of each input."""
        if self.runtime == "openvino":
            model = self.openvino_model()
            return [(n.get_any_name(), list(n.get_shape()), np.dtype(n.get_element_type().to_dtype())) for n in model.inputs]
        found = []
        for node in self.onnxruntime_session(OnnxRuntime.session_options(1)).get_inputs():
            if node.type not in _TYPES:
                raise ModelError(f"{self.path} takes a {node.type} {node.name!r}", f"explain feeds {', '.join(_TYPES)}")
            sides = [_side(i, side if isinstance(side, int) else None, self.batch) for i, side in enumerate(node.shape)]
            if sides and isinstance(node.shape[0], int) and node.shape[0] != self.batch:
                raise ModelError(
                    f"{self.path} takes batches of {node.shape[0]} only", f"{self.batch} were asked for", f"add --batch {node.shape[0]}"
                )
            found.append((node.name, sides, _TYPES[node.type]))
        return found


def _side(position: int, length: int | None, batch: int) -> int:
    if position == 0:
        return batch
    return _FREE_SIDE if length is None else length


def _bad_setting(model: ModelFile, error: Exception) -> ModelError:
    given = ", ".join(f"{name}={value}" for name, value in model.settings.items())
    return ModelError(f"{model.runtime} does not take {given}: {first_line(error)}", "settings are the runtime's own")


class RandomlyFed:
    """A loaded file as the subject of a bench: the pixels it is handed are only its cue, for it may take anything."""

    def __init__(self, model: ModelFile) -> None:
        self._run, self._inputs = model.load(), model.random_inputs()

    def __call__(self, images: Pixels) -> Outputs:
        return self._run(self._inputs)


def load_for_bench(path: str, runtime: str, threads: int, batch: int, settings: dict[str, str]) -> RandomlyFed:
    """For ``planish.evaluation.latency.Subject``."""
    return RandomlyFed(ModelFile(Path(path), runtime, threads, batch, settings))


def median_ms(run: Callable[[], Any], seconds: float = 0.5, least: int = 15) -> float:
    """Median call after a short warm-up."""
    for _ in range(3):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (time.perf_counter() < end and len(times) < 1000):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return float(np.median(times)) * 1e3
