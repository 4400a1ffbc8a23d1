"""The runtimes that run exported files, by name. Light to import: the process that measures latency starts with this."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from planish.artifact import Predictor
from planish.errors import ExportError, PlanishError, RuntimeMissingError, first_line
from planish.export.runtimes.executorch import ExecuTorch
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
        name: as ``--runtime`` calls it.
        formats: what it opens (``Artifact.format``).
        install: the command that brings it, for the error message.
        danger: what opening a file from elsewhere can do; empty where a file is only data. Others must be
            trusted (``planish.files.trust``).
        module: that is imported to run it, before the memory of the empty process is taken.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    install: ClassVar[str]
    danger: ClassVar[str]
    module: ClassVar[str]

    @staticmethod
    def version() -> str:
        """Version of the library, empty where it is not installed or cannot run here."""
        ...

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        """What it is configured with, so that others can repeat a measurement."""
        ...

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> Predictor:
        """Open ``file``; see ``planish.export.runtimes.registry.load``."""
        ...

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        """How many convolution and linear layers run in which arithmetic: ``{"int8": 20, "float": 1}``; nothing where it cannot tell."""
        ...


RUNTIMES: dict[str, type[Runtime]] = {
    runtime.name: runtime
    for runtime in (OnnxRuntime, OpenVino, LiteRt, ExecuTorch, TorchRuntime, TensorRt, OnnxRuntimeCuda, OnnxRuntimeTensorRt)
}

DEFAULT_PRECISION: dict[str, type[Runtime]] = {OpenVino.name: OpenVinoDefault}
"""By runtime: the same library without a precision hint. On some processors it computes in less than float32 then."""


@cache
def registered() -> dict[str, type[Runtime]]:
    """All runtimes by name: ours, and what others add through the entry point ``planish.runtimes``."""
    return RUNTIMES | {entry.name: entry.load() for entry in entry_points(group="planish.runtimes")}


def available(format_: str | None = None) -> list[str]:
    """Names of the runtimes that work on this machine, and open that format where one is given."""
    return [name for name, kind in registered().items() if (format_ is None or format_ in kind.formats) and kind.version()]


def default_precision_runtimes() -> dict[str, str]:
    """By runtime the name of its variant in ``DEFAULT_PRECISION``, where the two differ on this machine."""
    return {name: kind.name for name, kind in DEFAULT_PRECISION.items() if kind.version() and default_precision() != "f32"}


def find(name: str) -> type[Runtime]:
    """The runtime of that name.

    Raises:
        RuntimeMissingError: there is none, or it is not installed.
    """
    runtimes = registered() | {kind.name: kind for kind in DEFAULT_PRECISION.values()}
    if name not in runtimes:
        near = difflib.get_close_matches(name, runtimes, n=1)
        raise RuntimeMissingError(
            f"no runtime is called {name!r}", f"there are {', '.join(sorted(runtimes))}", f"did you mean {near[0]!r}?" if near else ""
        )
    found = runtimes[name]
    if not found.version():
        raise RuntimeMissingError(f"the runtime {name} is not installed", "a file runs only where its runtime is", f"run: {found.install}")
    return found


def imports(name: str) -> tuple[str, ...]:
    """Modules that a process which runs files imports for the runtime of that name."""
    return (find(name).module,)


def load(files: Sequence[Path | str], runtime: str, *, threads: int = 1, batch: int | None = None) -> Predictor:
    """Open an exported model.

    Args:
        files: of the model; the first is the one the runtime opens.
        runtime: its name.
        threads: how many the runtime may compute with.
        batch: images in a batch, where it is known: some runtimes are faster with a fixed batch. Other sizes still work.

    Raises:
        RuntimeMissingError: no such runtime here.
        ExportError: the file cannot be opened.
        TrustError: it comes from elsewhere and can run code.
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
    except Exception as error:  # runtimes raise bare RuntimeError and their own kinds
        raise ExportError(
            f"{runtime} cannot open {file.name}: {describe(error) if isinstance(error, OSError) else first_line(error)}",
            f"it opens {' and '.join(kind.formats)} files",
            "export the model again",
        ) from error


def run_checked(predictor: Predictor, images: Pixels, name: str) -> Outputs:
    """The outputs for a batch, of a file that may not be as it was exported.

    Args:
        predictor: from ``load``.
        images: uint8 pixels ``(N, H, W, C)``.
        name: of the model, for the error.

    Raises:
        ExportError: the runtime fails, or the file does not return rows of numbers.
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
    """How many convolution and linear layers run in which arithmetic, as the runtime reports it: ``{"int8": 20, "float": 1}``; nothing
    where it cannot tell.
    """
    kind, file = find(runtime), Path(files[0])
    require_regular(file)
    if kind.danger:
        require_trust(file, kind.danger)
    return kind.executed_precisions(file)
