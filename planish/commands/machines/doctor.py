"""Report of this machine's hardware, versions and runtimes."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planish.devices.remote.ssh import SshDevice

_EXTRAS = {
    "serve": "fastapi", "ray": "ray", "postgresql": "psycopg", "sign": "cryptography", "hub": "huggingface_hub", "parquet": "pyarrow",
    "mlflow": "mlflow", "tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "litert": "ai_edge_litert",
    "executorch": "executorch", "jax": "torchax",
}  # fmt: skip


def doctor(*, device: str | None = None) -> dict[str, Any]:
    """What this machine can run: hardware, versions and runtimes; and what to install for anything missing.

    Args:
        device: Device to describe instead: ssh://user@host:port/path/of/python.

    Returns:
        Values by section: machine, training, runtimes, extras; of a device only machine and runtimes.

    Raises:
        DeviceError: the device cannot be reached.

    Example:
        $ planish doctor --json
        $ planish doctor --device ssh://pi@raspberry.local
    """
    if device is not None:
        from planish.devices.remote.ssh import SshDevice

        with SshDevice(device) as there:
            return described(there)
    import torch

    from planish.devices.machine import describe_machine
    from planish.errors import RuntimeMissingError
    from planish.export.litert_file import converter_python
    from planish.export.runtimes.registry import registered

    runtimes = {name: kind.version() or f"missing; {kind.install}" for name, kind in registered().items()}
    extras = {name: "installed" if find_spec(package) else f"missing; pip install 'planish[{name}]'" for name, package in _EXTRAS.items()}
    try:
        extras["litert's converter"] = converter_python()
    except RuntimeMissingError as error:
        extras["litert's converter"] = f"missing; {error.fix}"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] + ["Apple GPU"] * torch.backends.mps.is_available()
    return {
        "machine": describe_machine() | {"free_disk_bytes": shutil.disk_usage(".").free},
        "training": {"devices": ", ".join(devices) or "the processor alone"},
        "runtimes": runtimes,
        "extras": extras,
    }


def described(device: SshDevice) -> dict[str, Any]:
    """Return what a device is and can run, as ``doctor`` does."""
    from planish.devices.remote.on_device import PACKAGES, RUNTIMES

    found = device.describe()
    runtimes = {name: found.pop(name) or f"missing; pip install {PACKAGES[name]}" for name in RUNTIMES}
    return {"machine": found, "runtimes": runtimes}
