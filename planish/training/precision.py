"""Whether a device gains by computing in bfloat16; measured, not looked up."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import nn

from planish.progress import note

_WORTH_IT = 1.2  # times faster


def use_bf16(wanted: str, device: torch.device) -> bool:
    """Decide for ``FitSettings.mixed_precision``: ``off``, ``bf16`` or ``auto``."""
    return wanted == "bf16" or (wanted == "auto" and _gains(device.type))


@cache
def _gains(device_type: str) -> bool:
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")):
        return False
    plain, bf16 = _step_seconds(False), _step_seconds(True)
    gain = plain / bf16
    note(f"training in {'bfloat16' if gain > _WORTH_IT else 'float32'}: bfloat16 runs at {gain:.1f}x its speed on this CPU")
    return gain > _WORTH_IT


def _step_seconds(bf16: bool) -> float:
    """Fastest of three forward and backward passes of two convolutions such as small networks are made of."""
    with torch.random.fork_rng(devices=[]):
        block = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
        block = block.to(memory_format=torch.channels_last)
        images = torch.randn(32, 64, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = block(images)
        out.float().square().mean().backward()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])
