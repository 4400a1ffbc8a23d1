"""A teacher compiled by OpenVINO, which runs several times as fast as in PyTorch."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from planish.artifact import InputSpec
from planish.models.storage import fingerprint

_AGREEMENT = 0.05  # largest error of the outputs for random images, relative to their spread; bfloat16 has about 0.01


class CompiledTeacher(nn.Module):
    """A network compiled for batches of one size; its outputs have no gradient.

    Args:
        request: inference request of the compiled network.
    """

    def __init__(self, request: Any) -> None:
        super().__init__()
        self._request = request

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the outputs for normalised images ``(N, C, H, W)``, float32."""
        found = self._request.infer({0: images.contiguous().numpy()})
        return torch.from_numpy(found[0].copy())


def compiled_teacher(teacher: nn.Module, spec: InputSpec, batch_size: int, bf16: bool) -> nn.Module:
    """Return the teacher compiled for batches of ``batch_size``; the teacher itself where that is not possible.

    Compiling takes seconds, so the teacher compiled last is kept for the next training.

    Args:
        teacher: takes normalised images and returns one tensor; in eval mode, on the CPU.
        spec: channels and size of the images.
        batch_size: number of images of every batch.
        bf16: compute in bfloat16 where the processor has it, as the training does; else in float32.
    """
    if find_spec("openvino") is None:
        return teacher
    return _compile(_Compilation(fingerprint(teacher), spec, batch_size, bf16, torch.get_num_threads(), teacher))


@dataclass(frozen=True)
class _Compilation:
    fingerprint: str
    spec: InputSpec
    batch_size: int
    bf16: bool
    threads: int
    teacher: nn.Module = field(compare=False)


@lru_cache(maxsize=1)
def _compile(job: _Compilation) -> nn.Module:
    import openvino

    teacher, spec = job.teacher, job.spec
    images = torch.randn(job.batch_size, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter traces with deprecated functions
            wanted = teacher(images)
            if not isinstance(wanted, torch.Tensor):
                return teacher
            model = openvino.convert_model(copy.deepcopy(teacher).to(memory_format=torch.contiguous_format), example_input=images)
        model.reshape(list(images.shape))
        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(job.threads)}
        precision = {} if job.bf16 else {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = CompiledTeacher(openvino.Core().compile_model(model, "CPU", settings | precision).create_infer_request())
        found = compiled(images)
    except Exception:  # the network's code, or the converter, may raise anything
        return teacher
    error = (found - wanted).square().mean().sqrt() / wanted.std().clamp(min=1e-6)
    return compiled if found.shape == wanted.shape and error < _AGREEMENT else teacher
