"""Files from strangers reach only the readers that are named: every ``Image.open`` of the package says which."""

from __future__ import annotations

import ast
from pathlib import Path

import planish
from planish.export.bundle.readme import _LINES


def test_every_image_is_opened_with_named_formats() -> None:
    root, opened = Path(planish.__file__).parent, 0
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                opened += 1
                assert "formats" in [keyword.arg for keyword in node.keywords], f"{file}:{node.lineno}"
    assert opened >= 7
    assert _LINES.template.count("Image.open(") == _LINES.template.count("formats=") == 1
