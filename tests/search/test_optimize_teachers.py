"""Several teachers of one search: trained apart, asked together, and refused where there can be none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import planish
from planish.compression import ChannelPruning
from planish.errors import GoalError
from planish.measurement import Measurement
from planish.models import create
from planish.models.storage import load_artifact
from planish.plan import Plan
from planish.runs import original
from planish.search import halving, optimize
from planish.search.proposals import Level, Trial
from planish.search.state import Search
from planish.testing import write_shapes


def test_what_has_no_others_like_it_cannot_be_several_teachers(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=20)
    network = create("resnet8", num_classes=3, channels=1, image_size=24).module
    with pytest.raises(GoalError, match="name the model"):
        planish.optimize(data, model=network, teachers=2, out=tmp_path / "run")
    with pytest.raises(GoalError, match="--train always"):
        planish.optimize(data, model="resnet8", teachers=2, train_mode="never", out=tmp_path / "run")
    with pytest.raises(GoalError, match="--teachers 3"):
        planish.optimize(data, model="resnet8", teachers=0, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_others_like_the_original_are_trained_from_other_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = write_shapes(tmp_path / "shapes", per_class=20), tmp_path / "run"
    searches: list[Search] = []

    def interrupted(search: Search) -> None:
        searches.append(search)
        raise KeyboardInterrupt

    monkeypatch.setattr(optimize, "_search", interrupted)
    options = {"model": "resnet8x0.5", "budget": "10m", "epochs": 1, "teachers": 3, "out": run}
    with pytest.raises(KeyboardInterrupt):
        planish.optimize(data, **options)
    folders = tuple(str(run / "work" / name) for name in ("original", "teacher-1", "teacher-2"))
    assert searches[0].teachers == folders
    weights = [load_artifact(Path(folder)).module.conv1.weight for folder in folders]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    monkeypatch.setattr(original, "train_original", None)  # nothing is trained again
    with pytest.raises(KeyboardInterrupt):
        planish.optimize(data, resume=True, **options)
    assert searches[1].teachers == folders


def test_candidates_are_taught_by_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = write_shapes(tmp_path / "shapes", per_class=20), tmp_path / "run"
    trained: list[Trial] = []

    def one(search: Search) -> None:
        known = {"latency_ms": Measurement("latency_ms", 1.0, "ms", 50, False)}
        known["latency_ratio"] = Measurement("latency_ratio", 2.0, "ratio", 50, True)
        known["drop_calibration"] = Measurement("drop_calibration", 5.0, "points", 50, False)
        trial = Trial(Level(2.0), Plan(ChannelPruning(pruning_ratio=0.5)), measurements=known)
        trained.extend(halving.train(search, [trial], reserved=search.seconds_left - 2))
        raise KeyboardInterrupt

    monkeypatch.setattr(optimize, "_search", one)
    with pytest.raises(KeyboardInterrupt):
        planish.optimize(data, model="resnet8x0.5", budget="10m", epochs=1, teachers=2, out=run)
    assert trained[0].drop is not None
    assert trained[0].plan.to_dicts()[-1]["teachers"] == [str(run / "work" / name) for name in ("original", "teacher-1")]
