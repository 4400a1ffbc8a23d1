"""An evaluation is kept whole, and its page says what its predictions say and opens anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from fake_evaluation import FakeTask, logits_of, write_fake
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from test_page import Page

from planish.errors import BundleError
from planish.evaluation.metrics.thresholds import threshold_for_precision
from planish.report.pages.evaluation import write_evaluation
from planish.report.plots.confusion import most_confused
from planish.runs.evaluation import load_evaluation

NAMES = ["oak", "ash", "elm", "fir", "yew", "box"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    write_fake(folder, NAMES, corruptions=True)
    write_evaluation(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "evaluation.html").read_text())


@pytest.fixture(scope="module")
def said() -> tuple[np.ndarray, np.ndarray]:
    """Targets and predictions of test."""
    task = FakeTask(NAMES, 1200)
    return task.split("test").targets, logits_of(task)[:1200].argmax(1)


def test_nothing_is_loaded_and_nothing_runs(page: Page) -> None:
    assert all(a.get(n, "#").startswith(("#", "data:")) for _, a in page.tags for n in ("src", "href"))
    assert not page.all("script")
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    assert all(a.get("alt") for a in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_the_matrix_and_the_classes_are_those_that_scikit_learn_counts(
    folder: Path, page: Page, said: tuple[np.ndarray, np.ndarray]
) -> None:
    counted = confusion_matrix(*said)
    table = re.findall(r'<table class="confusion">.*?</table>', (folder / "evaluation.html").read_text(), re.S)[0]
    assert [int(c or 0) for c in re.findall(r'<td class="(?:hit|miss)[^>]*>(\d*)</td>', table)] == counted.ravel().tolist()
    precision, recall, f1, support = precision_recall_fscore_support(*said)
    for number, name in enumerate(NAMES):
        row = re.search(rf"{name} ([\d.]+) % [\d.]+ to [\d.]+ ([\d.]+) % [\d.]+ to [\d.]+ ([\d.]+) % [\d.]+ to [\d.]+ (\d+)", page.text)
        assert row is not None
        expected = [f"{100 * values[number]:.1f}" for values in (recall, precision, f1)]
        assert list(row.groups()) == [*expected, str(support[number])]
    off = counted - np.diag(np.diag(counted))
    target, prediction = np.unravel_index(off.argmax(), off.shape)
    assert f"{NAMES[target]} is predicted as {NAMES[prediction]} in {off.max()} of {counted[target].sum()} images" in page.text


def test_the_surest_mistakes_are_shown_with_what_the_model_said(page: Page, said: tuple[np.ndarray, np.ndarray]) -> None:
    targets, preds = said
    logits = logits_of(FakeTask(NAMES, 1200))[:1200].astype(float)
    sure = np.exp(logits.max(1) - np.logaddexp.reduce(logits, axis=1))
    wrong = np.flatnonzero(preds != targets)
    surest = wrong[sure[wrong].argmax()]
    assert page.all("img")[0]["alt"] == f"test/{surest:04d}.png"
    assert f"{NAMES[targets[surest]]} {NAMES[preds[surest]]} {100 * sure[surest]:.1f} %" in page.text
    assert f"24 of {len(wrong)} are shown" in page.text


def test_all_parts_are_there(page: Page) -> None:
    for title in ("As it is", "With the temperature", "Selective prediction", "Robustness to corruptions", "all corruptions"):
        assert title in page.text


@pytest.mark.parametrize(("sharpness", "word"), [(8.0, "the model is overconfident"), (0.3, "the model is underconfident")])
def test_it_says_whether_the_model_is_as_sure_as_it_is_right(sharpness: float, word: str, tmp_path: Path) -> None:
    write_fake(tmp_path, NAMES, n=400, sharpness=sharpness)
    assert word in Page(write_evaluation(tmp_path).read_text()).text


def test_of_validation_no_threshold_and_no_temperature_is_told(tmp_path: Path) -> None:
    found = write_fake(tmp_path, NAMES, split="validation")
    assert (found.thresholds, found.per_class[0].threshold) == ([], None)
    text = Page(write_evaluation(tmp_path).read_text()).text
    assert "With the temperature" not in text
    assert "Asked for" not in text


def test_a_hundred_classes_are_drawn_as_a_map(tmp_path: Path) -> None:
    write_fake(tmp_path, [f"class {i}" for i in range(100)], n=3000)
    text = write_evaluation(tmp_path).read_text()
    page = Page(text)
    assert len(text) < 600_000
    counts = [int(count) for count in re.findall(r"<title>class \d+(?: predicted as class \d+)?: (\d+)</title>", text)]
    assert sum(counts) == 3000
    assert "The other 80 classes" in page.text


def test_classes_that_are_mixed_up_stand_beside_each_other() -> None:
    matrix = np.diag([20] * 8)
    for a, b in ((0, 5), (2, 7), (1, 4)):
        matrix[a, b] = matrix[b, a] = 9
    order = most_confused(matrix).tolist()
    assert sorted(order) == list(range(8))
    assert all(abs(order.index(a) - order.index(b)) == 1 for a, b in ((0, 5), (2, 7), (1, 4)))
    assert sorted(most_confused(matrix, 6).tolist()) == [0, 1, 2, 4, 5, 7]


def test_numbers_that_were_changed_are_told(tmp_path: Path) -> None:
    write_fake(tmp_path, NAMES, n=600)
    file = tmp_path / "evaluation.json"
    accuracy = load_evaluation(tmp_path)[0].metrics["accuracy"].value
    file.write_text(file.read_text().replace(f'"name": "accuracy",\n   "value": {accuracy!r}', '"name": "accuracy",\n   "value": 99.9'))
    assert "Do not trust this page" in Page(write_evaluation(tmp_path).read_text()).text


def test_a_model_without_mistakes_has_a_page_that_claims_no_more_than_it_knows(tmp_path: Path) -> None:
    found = write_fake(tmp_path, NAMES, n=200, skill=40.0)
    assert found.misclassified == 0
    text = Page(write_evaluation(tmp_path).read_text()).text
    assert "no image is wrong" in text
    assert "too easy, to tell a temperature" in text
    assert "The most confident errors" not in text


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_fake(tmp_path, NAMES, n=300)
    (tmp_path / "evaluation.npz").write_bytes(b"no")
    with pytest.raises(BundleError, match="cannot be read"):
        write_evaluation(tmp_path)


def test_names_are_escaped(tmp_path: Path) -> None:
    write_fake(tmp_path, ["<script>alert(1)</script>", "</style><b>", "c", "d"], n=300)
    assert "<script" not in write_evaluation(tmp_path).read_text()


def sure_and_right(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = logits.astype(float)
    return np.exp(logits.max(1) - np.logaddexp.reduce(logits, axis=1)), logits.argmax(1) == targets


def test_it_opens_again_as_it_was(tmp_path: Path) -> None:
    found = write_fake(tmp_path / "new", NAMES)
    again, predicted = load_evaluation(tmp_path / "new")
    assert again == found
    np.testing.assert_array_equal(np.concatenate([predicted.logits, predicted.validation_logits]), logits_of(FakeTask(NAMES, 1200)))
    assert found.misclassified == int((predicted.logits.argmax(1) != predicted.targets).sum()) > 24
    assert predicted.pixels.shape == (24, 8, 8, 1)
    assert (predicted.pixels[:, 0, 0, 0].astype(int) * 256 + predicted.pixels[:, 0, 1, 0]).tolist() == predicted.worst.tolist()


def test_thresholds_keep_their_promise_on_validation_and_tell_of_test(tmp_path: Path) -> None:
    found = write_fake(tmp_path, NAMES)
    _, predicted = load_evaluation(tmp_path)
    assert [t.target_precision for t in found.thresholds] == [90, 95, 99]
    chosen = sure_and_right(predicted.validation_logits, predicted.validation_targets)
    told = sure_and_right(predicted.logits, predicted.targets)
    kept = [t for t in found.thresholds if t.threshold is not None]
    assert kept
    for threshold in kept:
        assert threshold.threshold == pytest.approx(threshold_for_precision(*chosen, threshold.target_precision / 100))
        answered = told[0] >= threshold.threshold
        assert threshold.measurements["coverage"].value == pytest.approx(100 * answered.mean())
        assert threshold.measurements["precision"].value == pytest.approx(100 * told[1][answered].mean())
    assert all("the most that can be promised" in t.reason for t in found.thresholds if t.threshold is None)
