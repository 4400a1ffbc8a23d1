"""Suppression of the messages of exporters, and explanations of their errors for users."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from planish.errors import first_line


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress logs, warnings and prints of an exporter, which are for its own developers (``torch.export`` prints the whole graph before
    it fails). Its errors are still raised, and ``--debug`` shows their traceback.
    """
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def explain_export(error: BaseException) -> tuple[str, str, str]:
    """Received, rule and fix for an exporter's exception, naming the operation that ONNX lacks or the line of the network that failed."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    text = "\n".join(str(e) for e in chain)
    if operation := re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text):
        return (
            f"the network uses {operation[1]}, which ONNX has no operation for",
            "every operation of an exported network needs one",
            "replace it by others",
        )
    if "Constraints violated" in text:
        return (
            "the network cannot be exported: its forward uses the number of images as a plain number",
            "the file takes any number of images",
            "write x.shape[0] or x.size(0) instead of len(x), and -1 in view and reshape instead of int(...)",
        )
    lines = [frame for e in chain for frame in traceback.extract_tb(e.__traceback__) if _is_users(frame.filename)]
    lines_named = re.findall(r'File "([^"]+)", line (\d+)', text)
    where = [f"{f.filename}:{f.lineno}" for f in lines] or [f"{file}:{line}" for file, line in lines_named if _is_users(file)]
    at = f" at {where[-1]}" if where else ""
    return (
        f"the network cannot be exported{at}: {first_line(chain[-1])}",
        "its forward must not depend on the values in a tensor, nor on the size of the batch",
        "write that line with tensor operations, torch.where instead of if",
    )


def _is_users(filename: str) -> bool:
    path = Path(filename)
    return not ({"torch", "onnxscript", "onnx"} & set(path.parts) or filename.startswith("<") or Path(__file__).parent in path.parents)
