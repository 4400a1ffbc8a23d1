"""The little SVG that the plots need: elements with escaping, scales, ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


def el(tag: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """One element; ``_`` in attribute names becomes ``-``, ``cls`` is ``class``, None is left out, text is escaped."""
    parts = []
    for name, value in attributes.items():
        if value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f' {"class" if name == "cls" else name.replace("_", "-")}="{escape(text)}"')
    inside = "".join(str(escape(child)) for child in children)
    return Markup(f"<{tag}{''.join(parts)}>{inside}</{tag}>")


@dataclass(frozen=True)
class Scale:
    """From data to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        f: Callable[[float], float] = math.log if self.log else float
        return self.start + (f(value) - f(self.low)) / (f(self.high) - f(self.low)) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between ``low`` and ``high``, at most about ``most``."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """1, 2, 5 times powers of ten; where the range is too short for two of them, linear ticks."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1,)):
        found = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
        if len(found) <= most:
            break
    return found if len(found) > 1 else ticks(low, high, 4)


def plain(value: float) -> str:
    """A tick's label without needless zeros."""
    return f"{value:,.10g}".replace("-", "−")


def shape(kind: int, x: float, y: float, r: float, **attributes: str | float | None) -> Markup:
    """Circle, square, diamond or triangle of equal area, so that size and form can be read apart."""
    if kind % 4 == 0:
        return el("circle", cx=x, cy=y, r=r, **attributes)
    if kind % 4 == 1:
        side = r * math.sqrt(math.pi)
        return el("rect", x=x - side / 2, y=y - side / 2, width=side, height=side, rx=1.5, **attributes)
    corners: Sequence[tuple[float, float]]
    if kind % 4 == 2:
        d = r * math.sqrt(math.pi / 2)
        corners = ((x, y - d), (x + d, y), (x, y + d), (x - d, y))
    else:
        d = r * 1.55
        corners = ((x, y - d), (x + d * 0.87, y + d / 2), (x - d * 0.87, y + d / 2))
    return el("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), **attributes)


def drawing(title: str, width: float, height: float, *children: str | Markup, cls: str = "", role: str = "img") -> Markup:
    """The SVG element, scaled to the width of the page; ``role`` ``group`` where parts of it can be focused."""
    return el("svg", *children, viewBox=f"0 0 {width:g} {height:g}", role=role, aria_label=title, cls=f"plot {cls}".strip())
