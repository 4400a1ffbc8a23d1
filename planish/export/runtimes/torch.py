"""PyTorch as the runtime of exported programs, on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


class TorchRuntime:
    """Runs ``.pt2`` files."""

    name: ClassVar[str] = "torch"
    formats: ClassVar[tuple[str, ...]] = ("torch_export",)
    install: ClassVar[str] = "pip install torch"
    danger: ClassVar[str] = "opening a PyTorch program evaluates expressions and may unpickle objects, which can run any code"
    module: ClassVar[str] = "torch"

    @staticmethod
    def version() -> str:
        return "" if find_spec("torch") is None else version("torch")

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        return {"threads": str(threads)}

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> ProgramPredictor:
        import torch

        return ProgramPredictor(torch.export.load(file).module(), threads)

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        import torch

        kinds = {torch.ops.aten.conv2d.default, torch.ops.aten.linear.default}
        nodes = torch.export.load(file).graph.nodes
        return {"int8": 0, "float": sum(node.target in kinds for node in nodes)}


class ProgramPredictor:
    """A loaded exported program, for any batch size."""

    def __init__(self, module: Any, threads: int) -> None:
        self._module, self._threads = module, threads

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        import torch

        before = torch.get_num_threads()  # a setting of the whole process, which may also be training
        torch.set_num_threads(self._threads)
        try:
            with torch.no_grad():
                found = self._module(torch.from_numpy(images))
                outputs = found if isinstance(found, dict) else {"logits": found}
                return {name: values.numpy() for name, values in outputs.items()}
        finally:
            torch.set_num_threads(before)
