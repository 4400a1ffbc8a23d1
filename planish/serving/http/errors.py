"""Why a request is not answered as it was asked. ``planish.errors`` has the client's mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class RefusedError(Exception):
    """Answered with this status, and these headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers)


class BusyError(Exception):
    """There is no room; ``retry_after_s`` is when there should be some again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many requests are waiting; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class InferenceError(Exception):
    """The model failed, or its outputs are no numbers. It was counted and logged where it happened."""
