"""Post-training INT8 with ONNX Runtime's static quantization and with NNCF, each in the two ways its documentation offers.

Both are given Planish's export of the network (``torch.onnx.export`` with batch norm folded and the normalisation of pixels in the
graph) and Planish's calibration images. The normalisation stays float, as it would if it were outside the model.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import openvino
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from planish.artifact import Artifact
from planish.compression import Int8
from planish.task import Task

CALIBRATIONS = {"min-max": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
PRESETS = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}
_ONNX_NORMALISATION = {"Cast", "Mul", "Add", "Transpose"}
_OPENVINO_NORMALISATION = {"Convert", "Multiply", "Add", "Transpose"}


def calibration_images(original: Artifact, task: Task) -> list[Any]:
    """The images that Planish calibrates on, uint8 ``(1, H, W, C)`` each."""
    split = task.split("calibration").images(original.input_spec, original.preprocessing)
    chosen = np.unique(np.linspace(0, len(split) - 1, min(Int8().images, len(split))).astype(int))
    return [np.ascontiguousarray(split[i : i + 1]) for i in chosen]


def quantize_for_onnxruntime(file: Path, target: Path, images: list[Any], calibration: str) -> tuple[Path, ...]:
    """Static quantization in QDQ form: unsigned activations, signed weights with a scale a channel.

    Args:
        file: fp32 ONNX.
        target: folder.
        images: to calibrate on.
        calibration: a key of ``CALIBRATIONS``.
    """
    target.mkdir(parents=True)
    prepared, quantized = target / "prepared.onnx", target / "model.onnx"
    with _quiet():
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(quantized),
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CALIBRATIONS[calibration],
            nodes_to_exclude=_normalisation_of_onnx(prepared),
        )
    prepared.unlink()
    return (quantized,)


def quantize_for_openvino(file: Path, target: Path, images: list[Any], preset: str) -> tuple[Path, ...]:
    """``nncf.quantize`` on the OpenVINO model, with its default fast bias correction.

    Args:
        file: fp32 ONNX.
        target: folder.
        images: to calibrate on.
        preset: a key of ``PRESETS``.
    """
    target.mkdir(parents=True)
    model = openvino.convert_model(str(file))
    with _quiet():
        quantized = nncf.quantize(
            model,
            nncf.Dataset(images),
            preset=PRESETS[preset],
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=_normalisation_of_openvino(model)),
        )
    openvino.save_model(quantized, str(target / "model.xml"), compress_to_fp16=False)
    return target / "model.xml", target / "model.bin"


class _Reader:
    """Calibration images as ONNX Runtime asks for them."""

    def __init__(self, images: list[Any]) -> None:
        self._images: Iterator[Any] = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image}


def _normalisation_of_onnx(file: Path) -> list[str]:
    """Names of the nodes between the pixels and the first layer."""
    reached, names = {"images"}, []
    for node in onnx.load(str(file)).graph.node:
        if node.op_type in _ONNX_NORMALISATION and reached.intersection(node.input):
            names.append(node.name)
            reached.update(node.output)
    return names


def _normalisation_of_openvino(model: Any) -> list[str]:
    """The same for an OpenVINO model."""
    names, node = [], model.input(0).get_node()
    while len(following := list(node.output(0).get_target_inputs())) == 1:
        node = following[0].get_node()
        if node.get_type_name() not in _OPENVINO_NORMALISATION:
            break
        names.append(node.get_friendly_name())
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Both tools print progress and advice of their own between our lines."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
