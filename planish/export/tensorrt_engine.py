"""Export to TensorRT engines, for NVIDIA GPUs. Written from the documentation of its Python API and never tested, as it needs a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.errors import ExportError
from planish.export.checks.file_checks import check_outputs, file_limits
from planish.export.onnx.onnx_file import sample_images
from planish.export.onnx.symmetric import symmetric
from planish.export.runtimes.registry import find, load
from planish.export.runtimes.tensorrt import INPUT
from planish.files.trust import trust
from planish.files.workspace import fresh_folder
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

_TOLERANCE = 1e-2  # TensorRT may compute float32 convolutions in TF32
_CHECKED_IMAGES = 16


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ToTensorRt:
    """Build ``model.engine`` from the ONNX file. Q/DQ pairs are made symmetric (``symmetric``) and become integer kernels.

    An engine only runs on the type of GPU and the version of TensorRT that it was built with. It cannot store class names and
    preprocessing, but a bundle does.

    Args:
        max_batch_size: maximum batch size; the engine is tuned for a batch size of 1.
    """

    name: ClassVar[str] = "to_tensorrt"
    reference: ClassVar[str] = "https://docs.nvidia.com/deeplearning/tensorrt"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("onnx",)}

    max_batch_size: int = Field(default=16, ge=1)

    @property
    def changes(self) -> dict[str, str]:
        return {"format": "tensorrt"}

    def __str__(self) -> str:
        return "TensorRT"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Build the engine.

        Raises:
            RuntimeMissingError: TensorRT is not installed, or there is no GPU.
            ExportError: TensorRT cannot read the file or build an engine, or the engine's outputs differ.
        """
        find("tensorrt")
        import tensorrt

        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse(symmetric(artifact.files[0].read_bytes())):
            errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)) or "its log says why"
            raise ExportError(f"TensorRT cannot read {artifact.files[0].name}: {errors}", "", "use onnxruntime-cuda")
        config, profile, spec = builder.create_builder_config(), builder.create_optimization_profile(), artifact.input_spec
        shape = (spec.height, spec.width, spec.channels)
        profile.set_shape(INPUT, (1, *shape), (1, *shape), (self.max_batch_size, *shape))
        if config.add_optimization_profile(profile) < 0:
            raise ExportError(
                f"TensorRT takes no batches of 1 to {self.max_batch_size} images {shape}", "its log says why", "use onnxruntime-cuda"
            )
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise ExportError("TensorRT builds no engine of this network", "its log says why", "use onnxruntime-cuda")
        file = fresh_folder("tensorrt-") / "model.engine"
        file.write_bytes(engine)
        trust(file)
        images = sample_images(artifact, task, min(_CHECKED_IMAGES, self.max_batch_size))
        predictor = load(artifact.files, "onnxruntime")
        expected = predictor(images)
        limits = file_limits(predictor, images, expected, artifact.facts["precision"], _TOLERANCE)
        check_outputs((file,), "tensorrt", images, expected, limits, "the ONNX file")
        return replace(artifact.with_step(Step(self.name, hyper_parameters(self), self.changes), format="tensorrt"), files=(file,))
