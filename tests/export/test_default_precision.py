"""OpenVINO without a precision hint: a runtime of its own where that is not fp32."""

from __future__ import annotations

import importlib

import pytest

from planish.export.runtimes import registry
from planish.export.runtimes.openvino import OpenVino, OpenVinoDefault, default_precision
from planish.export.runtimes.registry import available, default_precision_runtimes, find, imports


def test_the_default_is_what_a_compiled_model_reports() -> None:
    import openvino

    able = any("BF16" in text for text in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    assert default_precision() == ("bf16" if able else "f32")
    assert default_precision_runtimes() == ({"openvino": "openvino-default"} if able else {})


@pytest.mark.parametrize(("precision", "names"), [("bf16", ["openvino-default"]), ("f16", ["openvino-default"]), ("f32", [])])
def test_it_is_offered_where_it_differs_and_runs_everywhere(monkeypatch: pytest.MonkeyPatch, precision: str, names: list[str]) -> None:
    monkeypatch.setattr(registry, "default_precision", lambda: precision)
    assert [*default_precision_runtimes().values()] == names
    assert "openvino-default" not in available("onnx"), "it is not another library"
    assert find("openvino-default") is OpenVinoDefault, "a bundle made where it differs is run elsewhere as well"


def test_it_differs_from_how_files_are_run_in_the_hint_alone() -> None:
    assert OpenVino.settings(2) == OpenVinoDefault.settings(2) | {"INFERENCE_PRECISION_HINT": "f32"}
    assert "INFERENCE_PRECISION_HINT" not in OpenVinoDefault.settings(1)


def test_the_modules_that_are_imported_before_memory_is_measured_are_there() -> None:
    modules = {module for name in available() for module in imports(name)}
    assert modules >= {"onnxruntime", "openvino"}
    for module in modules:
        importlib.import_module(module)
