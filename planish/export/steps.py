"""The steps that make the file which a runtime runs."""

from __future__ import annotations

from planish.export.openvino_ir import ToOpenVino
from planish.export.runtimes.registry import with_variants
from planish.technique import Technique


def steps_from_onnx(runtime: str) -> tuple[Technique, ...]:
    """Return the steps from an ONNX file to the file that is run: a conversion for OpenVINO in any precision, none for runtimes that open
    the ONNX file.

    Args:
        runtime: name of the runtime.
    """
    kind = with_variants().get(runtime)
    return (ToOpenVino(),) if kind is not None and ToOpenVino().changes["format"] in kind.formats else ()
