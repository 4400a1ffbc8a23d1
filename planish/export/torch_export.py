"""Export to PyTorch's exported programs (``.pt2``), the input of AOTInductor and other compilers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.export.checks.file_checks import check_outputs, stages, torch_outputs
from planish.export.onnx.onnx_file import metadata, sample_images
from planish.files.trust import trust
from planish.files.workspace import fresh_folder

if TYPE_CHECKING:
    from planish.task import Task

_TOLERANCE, _CHECKED_IMAGES, _MOST_IMAGES = 1e-4, 16, 1024


@dataclass(frozen=True)
class ToTorchExport:
    """Export to ``model.pt2`` with ``torch.export``; any batch size up to 1024.

    The program returns logits, or the dict that the network's ``decode`` returns.
    """

    name: ClassVar[str] = "to_torch_export"
    reference: ClassVar[str] = "https://docs.pytorch.org/docs/stable/export.html"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    @property
    def changes(self) -> dict[str, str]:
        return {"format": "torch_export"}

    def __str__(self) -> str:
        return "torch.export"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Export the network.

        Raises:
            ExportError: the network cannot be traced, or the file's outputs differ from the network's.
        """
        import torch

        from planish.export.torch_program import program

        images = sample_images(artifact, task, _CHECKED_IMAGES)
        result = artifact.with_step(Step(self.name, {}, self.changes), format="torch_export", module=None)
        file = fresh_folder("torch-") / "model.pt2"
        expected, limits = torch_outputs(artifact, images, least=_TOLERANCE)
        for raw, wanted in stages(expected):
            torch.export.save(program(artifact, _MOST_IMAGES, raw=raw), file, extra_files=metadata(result))
            trust(file)
            check_outputs((file,), "torch", images, wanted, limits, "PyTorch")
        return replace(result, files=(file,))
