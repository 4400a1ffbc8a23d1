"""SVG helpers for the plots: elements with escaping, scales, ticks and markers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup, escape


def el(tag: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """Return an element; ``_`` in attribute names becomes ``-``, ``cls`` becomes ``class``, None is omitted, text is escaped."""
    parts = []
    for name, value in attributes.items():
        if value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f' {"class" if name == "cls" else name.replace("_", "-")}="{escape(text)}"')
    inside = "".join(str(escape(child)) for child in children)
    return Markup(f"<{tag}{''.join(parts)}>{inside}</{tag}>")


@dataclass(frozen=True)
class Scale:
    """A map from data (``low`` to ``high``) to pixels (``start`` to ``end``), linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        f: Callable[[float], float] = math.log if self.log else float
        return self.start + (f(value) - f(self.low)) / (f(self.high) - f(self.low)) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between ``low`` and ``high``, about ``most`` at most."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Return ticks for a log axis: multiples of powers of ten such as 1, 2, 5; linear ticks if fewer than two of them are in range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1,)):
        found = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
        if len(found) <= most:
            break
    return found if len(found) > 1 else ticks(low, high, 4)


def plain(value: float) -> str:
    """Return a tick's label, without trailing zeros."""
    return f"{value:,.10g}".replace("-", "−")


def _around(count: int, *radii: float) -> tuple[tuple[float, float], ...]:
    """Return corners at equal angles around the origin, the first one straight above it, with the radii in turn."""
    angles = (2 * math.pi * i / count for i in range(count))
    return tuple((radii[i % len(radii)] * math.sin(a), -radii[i % len(radii)] * math.cos(a)) for i, a in enumerate(angles))


_W, _L = 0.42, 1.28  # half the width, and the length, of the arms of a plus
_SIDE = math.sqrt(math.pi)  # side of a square with the area of a circle of radius 1
_DIAMOND, _TRIANGLE, _STAR = _around(4, math.sqrt(math.pi / 2)), _around(3, 1.55), _around(10, 1.65, 0.7)
_PLUS = ((-_W, -_L), (_W, -_L), (_W, -_W), (_L, -_W), (_L, _W), (_W, _W), (_W, _L), (-_W, _L), (-_W, _W), (-_L, _W), (-_L, -_W), (-_W, -_W))
_CROSS = tuple(((a - b) / math.sqrt(2), (a + b) / math.sqrt(2)) for a, b in _PLUS)
_POLYGONS = (_DIAMOND, _TRIANGLE, tuple((a, -b) for a, b in _TRIANGLE), _PLUS, _CROSS, _STAR)


def shape(kind: int, x: float, y: float, r: float, **attributes: str | float | None) -> Markup:
    """Draw a marker of radius ``r``: circle, square, diamond, triangle, inverted triangle, plus, cross or star, all of similar area."""
    kind %= 2 + len(_POLYGONS)
    if kind == 0:
        return el("circle", cx=x, cy=y, r=r, **attributes)
    if kind == 1:
        side = r * _SIDE
        return el("rect", x=x - side / 2, y=y - side / 2, width=side, height=side, rx=1.5, **attributes)
    return el("polygon", points=" ".join(f"{x + r * a:.1f},{y + r * b:.1f}" for a, b in _POLYGONS[kind - 2]), **attributes)


def ratio_frame(x: Scale, y: Scale, narrow: bool) -> list[Markup]:
    """Draw the grid and ticks of a plot of differences (y) against ratios (x, log scale)."""
    parts = []
    for value in ticks(y.low, y.high, 6):
        parts.append(el("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), cls="grid zero" if value == 0 else "grid"))
        parts.append(el("text", plain(value), x=x.start - 8, y=y(value) + 4, cls="tick end"))
    for value in log_ticks(x.low, x.high, 5 if narrow else 9):
        parts.append(el("line", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 5, cls="grid"))
        parts.append(el("text", f"{plain(value)}×", x=x(value), y=y.start + 20, cls="tick middle"))
    return parts


def drawing(title: str, width: float, height: float, *children: str | Markup, cls: str = "", role: str = "img") -> Markup:
    """Return the SVG element, scaled to the page's width; use the role ``group`` if parts of it can be focused."""
    return el("svg", *children, viewBox=f"0 0 {width:g} {height:g}", role=role, aria_label=title, cls=f"plot {cls}".strip())
