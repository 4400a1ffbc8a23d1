"""Techniques that train go on from where they were interrupted, where whoever applies them keeps their workspace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from planish.compression import ChannelPruning, IterativePruning, QuantizeAware
from planish.decisions import remembering
from planish.files.workspace import workspace
from planish.models.storage import save_artifact
from planish.training import Distill

from .conftest import Quarters

FIT = sys.modules["planish.training.fit"]
HOW: dict[str, Any] = {"epochs": 3, "batch_size": 32, "augmentation": "light"}


@pytest.mark.parametrize(
    "technique",
    [
        Distill(**HOW),
        Distill(**HOW, method="attention"),
        Distill(**HOW | {"epochs": 1000}, max_seconds=4.0),
        IterativePruning(pruning=ChannelPruning(pruning_ratio=0.5), rounds=2, distill=Distill(**HOW | {"epochs": 2})),
        QuantizeAware(**HOW, max_seconds=3.0),
    ],
    ids=["logits", "attention", "in time", "iterative", "qat"],
)
@pytest.mark.parametrize("last", [7, 11])
def test_interrupted_and_applied_again_it_gives_what_it_would_have_given(
    artifact, task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, technique, last: int
):
    task.splits["calibration"] = Quarters(64, 20)
    artifact = ChannelPruning(pruning_ratio=0.25).apply(artifact, task)  # the network that was is the teacher
    now, steps, decided = [0.0], [0], {}
    for module in (FIT, sys.modules["planish.training.schedules.schedule"]):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    real = FIT._Loss.__call__

    def step(loss: Any, *batch: Any) -> Any:
        now[0] += 1 / 4
        steps[0] += 1
        if steps[0] == last:
            raise KeyboardInterrupt
        return real(loss, *batch)

    monkeypatch.setattr(FIT._Loss, "__call__", step)

    def remember(key: str, work: Any) -> Any:
        if key not in decided:
            decided[key] = work()
        return decided[key]

    with remembering(remember):
        with workspace(tmp_path / "calm"):
            steps[0] = 1000
            expected = technique.apply(artifact, task)
            whole = steps[0] - 1000
        decided.clear()
        with workspace(tmp_path / "scratch"):
            steps[0] = 0
            with pytest.raises(KeyboardInterrupt):
                technique.apply(artifact, task)
            found = technique.apply(artifact, task)
    assert steps[0] < last + whole, "an epoch that was finished was not repeated"
    for name, value in expected.module.state_dict().items():
        assert torch.equal(found.module.state_dict()[name], value), name
    for folder, made in (("a", expected), ("b", found)):
        save_artifact(made, tmp_path / folder)
    assert (tmp_path / "a" / "artifact.json").read_bytes() == (tmp_path / "b" / "artifact.json").read_bytes()
