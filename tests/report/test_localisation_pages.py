"""Pages of a task without logits: its metric by name, scores behind the numbers, and pictures of what models see."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_comparison import make_comparison
from fake_localisation import NAMES, PREPROCESSING, SPEC, Places, overlap, said, write_localisation_run, write_places_evaluation
from PIL import Image
from rich.console import Console
from test_page import Page

from planish.errors import BundleError
from planish.evaluation.statistics.intervals import bootstrap_mean
from planish.experiments.compression import Row
from planish.experiments.experiment import ArmResult
from planish.measurement import Measurement
from planish.report import formatting as words
from planish.report import write_report
from planish.report.pages import error_table as errors
from planish.report.pages.comparison import write_comparison
from planish.report.pages.evaluation import write_evaluation
from planish.report.pages.experiment import experiment_table, metric_of
from planish.report.recomputation.recompute import recompute
from planish.report.recomputation.run_folder import read_run
from planish.report.terminal import measurements_table
from planish.runs.evaluation import load_evaluation
from planish.runs.pictures import write_pictures
from planish.runs.trainings import Training
from planish.search.result import ErrorResult, Result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    write_localisation_run(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


@pytest.fixture(scope="module")
def overlaps() -> np.ndarray:
    """Of the original and the chosen model with the truth ``(2, N)``."""
    task = Places()
    both = said(task, 0.02, 0), said(task, 0.03, 1)
    return np.array([[overlap(a, b) for a, b in zip(each["boxes"], task.test.targets, strict=True)] for each in both])


def test_the_page_speaks_of_its_own_metric(page: Page, overlaps: np.ndarray) -> None:
    assert "ccuracy" not in page.text
    before, after = 100 * overlaps.mean(axis=1)
    assert f"mAP on test {words.number(after - before, 2, sign=True)} points" in page.text
    assert f"{before:.2f} % → {after:.2f} % on 60 images" in page.text
    assert f"loses {before - after:.2f} points of mAP on test" in page.text
    assert "mAP on validation, %" in page.text
    assert "Do not trust" not in page.text
    for title in ("Images on which both differ", "The most confident errors", "Confusion matrix"):
        assert title not in page.text


def test_numbers_are_recomputed_from_the_scores(folder: Path, overlaps: np.ndarray) -> None:
    stored = np.load(folder / "predictions.npz")
    np.testing.assert_array_equal(np.stack([stored["baseline"], stored["chosen"]]), overlaps)
    again = recompute(read_run(folder))
    assert not again.warnings
    value, low, high = bootstrap_mean(overlaps[0] - overlaps[1])
    assert (again.drop.value, again.drop.low, again.drop.high) == pytest.approx((100 * value, 100 * low, 100 * high))
    value, low, high = bootstrap_mean(overlaps[1])
    assert (again.after.value, again.after.low, again.after.high) == pytest.approx((100 * value, 100 * low, 100 * high))


def test_classes_are_told_as_measured_and_their_change_claims_no_interval(page: Page, overlaps: np.ndarray) -> None:
    assert "Average precision per class" in page.text
    for i, name in enumerate(NAMES):
        before, after = 100 * overlaps[:, i::2].mean(axis=1)
        change = words.number(after - before, 2, sign=True)
        assert f"{name} {before:.1f} % {after:.1f} % {change} points 30" in page.text
    assert "a small change may be chance" in page.text
    assert "no difference" not in page.text[page.text.index("Average precision per class") : page.text.index("Errors by kind")]


def test_errors_of_both_models_stand_side_by_side(page: Page, overlaps: np.ndarray) -> None:
    shown = page.text[page.text.index("Errors by kind") : page.text.index("Latency distribution")]
    assert "what mAP50 would win" in shown
    bad = overlaps < 0.8
    before, after = 100 * bad.mean(axis=1)
    assert after > before + 10
    assert f"The chosen model loses {after - before:.2f} points more to bad places" in shown
    row = shown[shown.index("bad places of the right class") :]
    cost = r"{:.2f} [\d.]+ to [\d.]+ {} errors "
    numbers = (cost + cost).format(before, bad[0].sum(), after, bad[1].sum()) + rf"\+{after - before:.2f} \+[\d.]+ to \+[\d.]+"
    assert re.search(numbers, row)
    assert re.search(r"duplicates [a-z ]+ 0\.00 .* 0 errors 0\.00 .* 0 errors no difference 0\.00", shown)
    assert shown.index("bad places of") < shown.index("missed objects neither") < shown.index("duplicates covers")  # the dearest first
    widths = [float(a["style"].removeprefix("width:").removesuffix("%")) for a in page.all("i") if a.get("style", "").startswith("width:")]
    assert widths[:2] == pytest.approx([100 * before / after, 100.0], abs=0.1)


def test_a_result_without_errors_is_read_and_shows_none(tmp_path: Path) -> None:
    write_localisation_run(tmp_path)
    told = json.loads((tmp_path / "result.json").read_text())
    del told["errors"]  # as an earlier version wrote it
    (tmp_path / "result.json").write_text(json.dumps(told))
    assert "Errors by kind" not in Page(write_report(tmp_path).read_text()).text


def test_an_unknown_kind_is_told_and_changes_are_put_into_a_sentence() -> None:
    def kind(name: str, change: float, half: float) -> ErrorResult:
        cost = Measurement(f"lost_to_{name}", 5.0, "points", 3, False, 4.0, 6.0)
        return ErrorResult(name, cost, cost, replace(cost, value=change, low=change - half, high=change + half))

    rows = errors.of_both([kind("odd_ones", 1.5, 0.5), kind("background", -2.0, 1.0), kind("duplicates", 0.3, 1.0)])
    assert (rows[0].kind, rows[0].meaning) == ("odd ones", "")
    assert (
        errors.error_changes(rows)
        == "The chosen model loses 1.50 points more to odd ones and 2.00 points less to background than the original."
    )
    assert errors.error_changes(rows[2:]) == "There is no difference between both models in what any kind costs."
    assert errors.counted_in("mask_map", {"mask_map_50": rows[0].costs[0]}) == "mask mAP50"
    assert errors.counted_in("miou", {}) == "mIoU"
    of_pixels = errors.of_both([kind("borders", 1.0, 0.5)])[0]
    assert (rows[1].counted, of_pixels.counted) == ("error", "pixel")
    assert of_pixels.meaning.startswith("near where two classes meet")


def test_pictures_are_those_that_changed_most_then_the_worst(folder: Path, page: Page, overlaps: np.ndarray) -> None:
    stored = dict(np.load(folder / "pictures.npz"))
    most = np.argsort(-np.abs(overlaps[0] - overlaps[1]))[:6]
    worst = [i for i in np.argsort(overlaps[1]) if i not in most][:6]
    assert stored["rows"].tolist() == [*most, *worst]
    np.testing.assert_allclose(stored["scores"], overlaps[:, stored["rows"]].T)
    task = Places()
    pixels = task.test.images(SPEC, PREPROCESSING)[most[:1]]
    np.testing.assert_array_equal(stored["truth"][0], task.draw(pixels, None, [task.test.targets[most[0]]])[0])
    np.testing.assert_array_equal(stored["drawn"][0, 1], task.draw(pixels, {"boxes": said(task, 0.03, 1)["boxes"][most[:1]]}, None)[0])
    shown = [a for a in page.all("img") if "photo" in a["alt"]]
    assert len(shown) == 36
    assert shown[0]["alt"] == f"test/photo {most[0]:03d}.jpg: what is in the image as the data says"
    assert shown[2]["alt"].endswith(f"what the chosen model says; mAP of this image {100 * overlaps[1, most[0]]:.0f} %")
    with Image.open(io.BytesIO(base64.b64decode(shown[2]["src"].partition(",")[2]))) as picture:
        assert picture.size == (320, 240)
        assert np.abs(np.asarray(picture, float) - stored["drawn"][0, 1]).mean() < 6


def test_the_page_stays_one_that_can_be_mailed(tmp_path: Path) -> None:
    write_localisation_run(tmp_path)
    stored = dict(np.load(tmp_path / "pictures.npz"))
    rng = np.random.default_rng(0)
    large = {"truth": rng.integers(0, 255, (12, 480, 640, 3), np.uint8), "drawn": rng.integers(0, 255, (12, 2, 480, 640, 3), np.uint8)}
    np.savez(tmp_path / "pictures.npz", **stored | large)
    text = write_report(tmp_path).read_text()
    assert len(text) < 1_600_000  # noise is the worst that a JPEG can meet, and one image is always shown
    assert "Most different" in text


def test_what_has_no_place_has_no_pictures_and_an_earlier_file_goes(tmp_path: Path) -> None:
    task = Places()
    task.draw = lambda pixels, outputs, targets: None  # type: ignore[method-assign,assignment,return-value]
    path = tmp_path / "pictures.npz"
    path.write_bytes(b"of an earlier run")
    outputs = said(task, 0.02, 0)
    scores = task.scores(outputs, task.test.targets)
    assert not write_pictures(path, task, task.test, SPEC, PREPROCESSING, {"model": outputs}, {"model": scores})  # type: ignore[arg-type]
    assert not path.exists()


def test_empty_images_that_are_seen_as_empty_are_not_among_the_worst_and_few_are_scored_alone(tmp_path: Path) -> None:
    task = Places(500)
    outputs = said(task, 0.02, 0)
    for i in range(20):
        task.test.targets[i] = outputs["boxes"][i] = np.zeros(4, np.float32)
    scores = task.scores(outputs, task.test.targets)
    task.asked = 0
    path = tmp_path / "pictures.npz"
    given = ({"original": outputs, "chosen": outputs}, {"original": scores, "chosen": scores})
    assert write_pictures(path, task, task.test, SPEC, PREPROCESSING, *given)  # type: ignore[arg-type]
    stored = np.load(path)
    assert not stored["changed"].any()
    assert stored["rows"].min() >= 20
    assert task.asked <= 2 * 2 * 60


def _scores(result: Result) -> Result:
    m = result.chosen.measurements
    m["map"] = replace(m["map"], value=m["map"].value + 0.02)
    return result


def test_a_tampered_metric_is_shown(folder: Path, tmp_path: Path) -> None:
    write_localisation_run(tmp_path)
    _scores(Result.load(tmp_path / "result.json")).save(tmp_path / "result.json")
    assert "mAP of the chosen model on test" in Page(write_report(tmp_path).read_text()).text


def _edit(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        np.savez(run / name, **dict(np.load(run / name)) | changes)  # type: ignore[arg-type]

    return edit


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (_edit("predictions.npz", chosen=np.zeros(59)), "chosen (59,)"),
        (_edit("predictions.npz", chosen=np.full(60, np.nan)), "no numbers"),
        (_edit("predictions.npz", chosen=np.zeros((60, 2))), "chosen (60, 2)"),
        (_edit("pictures.npz", rows=np.arange(60, 72)), "rows that the predictions do not"),
        (_edit("pictures.npz", truth=np.zeros((12, 9, 9, 3), np.uint8)), "truth (12, 9, 9, 3)"),
        (_edit("pictures.npz", scores=np.zeros(12)), "pictures.npz"),
        (lambda run: (run / "pictures.npz").write_bytes(b"x") and None, "pictures.npz cannot be read"),
    ],
)
def test_broken_files_are_named(spoil: Callable[[Path], None], names: str, tmp_path: Path) -> None:
    write_localisation_run(tmp_path)
    spoil(tmp_path)
    with pytest.raises(BundleError) as caught:
        write_report(tmp_path)
    assert names in str(caught.value)
    assert caught.value.rule
    assert caught.value.fix


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    write_places_evaluation(folder, corruptions=True)
    write_evaluation(folder)
    return folder


def test_an_evaluation_shows_metrics_classes_and_pictures(evaluated: Path, overlaps: np.ndarray) -> None:
    page = Page((evaluated / "evaluation.html").read_text())
    found, scored = load_evaluation(evaluated)
    np.testing.assert_array_equal(scored.scores, overlaps[1])  # type: ignore[union-attr]
    assert found.thresholds == found.confusions == []
    assert f"mAP of {100 * overlaps[1].mean():.2f} % on 60 test images of rooms" in page.text
    assert f"mAP50 {100 * np.sqrt(overlaps[1]).mean():.2f} %" in page.text
    for i, name in enumerate(NAMES):
        assert re.search(rf"{name} {100 * overlaps[1, i::2].mean():.1f} % [\d.]+ to [\d.]+ 30", page.text)
    for title in ("Calibration", "Selective prediction", "Confusion matrix", "ccuracy", "Do not trust"):
        assert title not in page.text
    assert "all corruptions" in page.text
    low = (overlaps[1] < 0.8).sum()
    assert f"bad places of the right class, only touches its object {low} {100 * low / 60:.2f} " in page.text
    shown = [a["alt"] for a in page.all("img")]
    assert len(shown) == 24
    assert shown[0].startswith(f"test/photo {overlaps[1].argmin():03d}.jpg")
    assert all(a.get("alt") for a in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a.get(n, "#").startswith(("#", "data:")) for _, a in page.tags for n in ("src", "href"))


def test_a_run_whose_models_find_everything_has_a_page(tmp_path: Path) -> None:
    write_localisation_run(tmp_path, noise=(0.0, 0.0))
    page = Page(write_report(tmp_path).read_text())
    assert "100.0 %" in page.text


def test_map_50_is_not_shown_as_a_corruption(tmp_path: Path) -> None:
    write_places_evaluation(tmp_path)
    assert "Robustness" not in Page(write_evaluation(tmp_path).read_text()).text


def test_scores_that_deny_the_metric_are_told(tmp_path: Path) -> None:
    write_places_evaluation(tmp_path)
    _edit("evaluation.npz", scores=np.full(60, 0.25))(tmp_path)
    assert "the stored predictions give 25.00 %" in Page(write_evaluation(tmp_path).read_text()).text


@pytest.mark.parametrize(
    ("name", "within", "first"),
    [
        ("accuracy", "accuracy", "Accuracy"),
        ("map", "mAP", "mAP"),
        ("mask_map", "mask mAP", "Mask mAP"),
        ("miou", "mIoU", "mIoU"),
        ("pixel_accuracy", "pixel accuracy", "Pixel accuracy"),
        ("map_small", "mAP of small objects", "mAP of small objects"),
    ],
)
def test_metrics_in_words(name: str, within: str, first: str) -> None:
    assert (words.metric(name), words.title(name)) == (within, first)


def _renamed(row: Row) -> Row:
    return replace(row, measurements={"miou" if k == "accuracy" else k: replace(m, name="miou") for k, m in row.measurements.items()})


def test_comparisons_name_what_they_compare(tmp_path: Path) -> None:
    found = make_comparison(4)
    replace(found, original=_renamed(found.original), rows=[_renamed(row) for row in found.rows]).save(tmp_path / "comparison.json")
    page = Page(write_comparison(tmp_path).read_text())
    assert "ccuracy" not in page.text
    for text in ("mIoU over speed", "mIoU is on 2000 test images", "mIoU change on test, points", "mIoU, points"):
        assert text in page.text


def test_experiments_name_what_they_measure() -> None:
    m = Measurement("mask_map", 40.0, "%", 100, True, 39.0, 41.0)
    took = Measurement("seconds_per_epoch", 3.0, "s", 1, False)
    arms = [ArmResult("plain", {}, [Training(0, metric="mask_map")], {"mask_map": m, "seconds_per_epoch": took}, "reference")]
    assert metric_of(arms) == "mask mAP"
    console = Console(file=io.StringIO(), width=120)
    console.print(experiment_table(arms))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "mask mAP" in text
    assert "40.00 %" in text
    assert metric_of([]) == "accuracy"


def test_the_terminal_says_them_so_too() -> None:
    console = Console(file=io.StringIO(), width=80)
    task = Places()
    console.print(measurements_table(task.metrics(said(task, 0.02, 0), task.test.targets)))
    assert "mAP50" in console.file.getvalue()  # type: ignore[attr-defined]
