"""PyTorch, running an exported program on the CPU."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from planish.errors import ExportError

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

TRUST = "PLANISH_TRUST_PT2"
_written: set[str] = set()  # hashes of the files that this process wrote


def trust(file: Path) -> None:
    """Let this process open ``file``, and copies of it; for who has just written it."""
    _written.add(hashlib.sha256(file.read_bytes()).hexdigest())


class TorchRuntime:
    """Runs ``.pt2`` files.

    Opening one evaluates expressions and may unpickle objects that are in it, so a file from somewhere else can run any code. It is opened
    where this process wrote it, or the environment says ``PLANISH_TRUST_PT2=1``.
    """

    name: ClassVar[str] = "torch"
    formats: ClassVar[tuple[str, ...]] = ("torch_export",)
    install: ClassVar[str] = "pip install torch"

    @staticmethod
    def version() -> str:
        return "" if find_spec("torch") is None else version("torch")

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        return {"threads": str(threads)}

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> TorchPredictor:
        if os.environ.get(TRUST) != "1" and hashlib.sha256(file.read_bytes()).hexdigest() not in _written:
            raise ExportError(f"{file.name} can run code when it is opened", "only what you made yourself is opened", f"set {TRUST}=1")
        import torch

        return TorchPredictor(torch.export.load(file).module(), threads)

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        import torch

        kinds = {torch.ops.aten.conv2d.default, torch.ops.aten.linear.default}
        nodes = torch.export.load(file).graph.nodes
        return {"int8": 0, "float": sum(node.target in kinds for node in nodes)}


class TorchPredictor:
    """An exported program; any batch size."""

    def __init__(self, module: Any, threads: int) -> None:
        self._module, self._threads = module, threads

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        import torch

        before = torch.get_num_threads()  # of the whole process, which may also train
        torch.set_num_threads(self._threads)
        try:
            with torch.no_grad():
                found = self._module(torch.from_numpy(images))
                outputs = found if isinstance(found, dict) else {"logits": found}
                return {name: values.numpy() for name, values in outputs.items()}
        finally:
            torch.set_num_threads(before)
