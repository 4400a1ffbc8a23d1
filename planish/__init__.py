"""Planish makes convolutional networks accurate, small and fast, and proves it by measurement.

Every command is a function in ``planish.commands``, and here too where no room has its name:
``planish.optimize("photos/", model="mobilenet_v2", weights="imagenet")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planish.commands import bench, compare, compress, demo, doctor, evaluate, explain, optimize, train, verify

__all__ = ["bench", "compare", "compress", "demo", "doctor", "evaluate", "explain", "optimize", "train", "verify"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and most programs that import planish do not need it at once
    if name not in __all__:
        raise AttributeError(f"module 'planish' has no attribute {name!r}")
    from planish import commands

    return getattr(commands, name)
