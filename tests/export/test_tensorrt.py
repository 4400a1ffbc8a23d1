"""TensorRT cannot run here: what is asked of it is checked up to the calls, on a module that writes them down."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from planish.artifact import Artifact
from planish.errors import ExportError, RuntimeMissingError
from planish.export import ToTensorRt, tensorrt_engine, tensorrt_runtime


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    fake = MagicMock(__version__="10.9")
    fake.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
    fake.Builder.return_value.build_serialized_network.return_value = b"engine"
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(tensorrt_runtime, "find_spec", lambda name: fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return fake


def test_an_engine_is_built_of_the_onnx_file(
    tensorrt: MagicMock, int8_artifact: Artifact, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(tensorrt_engine, "check_outputs", lambda *arguments: checked.append(arguments))
    built = ToTensorRt(most=4).apply(int8_artifact, task)
    builder = tensorrt.Builder.return_value
    builder.create_network.assert_called_once_with(1 << 3)
    tensorrt.OnnxParser.return_value.parse.assert_called_once_with(int8_artifact.files[0].read_bytes())
    builder.create_optimization_profile.return_value.set_shape.assert_called_once_with(
        "images", (1, 32, 32, 3), (1, 32, 32, 3), (4, 32, 32, 3)
    )
    assert built.files[0].read_bytes() == b"engine"
    assert built.facts["format"] == "tensorrt"
    (files, runtime, images, expected, *_), *_ = checked
    assert (files, runtime, len(images), expected["logits"].shape) == (built.files, "tensorrt", 4, (4, 3))


def test_what_it_cannot_build_is_an_export_error(tensorrt: MagicMock, onnx_artifact: Artifact, task: Any) -> None:
    tensorrt.Builder.return_value.build_serialized_network.return_value = None
    with pytest.raises(ExportError, match="builds no engine"):
        ToTensorRt().apply(onnx_artifact, task)
    tensorrt.OnnxParser.return_value.parse.return_value = False
    with pytest.raises(ExportError, match="cannot read"):
        ToTensorRt().apply(onnx_artifact, task)


def test_without_it_one_is_told_what_it_needs(onnx_artifact: Artifact, task: Any) -> None:
    with pytest.raises(RuntimeMissingError, match="NVIDIA GPU"):
        ToTensorRt().apply(onnx_artifact, task)
