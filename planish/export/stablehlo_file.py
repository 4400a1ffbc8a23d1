"""Export to StableHLO programs, which XLA compiles for processors, GPUs and TPUs."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.errors import ExportError, RuntimeMissingError, first_line
from planish.export.checks.file_checks import check_outputs, stages, torch_outputs
from planish.export.onnx.onnx_file import metadata, sample_images
from planish.export.quiet import quiet
from planish.export.runtimes.registry import find
from planish.files.trust import trust
from planish.files.workspace import fresh_folder

if TYPE_CHECKING:
    from planish.task import Task

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_REMOVED = (  # operators that torchax 0.0.13 names and PyTorch 2.14 no longer has: those of named tensors, and two of linear algebra
    "cholesky", "qr", "all.dimname", "all.dimname_out", "index_add.dimname", "index_copy.dimname", "index_copy_.dimname",
    "index_fill.Dimname_Scalar", "index_fill.Dimname_Tensor", "index_fill_.Dimname_Scalar", "index_fill_.Dimname_Tensor",
    "norm.names_ScalarOpt_dim", "norm.names_ScalarOpt_dim_dtype", "norm.names_dtype_out", "norm.names_out", "prod.dim_Dimname",
    "std.correction_names", "std.correction_names_out", "std.names_dim", "std.names_out", "std_mean.correction_names",
    "std_mean.names_dim", "unbind.Dimname",
)  # fmt: skip
_TOLERANCE, _CHECKED_IMAGES, _MOST_IMAGES = 1e-4, 16, 1024


@dataclass(frozen=True)
class ToStableHlo:
    """Export to ``model.stablehlo``, a program for JAX on processors, GPUs and TPUs, with the weights in it; any batch size up to 1024, or
    only 1 where the network's operators need a fixed one.

    torchax turns the network into functions of JAX, and ``jax.export`` writes them. The program returns a dict of the outputs. The file is
    also a ZIP archive of its metadata.
    """

    name: ClassVar[str] = "to_stablehlo"
    reference: ClassVar[str] = "https://docs.jax.dev/en/latest/export/export.html"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    @property
    def changes(self) -> dict[str, str]:
        return {"format": "stablehlo"}

    def __str__(self) -> str:
        return "StableHLO"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Export the network.

        Raises:
            RuntimeMissingError: JAX or torchax is not installed.
            ExportError: the network cannot be exported, or the file's outputs differ from the network's.
        """
        require_torchax(find("jax").install)
        images = sample_images(artifact, task, _CHECKED_IMAGES)
        expected, limits = torch_outputs(artifact, images, least=_TOLERANCE)
        result = artifact.with_step(Step(self.name, {}, self.changes), format="stablehlo", module=None)
        file = fresh_folder("stablehlo-") / "model.stablehlo"
        for most in (_MOST_IMAGES, 1):
            try:
                for raw, wanted in stages(expected):
                    file.write_bytes(_program(artifact, most, list(wanted), raw=raw))
                    with zipfile.ZipFile(file, "a") as archive:  # behind the program, where JAX does not read
                        for name, text in metadata(result).items():
                            archive.writestr(name, text)
                    trust(file)
                    check_outputs((file,), "jax", images, wanted, limits, "PyTorch")
            except ExportError:
                if most > 1:
                    continue
                raise
            break
        return replace(result, files=(file,))


class _Removed:
    """Takes the place of an operator, or of its ``default``, in torchax's tables; no program contains it."""

    def __init__(self) -> None:
        self.default = self


def require_torchax(install: str) -> None:
    """Import torchax, whose tables name operators that PyTorch no longer has, and which is not to become PyTorch's default accelerator.

    Raises:
        RuntimeMissingError: it is not installed.
    """
    import torch

    for name in _REMOVED:
        operator, _, overload = name.partition(".")
        owner, missing = (getattr(torch.ops.aten, operator), overload) if overload else (torch.ops.aten, operator)
        if not hasattr(owner, missing):
            setattr(owner, missing, _Removed())
    try:
        import torchax.device_module
        import torchax.export
    except ImportError as error:
        raise RuntimeMissingError("torchax is not installed", "it turns networks into functions of JAX", f"run: {install}") from error
    torchax.device_module.is_available = lambda: False  # else nn.DataParallel, and whatever else asks, would move networks to it


def _program(artifact: Artifact, most: int, names: Sequence[str], *, raw: bool) -> bytes:
    """The content of the file.

    Args:
        artifact: of format torch.
        most: maximum batch size; 1 makes the batch size static.
        names: of the outputs, in order.
        raw: also return the outputs before decoding.
    """
    import jax
    import jax.export
    import torchax
    from torch.export.graph_signature import InputKind
    from torchax.decompositions import DECOMPOSITIONS
    from torchax.export import JaxInterpreter, extract_avals

    from planish.export.torch_program import program

    exported = program(artifact, most, raw=raw)
    try:
        with quiet():
            exported = exported.run_decompositions().run_decompositions(DECOMPOSITIONS)
            tensors = {**exported.constants, **exported.state_dict}
            places = [spec.target if spec.kind is not InputKind.USER_INPUT else "" for spec in exported.graph_signature.input_specs]
            weights = torchax.default_env().t2j_copy({place: tensors[place] for place in places if place})

            def network(images: Any) -> dict[str, Any]:
                given = [weights[place] if place else images for place in places]
                return dict(zip(names, JaxInterpreter(exported.graph_module).run(*given, enable_io_processing=False), strict=True))

            return bytes(jax.export.export(jax.jit(network), platforms=_PLATFORMS)(*extract_avals(exported)).serialize())
    except Exception as error:  # torchax and JAX raise many types
        why = f"{type(error).__name__}: {first_line(error)}"
        raise ExportError(f"torchax cannot convert the network: {why}", "", "export to onnx") from error
