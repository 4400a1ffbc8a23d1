"""Size on disk and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from planish.artifact import InputSpec
from planish.measurement import Measurement


def size_bytes(files: Sequence[Path]) -> Measurement:
    """Bytes on disk of the files that ship."""
    return Measurement("size_bytes", float(sum(f.stat().st_size for f in files)), "bytes", len(files), False)


def macs(module: nn.Module, spec: InputSpec) -> Measurement:
    """Multiply-accumulates of convolutions and matrix products for one image. What is fast is measured; this only helps to explain it."""
    parameter = next(module.parameters(), torch.empty(0))
    image = torch.zeros(1, spec.channels, spec.height, spec.width, dtype=parameter.dtype, device=parameter.device)
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(image)
    finally:
        for m, training in modes:  # frozen batch normalisation stays as it was
            m.training = training
    return Measurement("macs", counter.get_total_flops() / 2, "MACs", 1, False)
