"""Setting up a device that models are timed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planish.errors import DeviceError

_NEEDED = ("numpy", "onnxruntime")


def device_setup(device: str, *, wheels: str | Path | None = None) -> dict[str, Any]:
    """Make a virtual environment with NumPy and ONNX Runtime on a device, for `--device`.

    It replaces an earlier one, and is used from then on wherever `--device` names no interpreter. Nothing else on the device is changed.

    Args:
        device: Device: ssh://user@host:port. The environment is made with its python3, or with the interpreter named: ssh://host/path/of/python.
        wheels: Folder of wheels, for a device without internet: NumPy, ONNX Runtime, OpenVINO or LiteRT, and what these require, for the
            device's processor and version of Python. By default NumPy and ONNX Runtime are installed from PyPI.

    Returns:
        What the device is and can run, as `planish doctor` prints it.

    Raises:
        DeviceError: the device cannot be reached, makes no virtual environments, or a package cannot be installed.

    Example:
        $ planish device-setup ssh://pi@raspberry.local
        $ planish device-setup ssh://pi@raspberry.local --wheels wheels/
    """
    from planish.commands.machines.doctor import described
    from planish.devices.remote.on_device import PACKAGES
    from planish.devices.remote.ssh import SshDevice

    files = [] if wheels is None else sorted(Path(wheels).glob("*.whl"))
    packages = list(_NEEDED)
    if wheels is not None:
        names = {file.name.partition("-")[0].lower().replace("_", "-") for file in files}
        packages = [package for package in PACKAGES.values() if package in names]
        if "numpy" not in packages or len(packages) < 2:
            raise DeviceError(
                f"{wheels} holds wheels of {', '.join(sorted(names)) or 'nothing'}",
                "NumPy and a runtime are needed, with all that they require",
                f"run: pip download --only-binary :all: --dest {wheels} {' '.join(_NEEDED)}, "
                "with --platform and --python-version of the device",
            )
    with SshDevice(device) as there:
        there.setup(files, packages)
        return described(there)
