"""Collect the messages of all errors that Planish raises, by reading its source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from docstrings import in_a_line
from markdown_text import escaped, table

from planish import errors

PACKAGE = Path(errors.__file__).parent
GAP = "…"  # what differs from case to case
_KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.PlanishError)}


def errors_page() -> Iterator[str]:
    """Every error class with the messages it is raised with."""
    yield "# Errors\n"
    yield "A mistake in data, options or files ends with a message of one line and exit code 2: what was received, the rule, and what to"
    yield "do. In Python it is an exception of one of these classes, all of which are a `PlanishError` from `planish.errors`."
    yield f"`{GAP}` stands for what differs from case to case.\n"
    found = messages()
    for name, kind in _KINDS.items():
        if name in found:
            yield f"## {name}\n\n{in_a_line((kind.__doc__ or '').partition('Args:')[0])}\n"
            yield from table(("message", "what to do"), sorted(found[name]))


def messages() -> dict[str, set[tuple[str, str]]]:
    """Return the messages by class: what was received with the rule, and what to do."""
    found = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _KINDS and node.args:
                received, rule, fix = (*map(template, node.args[:3]), "", "", "")[:3]
                if received.replace(GAP, "").strip(" :.'"):
                    message = str(errors.PlanishError(received, rule))
                    found[node.func.id].add((escaped(in_a_line(message)), escaped(in_a_line(fix))))
    return dict(found)


def template(node: ast.expr) -> str:
    """Return the text of an expression, with ``…`` for what is only known when it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    if isinstance(node, ast.FormattedValue) and node.conversion == ord("r"):
        return f"'{GAP}'"
    return GAP
