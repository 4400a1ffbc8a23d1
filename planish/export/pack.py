"""Packing of an ONNX file: a smaller file on disk, from which the runtime gets the original bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.errors import ExportError
from planish.export.runtimes.packed_file import Tensor, pack, unpack
from planish.files.workspace import fresh_folder

if TYPE_CHECKING:
    from planish.task import Task

_SMALLEST = 256  # bytes; smaller tensors are compressed with the rest of the file


@dataclass(frozen=True)
class Pack:
    """Compress the ONNX file without loss: zeros are left out, equal weights become indices, and the result is Huffman-coded.

    This makes the file smaller, not the model faster: the runtime loads the unpacked file. It is worthwhile after unstructured pruning
    and weight sharing, and gains little for other models.
    """

    name: ClassVar[str] = "pack"
    reference: ClassVar[str] = "Han et al. 2016, Deep Compression, arXiv:1510.00149"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("onnx",)}

    @property
    def changes(self) -> dict[str, str]:
        return {"format": "packed"}

    def __str__(self) -> str:
        return "packed"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Pack the file.

        Raises:
            ExportError: the model has more than one file, or unpacking does not restore it.
        """
        import onnx

        if len(artifact.files) != 1:
            raise ExportError(f"the model is {len(artifact.files)} files", "one ONNX file with its weights in it is packed")
        data = artifact.files[0].read_bytes()
        packed = pack(data, _tensors(data, onnx.load_from_string(data)))
        if unpack(packed) != data:
            raise ExportError(f"{artifact.files[0].name} does not come back as it was", "packing loses nothing", "please report the file")
        notes = f"{len(packed):,} bytes on disk, {len(data):,} in the runtime, which is given the file as it was and is no faster"
        step = Step(self.name, {}, self.changes, {"disk_bytes": len(packed), "runtime_bytes": len(data)}, notes)
        file = fresh_folder("packed-") / f"{artifact.files[0].name}.packed"
        file.write_bytes(packed)
        return replace(artifact.with_step(step), format="packed", files=(file,))


def _tensors(data: bytes, model: Any) -> list[Tensor]:
    """The positions of the weights in an ONNX file."""
    import numpy as np
    from onnx.helper import tensor_dtype_to_np_dtype

    found, position = [], 0
    for weight in model.graph.initializer:
        raw = weight.raw_data
        at = data.find(raw, position) if len(raw) >= _SMALLEST else -1
        if at < 0:
            continue
        shape, item_bytes = tuple(weight.dims), np.dtype(tensor_dtype_to_np_dtype(weight.data_type)).itemsize
        if len(raw) != item_bytes * np.prod(shape):  # several values per byte
            shape, item_bytes = (len(raw),), 1
        found.append(Tensor(at, item_bytes, shape))
        position = at + len(raw)
    return found
