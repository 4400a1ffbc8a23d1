"""An exported model file, written by Planish or not, with the settings and inputs needed to run it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planish.devices.kernels import open_session
from planish.errors import ExportError, ModelError, first_line
from planish.export.runtimes.first_load import first_call
from planish.export.runtimes.onnxruntime import OnnxRuntime
from planish.export.runtimes.openvino import OpenVino, port_name
from planish.export.runtimes.registry import find

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(double)": np.float64,
          "tensor(int8)": np.int8, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
          "tensor(int16)": np.int16, "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64}  # fmt: skip
_OPEN_SIDE, _OPEN_CHANNELS = 224, 3  # assumed where height and width, or channels, are dynamic
PROFILED = ("onnxruntime", "openvino", "openvino-default")


@dataclass(frozen=True)
class ModelFile:
    """A model file and the settings it is run with.

    Args:
        path: the ``.onnx`` or ``.xml`` file.
        runtime: ``onnxruntime`` or ``openvino``.
        threads: number of threads for the runtime.
        batch: batch size.
        settings: runtime settings that override Planish's defaults: OpenVINO properties or ONNX Runtime session configuration entries.
        sides: input shape without the batch, used for dynamic dimensions. Empty: 224 x 224 pixels and the channels of the first
            convolution, or 3.
    """

    path: Path
    runtime: str
    threads: int = 1
    batch: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        find(self.runtime)
        if self.runtime not in PROFILED:
            raise ModelError(f"{self.runtime} does not tell what each layer takes", f"explain asks {' or '.join(PROFILED)}")

    def with_settings(self, **changes: Any) -> ModelFile:
        return replace(self, **changes)

    @property
    def in_openvino(self) -> bool:
        """Whether OpenVINO runs the file, in any precision."""
        return issubclass(find(self.runtime), OpenVino)

    @property
    def all_settings(self) -> dict[str, str]:
        return {**find(self.runtime).settings(self.threads), **self.settings}

    def onnxruntime_options(self) -> Any:
        """Return the session options for these settings.

        Raises:
            ModelError: ONNX Runtime rejects a setting.
        """
        options = OnnxRuntime.session_options(self.threads)
        try:
            for name, value in self.settings.items():
                options.add_session_config_entry(name, value)
        except Exception as error:  # its bindings raise bare RuntimeError
            raise _bad_setting(self, error) from error
        return options

    def onnxruntime_session(self, options: Any, path: Path | None = None) -> Any:
        """Create a session for the file, or for ``path`` if given.

        Raises:
            ExportError: the file cannot be loaded.
        """
        try:
            return open_session(path or self.path, options)
        except Exception as error:  # its bindings raise many kinds without a common base
            raise ExportError(f"ONNX Runtime cannot open {self.path}: {first_line(error)}", "it opens .onnx files") from error

    def openvino_model(self) -> Any:
        """Read the file and fix its input shapes for this batch size.

        Raises:
            ExportError: the file cannot be read.
        """
        import openvino

        try:
            model = openvino.Core().read_model(str(self.path))
            model.reshape({node: openvino.PartialShape(self._static_shape(_openvino_shape(node))) for node in model.inputs})
            return model
        except Exception as error:
            raise ExportError(
                f"OpenVINO cannot open {self.path} for a batch of {self.batch}: {first_line(error)}",
                "it opens .xml with .bin and .onnx files",
            ) from error

    def openvino_compiled(self, model: Any, **settings: Any) -> Any:
        """Compile a model returned by ``openvino_model``; ``settings`` override all others.

        Raises:
            ModelError: OpenVINO rejects a setting.
            ExportError: the model cannot be compiled.
        """
        import openvino

        try:
            return openvino.Core().compile_model(model, "CPU", {**self.all_settings, **settings})
        except Exception as error:
            if self.settings:
                raise _bad_setting(self, error) from error
            raise ExportError(
                f"OpenVINO cannot compile {self.path}: {first_line(error)}", "it opens .xml with .bin and .onnx files"
            ) from error

    def require_first_load(self) -> None:
        """Check that the file loads and runs, the first time in a separate process (see ``planish.export.runtimes.first_load``).

        Raises:
            ExportError: the file cannot be loaded or run.
            ModelError: the runtime rejects a setting, or an input has an unsupported type.
        """
        weights = self.path.with_suffix(".bin")
        files = [self.path, weights] if self.path.suffix == ".xml" and os.path.lexists(weights) else [self.path]
        arguments = {"batch": self.batch, "settings": dict(self.settings), "sides": list(self.sides)}
        values = self.batch * math.prod(self.sides or (_OPEN_SIDE, _OPEN_SIDE, _OPEN_CHANNELS))
        first_call("planish.explanation.model_file:run_once", files, self.runtime, arguments, values)

    def load(self) -> Run:
        """Load the file and return a function that maps inputs by name to outputs by name."""
        if not self.in_openvino:
            session = self.onnxruntime_session(self.onnxruntime_options())
            names = [output.name for output in session.get_outputs()]

            def run_session(inputs: Mapping[str, Array]) -> dict[str, Array]:
                try:
                    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
                except Exception as error:  # its bindings raise many kinds without a common base
                    raise self._does_not_run(inputs, error) from error

            return run_session
        model = self.openvino_model()
        request = self.openvino_compiled(model).create_infer_request()
        order = [port_name(node) for node in model.inputs]
        outputs = [port_name(node) for node in model.outputs]

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            try:
                results = request.infer({i: inputs[name] for i, name in enumerate(order)}, share_inputs=True)
            except Exception as error:
                raise self._does_not_run(inputs, error) from error
            return {name: results[i] for i, name in enumerate(outputs)}

        return run

    def _does_not_run(self, inputs: Mapping[str, Array], error: Exception) -> ExportError:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
        return ExportError(
            f"{self.path} does not run on {shapes} in {self.runtime}: {first_line(error)}",
            "sides that the file leaves open are taken to be 224 pixels, and channels those of its first convolution",
            "give --data, an array of inputs that it takes, saved with numpy.save to a .npy file",
        )

    def random_inputs(self) -> dict[str, Array]:
        """Return random inputs: uniform pixels for uint8, 0 or 1 for other integers, standard normal values for floats."""
        rng = np.random.default_rng(0)

        def draw(shape: list[int], kind: Any) -> Array:
            if np.issubdtype(kind, np.floating):
                return rng.standard_normal(shape).astype(kind)
            return rng.integers(0, 256 if kind == np.uint8 else 2, shape).astype(kind)

        return {name: draw(shape, kind) for name, shape, kind in self.inputs()}

    def _static_shape(self, shape: Sequence[int | None]) -> list[int]:
        """Return a static shape: this batch size, and a length for every dynamic dimension."""
        sides = [self.batch, *(_OPEN_SIDE if side is None else side for side in shape[1:])]
        if len(self.sides) == len(shape) - 1:
            sides[1:] = [given if side is None else side for given, side in zip(self.sides, shape[1:], strict=True)]
        elif len(shape) == 4 and (found := _channels(self.path, shape)) is not None:
            channels, axis = found
            sides[axis] = channels
        return sides[: len(shape)]

    def dynamic_inputs(self) -> dict[str, list[int]]:
        """Return the inputs with dynamic dimensions other than the batch, with the shape used for each."""
        if self.in_openvino:
            import openvino

            declared = {port_name(n): _openvino_shape(n) for n in openvino.Core().read_model(str(self.path)).inputs}
        else:
            declared = {n.name: _onnx_shape(n) for n in self.onnxruntime_session(OnnxRuntime.session_options(1)).get_inputs()}
        return {name: self._static_shape(shape) for name, shape in declared.items() if None in shape[1:]}

    def inputs(self) -> list[tuple[str, list[int], Any]]:
        """Return name, shape for this batch size, and NumPy dtype of each input.

        Raises:
            ModelError: an input has an unsupported type, or the file only accepts another batch size.
        """
        if self.in_openvino:
            model = self.openvino_model()
            return [(port_name(n), list(n.get_shape()), np.dtype(n.get_element_type().to_dtype())) for n in model.inputs]
        found = []
        for node in self.onnxruntime_session(OnnxRuntime.session_options(1)).get_inputs():
            if node.type not in _TYPES:
                raise ModelError(f"{self.path} takes a {node.type} {node.name!r}", f"explain feeds {', '.join(_TYPES)}")
            sides = self._static_shape(_onnx_shape(node))
            if sides and isinstance(node.shape[0], int) and node.shape[0] != self.batch:
                fix = f"add --batch {node.shape[0]}" if node.shape[0] else "export it with a dynamic batch size"
                raise ModelError(f"{self.path} takes batches of {node.shape[0]} only", f"{self.batch} were asked for", fix)
            found.append((node.name, sides, _TYPES[node.type]))
        return found


def _channels(path: Path, shape: Sequence[int | None]) -> tuple[int, int] | None:
    """Return the number and axis of the channels if that dimension is dynamic; the number is what the first convolution expects."""
    if path.suffix != ".onnx":
        return (_OPEN_CHANNELS, 1) if shape[1] is None and shape[3] not in (1, 3, 4) else None
    read, last = _first_convolution(path)
    axis = 3 if last or shape[3] in (1, 3, 4) else 1
    return None if shape[axis] is not None else (read or _OPEN_CHANNELS, axis)


def _first_convolution(path: Path) -> tuple[int | None, bool]:
    """Return the input channels of an ONNX file's first convolution, and whether an NHWC-to-NCHW transpose precedes it."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    last = False
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Transpose" and list(attributes.get("perm", ())) == [0, 3, 1, 2]:
            last = True
        if node.op_type == "Conv" and len(sizes.get(node.input[1], ())) == 4:
            return int(sizes[node.input[1]][1]) * int(attributes.get("group", 1)), last
    return None, last


def _onnx_shape(node: Any) -> list[int | None]:
    return [side if isinstance(side, int) else None for side in node.shape]


def _openvino_shape(node: Any) -> list[int | None]:
    return [None if side.is_dynamic else side.get_length() for side in node.get_partial_shape()]


def _bad_setting(model: ModelFile, error: Exception) -> ModelError:
    given = ", ".join(f"{name}={value}" for name, value in model.settings.items())
    return ModelError(f"{model.runtime} does not take {given}: {first_line(error)}", "settings are the runtime's own")


def run_once(files: Sequence[str], runtime: str, batch: int, settings: dict[str, str], sides: Sequence[int]) -> None:
    """Load a file and run it once on random inputs."""
    model = ModelFile(Path(files[0]), runtime, 1, batch, settings, tuple(sides))
    model.load()(model.random_inputs())


class RandomInputModel:
    """A loaded file for the latency benchmark: a call ignores its images and runs on fixed random inputs, which fit any model."""

    def __init__(self, model: ModelFile) -> None:
        self._run, self._inputs = model.load(), model.random_inputs()

    def __call__(self, images: Pixels) -> Outputs:
        return self._run(self._inputs)


def load_for_bench(path: str, runtime: str, threads: int, batch: int, settings: dict[str, str], sides: list[int]) -> RandomInputModel:
    """Load a file for ``planish.evaluation.latency.Subject``."""
    return RandomInputModel(ModelFile(Path(path), runtime, threads, batch, settings, tuple(sides)))


def median_ms(run: Callable[[], Any], seconds: float = 0.5, least: int = 15) -> float:
    """Return the median time of a call, after a short warm-up.

    Args:
        run: the function to time.
        seconds: time budget.
        least: number of calls made even if they exceed the budget.
    """
    for _ in range(3):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (time.perf_counter() < end and len(times) < 1000):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return float(np.median(times)) * 1e3
