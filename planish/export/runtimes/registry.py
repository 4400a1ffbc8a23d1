"""The runtimes for exported files, by name. Quick to import, since the process that measures latency imports it first."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from planish.artifact import Predictor
from planish.devices.device import current_device
from planish.errors import ExportError, PlanishError, RuntimeMissingError, first_line
from planish.export.runtimes.executorch import ExecuTorch
from planish.export.runtimes.jax import Jax
from planish.export.runtimes.litert import LiteRt
from planish.export.runtimes.onnxruntime import OnnxRuntime, OnnxRuntimeCuda, OnnxRuntimeTensorRt
from planish.export.runtimes.openvino import OpenVino, OpenVinoDefault, default_precision
from planish.export.runtimes.tensorrt import TensorRt
from planish.export.runtimes.torch import TorchRuntime
from planish.files.reading import describe, require_regular
from planish.files.trust import require_trust

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


class Runtime(Protocol):
    """A library that runs exported files.

    Attributes:
        name: value of ``--runtime``.
        formats: that it opens (``Artifact.format``).
        install: the command that installs it, for the error message.
        danger: what opening an untrusted file can do; empty if files contain only data. Otherwise files must be trusted
            (``planish.files.trust``).
        module: imported before the memory of the process without a model is measured.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    install: ClassVar[str]
    danger: ClassVar[str]
    module: ClassVar[str]

    @staticmethod
    def version() -> str:
        """The version of the library; empty if it is not installed or cannot run on this machine."""
        ...

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        """The settings it runs with on the current device, recorded so that a measurement can be repeated."""
        ...

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> Predictor:
        """Open ``file``; see ``planish.export.runtimes.registry.load``."""
        ...

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        """The number of convolution and linear layers by executed precision, ``{"int8": 20, "float": 1}``; empty if it is not reported."""
        ...


RUNTIMES: dict[str, type[Runtime]] = {
    runtime.name: runtime
    for runtime in (OnnxRuntime, OpenVino, LiteRt, ExecuTorch, TorchRuntime, Jax, TensorRt, OnnxRuntimeCuda, OnnxRuntimeTensorRt)
}

DEFAULT_PRECISION: dict[str, type[Runtime]] = {OpenVino.name: OpenVinoDefault}
"""Variants of runtimes without a precision hint, by the runtime's name. On some processors they compute in less than float32."""


@cache
def registered() -> dict[str, type[Runtime]]:
    """All runtimes by name: those of Planish, and those of other packages with the entry point ``planish.runtimes``."""
    return RUNTIMES | {entry.name: entry.load() for entry in entry_points(group="planish.runtimes")}


def with_variants() -> dict[str, type[Runtime]]:
    """All runtimes by name, and their ``DEFAULT_PRECISION`` variants."""
    return registered() | {kind.name: kind for kind in DEFAULT_PRECISION.values()}


def available(format_: str | None = None) -> list[str]:
    """The names of the runtimes that work on this machine and on the current device, and that open ``format_`` if it is given."""
    here = [name for name, kind in registered().items() if (format_ is None or format_ in kind.formats) and kind.version()]
    return [name for name in here if not current_device().address or current_device().runtime_version(name)]


def default_precision_runtimes() -> dict[str, str]:
    """The names of those ``DEFAULT_PRECISION`` variants that compute in less than float32 on this machine, by runtime."""
    return {name: kind.name for name, kind in DEFAULT_PRECISION.items() if kind.version() and default_precision() != "f32"}


def find(name: str) -> type[Runtime]:
    """The runtime with this name.

    Raises:
        RuntimeMissingError: there is none, or it is not installed.
    """
    runtimes = with_variants()
    if name not in runtimes:
        near = difflib.get_close_matches(name, runtimes, n=1)
        raise RuntimeMissingError(
            f"no runtime is called {name!r}", f"there are {', '.join(sorted(runtimes))}", f"did you mean {near[0]!r}?" if near else ""
        )
    found = runtimes[name]
    if not found.version():
        raise RuntimeMissingError(f"the runtime {name} is not installed", "a file runs only where its runtime is", f"run: {found.install}")
    return found


def require_runtime(name: str) -> None:
    """Check that a runtime is installed, on this machine and on the current device.

    Raises:
        RuntimeMissingError: it is not.
    """
    install, device = find(name).install, current_device()
    if not device.runtime_version(name):
        raise RuntimeMissingError(
            f"the runtime {name} is not installed on {device.address}",
            "a file is timed where it will run, with the runtime of that device",
            f"there run: {install}; planish device-setup {device.address} does that for onnxruntime",
        )


def imports(name: str) -> tuple[str, ...]:
    """The modules that a process must import to run files in this runtime."""
    return (find(name).module,)


def load(files: Sequence[Path | str], runtime: str, *, threads: int = 1, batch: int | None = None) -> Predictor:
    """Open an exported model.

    Args:
        files: of the model; the first is the one the runtime opens.
        runtime: name of the runtime.
        threads: number of threads of the runtime.
        batch: batch size, if it is known: some runtimes are faster with a static batch size. Other sizes still work.

    Raises:
        RuntimeMissingError: the runtime is not available.
        ExportError: the file cannot be opened.
        TrustError: the file is not trusted, and can run code.
    """
    kind = find(runtime)
    file = Path(files[0])
    try:
        for each in files:
            require_regular(Path(each))
        if kind.danger:
            require_trust(file, kind.danger)
        return kind.load(file, threads, batch)
    except PlanishError:
        raise
    except Exception as error:  # runtimes raise plain RuntimeError and types of their own
        raise ExportError(
            f"{runtime} cannot open {file.name}: {describe(error) if isinstance(error, OSError) else first_line(error)}",
            f"it opens {' and '.join(kind.formats)} files",
            "export the model again",
        ) from error


def run_checked(predictor: Predictor, images: Pixels, name: str) -> Outputs:
    """The outputs for a batch, of a file that may be damaged.

    Args:
        predictor: from ``load``.
        images: uint8 pixels ``(N, H, W, C)``.
        name: of the model, for the error.

    Raises:
        ExportError: the runtime fails, or the file does not return one row per image.
    """
    try:
        outputs = predictor(images)
    except PlanishError:
        raise
    except Exception as error:  # as above
        raise ExportError(
            f"{name} does not run: {first_line(error)}", "it takes images of its own size", "export the model again"
        ) from error
    if not outputs or any(values.shape[:1] != (len(images),) for values in outputs.values()):
        raise ExportError(f"{name} does not return one row per image", "outputs are by image", "export the model again")
    return outputs


def executed_precisions(files: Sequence[Path | str], runtime: str) -> dict[str, int]:
    """The number of convolution and linear layers by the precision in which they run, as the runtime reports it, such as
    ``{"int8": 20, "float": 1}``; empty if it does not report it.
    """
    kind, file = find(runtime), Path(files[0])
    require_regular(file)
    if kind.danger:
        require_trust(file, kind.danger)
    return kind.executed_precisions(file)
