"""A description of this machine: what latency depends on besides the model."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import psutil

from planish.devices.remote import on_device

_PACKAGES = ("planish", "torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "numpy")


@cache
def _cpuinfo() -> dict[str, str]:
    """The description of the first processor in ``/proc/cpuinfo``; empty on systems other than Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


@cache
def cpu_model() -> str:
    """The name of the processor, such as ``Intel(R) Xeon(R) Platinum 8488C``."""
    name = _cpuinfo().get("model name", "")
    if not name and platform.system() == "Darwin":
        name = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False).stdout.strip()
    return name or platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """The supported instruction sets that determine the speed of INT8 and bf16."""
    flags = set((_cpuinfo().get("flags") or _cpuinfo().get("Features") or "").split())
    return tuple(name for flag, name in on_device.INSTRUCTION_SETS.items() if flag in flags)


def saturates() -> bool:
    """Whether integer kernels add pairs of 8-bit products in 16 bits (x86 without VNNI), which overflows for weights beyond 7 bits."""
    return bool(_cpuinfo()) and on_device.saturates(platform.machine(), instruction_sets())


def describe_machine() -> dict[str, str | int | float]:
    """Processor, memory, operating system and the versions of the libraries that run models, without importing them, so it is quick."""
    described: dict[str, str | int | float] = {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        "logical_cores": os.cpu_count() or 1,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "instruction_sets": " ".join(instruction_sets()),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_average": round(psutil.getloadavg()[0], 2),
    }
    for package in _PACKAGES:
        try:
            described[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            described[package] = "not installed"
    return described
