"""LiteRT on the CPU, with XNNPACK's kernels."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


class LiteRt:
    """Runs ``.tflite`` files."""

    name: ClassVar[str] = "litert"
    formats: ClassVar[tuple[str, ...]] = ("litert",)
    install: ClassVar[str] = "pip install 'planish[litert]'"

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
    """A file loaded in LiteRT. It was traced with one image a call; the input is resized to more where the network allows it (one that
    reshapes by numbers, as channel shuffles do, does not), else they are run one by one."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._input = interpreter.get_input_details()[0]["index"]
        self._output = interpreter.get_output_details()[0]
        self._count, self._resizes = 0, True

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        if len(images) != self._count and (self._resizes or self._count != 1):
            self._resizes = self._resizes and self._resize(images.shape)
            if not self._resizes:
                self._resize((1, *images.shape[1:]))
        pieces = [images] if self._resizes else [images[i : i + 1] for i in range(len(images))]
        return {"logits": np.concatenate([self._run(piece) for piece in pieces])}

    def _resize(self, shape: tuple[int, ...]) -> bool:
        self._interpreter.resize_tensor_input(self._input, shape)
        try:
            self._interpreter.allocate_tensors()
        except RuntimeError:
            return False
        self._count = shape[0]
        return bool(self._interpreter.get_tensor(self._output["index"]).shape[0] == shape[0])

    def _run(self, images: Pixels) -> Any:
        self._interpreter.set_tensor(self._input, images)
        self._interpreter.invoke()
        logits = self._interpreter.get_tensor(self._output["index"])
        scale, zero = self._output["quantization"]
        return (logits.astype(np.float32) - zero) * np.float32(scale) if scale else logits


def write_metadata(file: Path, texts: Mapping[str, str]) -> None:
    """Put texts into the file, where any reader of its schema finds them."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    raw = file.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(raw)))
    for buffer in model.buffers:
        if buffer.offset > 1:  # large weights may lie behind what is rewritten here
            buffer.data = np.frombuffer(raw, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    model.metadata = model.metadata or []
    for name, text in texts.items():
        buffer = schema.BufferT()
        buffer.data = list(text.encode())
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers) - 1
        model.metadata.append(entry)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    file.write_bytes(builder.Output())


def read_metadata(file: Path) -> dict[str, str]:
    """What ``write_metadata`` wrote."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(bytearray(file.read_bytes()))
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    return {e.Name().decode(): bytes(model.Buffers(e.Buffer()).DataAsNumpy()).decode() for e in entries if e.Name().startswith(b"planish.")}
