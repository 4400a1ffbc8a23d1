"""How the arms of a comparison look: colours and forms that can be told apart."""

from __future__ import annotations

from markupsafe import Markup

from planish.report.plots.svg import el, shape

_COLOURS = 8  # classes s0 to s7 of the page's style


def arm_style(index: int) -> str:
    """CSS classes of the arm of that number: the eight colours, then the same with hollow marks and dashed lines."""
    return f"arm s{index % _COLOURS}" + (" hollow" if index // _COLOURS % 2 else "")


def mark(index: int, x: float, y: float) -> Markup:
    """A form for each of eight arms, so that those of one filling can be told apart without colours; the next eight have others for the
    same colours.
    """
    return shape(index + 3 * (index // _COLOURS), x, y, 5.5, cls=f"{arm_style(index)} dot")


def key(index: int) -> Markup:
    """An arm's line and mark, to stand before its name."""
    line = el("line", x1=1, x2=35, y1=9, y2=9, cls=arm_style(index))
    middle = "xMidYMid slice"  # where there is room for the mark only
    return el("svg", line, mark(index, 18.0, 9.0), viewBox="0 0 36 18", preserveAspectRatio=middle, aria_hidden="true", cls="plot key")
