"""The LiteRT runtime, on the CPU with XNNPACK's kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

_UNNAMED = "output_0"  # the converter's name for the output of a network that returns one tensor


class LiteRt:
    """Runs ``.tflite`` files."""

    name: ClassVar[str] = "litert"
    formats: ClassVar[tuple[str, ...]] = ("litert",)
    install: ClassVar[str] = "pip install 'planish[litert]'"
    danger: ClassVar[str] = ""
    module: ClassVar[str] = "ai_edge_litert"

    @staticmethod
    def version() -> str:
        return "" if find_spec("ai_edge_litert") is None else version("ai-edge-litert")

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        return {"num_threads": str(threads)}

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> LiteRtPredictor:
        from ai_edge_litert.interpreter import Interpreter

        return LiteRtPredictor(Interpreter(str(file), num_threads=threads))

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(file))
        kinds = {detail["index"]: detail["dtype"] for detail in interpreter.get_tensor_details()}
        counts = {"int8": 0, "float": 0}
        for operation in interpreter._get_ops_details():
            if operation["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                counts["int8" if kinds[operation["inputs"][0]] is np.int8 else "float"] += 1
        return counts


class LiteRtPredictor:
    """A file loaded in LiteRT. It was traced with batch size 1. The input is resized to larger batches if the network allows it;
    networks that reshape to constant sizes, as channel shuffles do, run one image at a time. So do those with several outputs, since the
    decoding of boxes selects rows of a single image."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._input = interpreter.get_input_details()[0]["index"]
        found = interpreter.get_signature_runner().get_output_details()
        self._outputs = {_named(name): detail for name, detail in found.items()}
        self._count, self._resizes = 0, len(found) == 1

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        if len(images) != self._count and (self._resizes or self._count != 1):
            self._resizes = self._resizes and self._resize(images.shape)
            if not self._resizes:
                self._resize((1, *images.shape[1:]))
        pieces = [images] if self._resizes else [images[i : i + 1] for i in range(len(images))]
        found = [self._run(piece) for piece in pieces]
        return {name: np.concatenate([one[name] for one in found]) for name in self._outputs}

    def _resize(self, shape: tuple[int, ...]) -> bool:
        self._interpreter.resize_tensor_input(self._input, shape)
        try:
            self._interpreter.allocate_tensors()
        except RuntimeError:
            return False
        self._count = shape[0]
        return all(self._interpreter.get_tensor(output["index"]).shape[0] == shape[0] for output in self._outputs.values())

    def _run(self, images: Pixels) -> Outputs:
        self._interpreter.set_tensor(self._input, images)
        self._interpreter.invoke()
        return {name: self._values(output) for name, output in self._outputs.items()}

    def _values(self, output: Any) -> Any:
        values = self._interpreter.get_tensor(output["index"])
        scale, zero = output["quantization"]
        return (values.astype(np.float32) - zero) * np.float32(scale) if scale else values


def write_metadata(file: Path, texts: Mapping[str, str]) -> None:
    """Add strings to the metadata of the file, where any reader of its schema finds them."""
    from ai_edge_litert import schema_py_generated as schema

    model = _opened(file)
    model.metadata = model.metadata or []
    for name, text in texts.items():
        buffer = schema.BufferT()
        buffer.data = list(text.encode())
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers) - 1
        model.metadata.append(entry)
    _save(model, file)


def keep_outputs(file: Path, names: Sequence[str]) -> None:
    """Remove all outputs except those with these names. An unnamed output is renamed to ``logits``, and the input to ``images``."""
    model = _opened(file)
    signature = model.signatureDefs[0]
    found = {_named(output.name.decode()): output for output in signature.outputs}
    for name, output in found.items():
        output.name = name
    signature.inputs[0].name = "images"
    signature.outputs = [found[name] for name in names]
    model.subgraphs[signature.subgraphIndex].outputs = [output.tensorIndex for output in signature.outputs]
    _save(model, file)


def _named(name: str) -> str:
    return "logits" if name == _UNNAMED else name


def _opened(file: Path) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    raw = file.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(raw)))
    for buffer in model.buffers:
        if buffer.offset > 1:  # large weights may be stored behind the part that is rewritten here
            buffer.data = np.frombuffer(raw, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def _save(model: Any, file: Path) -> None:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    file.write_bytes(builder.Output())


def read_metadata(file: Path) -> dict[str, str]:
    """The strings that ``write_metadata`` added, by name."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(bytearray(file.read_bytes()))
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    return {e.Name().decode(): bytes(model.Buffers(e.Buffer()).DataAsNumpy()).decode() for e in entries if e.Name().startswith(b"planish.")}
