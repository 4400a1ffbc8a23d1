"""Colours and markers that distinguish the arms of a comparison."""

from __future__ import annotations

from markupsafe import Markup

from planish.report.plots.svg import el, shape

_COLOURS = 8  # classes s0 to s7 of the page's style


def arm_style(index: int) -> str:
    """Return the CSS classes of an arm, by its index: eight colours, then the same colours with hollow markers and dashed lines."""
    return f"arm s{index % _COLOURS}" + (" hollow" if index // _COLOURS % 2 else "")


def mark(index: int, x: float, y: float) -> Markup:
    """Draw an arm's marker. The first eight arms, and the next eight, have different shapes, so that they can be distinguished without
    colours; arms of the same colour have different shapes.
    """
    return shape(index + 3 * (index // _COLOURS), x, y, 5.5, cls=f"{arm_style(index)} dot")


def key(index: int) -> Markup:
    """Draw an arm's legend key: its line and marker."""
    line = el("line", x1=1, x2=35, y1=9, y2=9, cls=arm_style(index))
    middle = "xMidYMid slice"  # crops the line if there is only room for the marker
    return el("svg", line, mark(index, 18.0, 9.0), viewBox="0 0 36 18", preserveAspectRatio=middle, aria_hidden="true", cls="plot key")
