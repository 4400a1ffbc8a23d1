"""Runs the command line within this process, as a shell would."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from unittest import mock

from planish.cli import main


@dataclass(frozen=True)
class Ran:
    """Exit code and what was printed; ``output`` is both streams as a terminal shows them."""

    exit_code: int
    stdout: str
    stderr: str
    output: str


class _Both(io.StringIO):
    def __init__(self, other: io.StringIO) -> None:
        super().__init__()
        self._other = other

    def write(self, text: str) -> int:
        self._other.write(text)
        return super().write(text)


def invoke(arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Ran:
    """Run ``planish`` with these arguments. Exceptions that would end in a traceback come through."""
    output = io.StringIO()
    stdout, stderr = _Both(output), _Both(output)
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        mock.patch.dict(os.environ, env) if env else contextlib.nullcontext(),  # trust in files stays otherwise
        mock.patch.object(sys, "argv", ["planish", *arguments]),
    ):
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code
    return Ran(code if isinstance(code, int) else 0 if code is None else 1, stdout.getvalue(), stderr.getvalue(), output.getvalue())
