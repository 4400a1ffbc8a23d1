"""ONNX files as networks."""

from planish.models.onnx.convert import Converted, convert, convert_file

__all__ = ["Converted", "convert", "convert_file"]
