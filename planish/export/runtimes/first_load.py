"""The first load of a model file that comes from elsewhere: in a process of its own, for damaged files crash the libraries that load them.

ONNX Runtime and OpenVINO end the process on some damaged files, and compute without end on others; neither can be caught, nor seen in the
file beforehand. So a file is loaded and run once elsewhere. That it went well is remembered by its hash in the cache folder, and it is not
done again, by any process. Files that this process has made do not come here, nor do those of a bundle whose hashes match.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from planish.devices.isolation import ProcessLimits, call_isolated
from planish.errors import ExportError, PlanishError
from planish.export.runtimes.registry import find, load, run_checked
from planish.files.reading import describe, require_regular
from planish.files.trust import file_sha256
from planish.files.workspace import cache_root

_SECONDS, _BYTES_A_SECOND, _VALUES_A_SECOND, _MOST_SECONDS = 60, 5_000_000, 75_000, 900
_MEMORY_BYTES, _TIMES_FILE, _TIMES_INPUT = 4 << 30, 20, 400


def require_first_load(files: Sequence[Path], runtime: str, image_shape: Sequence[int]) -> None:
    """See that a model can be loaded and runs on one image, without risk for this process.

    Args:
        files: of the model; the first is the one the runtime opens.
        runtime: its name.
        image_shape: ``(H, W, C)`` of what it is fed, uint8.

    Raises:
        ExportError: it crashes the runtime, takes too long or too much memory, or cannot be opened.
        RuntimeMissingError: no such runtime here.
        TrustError: it comes from elsewhere and can run code.
    """
    arguments = {"image_shape": list(image_shape)}
    first_call("planish.export.runtimes.first_load:load_and_run", files, runtime, arguments, math.prod(image_shape))


def load_and_run(files: Sequence[str], runtime: str, image_shape: Sequence[int]) -> None:
    """Load a model and run it on one black image."""
    run_checked(load(files, runtime), np.zeros((1, *image_shape), np.uint8), Path(files[0]).name)


def first_call(function: str, files: Sequence[Path], runtime: str, arguments: Mapping[str, Any], input_values: int) -> None:
    """Call a function that loads and runs a model in a process of its own, once for each content of the files.

    Args:
        function: ``package.module:name``; it takes ``files`` and ``runtime``, and ``arguments``.
        files: that it loads.
        runtime: that it loads them in.
        arguments: JSON values.
        input_values: that the model is fed.

    Raises:
        PlanishError: see ``require_first_load``.
    """
    try:
        for file in files:
            require_regular(file)
        hashes = [file_sha256(file) for file in files]
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        raise ExportError(f"{files[0]} cannot be read: {describe(error)}", "a model is a file", "export it again") from error
    description = json.dumps([function, runtime, find(runtime).version(), hashes, dict(arguments)], sort_keys=True)
    known = _remembered(hashlib.sha256(description.encode()).hexdigest())
    if known is not None and known.exists():
        return
    call = {"files": [str(file) for file in files], "runtime": runtime, **arguments}
    call_isolated(function, call, f"{files[0]} in {runtime}", limits_for(size, input_values))
    if known is not None:
        with suppress(OSError):
            known.touch()


def limits_for(file_bytes: int, input_values: int) -> ProcessLimits:
    """What loading a model and running it once may take: several times what honest files need.

    Args:
        file_bytes: of all its files.
        input_values: that it is fed, pixels times channels.
    """
    memory = _MEMORY_BYTES + _TIMES_FILE * file_bytes + _TIMES_INPUT * input_values
    seconds = _SECONDS + file_bytes // _BYTES_A_SECOND + input_values // _VALUES_A_SECOND
    return ProcessLimits(min(seconds, _MOST_SECONDS), min(memory, psutil.virtual_memory().total))


def _remembered(name: str) -> Path | None:
    """The file that stands for a model that was loaded well; None without a cache folder."""
    try:
        folder = cache_root(None) / "loaded_models"
        folder.mkdir(exist_ok=True)
    except (PlanishError, OSError):
        return None
    return folder / name
