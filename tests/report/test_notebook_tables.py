"""Results show themselves as tables in a notebook: the numbers of their measurements, and nothing that a browser would run."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from fake_comparison import make_comparison
from fake_run import CHOSEN

from planish.experiments.experiment import ArmResult, Experiment
from planish.measurement import Measurement, Measurements
from planish.printable import html_table
from planish.search.result import Result


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.caption, self._inside = "", ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert tag in {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert not attrs
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._inside == "caption":
            self.caption += data
        else:
            self.rows[-1][-1] += data


def read(page: str) -> _Cells:
    cells = _Cells()
    cells.feed(page)
    return cells


def test_a_run_shows_verdict_originals_and_frontier(finished: Path) -> None:
    result = Result.load(finished / "result.json")
    shown = read(result._repr_html_())
    assert shown.caption == result.verdict
    stored = json.loads((finished / "result.json").read_text())
    keys = [c["key"] for c in (*stored["baselines"].values(), stored["chosen"], *stored["pareto_frontier"])]
    assert len(shown.rows) == 1 + len(set(keys))
    (row,) = (row for row in shown.rows if row[-1] == "chosen")
    chosen = next(c for c in stored["pareto_frontier"] if c["key"] == CHOSEN)["measurements"]
    assert row[2].startswith(f"{chosen['drop_validation']['value']:.2f} [")
    assert row[3].startswith(f"{chosen['latency_ms']['value']:.3f} [")
    assert row[5] == f"{chosen['size_bytes']['value']:,.0f} bytes"


def test_a_comparison_shows_every_arm() -> None:
    comparison = make_comparison(3)
    shown = read(comparison._repr_html_())
    assert [row[0] for row in shown.rows[1:]] == [f"{row.strategy}, {row.level}" for row in comparison.rows]
    for cells, row in zip(shown.rows[1:], comparison.rows, strict=True):
        assert cells[1] == (str(row.measurements["drop"]) if row.measurements else "")
        assert cells[-1] == row.reason


def test_an_experiment_shows_differences_and_verdicts() -> None:
    accuracy = Measurement("accuracy", 90.0, "%", 100, True, 88.0, 92.0)
    better = {"accuracy": replace(accuracy, value=92.0), "difference": Measurement("difference", 2.0, "points", 100, True, 0.5, 3.5)}
    arms = [
        ArmResult("relu", {"activation": "relu"}, measurements={"accuracy": accuracy}, verdict="reference"),
        ArmResult("elu", {"activation": "elu"}, measurements=better, verdict="better"),
        ArmResult("gelu", {"activation": "gelu"}, reason="no time was left"),
    ]
    experiment = Experiment(
        name="e", created="2026-11-25T08:00:00+00:00", command="", machine={}, data="photos", model="resnet20", recipe="", factors={},
        design="one", seeds=3, budget="10m", arms=arms, effects=[],
    )  # fmt: skip
    shown = read(experiment._repr_html_())
    assert shown.caption == "resnet20 on photos, 3 seeds"
    assert shown.rows[1:] == [
        ["relu", "90.00 [88.00, 92.00] %", "", "reference"],
        ["elu", "92.00 [88.00, 92.00] %", "2.00 [0.50, 3.50] points", "better"],
        ["gelu", "", "", "no time was left"],
    ]


def test_measurements_are_a_dictionary_that_shows_itself() -> None:
    found = Measurements({"map_50": Measurement("map_50", 41.5, "%", 1200, True, 40.0, 43.0)})
    assert found == dict(found)
    assert read(found._repr_html_()).rows == [["", "value, 95% interval", "n"], ["mAP50", "41.50 [40.00, 43.00] %", "1,200"]]


def test_names_are_escaped() -> None:
    shown = read(html_table(["<b>"], [["<script>alert(1)</script>"]], "a & <i>b</i>"))
    assert (shown.caption, shown.rows) == ("a & <i>b</i>", [["<b>"], ["<script>alert(1)</script>"]])
