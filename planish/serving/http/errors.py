"""Reasons why a request is not answered as requested. ``planish.errors`` has the errors caused by invalid input."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class RefusedError(Exception):
    """A request that is answered with this status and these headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers)


class BusyError(Exception):
    """The service is at capacity; ``retry_after_s`` estimates when it will accept requests again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many requests are waiting; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class InferenceError(Exception):
    """The model failed, or its outputs are not finite. It was counted and logged where it happened."""
