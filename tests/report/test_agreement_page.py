"""The page of a run on images without labels: it is about agreement, and its divergence is checked against the predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from planish.report.pages.run import render
from planish.report.recomputation.run_folder import read_run


def rewritten(run: Path, divergence: float) -> str:
    """The page of a run whose metric is agreement; all copies of the chosen candidate have the divergence."""
    for name in ("result.json", "evidence.json"):
        text = (run / name).read_text().replace("accuracy", "agreement")
        said: dict[str, Any] = json.loads(text)
        for one in [said["chosen"], *said["candidates"]] if "chosen" in said else []:
            if one["key"] == said["chosen"]["key"]:
                measured = {"name": "kl_divergence", "value": divergence, "unit": "nats", "n": 2000, "higher_is_better": False}
                one["measurements"]["kl_divergence"] = measured
        (run / name).write_text(json.dumps(said))
    return render(read_run(run))


@pytest.fixture
def divergence(run: Path) -> float:
    with np.load(run / "predictions.npz") as saved:
        before, after = (softmax(saved[name].astype(float), axis=1) for name in ("baseline", "chosen"))
    return float(entropy(before, after, axis=1).mean())


def test_the_page_is_about_agreement(run: Path, divergence: float) -> None:
    page = rewritten(run, divergence)
    assert "accuracy" not in page.lower()
    assert "Agreement on test" in page
    assert "Agreement per class" in page
    assert "at most 1 % of answers change" in page
    assert "Answers changed" in page
    assert "Correct only before" not in page
    assert "Rows are the original" in page
    assert f"{divergence:.4f} nats" in page
    assert "Do not trust this page" not in page


def test_a_wrong_divergence_is_reported(run: Path, divergence: float) -> None:
    page = rewritten(run, divergence / 2)
    assert "Do not trust this page" in page
    assert "KL divergence on test: the result says" in page
