"""Render the page templates in this folder, and write pages atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from planish.report import formatting as words

HERE = Path(__file__).parent


def filled(template: str, **values: Any) -> str:
    """Render a template with ``values``, the module ``words`` and the style sheet ``css``."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((HERE / "page.css").read_text())
    return environment.get_template(template).render(css=style, words=words, **values)


def write_page(path: Path, page: str) -> Path:
    """Write a page atomically, with a temporary file that is renamed; returns ``path``."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    return partial.replace(path)
