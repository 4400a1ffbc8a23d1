"""What a study of ensembles says in words, and that nothing is cut on a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from planish.experiments.ensemble_measurements import EnsembleArm
from planish.experiments.ensembles import EnsembleStudy
from planish.experiments.experiment import TOO_FEW
from planish.measurement import Measurement
from planish.report.pages.ensembles import costs, ensemble_table, findings, write_ensembles


def make_arm(
    label: str, gain: float, half: float, ratio: float = 1.0, training: float = 1.0, parameters: int = 1, why: str = ""
) -> EnsembleArm:
    measured = {
        "accuracy": Measurement("accuracy", 85 + gain, "%", 6000, True, 84 + gain, 86 + gain),
        "training_seconds": Measurement("training_seconds", 10 * training, "s", 3, False),
        "parameters": Measurement("parameters", 75_000.0 * parameters, "count", 1, False),
        "latency_ms": Measurement("latency_ms", 0.1 / ratio, "ms", 50, False, 0.09 / ratio, 0.11 / ratio),
        "latency_ratio": Measurement("latency_ratio", ratio, "ratio", 50, True, 0.99 * ratio, 1.01 * ratio),
        "size_bytes": Measurement("size_bytes", 300_000.0 * parameters, "bytes", 1, False),
    }
    verdict = "reference"
    if half:
        measured["difference"] = Measurement("difference", gain, "points", 6000, True, gain - half, gain + half)
        verdict = "better" if gain > half else "worse" if gain < -half else "no difference"
    if why:
        del measured["latency_ms"], measured["latency_ratio"], measured["size_bytes"]
    return EnsembleArm(label, f"about {label}", 3, measured, verdict, "" if why else "slower" if ratio < 0.9 else "no difference", why)


def make_study(*arms: EnsembleArm) -> EnsembleStudy:
    return EnsembleStudy(
        name="ensembles-shapes", created="2026-11-01T10:00:00+00:00", command="planish compare shapes --topic ensembles", data="shapes",
        model="resnet8", recipe="training: {}", seeds=3, budget="4 epochs", runtime="onnxruntime",
        arms=[make_arm("single network", 0, 0), *arms], noise_floor=Measurement("noise_floor", 0.4, "%", 4, False, 0.0, 1.2),
        machine={"threads": 1, "batch": 1}, seconds={},
    )  # fmt: skip


EVERY = (
    make_arm("SWA", 0.6, 0.4),
    make_arm("snapshot ensemble", 0.3, 0.5, 1 / 3, 1.0, 3),
    make_arm("TTA, flip", -0.2, 0.4, 0.5),
    make_arm("soup of 3 seeds", -60.0, 5.0, 1.0, 3.0),
    make_arm("ensemble of 3", 1.6, 0.4, 1 / 3, 3.0, 3),
    make_arm("student", 0.8, 0.9, 1.0, 4.0),
    EnsembleArm("soup, greedy", "about", reason="failed: the loss became nan"),
)


def test_findings_name_gain_and_cost() -> None:
    assert findings(make_study(*EVERY)) == [
        "Ensemble of 3 gains 1.6 points over the single network, for 3.0 times the time of a call and 3.0 times the training.",
        "SWA gains 0.6 points over the single network, for as fast a file and 1.0 times the training.",
        "Without a slower file, SWA gains most.",
        "The student keeps 50% of what the ensemble of 3 gains, in a file of a single network.",
        "Soup of 3 seeds is 60.0 points behind the single network.",
        "No difference to the single network was found for student; snapshot ensemble; TTA, flip.",
    ]
    soups = findings(make_study(make_arm("soup, uniform", 0.8, 0.5, training=2.0), make_arm("fine-tuned copy", 0.7, 0.9)))
    assert soups[0].endswith("for as fast a file and 2.0 times the training; one fine-tuned copy gains 0.7.")
    assert "Nothing gains without a slower file." in findings(make_study(EVERY[4]))
    unclear = replace(make_arm("SWA", 0.1, 20), verdict=TOO_FEW)
    assert findings(make_study(unclear)) == ["There are too few seeds, or images, to tell of SWA: the intervals are wide."]
    assert findings(make_study(make_arm("SWA", 0.1, 0.3))) == ["No difference to the single network was found for SWA."]


def test_costs_are_times_of_the_single_network() -> None:
    study = make_study(*EVERY, make_arm("EMA", 0.1, 0.2, why="not exported: no"))
    by_label = {arm.label: costs(arm, study.arms[0]) for arm in study.arms}
    assert by_label["ensemble of 3"] == pytest.approx({"call": 3.0, "training": 3.0, "parameters": 3.0})
    assert by_label["EMA"] == {"training": 1.0, "parameters": 1.0}
    assert by_label["soup, greedy"] == {}


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_the_terminal_cuts_no_number(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    console.print(ensemble_table(make_study(*EVERY).arms, width))
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert all(number in text for number in ("86.60 %", "+1.60", "[1.20,", "3.00×", "−60.00"))


def test_the_page_shows_every_arm_and_what_is_far_off_stays_inside_the_plots(tmp_path: Path) -> None:
    study = make_study(*EVERY)
    study.save(tmp_path / "ensembles.json")
    page = write_ensembles(tmp_path).read_text()
    for arm in study.arms:
        assert len(re.findall(f"</svg><span>{arm.label}<", page)) == 1
    assert "failed: the loss became nan" in page
    heights = [float(part.split('"')[0]) for part in page.split(' y2="')[1:]]
    assert 0 <= min(heights) <= max(heights) < 500
    assert page.count(">−60</text>") == 2 * 3  # beside its mark at the edge of each plot, wide and narrow
