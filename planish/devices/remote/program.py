"""The program that is sent to a device: one archive that Python runs, with nothing in it but what times a model."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from importlib.resources import files

_MODULES = ("devices/latency_worker.py", "devices/remote/on_device.py")
_MAIN = "from planish.devices.remote.on_device import main\nmain()\n"
_WRITTEN = (2020, 1, 1, 0, 0, 0)  # equal content gives an equal archive


@cache
def program() -> bytes:
    """Return the archive, run as ``python3 program.pyz worker``."""
    package = files("planish")
    content = {f"planish/{name}": (package / name).read_text() for name in _MODULES}
    content |= dict.fromkeys(("planish/__init__.py", "planish/devices/__init__.py", "planish/devices/remote/__init__.py"), "")
    content["__main__.py"] = _MAIN
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        for name in sorted(content):
            stream.writestr(zipfile.ZipInfo(name, _WRITTEN), content[name])
    return archive.getvalue()
