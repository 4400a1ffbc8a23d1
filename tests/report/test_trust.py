"""A page must not repeat a number that the stored predictions and timings deny, nor be made from broken files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_run import CHOSEN

from planish.errors import BundleError
from planish.report import write_report
from planish.report.recomputation.recompute import recompute
from planish.report.recomputation.run_folder import read_run
from planish.search.result import Result


def _accuracy(result: Result) -> Result:
    m = result.chosen.measurements
    m["accuracy"] = replace(m["accuracy"], value=m["accuracy"].value + 0.1)
    return result


def _latency(result: Result) -> Result:
    m = result.chosen.measurements
    m["latency_ms"] = replace(m["latency_ms"], value=0.3, low=0.29, high=0.31)
    return result


def _headline(result: Result) -> Result:
    return replace(result, latency_ratio=result.latency_ratios["onnxruntime"])


def _ratio(result: Result) -> Result:
    wrong = replace(result.latency_ratio, value=9.0, low=8.9, high=9.1)
    return replace(result, latency_ratio=wrong, latency_ratios={"openvino": wrong})


def _size(result: Result) -> Result:
    return replace(result, size_ratio=replace(result.size_ratio, value=12.0))


def _drop(result: Result) -> Result:
    return replace(result, drop=replace(result.drop, value=result.drop.value - 0.1))


def _interval(result: Result) -> Result:
    return replace(result, drop=replace(result.drop, low=result.drop.value, high=result.drop.value))


def _class(result: Result) -> Result:
    first = result.per_class[0]
    return replace(result, per_class=[replace(first, chosen=replace(first.chosen, value=99.0)), *result.per_class[1:]])


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (_accuracy, "Accuracy of the chosen model on test"),
        (_latency, f"Latency of {CHOSEN}"),
        (_headline, "headline speed-up"),
        (_ratio, "Latency ratio against openvino"),
        (_size, "Size ratio"),
        (_drop, "Drop of accuracy on test"),
        (_interval, "Drop of accuracy on test (lower end of its interval)"),
        (_class, "Accuracy on T-shirt/top, chosen model"),
    ],
)
def test_a_tampered_number_is_shown(run: Path, tamper: Callable[[Result], Result], says: str) -> None:
    assert not recompute(read_run(run)).warnings
    tamper(Result.load(run / "result.json")).save(run / "result.json")
    text = write_report(run).read_text()
    assert 'role="alert"' in text
    assert says in text
    assert any(says in warning for warning in recompute(read_run(run)).warnings)


def test_class_changes_are_paired(run: Path) -> None:
    stored = dict(np.load(run / "predictions.npz"))
    again = recompute(read_run(run))
    rows = stored["targets"] == 3
    before, after = ((stored[name].argmax(1) == 3)[rows] for name in ("baseline", "chosen"))
    changed = again.per_class[3]
    assert changed.drop.value == pytest.approx(100 * (before.mean() - after.mean()))
    # Paired, the interval is far narrower than the two accuracies' own would make it.
    assert changed.drop.low is not None
    assert changed.drop.high is not None
    assert changed.drop.high - changed.drop.low < 2 * (changed.before.high - changed.before.low)  # type: ignore[operator]
    assert again.confusion[0].sum() == again.confusion[1].sum() == len(stored["targets"])
    assert np.trace(again.confusion[1]) == pytest.approx(again.after.value * len(stored["targets"]) / 100)


def _edit_json(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | changes))

    return edit


def _edit_npz(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        np.savez(run / name, **dict(np.load(run / name)) | changes)  # type: ignore[arg-type]

    return edit


def _no_latency(run: Path) -> None:
    result = Result.load(run / "result.json")
    del result.baseline.measurements["latency_ms"]
    result.save(run / "result.json")


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(data) and None


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (lambda run: (run / "result.json").unlink(), "result.json: is missing"),
        (lambda run: (run / "latency.json").unlink(), "latency.json: is missing"),
        (lambda run: (run / "predictions.npz").unlink(), "predictions.npz: is missing"),
        (_write("result.json", b'{"name": "x'), "result.json"),
        (_edit_json("result.json", goal=3), "result.json: goal"),
        (_edit_json("result.json", more=3), "result.json: more"),
        (_no_latency, "no latency_ms of original@openvino"),
        (_write("latency.json", b"\xff\xfe"), "latency.json"),
        (_edit_json("latency.json", unit="s"), "latency.json"),
        (_edit_json("latency.json", samples={}), "no times of original@onnxruntime"),
        (_edit_json("latency.json", samples={"a": [1, -1]}), "the times of a"),
        (_edit_json("latency.json", samples={"a": [[1], [2, 3]]}), "latency.json"),
        (_edit_json("latency.json", sessions=[]), "latency.json"),
        (lambda run: (run / "validation.npz").unlink(), "validation.npz: is missing"),
        (lambda run: (run / "evidence.json").unlink(), "evidence.json: is missing"),
        (_edit_npz("validation.npz", own=np.full(18, 99)), "validation.npz"),
        (_write("evidence.json", b"{}"), "evidence.json"),
        (_edit_json("result.json", schema_version=3), "result.json has schema_version 3"),
        (_write("predictions.npz", b"PK\x03\x04 broken"), "predictions.npz cannot be read"),
        (_write("predictions.npz", b""), "predictions.npz cannot be read"),
        (_edit_npz("predictions.npz", keys=np.array([{"a": 1}], dtype=object)), "no pickle"),
        (_edit_npz("predictions.npz", chosen=np.zeros((2000, 9), np.float32)), "chosen (2000, 9)"),
        (_edit_npz("predictions.npz", targets=np.full(2000, 10)), "classes that the result does not"),
        (_edit_npz("disagreements.npz", pixels=np.zeros((2, 8, 8, 3), np.uint8)), "disagreements.npz"),
        (_write("disagreements.npz", b"x"), "disagreements.npz"),
        (_write("mistakes.npz", b"x"), "mistakes.npz"),
        (_edit_npz("mistakes.npz", rows=np.full(18, 5000)), "mistakes.npz"),
        (_write("history.json", b"[{}]"), "history.json"),
    ],
)
def test_broken_files_are_named(run: Path, spoil: Callable[[Path], None], names: str) -> None:
    spoil(run)
    (run / "report.html").unlink()
    with pytest.raises(BundleError) as caught:
        write_report(run)
    assert names in str(caught.value)
    assert caught.value.rule
    assert caught.value.fix
    assert not list(run.glob("report.html*"))


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a folder"):
        write_report(tmp_path / "nowhere")
