"""The ExecuTorch runtime, on the CPU."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


OUTPUTS = "planish_outputs"  # the method that returns the names of the outputs, as JSON


class ExecuTorch:
    """Runs ``.pte`` files."""

    name: ClassVar[str] = "executorch"
    formats: ClassVar[tuple[str, ...]] = ("executorch",)
    install: ClassVar[str] = "pip install 'planish[executorch]'"
    danger: ClassVar[str] = "most builds of ExecuTorch read a program's offsets unchecked, so that a crafted one can run code"
    module: ClassVar[str] = "executorch"

    @staticmethod
    def version() -> str:
        return "" if find_spec("executorch") is None else version("executorch")

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        return {"threads": str(threads)}

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> ExecuTorchPredictor:
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime

        _unsafe_reset_threadpool(threads)
        return ExecuTorchPredictor(Runtime.get().load_program(file))

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        return {}  # the part of the file that XNNPACK runs does not contain them


class ExecuTorchPredictor:
    """A file loaded in ExecuTorch. It has memory for a maximum batch size; larger batches are split."""

    def __init__(self, program: Any) -> None:
        self._program = program  # kept alive, since it holds the memory of the method
        output_names = program.load_method(OUTPUTS).execute([])[0] if OUTPUTS in program.method_names else '["logits"]'
        self._names: list[str] = json.loads(output_names)
        self._method = program.load_method("forward")
        self._most = int(self._method.metadata.input_tensor_meta(0).sizes()[0])

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        import torch

        pieces = [torch.from_numpy(np.ascontiguousarray(images[i : i + self._most])) for i in range(0, len(images), self._most)]
        found = [[values.numpy().copy() for values in self._method.execute([piece])] for piece in pieces]
        return {name: np.concatenate(parts) for name, parts in zip(self._names, zip(*found, strict=True), strict=True)}
