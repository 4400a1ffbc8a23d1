"""Each number of the result that a page shows is compared with what it was made of: whichever is forged, the page says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_localisation import write_localisation_run
from fake_run import CHOSEN, record, write_run
from pydantic import TypeAdapter

from planish.report import write_report
from planish.report.pages.run import render
from planish.report.recomputation.recheck import disagreements, shown_numbers
from planish.report.recomputation.recompute import recompute, sources_of
from planish.report.recomputation.run_folder import RunFolder, read_run
from planish.search.result import Result

Place = tuple[str | int, ...]


def numbers(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where numbers are in a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inner, (*place, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place


def forged(said: dict[str, Any], place: Place) -> Result | None:
    """The result with one number changed by 3 %; None where no result may have it."""
    inner = said
    for key in place[:-1]:
        inner = inner[key]
    value = inner[place[-1]]
    inner[place[-1]] = value + max(1, round(0.03 * abs(value))) if isinstance(value, int) else value + 0.03 * max(abs(value), 1.0)
    try:
        return TypeAdapter(Result).validate_python(said)
    except ValueError:
        return None
    finally:
        inner[place[-1]] = value


def kind(place: Place) -> tuple[str, ...]:
    """``("candidates", "latency_ms", "value")`` for what is at many places."""
    names = [key for key in place if isinstance(key, str)]
    if "measurements" in names:
        return tuple(names[names.index("measurements") :])
    return tuple(names[:1]) if "plan" not in names else ("plan",)


@pytest.fixture(scope="module")
def localisation_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places") / "places"
    write_localisation_run(folder)
    return folder


@pytest.mark.parametrize("which", ["finished", "localisation_run"])
def test_whichever_number_of_the_page_is_forged_is_noticed(which: str, request: pytest.FixtureRequest) -> None:
    run = read_run(request.getfixturevalue(which))
    again = recompute(run)
    assert (again.warnings, again.unchecked) == ([], 0)
    sources, page = sources_of(run, again), render(run)
    said = TypeAdapter(Result).dump_python(run.result, mode="json")
    unseen: dict[tuple[str, ...], Result] = {}
    noticed = 0
    for place in numbers(said):
        result = forged(said, place)
        if result is None:
            assert place == ("schema_version",)
        elif list(shown_numbers(result)) == list(shown_numbers(run.result)):
            unseen.setdefault(kind(place), result)
        else:
            assert disagreements(result, sources), place
            noticed += 1
    assert noticed > 300
    assert unseen, "some numbers are stored and not shown"
    for what, result in unseen.items() if which == "finished" else ():  # and a number that is not compared is nowhere on the page
        assert render(replace(run, result=result)) == page, what


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("chosen", "measurements", "drop_validation", "value"), 0.05, f"Drop on validation of {CHOSEN}"),
        (("chosen", "measurements", "size_bytes", "value"), 100_000.0, "the files give 121 kB"),
        (("baseline", "measurements", "size_bytes", "value"), 2_114_000.0, "the files give 1.11 MB"),
        (("chosen", "measurements", "drop_risk", "value"), 0.01, f"Risk of {CHOSEN}"),
        (("choice",), "The risk is 0 %.", "The reason for the choice is not what the numbers say: The risk of losing more than 1 point"),
        (("goal", "risk"), 0.5, "goal risk"),
        (("noise_floor", "high"), 0.1, "Noise floor (upper end of its interval)"),
        (("latency_ratio", "low"), 6.0, "The headline speed-up"),
        (("goal", "max_latency_ms"), 9.0, "goal max latency ms"),
        (("seconds", "training candidates"), 9.0, "seconds training candidates"),
        (("verdict",), "The chosen model is 9x as fast.", "The verdict is not what its numbers say"),
        (("goal_met",), False, "Whether the goal is met is not what the numbers say: it is met."),
    ],
)
def test_what_is_forged_is_named(run: Path, place: Place, value: object, says: str) -> None:
    said = json.loads((run / "result.json").read_text())
    inner = said
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (run / "result.json").write_text(json.dumps(said))
    text = write_report(run).read_text()
    assert 'role="alert"' in text
    assert says in text


def test_the_bundle_and_the_files_tell_the_size(run: Path) -> None:
    """Not the result, which may say the same wrong number twice."""
    said = json.loads((run / "result.json").read_text())
    for candidate in (said["chosen"], *(c for c in said["candidates"] + said["pareto_frontier"] if c["key"] == CHOSEN)):
        candidate["measurements"]["size_bytes"]["value"] = 60_500.0
    said["size_ratio"]["value"] *= 2
    (run / "result.json").write_text(json.dumps(said))
    record(run)
    warnings = recompute(read_run(run)).warnings
    assert any("Size ratio" in text for text in warnings)
    assert any("121 kB" in text for text in warnings)


def test_forged_predictions_on_validation_are_noticed(run: Path) -> None:
    stored = dict(np.load(run / "validation.npz"))
    stored["scores"][1] = 1.0
    np.savez(run / "validation.npz", **stored)
    assert any("Drop on validation" in text for text in recompute(read_run(run)).warnings)


def test_sizes_that_cannot_be_checked_any_more_are_said(run: Path) -> None:
    shutil.rmtree(run / "work")
    again = recompute(read_run(run))
    assert not again.warnings
    assert again.unchecked > 0
    assert f"{again.unchecked} numbers could not be checked" in write_report(run).read_text()


def test_the_original_by_default_is_a_baseline_whose_accuracy_is_checked(tmp_path: Path) -> None:
    result = write_run(tmp_path / "run", default_precision=True)
    run: RunFolder = read_run(tmp_path / "run")
    assert recompute(run).warnings == []
    assert set(result.latency_ratios) == {"onnxruntime", "openvino", "openvino-default"}
    assert result.latency_ratio == result.latency_ratios["openvino-default"] == min(result.latency_ratios.values(), key=lambda m: m.value)
    default = result.baselines["openvino-default"].measurements["accuracy"]
    assert default.value != result.baseline.measurements["accuracy"].value
    text = write_report(tmp_path / "run").read_text()
    assert "OpenVINO, default precision" in text
    assert f"{default.value:.2f} %" in text
    result.baselines["openvino-default"].measurements["accuracy"] = replace(default, value=default.value + 1)
    assert any("openvino-default on test" in text for text in recompute(replace(run, result=result)).warnings)
