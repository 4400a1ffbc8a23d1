"""A model that runs on a device, for its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from planish.devices.latency_process import WorkerProcess
from planish.devices.remote.reconnection import reconnecting
from planish.errors import PlanishError

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


class RemotePredictor:
    """A model on a device, loaded with the first images. Always call ``close``.

    Args:
        start: starts a process there that loads the model and runs it on these images.
    """

    def __init__(self, start: Callable[[Pixels], WorkerProcess]) -> None:
        self._start = start
        self._worker: WorkerProcess | None = None

    def __call__(self, images: Pixels) -> Outputs:
        """Run the model on uint8 pixels ``(N, H, W, C)``, one image at a time, and return the outputs by name."""
        return reconnecting(lambda: self._run(images), "this run")

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _run(self, images: Pixels) -> Outputs:
        try:
            if self._worker is None:
                self._worker = self._start(images[:1])
                self._worker.wait()
            header, arrays = self._worker.ask("outputs", [images])
        except PlanishError:  # the process is gone, or has no model
            self.close()
            raise
        return dict(zip(header["names"], arrays, strict=True))
