"""A model in one format, with everything needed to run it and to trace how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import ConfigDict, Field, FiniteFloat
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]  # (N, H, W, C)
    Outputs = dict[str, npt.NDArray[Any]]  # by name: {"logits": (N, classes)}

Normalisation = Literal["dataset", "min_max", "z_score"]

RAW = "raw."  # prefix, in exported graphs, of the tensors that are decoded to boxes, classes or masks; no layer comes after them

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class InputSpec:
    """The shape of a model's input: uint8 pixels ``(N, height, width, channels)``, RGB or grey.

    Args:
        channels: 3 for RGB, 1 for grey.
        height: height in pixels.
        width: width in pixels.
    """

    channels: Literal[1, 3]
    height: int = Field(ge=1, le=8192)
    width: int = Field(ge=1, le=8192)


@dataclass(frozen=True, config=_STRICT)
class Preprocessing:
    """How an image file becomes the model's input. It holds parameters only; ``planish.data.preprocessing`` applies them.

    An image is decoded (EXIF rotation applied, alpha composited on white, 16-bit scaled to 8), shrunk so that its shorter
    side is at most ``decode_side``, resized to the input size, and normalised. Training, calibration, evaluation and the deployed artifact
    all use this one definition; normalisation is part of every exported graph.

    Args:
        decode_side: upper bound in pixels for the shorter side of a decoded image, so that decoded images can be cached.
        resize: ``squash`` to exactly (height, width), or ``crop``: resize the shorter side to the input size, then take a centre crop.
        mean: one value per channel, on the 0..1 scale.
        std: one value per channel, on the 0..1 scale, above 0.
        normalisation: ``dataset``: ``(pixel / 255 - mean) / std``. The others use statistics of each image, over pixels and channels:
            ``min_max``: ``(pixel - min) / (max - min)``; ``z_score``: ``(pixel - mean) / standard deviation``. Both clamp the divisor to
            at least one grey level, so that an image of a single colour becomes 0.
    """

    decode_side: Annotated[int, Field(ge=1)]
    resize: Literal["squash", "crop"]
    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]
    normalisation: Normalisation = "dataset"


@dataclass(frozen=True, config=_STRICT)
class Source:
    """How to build the network that an artifact was derived from, without weights.

    Args:
        name: ``resnet20`` (ours), ``searched:c16s1-r32n2k3s2`` (found by a search), ``torchvision:resnet18``, ``timm:resnet18``,
            ``path/file.py:factory``, ``path/file.onnx:output`` (a file converted to a network), ``module`` (a module passed in), or the
            name of an ONNX file that is not converted.
        num_classes: number of outputs of the classifier.
        channels: input channels of the first convolution.
        small_stem: whether the stem was adapted to small images.
        sha256: hash of ``file.py`` or of the ONNX file, empty for the others.
        task: name of the task.
        strides: strides of the feature maps that a detector or segmenter takes from the named backbone.
        bins: number of bins for each distance that a detector predicts from a grid point to a side of a box, in cells: 0 to ``bins - 1``.
        detections: maximum number of detections that a detector returns for an image.
    """

    name: str
    num_classes: int = Field(ge=1)
    channels: int = Field(ge=1)
    small_stem: bool = False
    sha256: str = ""
    task: str = "classification"
    strides: tuple[int, ...] = ()
    bins: int = Field(default=8, ge=1, le=1000)
    detections: int = Field(default=100, ge=1, le=100_000)


@dataclass(frozen=True, config=_STRICT)
class Step:
    """One technique as it was applied.

    Args:
        technique: its registered name.
        params: its hyper-parameters.
        changes: the facts it changed (see ``Artifact.facts``).
        structure: what a rebuild needs beyond the hyper-parameters (for pruning: the new size of each layer); JSON values only.
        notes: description of what it did, for the report.
    """

    technique: str
    params: dict[str, Any]
    changes: dict[str, str] = Field(default_factory=dict)
    structure: dict[str, Any] = Field(default_factory=dict)
    notes: str = ""


@dataclass(frozen=True, config=_STRICT)
class Lineage:
    """How a model was made.

    Args:
        source: the network it started from.
        steps: every technique applied to it, in order.
    """

    source: Source
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Artifact:
    """A model in one format. Immutable: a technique returns a new artifact and changes neither this one nor its module.

    Args:
        format: ``torch``, ``onnx``, ``openvino``, ...
        input_spec: shape of the model's input.
        preprocessing: how an image file becomes the model's input.
        class_names: in the order of the model's outputs.
        lineage: how the model was made.
        module: the network, for format ``torch``. It takes normalised float images ``(N, C, H, W)`` and returns logits.
        files: the files to deploy, for exported formats; the first is the one a runtime opens. Their graph takes uint8 pixels
            ``images`` ``(N, H, W, C)`` with a dynamic N, normalises them itself and returns the task's named outputs (``logits``).
        original: the artifact that the plan started from, None for that artifact itself. It is the teacher of distillation and the
            reference of every comparison.
    """

    format: str
    input_spec: InputSpec
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    lineage: Lineage
    module: Any = Field(default=None, repr=False)
    files: tuple[Path, ...] = ()
    original: Artifact | None = Field(default=None, repr=False)

    @property
    def facts(self) -> dict[str, str]:
        """Properties that ``Technique.requires`` checks: ``{"format": "torch", "precision": "fp32", "weights": "dense"}``.

        ``weights`` may also be ``sparse``, ``n:m``, ``shared`` or ``shared per channel``: a constraint that training preserves, see
        ``training.sparsity_constraint``.
        """
        facts = {"format": "torch", "precision": "fp32", "weights": "dense"}
        for step in self.lineage.steps:
            facts.update(step.changes)
        return facts | {"format": self.format}

    @property
    def size_bytes(self) -> int:
        """Size on disk of the deployed files, in bytes; for ``torch`` the size of the weights."""
        if self.files:
            return sum(f.stat().st_size for f in self.files)
        state: Mapping[str, Any] = self.module.state_dict()
        return sum(t.numel() * t.element_size() for t in state.values())

    def with_step(self, step: Step, **changes: Any) -> Artifact:
        """Return a new artifact with ``step`` added to the lineage and the given fields replaced."""
        lineage = replace(self.lineage, steps=(*self.lineage.steps, step))
        return replace(self, lineage=lineage, original=self.original or self, **changes)


class Predictor(Protocol):
    """A callable that runs a model: an exported file loaded in its runtime, or a torch module."""

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)`` and return the outputs by name, first axis N."""
        ...
