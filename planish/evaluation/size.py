"""Size on disk and MACs (multiply-accumulate operations)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from planish.artifact import InputSpec
from planish.measurement import Measurement


def size_bytes(files: Sequence[Path]) -> Measurement:
    """Return the size on disk of the deployed files, in bytes."""
    return Measurement("size_bytes", float(sum(f.stat().st_size for f in files)), "bytes", len(files), False)


def macs(module: nn.Module, spec: InputSpec) -> Measurement:
    """Return the MACs of convolutions and matrix products for one image; they help to explain latency, which itself is always measured."""
    parameter = next(module.parameters(), torch.empty(0))
    image = torch.zeros(1, spec.channels, spec.height, spec.width, dtype=parameter.dtype, device=parameter.device)
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(image)
    finally:
        for m, training in modes:  # each module separately, so that frozen batch normalisation stays in eval mode
            m.training = training
    return Measurement("macs", counter.get_total_flops() / 2, "MACs", 1, False)
