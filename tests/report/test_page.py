"""The page's structure, and that what it says is what the files of the run say."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_run import CHOSEN, record, write_run

from planish.evaluation.latency import smallest_difference
from planish.evaluation.statistics.intervals import paired_difference, paired_ratio
from planish.report import formatting as words
from planish.report import write_report
from planish.report.recomputation.run_folder import read_run
from planish.search.result import Result
from planish.search.verdict import shortfall, verdict

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects what the tests ask about; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="session")
def page(finished: Path) -> Page:
    return Page((finished / "report.html").read_text())


def test_nothing_is_loaded_from_elsewhere(finished: Path, page: Page) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    text = (finished / "report.html").read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert len(text) < 600_000


def test_ids_are_unique_and_referenced(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "data-copy"):
            assert name not in attributes or attributes[name] in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_headings_are_in_order(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels


def test_it_can_be_read_without_eyes(finished: Path, page: Page) -> None:
    tables = len(page.all("table"))
    assert tables >= 8
    assert len(page.all("caption")) == tables
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    points = [a for a in page.all("g") if "data-tip" in a]
    assert points
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in points)
    html = page.all("html")[0]
    assert html["lang"] == "en"
    assert "prefers-color-scheme: dark" in (finished / "report.html").read_text()


def test_numbers_are_those_of_the_stored_predictions(finished: Path, page: Page) -> None:
    stored = np.load(finished / "predictions.npz")
    right = [np.mean(np.argmax(stored[name], 1) == stored["targets"]) * 100 for name in ("baseline", "chosen")]
    assert f"{right[0]:.2f} % → {right[1]:.2f} % on 2,000 images" in page.text
    differ = np.argmax(stored["baseline"], 1) != np.argmax(stored["chosen"], 1)
    assert f"{differ.sum()} of 2,000 test images" in page.text
    for name, wanted in (("Correct only after", stored["chosen"]), ("Correct only before", stored["baseline"])):
        assert f"{name} {(differ & (np.argmax(wanted, 1) == stored['targets'])).sum()} " in page.text
    assert "Do not trust" not in page.text
    assert "leaks none" in page.text
    assert "Accuracy on test no difference" in page.text
    for title in ("All candidates", "Confusion matrix", "How the original was trained", "What ships"):
        assert title in page.text


def test_the_chosen_models_surest_mistake_comes_first_and_what_training_saw_is_shown(finished: Path, page: Page) -> None:
    stored = np.load(finished / "predictions.npz")
    names = [c.name for c in Result.load(finished / "result.json").per_class]
    logits, targets = stored["chosen"].astype(float), stored["targets"]
    sure = np.exp(logits.max(1) - np.logaddexp.reduce(logits, axis=1))
    wrong = np.flatnonzero(logits.argmax(1) != targets)
    surest = wrong[sure[wrong].argmax()]
    shown = page.text[page.text.index("The most confident errors") :]
    assert re.search(rf"{names[targets[surest]]} {names[logits[surest].argmax()]} {100 * sure[surest]:.1f} %", shown)
    assert page.all("img")[-1]["alt"].startswith("Training images")


def test_confusion_matrices_sum_to_the_images(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    tables = re.findall(r'<table class="confusion">.*?</table>', text, re.S)
    assert [sum(int(c or 0) for c in re.findall(r'<td class="(?:hit|miss)[^>]*>(\d*)</td>', t)) for t in tables] == [2000, 2000]


def test_every_candidate_is_in_the_table_once(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    table = text[text.index('<table id="candidate-table"') :].split("</table>")[0]
    assert table.count("<tr ") == 2 + 1 + 8 + 7
    assert table.count("is-chosen") == 1


def test_the_frontier_marks_the_chosen_one_and_the_limits(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    plot = re.findall(r'<svg [^>]*class="plot only-wide".*?</svg>', text, re.S)[0]
    assert plot.count('class="point chosen"') == 1
    assert plot.count('class="point original"') == 2
    assert plot.count('<g class="point') == 11
    assert "limit 1 ms" in plot
    assert "limit −1 point" in plot


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"&"
    write_run(tmp_path / evil.replace("/", "_"), [evil, "</style><b>", "c"], n=300)
    text = write_report(tmp_path / evil.replace("/", "_")).read_text()
    page = Page(text)
    assert text.count("<script") == 1  # the page's own
    assert "alert('x')" not in text
    assert evil in page.text
    assert not [a for a in page.all("b") if a]


def test_many_classes_and_photos_stay_small(tmp_path: Path) -> None:
    write_run(tmp_path, [f"class {i}" for i in range(200)], n=1200, goal_met=False, side=160)
    text = write_report(tmp_path).read_text()
    assert len(text) < 600_000
    page = Page(text)
    assert "The other 180 classes" in page.text
    assert 'class="confusion"' not in text
    assert "data:image/jpeg" in text
    assert "Goal not met" in page.text
    assert "ms over the limit" in page.text


def test_optional_files_are_left_out(run: Path) -> None:
    for name in ("disagreements.npz", "mistakes.npz", "history.json", "augmented.png", "bundle/bundle.json"):
        (run / name).unlink()
    page = Page(write_report(run).read_text())
    for title in ("Images on which both differ", "The most confident errors", "How the original was trained", "What ships"):
        assert title not in page.text


def test_original_shipped_unchanged(run: Path) -> None:
    result, last = Result.load(run / "result.json"), read_run(run).sessions[-1]
    stored = dict(np.load(run / "predictions.npz"))
    np.savez(run / "predictions.npz", **stored | {"chosen": stored["baseline"]})
    (run / "disagreements.npz").unlink()
    (run / "bundle" / "model.bin").write_bytes(b"x" * (1_114_000 - 31_000))
    ratios = {}
    for runtime, baseline in result.baselines.items():
        value, low, high = paired_ratio(last.rounds[baseline.key], last.rounds[result.baseline.key])
        ratios[runtime] = replace(result.latency_ratio, value=value, low=low, high=high)
    value, low, high = (100 * x for x in paired_difference(*[stored["baseline"].argmax(1) == stored["targets"]] * 2))
    drop = replace(result.drop, value=value, low=low, high=high)
    replace(
        result,
        verdict=verdict(ratios["openvino"], result.noise_floor, 1.0, drop, "accuracy"),
        shortfall=shortfall(result.baseline, [], result.goal, drop),
        choice="",
        chosen=result.baseline,
        candidates=[],
        pareto_frontier=[],
        latency_ratios=ratios,
        latency_ratio=ratios["openvino"],
        size_ratio=replace(result.size_ratio, value=1.0),
        drop=drop,
        per_class=[replace(c, chosen=c.baseline) for c in result.per_class],
        goal_met=False,
    ).save(run / "result.json")
    record(run)
    page = Page(write_report(run).read_text())
    assert "Speed no difference" in page.text
    assert "of the same size" in page.text
    assert "Do not trust" not in page.text
    assert CHOSEN not in page.text


def test_a_larger_file_is_called_larger(tmp_path: Path) -> None:
    result = write_run(tmp_path / "run", images=False)
    ratio = replace(result.size_ratio, value=0.8)
    said = verdict(result.latency_ratio, result.noise_floor, 0.8, result.drop, "accuracy")
    assert "1.25x larger" in said
    assert "smaller" not in said
    replace(result, size_ratio=ratio, verdict=said).save(tmp_path / "run" / "result.json")
    page = Page(write_report(tmp_path / "run").read_text())
    assert "1.25× larger" in page.text
    assert "of the size" not in page.text


def test_the_threshold_that_is_named_is_the_one_that_is_used(run: Path) -> None:
    result = Result.load(run / "result.json")
    floor = replace(result.noise_floor, value=1.0, high=12.0)  # two thirds of the far end are more than both 1 and 3 %
    replace(result, noise_floor=floor).save(run / "result.json")
    page = Page(write_report(run).read_text())
    assert smallest_difference(floor) == pytest.approx(8)
    assert "Less than 8.0 %" in page.text


def test_a_latency_whose_interval_goes_beyond_the_limit_is_not_shown_to_meet_it(run: Path) -> None:
    result = Result.load(run / "result.json")
    latency = result.chosen.measurements["latency_ms"]
    limit = round((latency.value + latency.high) / 2, 6)
    result = replace(result, goal=replace(result.goal, max_latency_ms=limit))
    measured = [c for c in result.candidates if c.key == result.chosen.key]
    missed = shortfall(result.chosen, measured, result.goal, result.drop)
    assert "not shown to stay within the limit" in missed
    replace(result, goal_met=False, shortfall=missed).save(run / "result.json")
    record(run)
    page = Page(write_report(run).read_text())
    assert "the interval goes beyond the limit, so that is not shown, not met" in page.text
    assert words.interval(latency) in page.text
    assert "Goal not met" in page.text
