"""Smaller input images, which leave all weights unchanged."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, InputSpec, Step
from planish.compression.calibration import calibration_batches
from planish.compression.replacement.onnx_resolution import resize_file
from planish.errors import TechniqueError, first_line
from planish.files.workspace import fresh_folder
from planish.models.batch_norm import reestimate_batch_norm
from planish.technique import describe

if TYPE_CHECKING:
    from torch import nn

    from planish.task import Task

_CALIBRATION_IMAGES = 256
_SMALLEST = 8  # pixels; smaller images are not recognisable


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Resolution:
    """Reduce the size of the input images. MACs fall with the square of ``scale``; fine-tune afterwards to recover accuracy.

    Height and width are rounded to even numbers, from 64 pixels on to multiples of 8, so that strides divide them and vectorised kernels
    run well. If the network combines feature maps of several strides, they are rounded to multiples of the largest stride.

    Args:
        scale: factor on height and width, above 0, at most 1.
        recalibrate: re-estimate batch-norm statistics on calibration images of the new size; has no effect on ONNX files, whose batch norm
            is folded.

    Example:
        >>> print(Resolution(scale=0.75))
        resolution ×0.75
    """

    scale: float = Field(gt=0, le=1)
    recalibrate: bool = True

    name: ClassVar[str] = "resolution"
    reference: ClassVar[str] = "Touvron et al. 2019, Fixing the train-test resolution discrepancy, arXiv:1906.06423"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch", "onnx")}

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        return f"resolution ×{self.scale:g}"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Change the input spec.

        Raises:
            TechniqueError: the images would become too small, or the network runs only at its original size.
        """
        before, strides = artifact.input_spec, artifact.lineage.source.strides
        spec = InputSpec(before.channels, *(_scaled(side, self.scale, max(strides, default=0)) for side in (before.height, before.width)))
        notes = f"{before.height} x {before.width} → {spec.height} x {spec.width} pixels"
        step = Step(self.name, {k: v for k, v in describe(self).items() if k != "name"}, self.changes, notes=notes)
        if artifact.format == "onnx":
            file = fresh_folder("resolution-") / "model.onnx"
            result = artifact.with_step(step, input_spec=spec, files=(file,))
            resize_file(artifact.files[0], before, result)
            return result
        module = copy.deepcopy(artifact.module)
        _try(module, spec)
        if self.recalibrate and spec != before and len(task.split("calibration")) > 1:
            device = next(module.parameters()).device
            batches = calibration_batches(replace(artifact, input_spec=spec), task, _CALIBRATION_IMAGES)
            reestimate_batch_norm(module, (images.to(device) for images, _ in batches()))
        return artifact.with_step(step, input_spec=spec, module=module)


def _scaled(side: int, scale: float, stride: int) -> int:
    multiple = stride or (8 if side * scale >= 64 else 2)
    scaled = side if scale == 1 else min(side, int(side * scale / multiple + 0.5) * multiple)
    if scaled < min(side, max(stride, _SMALLEST)):
        raise TechniqueError(
            f"scale {scale:g} makes {scaled} pixels of {side}",
            f"an image needs at least {max(stride, _SMALLEST)}",
            f"the smallest scale is {min(1.0, max(stride, _SMALLEST) / side):.2f}",
        )
    return scaled


def _try(module: nn.Module, spec: InputSpec) -> None:
    """Run the network once at the new size; the training mode of each module is restored."""
    modes = [(part, part.training) for part in module.modules()]
    like = next(module.parameters())
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(2, spec.channels, spec.height, spec.width, dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError, AssertionError) as error:  # shapes that do not fit; timm asserts the size
        reason = first_line(error)
        raise TechniqueError(
            f"the network does not run on {spec.height} x {spec.width} pixels: {reason}",
            "its last layers must take any size, and what is left of the image before them must not be empty",
            "put adaptive pooling before the first linear layer, or use a larger scale",
        ) from error
    finally:
        for part, training in modes:
            part.training = training
