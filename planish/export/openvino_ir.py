"""Conversion of an ONNX file to OpenVINO IR, which loads faster and needs no ONNX reader on the device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.errors import ExportError, first_line
from planish.export.checks.file_checks import check_integers, check_outputs, file_limits
from planish.export.onnx.onnx_file import metadata, sample_images
from planish.export.runtimes.first_load import require_first_load
from planish.export.runtimes.registry import find, load
from planish.files.workspace import fresh_folder

if TYPE_CHECKING:
    from planish.task import Task

_CHECKED_IMAGES = 16
_NUMBERED = re.compile(r"([A-Z][A-Za-z0-9]*)_\d+")


@dataclass(frozen=True)
class ToOpenVino:
    """Convert the ONNX file to OpenVINO IR (``model.xml`` and ``model.bin``); integer weights stay integer, float weights float32.

    The result is compared with the ONNX file in ONNX Runtime on calibration images.
    """

    name: ClassVar[str] = "to_openvino"
    reference: ClassVar[str] = "https://docs.openvino.ai"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("onnx",)}

    @property
    def changes(self) -> dict[str, str]:
        return {"format": "openvino"}

    def __str__(self) -> str:
        return "OpenVINO"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Convert the file.

        Raises:
            RuntimeMissingError: OpenVINO is not installed.
            ExportError: OpenVINO cannot read the file, or its outputs differ.
            TechniqueError: the file is quantized, and none of its layers runs in integer arithmetic.
        """
        find("openvino")
        import openvino

        images = sample_images(artifact, task, _CHECKED_IMAGES)
        predictor = load(artifact.files, "onnxruntime")
        expected = predictor(images)
        result = artifact.with_step(Step(self.name, {}, self.changes), format="openvino")
        if artifact.lineage.source.sha256 and artifact.lineage.source.name.endswith(".onnx"):  # made from a user's file
            require_first_load(artifact.files, "openvino", images.shape[1:])
        try:
            model = openvino.convert_model(str(artifact.files[0]))
        except Exception as error:  # its converter raises many types, all with the operation in the message
            raise ExportError(f"OpenVINO cannot convert {artifact.files[0].name}: {first_line(error)}", "", "ship the ONNX file") from error
        _number_names(model)
        for name, value in metadata(result).items():
            model.set_rt_info(value, name.split("."))
        folder = fresh_folder("openvino-")
        openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
        files = (folder / "model.xml", folder / "model.bin")
        if artifact.facts["precision"] == "int8":  # compiling that of a DenseNet-121 aborted the process (OpenVINO 2026.4)
            require_first_load(files, "openvino", images.shape[1:])
        limits = file_limits(predictor, images, expected, artifact.facts["precision"])
        check_outputs(files, "openvino", images, expected, limits, "the ONNX file")
        if artifact.facts["precision"] == "int8":
            check_integers(files, "openvino")
        return replace(result, files=files)


def _number_names(model: Any) -> None:
    """Renumber the operations that OpenVINO adds. It counts them over the whole process, so the file and its size would otherwise depend on
    earlier conversions."""
    for number, operation in enumerate(model.get_ordered_ops()):
        if found := _NUMBERED.fullmatch(operation.get_friendly_name()):
            operation.set_friendly_name(f"{found[1]}_added_{number}")
