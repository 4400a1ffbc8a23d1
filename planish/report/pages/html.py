"""Pages: templates that lie beside this file, filled in, and written whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from planish.report import formatting as words

HERE = Path(__file__).parent


def filled(template: str, **values: Any) -> str:
    """The page that a template makes of ``values``; ``words`` and the style are among them."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((HERE / "page.css").read_text())
    return environment.get_template(template).render(css=style, words=words, **values)


def write_page(path: Path, page: str) -> Path:
    """Write it whole, then rename it into place; returns ``path``."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    return partial.replace(path)
