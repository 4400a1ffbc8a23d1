"""From an ONNX file to OpenVINO's own, which loads faster and needs no ONNX reader on the device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.devices.latency_process import WorkerProcess
from planish.errors import ExportError, ModelError, first_line
from planish.export.checks.file_checks import check_integers, check_outputs, file_limits
from planish.export.onnx.onnx_file import metadata, sample_images
from planish.export.runtimes.registry import find, load
from planish.files.workspace import fresh_folder

if TYPE_CHECKING:
    from pathlib import Path

    from planish.artifact import Pixels
    from planish.task import Task

_CHECKED_IMAGES = 16
_NUMBERED = re.compile(r"([A-Z][A-Za-z0-9]*)_\d+")


@dataclass(frozen=True)
class ToOpenVino:
    """Convert the ONNX file to OpenVINO's ``model.xml`` and ``model.bin``; integer weights stay integer, float ones float32.

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
        """Convert.

        Raises:
            RuntimeMissingError: OpenVINO is not installed.
            ExportError: it cannot read the file, or its outputs differ.
            TechniqueError: the file is quantized, and nothing of it runs in integers.
        """
        find("openvino")
        import openvino

        images = sample_images(artifact, task, _CHECKED_IMAGES)
        predictor = load(artifact.files, "onnxruntime")
        expected = predictor(images)
        result = artifact.with_step(Step(self.name, {}, self.changes), format="openvino")
        try:
            model = openvino.convert_model(str(artifact.files[0]))
        except Exception as error:  # its converter raises many kinds, all with the operation in the message
            raise ExportError(f"OpenVINO cannot convert {artifact.files[0].name}: {first_line(error)}", "", "ship the ONNX file") from error
        _number_names(model)
        for name, value in metadata(result).items():
            model.set_rt_info(value, name.split("."))
        folder = fresh_folder("openvino-")
        openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
        files = (folder / "model.xml", folder / "model.bin")
        if artifact.facts["precision"] == "int8":
            _try_apart(files[0], images)
        limits = file_limits(predictor, images, expected, artifact.facts["precision"])
        check_outputs(files, "openvino", images, expected, limits, "the ONNX file")
        if artifact.facts["precision"] == "int8":
            check_integers(files, "openvino")
        return replace(result, files=files)


def _number_names(model: Any) -> None:
    """OpenVINO numbers what it adds through the whole process; the file, and its size, must not tell what was converted before."""
    for number, operation in enumerate(model.get_ordered_ops()):
        if found := _NUMBERED.fullmatch(operation.get_friendly_name()):
            operation.set_friendly_name(f"{found[1]}_added_{number}")


def _try_apart(file: Path, images: Pixels) -> None:
    """Load the file in a process of its own first: compiling the INT8 file of a DenseNet-121 ended the process (OpenVINO 2026.4)."""
    worker = WorkerProcess("the INT8 file", threads=1, timeout=180.0)
    try:
        arguments = {"files": [str(file)], "runtime": "openvino", "threads": 1, "batch": 1}
        worker.start_loading("planish.export.runtimes.registry:load", arguments, ("openvino",), 1, images[:1])
        worker.wait()
    except ModelError as error:
        raise ExportError(f"OpenVINO does not survive loading it: {error.received}", "", "use another runtime, or fp32") from error
    finally:
        worker.close()
