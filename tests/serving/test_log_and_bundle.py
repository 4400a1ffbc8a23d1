"""A log and a bundle that do not belong together, or that say nothing, are refused; never "no drift in 0 images" with exit code 0."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Ran, invoke

from planish.errors import BundleError, DataError
from planish.export.bundle.folder import REFERENCE, SEAL
from planish.progress import collecting_notes
from planish.serving.monitoring import monitor as watching
from planish.serving.monitoring.drift import DriftSettings
from planish.serving.monitoring.labelling import find_label_candidates
from planish.serving.monitoring.log_contents import EmptyLogError
from planish.serving.monitoring.monitor import monitor
from planish.serving.monitoring.recorder import IMAGES, LOG_FILE

INDEPENDENT = DriftSettings(correlation_s=0)
START = 1.75e9


def write_log(folder: Path, served: Path, count: int = 40, **changes: Any) -> Path:
    """Append what a service of this bundle would log."""
    values = json.loads((served / REFERENCE).read_bytes())["values"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_FILE).open("a") as file:
        for number in range(count):
            record = {
                "time": START + number,
                "model": "shapes",
                "version": "1",
                "bundle": (served / SEAL).read_text()[:12],
                "seconds": 0.01,
            }
            record |= {name: given[number % len(given)] for name, given in values.items()}
            record |= {name: change(number) if callable(change) else change for name, change in changes.items()}
            file.write(json.dumps(record) + "\n")
    return folder


def run(*arguments: object) -> Ran:
    return invoke(["monitor", *map(str, arguments)])


def refused(result: Ran) -> str:
    said = " ".join(result.output.split())
    assert (result.exit_code, "Traceback" in said, "no drift" in said) == (2, False, False), said
    return said


def test_a_bundle_under_another_name_is_refused_with_the_name_it_was_served_under(bundle: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", bundle, model="cats", version="7")
    said = refused(run(log, bundle))
    assert "cats version 7" in said
    assert f"cats@7={bundle}" in said
    assert run(log, f"cats@7={bundle}", "--correlation", "0").exit_code == 0
    assert "version 7" in refused(run(log, f"cats={bundle}")), "the version is a part of the name"
    assert "dogs version 1" in refused(run(log, f"cats@7={bundle}", f"dogs={bundle}")), "each of several bundles"


def test_another_bundle_of_that_name_is_refused(bundle: Path, other_bundle: Path, patches: dict[str, Path], tmp_path: Path) -> None:
    """One made later, one of another network, one of another task."""
    log = write_log(tmp_path / "log", bundle)
    for other in (other_bundle, *patches.values()):
        said = refused(run(log, f"shapes={other}"))
        assert (bundle / SEAL).read_text()[:12] in said
        assert (other / SEAL).read_text()[:12] in said


def test_what_older_bundles_and_other_models_logged_is_left_out_and_that_is_said(bundle: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", bundle, count=30, bundle="0123456789ab")
    write_log(log, bundle, count=20)
    write_log(log, bundle, count=10, model="dogs")
    with collecting_notes() as notes:
        (found,) = monitor(log, [f"shapes={bundle}"], settings=INDEPENDENT)
    assert (found.images, found.others) == (20, 30)
    assert any("dogs version 1" in note for note in notes)


def test_a_log_without_predictions_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in ("", "\n\n", '{"time": 3, "mod\n', '{"event": "login"}\n' * 5):
        log = tmp_path / "log"
        log.mkdir(exist_ok=True)
        (log / LOG_FILE).write_text(content)
        assert "no predictions" in refused(run(log, bundle))
    with pytest.raises(EmptyLogError):
        monitor(log, [bundle])

    def served(seconds: float) -> None:
        write_log(log, bundle, brightness=-9)

    monkeypatch.setattr(watching.time, "sleep", served)
    (found,) = monitor(log, [f"shapes={bundle}"], settings=INDEPENDENT, every_s=1)
    assert "brightness" in found.drifted, "where it is read again and again, a service may have just been started"


def test_what_is_no_log_is_named(bundle: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", bundle)
    assert "does not exist" in refused(run(tmp_path / "none", bundle))
    assert "is a file" in refused(run(log / LOG_FILE, bundle))
    (tmp_path / "empty").mkdir()
    assert f"has no {LOG_FILE}" in refused(run(tmp_path / "empty", bundle))
    assert "the log comes first" in refused(run(bundle, log))


DAMAGED = [
    None, "{", "[]", '{"values": {"brightness": [0.5]}}',
    *(f'{{"schema_version": 1, "values": {values}}}' for values in (
        "{}", '{"brightness": []}', '{"brightness": ["a"]}', '{"brightness": [NaN]}', '{"brightness": 3}')),
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED)
def test_a_bundle_without_reference_statistics_is_refused(bundle: Path, tmp_path: Path, content: str | None) -> None:
    mine, log = Path(shutil.copytree(bundle, tmp_path / "shapes")), write_log(tmp_path / "log", bundle)
    (mine / REFERENCE).unlink()
    if content is not None:
        (mine / REFERENCE).write_text(content)
    assert REFERENCE in refused(run(log, mine)) or "no reference statistics" in refused(run(log, mine))
    shutil.copyfile(bundle / REFERENCE, mine / REFERENCE)
    (mine / SEAL).unlink()
    with pytest.raises(BundleError, match=SEAL):
        monitor(log, [mine])


def test_images_of_which_none_was_compared_are_no_verdict(bundle: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", bundle, count=3, time=lambda number: START)
    assert "none of 3 images could be compared" in refused(run(log, f"shapes={bundle}", "--correlation", "5h"))
    assert run(log, f"shapes={bundle}", "--correlation", "0").exit_code == 0


def test_lines_that_cannot_be_read_and_jumps_of_the_clock_are_counted(bundle: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", bundle, count=20)
    write_log(log, bundle, count=5, time=lambda number: time.time() + 1e7 + number)  # a clock that was wrong for a while
    write_log(log, bundle, count=10, time=lambda number: START + 30 + number)
    write_log(log, bundle, count=3, time=lambda number: float(number))  # as after a restart without a clock
    with (log / LOG_FILE).open("a") as file:
        file.write('{"time": 3, "mod\n{}\n{"time": 5, "mo')  # the last one is still being written
    with collecting_notes() as notes:
        (found,) = monitor(log, [f"shapes={bundle}"], settings=INDEPENDENT)
    assert (found.images, found.compared) == (30, 30)
    said = " ".join(notes)
    assert "5 predictions have a time in the future" in said
    assert "3 predictions are of an earlier period" in said
    assert "2 predictions cannot be read" in said


def test_a_prediction_with_a_value_that_was_not_finite_counts(bundle: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", bundle, count=20, confidence=lambda number: None if number % 2 else 0.9)
    (found,) = monitor(log, [f"shapes={bundle}"], settings=INDEPENDENT)
    assert found.images == 20


def test_only_times_that_are_wrong_are_refused(bundle: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", bundle, count=5, time=lambda number: time.time() + 1e7)
    assert "none of 0 images" in refused(run(log, f"shapes={bundle}", "--correlation", "0"))


def test_images_are_chosen_for_labels_from_the_models_that_are_named(bundle: Path, tmp_path: Path) -> None:
    data = (bundle / "golden" / "000.png").read_bytes()
    log = write_log(tmp_path / "log", bundle, count=4, image=lambda number: f"cat{number}", model="cats", **{"class": "cat"})
    write_log(log, bundle, count=3, image=lambda number: f"dog{number}", model="dogs", **{"class": "dog"})
    (log / IMAGES).mkdir()
    for name in [f"cat{number}" for number in range(4)] + [f"dog{number}" for number in range(3)]:
        (log / IMAGES / name).write_bytes(data)
    with pytest.raises(DataError, match="cats, dogs"):
        find_label_candidates(log, tmp_path / "out", 50)
    assert find_label_candidates(log, tmp_path / "out", 50, [f"dogs={bundle}"]) == 3
    assert "cat" not in (tmp_path / "out" / "labels.csv").read_text()
    refused(invoke(["label-candidates", str(log), f"birds={bundle}", "--count", "5", "--out", str(tmp_path / "birds")]))
    assert not (tmp_path / "birds").exists()
