"""Report of this machine's hardware, versions and runtimes."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import Any

_EXTRAS = {"serve": "fastapi", "ray": "ray", "sign": "cryptography", "litert": "ai_edge_litert", "executorch": "executorch"}


def doctor() -> dict[str, Any]:
    """What this machine can run: hardware, versions and runtimes; and what to install for anything missing.

    Returns:
        Values by section: machine, training, runtimes, extras.

    Example:
        $ planish doctor --json
    """

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
