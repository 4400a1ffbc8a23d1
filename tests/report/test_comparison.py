"""A comparison of many strategies: all can be told apart on the page, and every number is readable on a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_comparison import make_comparison
from rich.console import Console

from planish.experiments.compression import Comparison
from planish.measurement import Measurement
from planish.report.pages.comparison import comparison_table, write_comparison


def pages_marks(folder: Path, strategies: int) -> tuple[str, dict[str, tuple[str, str]]]:
    """The page, and of each strategy in the legend the class and the outline of its mark."""
    make_comparison(strategies).save(folder / "comparison.json")
    page = write_comparison(folder).read_text()
    legend = page[page.index('class="legend"') :].split("</ul>")[0]
    return page, {name: (cls, outline) for outline, cls, name in re.findall(r"</line><(.+?) class=\"(.+?)\">.*?</svg>(.+?)</li>", legend)}


def test_sixteen_strategies_can_be_told_apart_without_colours(tmp_path: Path) -> None:
    _, marks = pages_marks(tmp_path, 17)  # the last is refused, and has no mark in the plots
    assert len(marks) == 16
    assert len({(re.sub(r" s\d", "", cls), outline) for cls, outline in marks.values()}) == 16


def test_plots_and_table_show_the_marks_of_the_legend(tmp_path: Path) -> None:
    page, marks = pages_marks(tmp_path, 14)
    rows = [row for row in make_comparison(14).rows if not row.reason]
    for name, (cls, outline) in marks.items():
        levels = sum(row.strategy == name for row in rows)
        assert page.count(f'{outline} class="{cls}"') == 1 + levels  # legend, and rows of the table
        mark = f'<{outline.split()[0]} [^>]*class="{cls}"></[a-z]+>'
        assert len(re.findall(f"{mark}<title>{name}[,:]", page)) == 4 * levels  # two plots, wide and narrow


def printed(comparison: Comparison, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(comparison_table(comparison.rows, comparison.noise_floor, width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_the_terminal_cuts_no_number(width: int) -> None:
    found = make_comparison(14)
    text = printed(found, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in found.rows:
        for name in row.measurements.keys() & {"latency_ratio", "size_ratio"}:
            m = row.measurements[name]
            assert all(f"{value:.2f}×" in text for value in (m.value, m.low, m.high) if value is not None)


def test_a_row_of_the_terminal_is_two_lines_at_80_columns() -> None:
    found = make_comparison(14, refused=False)
    caption = 2
    assert len(printed(found, 80).splitlines()) == 2 * len(found.rows) + 4 + caption  # a head of two lines between empty ones


def test_a_larger_file_is_called_larger_and_seeds_are_said_not_to_be_counted(tmp_path: Path) -> None:
    found = make_comparison(3, refused=False)
    row = found.rows[0]
    larger = replace(row, measurements=row.measurements | {"size_ratio": Measurement("size_ratio", 0.8, "ratio", 1, True)})
    found = replace(found, rows=[larger, *found.rows[1:]])
    assert "1.25× larger" in printed(found, 100)
    assert "0.80×" not in printed(found, 100)
    assert "every arm was trained once" in " ".join(printed(found, 100).split())
    found.save(tmp_path / "comparison.json")
    page = write_comparison(tmp_path).read_text()
    assert "1.25× larger" in page
    assert "Every arm was trained once, with one seed" in page
