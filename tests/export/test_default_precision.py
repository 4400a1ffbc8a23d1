"""OpenVINO without a precision hint: a baseline where that is not fp32, never something to ship for."""

from __future__ import annotations

import importlib

import pytest

from planish.errors import RuntimeMissingError
from planish.export.runtimes import openvino as openvino_runtime
from planish.export.runtimes.openvino import OpenVino, OpenVinoDefault, default_precision
from planish.export.runtimes.registry import available, default_baselines, find, imports


def test_the_default_is_what_a_compiled_model_reports() -> None:
    import openvino

    able = any("BF16" in text for text in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    assert default_precision() == ("bf16" if able else "f32")
    assert default_baselines() == (["openvino-default"] if able else [])


@pytest.mark.parametrize(("precision", "names"), [("bf16", ["openvino-default"]), ("f16", ["openvino-default"]), ("f32", [])])
def test_it_is_a_baseline_where_it_differs(monkeypatch: pytest.MonkeyPatch, precision: str, names: list[str]) -> None:
    monkeypatch.setattr(openvino_runtime, "default_precision", lambda: precision)
    assert default_baselines() == names
    assert "openvino-default" not in available("onnx"), "nothing ships for it"
    if names:
        assert find("openvino-default") is OpenVinoDefault
    else:
        with pytest.raises(RuntimeMissingError):
            find("openvino-default")


def test_it_differs_from_how_files_are_run_in_the_hint_alone() -> None:
    assert OpenVino.settings(2) == OpenVinoDefault.settings(2) | {"INFERENCE_PRECISION_HINT": "f32"}
    assert "INFERENCE_PRECISION_HINT" not in OpenVinoDefault.settings(1)


def test_the_modules_that_are_imported_before_memory_is_measured_are_there() -> None:
    modules = {module for name in available() for module in imports(name)}
    assert modules >= {"onnxruntime", "openvino"}
    for module in modules:
        importlib.import_module(module)
