"""Simplification of ONNX graphs: constants and batch norm are folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.compression.graph.onnx_graph import fold, set_metadata
from planish.errors import TechniqueError
from planish.files.workspace import fresh_folder

if TYPE_CHECKING:
    from planish.task import Task


@dataclass(frozen=True)
class Simplify:
    """Fold constants, fold batch norm into convolutions, and remove no-op nodes.

    Runtimes do most of this whenever they load a file, so the simplified file is smaller and loads faster, but seldom runs faster. Files
    exported by Planish are simplified already.
    """

    name: ClassVar[str] = "simplify"
    reference: ClassVar[str] = "https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "format": ("onnx",),
        "precision": ("fp32",),
        "weights": ("dense", "sparse", "n:m"),  # not shared: folding batch norm would give each channel its own values
    }

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        return "simplified"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Simplify the graph.

        Raises:
            TechniqueError: ONNX Runtime cannot read the file.
        """
        import onnx

        file = fresh_folder("simplified-") / "model.onnx"
        given = onnx.load(str(artifact.files[0]))
        try:
            fold(artifact.files[0], file)
        except Exception as error:  # ONNX Runtime tools raise many exception types
            raise TechniqueError(
                f"{artifact.files[0].name} cannot be simplified: {type(error).__name__}: {error}", "", "leave this step out"
            ) from error
        model = onnx.load(str(file))
        model.graph.ClearField("value_info")
        notes = f"{len(given.graph.node)} operations before, {len(model.graph.node)} after"
        result = artifact.with_step(Step(self.name, {}, self.changes, notes=notes), files=(file,))
        set_metadata(model, given, result.lineage)
        onnx.save(model, str(file))
        return result
