"""Pages made from the templates in ``pages``, and the files that they load."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from planish.report import formatting as words
from planish.report.pages.html import HERE as REPORT_PAGES

_HERE = Path(__file__).parent / "pages"
STATIC = {
    "ui.css": (
        "text/css; charset=utf-8",
        (REPORT_PAGES / "page.css").read_text(encoding="utf-8") + (_HERE / "ui.css").read_text(encoding="utf-8"),
    ),
    "ui.js": ("text/javascript; charset=utf-8", (_HERE / "ui.js").read_text(encoding="utf-8")),
}
"""Media type and text of each file, by its name."""


def page(template: str, **values: Any) -> str:
    """Render a template with ``values`` and the module ``words``."""
    return _environment().get_template(f"{template}.html.jinja").render(words=words, **values)


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
