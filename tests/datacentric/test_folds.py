"""Cross-validation: nobody judges what it was trained on, intervals hold, a killed run goes on; wrong labels are found by it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from cli_runner import invoke
from sklearn.model_selection import StratifiedKFold

from planish import commands
from planish.data import load_images
from planish.datacentric import folds as module
from planish.datacentric.folds import Folds, OutOfFold
from planish.errors import GoalError
from planish.evaluation.statistics.intervals import over_folds, proportion
from planish.report.pages.folds import findings, folds_table
from planish.testing import write_shapes

QUICK = {"model": "resnet8x0.5", "changes": ["augmentation=none", "batch_size=16", "epochs=8"]}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=40)


def test_folds_end_to_end(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_on, seen = [], []
    fit = module.fit

    def watched(network: object, task: object, *rest: object, **options: object) -> object:
        train, held_out = (set(task.split(name).keys) for name in ("train", "validation"))  # type: ignore[attr-defined]
        assert not train & held_out
        assert options["run"].validate is False, "what is judged must not choose when to stop"
        trained_on.append((train, held_out))
        if len(trained_on) == 4:
            raise KeyboardInterrupt
        return fit(network, task, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fit", watched)
    options = {**QUICK, "folds": 3, "repeats": 2, "out": tmp_path / "run", "watch": lambda trained: seen.append(len(trained))}
    with pytest.raises(KeyboardInterrupt):
        commands.crossval(shapes, **options)
    found = commands.crossval(shapes, resume=True, **options)
    assert len(trained_on) == 7, "three folds were kept, the fourth was begun twice"
    assert seen == [1, 2, 3, 1, 2, 3, 4, 5, 6]
    data = load_images(shapes)
    pool = {*data.splits["train"].keys, *data.splits["validation"].keys}
    for train, held_out in trained_on:
        assert train | held_out == pool
    assert Folds.load(tmp_path / "run" / "folds.json") == found
    said = OutOfFold.load(tmp_path / "run")
    assert set(said.keys) == pool
    right = said.logits.argmax(axis=2) == said.targets
    assert found.accuracy.value == pytest.approx(100 * right.mean())
    by_fold = [100 * right[f.repeat, said.folds[f.repeat] == f.fold].mean() for f in found.trained]
    assert [f.accuracy.value for f in found.trained] == pytest.approx(by_fold)
    assert found.accuracy.value > 50, "a third is guessing"
    assert (said.folds[0] != said.folds[1]).mean() > 0.4
    assert folds_table(found.trained).row_count == 6
    assert "Too few images to tell" in findings(found)[1]


def test_what_cannot_be_cut_is_told(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(GoalError, match="it is at least 2"):
        commands.crossval(shapes, folds=1, out=tmp_path / "run")


def _centroids(rng: np.random.Generator, images: int, size: int, wobble: float, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and folds ``(repeats, N)`` of nearest-centroid classifiers of two overlapping clouds; ``wobble`` makes training unstable."""
    y = rng.permutation(np.arange(images) % 2)
    x = _cloud(rng, y, size)
    scores, fold_of = np.zeros((repeats, images)), np.zeros((repeats, images), dtype=int)
    for r in range(repeats):
        for i, (train, test) in enumerate(StratifiedKFold(5, shuffle=True, random_state=int(rng.integers(1 << 30))).split(x, y)):
            scores[r, test] = _learned(rng, x[train], y[train], wobble)(x[test]) == y[test]
            fold_of[r, test] = i
    return scores, fold_of


def _cloud(rng: np.random.Generator, y: np.ndarray, size: int) -> np.ndarray:
    x = rng.normal(size=(len(y), size))
    x[:, 0] += 0.8 * (2 * y - 1)
    return x


def _learned(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, wobble: float) -> object:
    first, second = x[y == 0].mean(axis=0), x[y == 1].mean(axis=0)
    normal = second - first
    normal = normal + wobble * np.linalg.norm(normal) / len(normal) ** 0.5 * rng.normal(size=len(normal))
    return lambda new: ((new - (first + second) / 2) @ normal > 0).astype(int)


@pytest.mark.parametrize(("size", "wobble", "repeats"), [(30, 0.0, 1), (20, 3.0, 1), (30, 0.0, 3)])
def test_intervals_over_folds_hold_what_they_promise(size: int, wobble: float, repeats: int) -> None:
    """True accuracy of classifiers trained on 64 of 80 images, over many data sets; an interval over images misses it too often."""
    rng, rounds = np.random.default_rng(0), 250
    y = np.arange(4000) % 2
    truths = []
    for _ in range(150):
        few = np.arange(64) % 2
        truths.append((_learned(rng, _cloud(rng, few, size), few, wobble)(_cloud(rng, y, size)) == y).mean())
    truth, held, naive = float(np.mean(truths)), 0, 0
    for _ in range(rounds):
        scores, fold_of = _centroids(rng, 80, size, wobble, repeats)
        interval = over_folds(scores, fold_of)
        low, high = proportion(int(scores[0].sum()), scores.shape[1])
        held += interval.low <= truth <= interval.high
        naive += low <= truth <= high
    assert held / rounds > 0.95
    assert naive / rounds < 0.93


def test_an_interval_over_folds_is_wide_where_nothing_was_wrong_and_stays_within_bounds() -> None:
    interval = over_folds(np.ones((1, 60)), np.arange(60)[None] % 5)
    assert (interval.value, interval.high) == (1, 1)
    assert 1 - 5 / 60 < interval.low < 1 - 2 / 60, "the rule of three says 3 in 60"
    narrower = over_folds(np.ones((1, 600)), np.arange(600)[None] % 5)
    assert 1 - narrower.low == pytest.approx((1 - interval.low) / 10, rel=0.05)


def _part_of_fashion(file: Path, per_class: int, changed: float) -> set[str]:
    """Write a manifest of some images of fashion-mini with some labels changed; returns the keys of those."""
    data, rng = load_images("fashion-mini"), np.random.default_rng(0)
    keys = set()
    with file.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["path", "label", "split"])
        for split, count in (("train", per_class), ("test", 5)):
            images = data.splits[split]
            for c in range(10):
                for i in np.flatnonzero(images.targets == c)[:count]:
                    wrong = split == "train" and rng.random() < changed
                    label = data.class_names[(c + rng.integers(1, 10)) % 10 if wrong else c]
                    rows.writerow([images.paths[i], label, split])
                    if wrong:
                        keys.add(str(images.paths[i]))
    return keys


@pytest.mark.slow
def test_changed_labels_of_fashion_are_found(tmp_path: Path) -> None:
    changed = _part_of_fashion(tmp_path / "noisy.csv", 200, 0.05)
    options = {"model": "resnet8", "changes": ["augmentation=none", "epochs=10"], "folds": 5}
    found = commands.label_issues(tmp_path / "noisy.csv", out=tmp_path / "noisy", **options)
    right = [s.key in changed for s in found.issues]
    assert np.mean(right) > 0.25
    assert sum(right) > 0.6 * len(changed)
    assert np.mean(right[:30]) > 0.75
    _part_of_fashion(tmp_path / "clean.csv", 200, 0.0)
    clean = commands.label_issues(tmp_path / "clean.csv", out=tmp_path / "clean", **options)
    assert len(clean.issues) < 0.1 * clean.images


def test_suspects_on_the_command_line(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = ["--model", "resnet8x0.5", "--set", "augmentation=none", "--set", "batch_size=16", "--epochs", 4, "--folds", 2, "--out", out]
    arguments = [str(a) for a in ["label-issues", shapes, *small]]
    first = invoke([*arguments, "--json"])
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert found == json.loads((out / "label_issues.json").read_text())
    page = (out / "label_issues.html").read_text()
    assert page.count("<img ") == len(found["issues"]) > 0
    assert "://" not in page
    assert invoke(arguments).exit_code == 2, "the folder is taken"
    again = invoke([*arguments, "--resume"])
    assert (again.exit_code, "labels may be wrong" in again.output) == (0, True)
    page = (out / "label_issues.html").read_text()
    (out / "label_issues.html").unlink()
    assert invoke(["report", str(out)]).exit_code == 0
    assert (out / "label_issues.html").read_text() == page
    folds = invoke(["crossval", str(shapes), "--folds", "2", *[str(a) for a in small[:-4]], "--resume", "--out", str(out)])
    assert (folds.exit_code, "they had not seen (2 folds;" in " ".join(folds.output.split())) == (0, True), "suspects left its folds"
    refused = invoke(["crossval", str(shapes), "--folds", "1"])
    assert (refused.exit_code, "--folds 1. it is at least 2" in refused.output) == (2, True)
