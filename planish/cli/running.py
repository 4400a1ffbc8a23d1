"""The environment of a command: progress on the terminal, errors in one line, and a hint how to resume after Ctrl-C."""

from __future__ import annotations

import errno
import io
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.text import Text

from planish.cli.user_code import place_in_user_code
from planish.errors import PlanishError, first_line

if TYPE_CHECKING:
    from planish.report.terminal import TerminalProgress

USER_MISTAKE, INTERRUPTED = 2, 130
_NOT_WRITABLE = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
# print names and labels literally: [red] is not a style, :cat: is not an emoji
stdout = Console(highlight=False, markup=False, emoji=False)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextmanager
def running(*, debug: bool, resume_hint: str = "") -> Iterator[None]:
    """Run a command in this context: user errors end it with a message instead of a traceback."""
    for stream in (sys.stdout, sys.stderr):  # so that paths that are not valid UTF-8 can be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except PlanishError as error:
        if debug:
            traceback.print_exc()
        place = place_in_user_code(error)
        fail(f"{error} It comes from {place}." if place else str(error))
    except KeyboardInterrupt:
        stderr.print("\nStopped." + (f" {resume_hint}" if resume_hint else ""))
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(1) from None
    except OSError as error:
        if debug or error.errno not in _NOT_WRITABLE:
            raise
        fail(
            f"{error.strerror}: {error.filename or 'a file'} cannot be written. "
            "Free some space or choose another folder; what was finished is kept."
        )
    except Exception as error:
        place = place_in_user_code(error)
        if debug or place is None:
            raise
        doing = next(iter(getattr(error, "__notes__", ())), "while running the network")
        fail(
            f"{place} raised {type(error).__name__} {doing}: {first_line(error)}. "
            "The network must take float images (N, C, H, W) of any N, in training and in eval mode; --debug shows the traceback."
        )


def resume_hint(out: Path | None) -> str:
    """Return the hint for an interrupted command that can be resumed from ``out``, or from a folder that it has printed."""
    return "Nothing finished is lost: give the same command with --resume" + (f" --out {out}" if out else "") + "."


@contextmanager
def progress() -> Iterator[TerminalProgress]:
    """Show progress on standard error while the context is active."""
    from planish.progress import listening
    from planish.report.terminal import TerminalProgress

    with TerminalProgress() as shown, listening(shown):
        yield shown


def fail(message: str) -> NoReturn:
    """Print an error message and exit with code 2."""
    stderr.print(Text.assemble(("error:", "red"), " ", message), soft_wrap=True)
    raise SystemExit(USER_MISTAKE)


def one_of(option: str, value: str, *allowed: str) -> Any:
    """Return the value of an option if it is allowed; otherwise exit with an error message."""
    if value not in allowed:
        fail(f"{option} {value} is not known. It is {', '.join(allowed[:-1])} or {allowed[-1]}.")
    return value


def print_json(value: Any) -> None:
    """Print a value as one JSON document on standard output; dataclasses become objects."""
    from pydantic import TypeAdapter

    print(json.dumps(TypeAdapter(Any).dump_python(value, mode="json"), indent=1))
