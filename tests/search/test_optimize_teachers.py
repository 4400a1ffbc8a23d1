"""Several teachers of one search: trained apart, used together, and refused where there can be none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from simulated_time import World, simulate

import planish
from planish.errors import GoalError
from planish.models import create
from planish.models.storage import load_artifact
from planish.testing import write_shapes

NAMES = ("original", "teacher-1", "teacher-2")


def test_several_teachers_are_refused_where_no_further_network_is_trained(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=20)
    network = create("resnet8", num_classes=3, channels=1, image_size=24).module
    with pytest.raises(GoalError, match="name the model"):
        planish.optimize(data, model=network, teachers=2, out=tmp_path / "run")
    with pytest.raises(GoalError, match="--train always"):
        planish.optimize(data, model="resnet8", teachers=2, train_mode="never", out=tmp_path / "run")
    with pytest.raises(GoalError, match="--teachers 0"):
        planish.optimize(data, model="resnet8", teachers=0, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_they_are_trained_once_and_differ(tmp_path: Path) -> None:
    """The search is interrupted when it shows its first candidate, and once more after it was resumed."""
    data, run = write_shapes(tmp_path / "shapes", per_class=20), tmp_path / "run"
    folders = [run / "work" / name for name in NAMES]

    def interrupt(candidates: Any) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"model": "resnet8x0.5", "budget": "30s", "epochs": 1, "teachers": 3, "runtime": "onnxruntime"}
    with pytest.raises(KeyboardInterrupt):
        planish.optimize(data, out=run, watch=interrupt, **options)
    weights = [load_artifact(folder).module.conv1.weight for folder in folders]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))

    def files() -> dict[Path, tuple[int, int]]:
        found = {file: file.stat() for folder in folders for file in folder.iterdir()}
        return {file: (stat.st_ino, stat.st_mtime_ns) for file, stat in found.items()}

    before = files()
    with pytest.raises(KeyboardInterrupt):
        planish.optimize(data, out=run, watch=interrupt, resume=True, **options)
    assert files() == before, "they were trained again"


def test_candidates_learn_from_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = write_shapes(tmp_path / "shapes", per_class=20), tmp_path / "run"
    result, _ = simulate(run, World(), 300, monkeypatch, data=data, teachers=3)
    distilled = [step for candidate in result.candidates for step in candidate.plan if step["name"] == "distill"]
    assert distilled
    assert [step["teachers"] for step in distilled] == [[str(run / "work" / name) for name in NAMES]] * len(distilled)
