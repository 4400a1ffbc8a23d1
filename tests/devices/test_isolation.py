"""Calls in a process of their own: results, errors, crashes and limits."""

from __future__ import annotations

import pytest

from planish.devices.isolation import ProcessLimits, call_isolated
from planish.errors import ExportError, RuntimeMissingError

LIMITS = ProcessLimits(60, 4 << 30)


def test_what_a_function_returns() -> None:
    assert call_isolated("json:loads", {"s": '{"a": [1, 2.5, "é"]}'}, "x", LIMITS) == {"a": [1, 2.5, "é"]}


def test_what_a_function_prints_is_not_its_result() -> None:
    assert call_isolated("timeit:timeit", {"stmt": "print('x')", "number": 3}, "x", LIMITS) > 0


def test_errors_keep_their_kind() -> None:
    with pytest.raises(RuntimeMissingError, match=r"no runtime is called 'openvin'.* did you mean 'openvino'"):
        call_isolated("planish.export.runtimes.registry:find", {"name": "openvin"}, "x", LIMITS)
    with pytest.raises(ExportError, match="x cannot be used: ZeroDivisionError: division by zero"):
        call_isolated("timeit:timeit", {"stmt": "1 / 0"}, "x", LIMITS)


@pytest.mark.parametrize(
    ("statement", "seen"),
    [
        ("import os; os.abort()", "m.onnx crashes the library that loads it .SIGABRT."),
        ("import ctypes; ctypes.string_at(0)", "m.onnx crashes the library that loads it .SIGSEGV."),
        ("import os; os._exit(3)", "m.onnx crashes the library that loads it .exit code 3."),
        ("bytearray(8 << 30)", "MemoryError"),
    ],
)
def test_what_would_end_this_process(statement: str, seen: str) -> None:
    with pytest.raises(ExportError, match=seen):
        call_isolated("timeit:timeit", {"stmt": statement, "number": 1}, "m.onnx", LIMITS)


def test_what_would_not_end() -> None:
    with pytest.raises(ExportError, match=r"m\.onnx does not load within"):
        call_isolated("timeit:timeit", {"stmt": "pass", "number": 1 << 60}, "m.onnx", ProcessLimits(1, 4 << 30))
