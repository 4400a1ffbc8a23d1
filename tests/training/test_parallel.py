"""Two processes train as one with the same batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from planish.errors import TrainingError
from planish.models import create
from planish.training import FitSettings, fit
from planish.training.batches import batches_per_epoch
from planish.training.fit import FitRun, Fitted, Teacher
from planish.training.parallel.processes import connect, current_processes

from .conftest import PREPROCESSING, SIZE, SPEC, Quarters, QuarterTask

ROOT = Path(__file__).parents[2]
QUICK = {"epochs": 3, "batch_size": 48, "learning_rate": 0.02, "mixed_precision": "off", "augmentation": "none", "flip": False}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "averaged": {"ema_decay": 0.9, "clip_norm": 0.5, "l1": 1e-4},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.003, "sampler": "balanced"},
    "early": {"freeze": "early", "patience": 5},
    "taught": {},
    "resumed": {},
    "deadline": {"epochs": 1000},
}


class Shapes(nn.Module):
    """Batch norm after convolutions and after a linear layer, and a layer of another library's kind: a subclass with an activation."""

    def __init__(self) -> None:
        super().__init__()
        # no biases before batch norm: their gradients are rounding errors, which Adam makes large
        first, second = nn.Conv2d(1, 8, 3, bias=False), nn.Conv2d(8, 8, 3, stride=2, bias=False)
        self.features = nn.Sequential(first, NormAct(8), second, nn.BatchNorm2d(8), nn.ReLU())
        hidden = nn.Linear(8 * 16, 12, bias=False)
        self.head = nn.Sequential(nn.Flatten(), hidden, nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class NormAct(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.hardswish(super().forward(x))


def network(kind: type[nn.Module] | None = None) -> nn.Module:
    torch.manual_seed(0)
    return Shapes() if kind is None else create("resnet8x0.5", num_classes=4, channels=1, image_size=SIZE).module


def images() -> QuarterTask:
    return QuarterTask({"train": Quarters(171, 0), "validation": Quarters(80, 10)})  # batches of 48, 48, 48 and 27, of which one has 14


def trained(name: str, folder: Path) -> Fitted:
    settings = FitSettings(**QUICK | CASES[name])
    teacher = Teacher(network(nn.Module), weight=0.5) if name == "taught" else None
    run = FitRun(folder / "training.pt") if name == "resumed" else FitRun(max_seconds=2) if name == "deadline" else FitRun()
    return fit(network(), images(), SPEC, PREPROCESSING, settings, teacher=teacher, run=run)


def main(folder: Path) -> None:
    """What both processes run."""
    torch.set_num_threads(1)
    processes = connect()
    if not processes.first:
        processes.take_part()
        return
    found = {}
    for name in CASES:
        fitted = trained(name, folder)
        found[name] = ([epoch.train_loss for epoch in fitted.history], fitted.module.state_dict(), fitted.stopped)
    with pytest.raises(TrainingError, match="loss"):  # both end it, and go on with the next training
        fit(network(), images(), SPEC, PREPROCESSING, FitSettings(**QUICK | {"learning_rate": 1e12}))
    found["after an error"] = ([epoch.train_loss for epoch in trained("plain", folder).history], {}, "")
    torch.save(found, folder / "found.pt")
    processes.end()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("together")
    interrupted = images()
    real, calls = interrupted.loss, []

    def loss(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return real(*arguments)

    interrupted.loss = loss  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        fit(network(), interrupted, SPEC, PREPROCESSING, FitSettings(**QUICK), run=FitRun(folder / "training.pt"))
    code = f"from pathlib import Path; from tests.training.test_parallel import main; main(Path({str(folder)!r}))"
    (folder / "main.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(folder / "main.py")]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "found.pt")


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", [name for name in CASES if name != "deadline"])
def test_two_processes_train_as_one(together, name, tmp_path):
    alone = trained(name, tmp_path)
    losses, state, stopped = together[name]
    assert stopped == alone.stopped
    np.testing.assert_allclose(losses, [epoch.train_loss for epoch in alone.history], rtol=1e-5, atol=1e-5)
    for key, value in alone.module.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_both_processes_end_at_the_time_limit_of_the_first(together):
    losses, _, stopped = together["deadline"]
    assert stopped == "deadline"
    assert 1 <= len(losses) < 1000


def test_a_training_that_fails_ends_in_both(together):
    assert together["after an error"][0] == together["plain"][0]


def test_started_together_but_not_connected_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert connect().count == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="2 processes, and each of them would train on all images"):
        current_processes()


def test_each_process_has_an_image_of_the_last_batch():
    assert batches_per_epoch(100, 32) == batches_per_epoch(100, 32, processes=4) == 4
    assert batches_per_epoch(99, 32, processes=4) == 3
