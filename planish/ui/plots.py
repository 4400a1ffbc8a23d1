"""Plots of the page: speed-up against drop, for one run or several."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from planish.ui.runs import Dot

_COLOURS = 6  # classes of CSS: run-0 to run-5
_MARGIN = 46
_LARGEST_DROP = 8.0  # in points or units of the best candidates; worse ones are drawn at the border


def frontier(runs: Sequence[tuple[str, Sequence[Dot]]], unit: str, width: int = 640, height: int = 340) -> Markup:
    """Return a scatter plot as SVG: speed-up to the right, drop on validation downwards.

    Args:
        runs: name and candidates of each run; those of one run have one colour.
        unit: unit of the drops.
        width: in pixels.
        height: in pixels.
    """
    points = [(i, name, point) for i, (name, found) in enumerate(runs) for point in found if point.drop is not None]
    if not points:
        return Markup("")
    right = max(2.0, *(point.speed_up for *_, point in points)) * 1.05
    drops = sorted(point.drop or 0.0 for *_, point in points)
    low, high = min(0.0, *drops), max(1.0, min(drops[-1], _LARGEST_DROP * max(1.0, drops[len(drops) // 4])))
    span = (high - low) * 1.08 or 1.0

    def x(speed_up: float) -> float:
        return _MARGIN + (width - _MARGIN - 12) * speed_up / right

    def y(drop: float) -> float:
        return 12 + (height - _MARGIN - 12) * (min(drop, high) - low) / span

    parts = [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="8" y2="{height - _MARGIN + 6}"/>'
        f'<text class="axis middle" x="{x(tick):.1f}" y="{height - 22}">{tick:g}x</text>'
        for tick in _ticks(0, right)
    ]
    parts += [
        f'<line class="grid{" zero" if tick == 0 else ""}" x1="{_MARGIN}" x2="{width - 8}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="axis end" x="{_MARGIN - 6}" y="{y(tick) + 4:.1f}">{tick:g}</text>'
        for tick in _ticks(low, high)
    ]
    for number, name, point in points:
        kind = " chosen" if point.chosen else " original" if point.original else ""
        tip = f"{name + ': ' if len(runs) > 1 else ''}{point.name}: {point.speed_up:.2f}x, drop {point.drop:.2f} {unit}; {point.state}"
        parts.append(
            f'<circle class="dot run-{number % _COLOURS}{kind}" cx="{x(point.speed_up):.1f}" cy="{y(point.drop or 0.0):.1f}" '
            f'r="{7 if point.chosen else 5}"><title>{escape(tip)}</title></circle>'
        )
    label = f"drop on validation, {unit}" if unit else "drop on validation"
    parts.append(f'<text class="axis" x="{_MARGIN}" y="{height - 4}">{escape(label)}, downwards, against speed-up, to the right</text>')
    return Markup(
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="Speed-up and drop of {len(points)} candidates">'
        + "".join(parts)
        + "</svg>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from ``low`` to ``high``."""
    step = next(size for size in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if (high - low) / size <= 6)
    first = int(low // step)
    return [round(i * step, 6) for i in range(first, int(high / step) + 1) if i * step >= low]
