"""Find the place in the user's own code that an exception came from."""

from __future__ import annotations

import linecache
import sysconfig
import traceback
from pathlib import Path

_NOT_THE_USERS = tuple(
    str(Path(folder).resolve())
    for folder in {str(Path(__file__).parents[1]), *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))}
)


def place_in_user_code(error: BaseException | None) -> str | None:
    """Return file, line and function of the innermost frame in the user's code, of an exception or its causes; None if there is none."""
    while error is not None:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if not frame.filename.startswith("<") and not str(Path(frame.filename).resolve()).startswith(_NOT_THE_USERS):
                code = linecache.getline(frame.filename, frame.lineno or 0).strip()
                return f"{frame.filename}, line {frame.lineno}, in {frame.name}: `{code}`"
        error = error.__cause__
    return None
