"""Export to LiteRT (``.tflite``), for Android and small devices.

The converter requires older libraries than the rest of Planish, so it may be installed in a separate environment:
``PLANISH_LITERT_PYTHON`` is the path of its Python. It reads the traced network from a file, and writes the converted one to another.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.errors import ExportError, RuntimeMissingError
from planish.export.checks.file_checks import check_integers, check_outputs, stages, torch_outputs
from planish.export.onnx.onnx_file import metadata, sample_images
from planish.export.runtimes.litert import keep_outputs, write_metadata
from planish.export.runtimes.registry import find
from planish.files.workspace import fresh_folder
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

PYTHON = "PLANISH_LITERT_PYTHON"
_TOLERANCE = 1e-3
_CHECKED_IMAGES, _CALIBRATION_IMAGES = 16, 128
_CONVERTER = Path(__file__).parent / "litert_convert.py"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ToLiteRt:
    """Export to ``model.tflite``; any batch size, by resizing the input.

    The scales of ``int8`` and ``qat`` are part of an ONNX graph and cannot be transferred, so INT8 is calibrated again here.

    Args:
        int8: quantize weights (per channel) and activations, calibrated on 128 images.
    """

    name: ClassVar[str] = "to_litert"
    reference: ClassVar[str] = "https://ai.google.dev/edge/litert"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    int8: bool = False

    @property
    def changes(self) -> dict[str, str]:
        return {"format": "litert"} | ({"precision": "int8"} if self.int8 else {})

    def __str__(self) -> str:
        return "LiteRT" + (", INT8" if self.int8 else "")

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Export the network.

        Raises:
            RuntimeMissingError: LiteRT or its converter is not installed.
            ExportError: the network cannot be converted, or the file's outputs differ from the network's.
            TechniqueError: no layer of the INT8 file runs in integer arithmetic.
        """
        find("litert")
        python = converter_python()
        import torch

        from planish.export.torch_program import program

        images = sample_images(artifact, task, _CHECKED_IMAGES)
        result = artifact.with_step(Step(self.name, hyper_parameters(self), self.changes), format="litert", module=None)
        folder = fresh_folder("litert-")
        file, traced, calibration = folder / "model.tflite", folder / "traced.pt2", folder / "calibration.npy"
        expected, limits = torch_outputs(artifact, images, least=_TOLERANCE, int8=self.int8)
        torch.export.save(program(artifact, most=1, raw=True), traced)
        if self.int8:
            np.save(calibration, sample_images(artifact, task, _CALIBRATION_IMAGES), allow_pickle=False)
        command = [python, "-P", str(_CONVERTER), str(traced), str(file), *[str(calibration)] * self.int8]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not file.exists():
            raise ExportError(f"LiteRT's converter cannot convert the network: {_why(done)}", "", "export to onnx")
        write_metadata(file, metadata(result))
        for _, wanted in stages(expected):
            keep_outputs(file, list(wanted))
            check_outputs((file,), "litert", images, wanted, limits, "PyTorch")
        if self.int8:
            check_integers((file,), "litert")
        return replace(result, files=(file,))


def _why(done: subprocess.CompletedProcess[str]) -> str:
    """The line of stderr that names the error, which unhelpful lines may follow."""
    lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
    return [lines[-1], *(line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line))][-1][:300]


def converter_python() -> str:
    """The path of the Python that has ``litert_torch``.

    Raises:
        RuntimeMissingError: there is none.
    """
    named = os.environ.get(PYTHON)
    if named:
        return named
    if find_spec("litert_torch") is not None:
        return sys.executable
    raise RuntimeMissingError(
        "LiteRT's converter is not installed",
        "it may have an environment of its own, as it wants older libraries",
        f"run: python -m venv litert && litert/bin/pip install litert-torch torchvision, and set {PYTHON}=litert/bin/python",
    )
