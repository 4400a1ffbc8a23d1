"""Small networks with what is to be explained in them, exported, and quantized wrongly on purpose."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.compression import Int8
from planish.devices.machine import saturates
from planish.export import ToOnnx, ToOpenVino
from planish.models.zoo import create

CLASSES = tuple("abcdefghij")


class Samples:
    """The part of a task that exporting and calibrating ask for."""

    def __init__(self, size: int, count: int = 16) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def split(self, name: str) -> Samples:
        return self

    def images(self, *_: Any) -> Any:
        return self.pixels


def artifact(network: str | nn.Module, size: int) -> Artifact:
    torch.manual_seed(0)
    if isinstance(network, str):
        created = create(network, num_classes=10, channels=3, image_size=size)
        module, source = created.module, created.source
    else:
        module, source = network, Source("module", 10, 3)
    preprocessing = Preprocessing(size, "squash", (0.45,) * 3, (0.25,) * 3)
    return Artifact("torch", InputSpec(3, size, size), preprocessing, CLASSES, Lineage(source), module=module.eval())


def exported(network: str | nn.Module, size: int) -> Artifact:
    return ToOnnx().apply(artifact(network, size), Samples(size))  # type: ignore[arg-type]


def healthy(float_: Artifact, runtime: str = "onnxruntime", **options: Any) -> Path:
    """As Planish quantizes it for this machine, with these options of ``Int8``."""
    task: Any = Samples(float_.input_spec.height)
    quantized = replace(Int8.for_device(), calibration_images=16, **options).apply(float_, task)
    return (ToOpenVino().apply(quantized, task) if runtime == "openvino" else quantized).files[0]


def wrongly(float_: Artifact, folder: Path, **options: Any) -> Path:
    """As ONNX Runtime's quantizer does it when told the wrong thing."""
    prepared, file = folder / "prepared.onnx", folder / "wrong.onnx"
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        quant_pre_process(str(float_.files[0]), str(prepared), skip_symbolic_shape=True)
        given = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": saturates()}
        given |= options
        quantize_static(str(prepared), str(file), _Reader(float_.input_spec.height), quant_format=QuantFormat.QDQ, **given)
    finally:
        logging.disable(level)
    return file


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, size: int) -> None:
        self._batches = iter([{"images": Samples(size, 4).pixels}])

    def get_next(self) -> Any:
        return next(self._batches, None)


def convolutions(*widths: int, activation: type[nn.Module] = nn.ReLU, depthwise: bool = False) -> nn.Module:
    """3x3 convolutions one after the other, a stride of 2 in the first, and a classifier."""
    layers: list[nn.Module] = []
    before = 3
    for i, width in enumerate(widths):
        layers += [nn.Conv2d(before, width, 3, 2 if i == 0 else 1, 1), activation()]
        for _ in range(6 if depthwise else 0):
            layers += [nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def foreign(network: nn.Module, size: int, file: Path, batch: int | None = 1) -> Path:
    """As somebody else would export it: normalised float images ``(N, C, H, W)``, nothing about Planish in the file."""
    shapes = None if batch else ({0: torch.export.Dim.DYNAMIC},)
    torch.onnx.export(
        network.eval(), (torch.zeros(batch or 2, 3, size, size),), str(file), dynamo=True, verbose=False, dynamic_shapes=shapes
    )
    return file
