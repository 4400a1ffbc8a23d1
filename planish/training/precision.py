"""Choice of mixed precision: whether bfloat16 makes training of a network faster on a device, measured once per machine.

Networks that are compared must be trained in the same precision, so a job with several trainings decides once and passes ``bf16`` or
``off`` to each of them: see ``planish.runs.precision``.
"""

from __future__ import annotations

import copy
import hashlib
import time

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from planish.artifact import InputSpec
from planish.decisions import decide
from planish.devices.machine import cpu_model
from planish.errors import first_line
from planish.files.numbers import read_numbers, write_numbers
from planish.files.workspace import cache_root
from planish.models.strided import SafeStrides
from planish.progress import note

_WORTH_IT = 1.1  # minimum speed-up
_IMAGES, _STEPS = 16, 3


def use_bf16(wanted: str, device: torch.device, network: nn.Module, spec: InputSpec) -> bool:
    """Whether to train in bfloat16, for ``wanted``, a value of ``FitSettings.mixed_precision`` (``off``, ``bf16`` or ``auto``)."""
    return wanted == "bf16" or (wanted == "auto" and _gains(device, network, spec))


def _gains(device: torch.device, network: nn.Module, spec: InputSpec) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")):
        return False
    # the key ignores widths: networks with the same layers, pruned differently, are trained in the same precision, so they can be compared
    layers = hashlib.sha256(repr((spec, [type(module).__name__ for module in network.modules()])).encode()).hexdigest()[:16]

    def measured() -> bool:
        try:
            gain = _known_gain(layers, network, spec)
        except Exception as error:  # an operator or user code may not support bfloat16
            note(f"training in float32: the network does not run in bfloat16 ({first_line(error)})")
            return False
        gains = gain > _WORTH_IT
        note(f"training in {'bfloat16' if gains else 'float32'}: bfloat16 runs at {gain:.1f}x the speed of float32 here")
        return gains

    return bool(decide(f"bfloat16:{layers}", measured))


def _known_gain(layers: str, network: nn.Module, spec: InputSpec) -> float:
    """The speed-up of bfloat16 over float32; measured once on this machine, so that equal seeds give equal results."""
    file = cache_root(None) / "bfloat16.json"
    key = f"{cpu_model()}:{torch.__version__}:{torch.get_num_threads()}:{layers}"
    known = read_numbers(file)
    if key not in known:
        plain, bf16 = _step_seconds(network, spec)
        known = read_numbers(file) | {key: plain / bf16}
        write_numbers(file, known)
    return known[key]


def _step_seconds(network: nn.Module, spec: InputSpec) -> tuple[float, float]:
    """Seconds of the fastest forward and backward pass of a small batch in float32 and in bfloat16, measured alternately."""
    with torch.random.fork_rng(devices=[]):
        network = copy.deepcopy(network).to(memory_format=torch.channels_last).train().requires_grad_()
        images = torch.randn(_IMAGES, spec.channels, spec.height, spec.width).contiguous(memory_format=torch.channels_last)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(1 + _STEPS):
            for bf16, taken in seconds.items():
                begun = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16), SafeStrides():
                    outputs = network(images)
                sum(part.float().square().mean() for part in tree_leaves(outputs) if part.requires_grad).backward()
                taken.append(time.perf_counter() - begun)
    return min(seconds[False][1:]), min(seconds[True][1:])
