"""Whether making batches keeps a training waiting: measured, and told once in words."""

from __future__ import annotations

import importlib
import time

import numpy as np
import pytest
import torch

from planish.artifact import InputSpec
from planish.data.augmentation.operations import Operations
from planish.decisions import remembering
from planish.progress import collecting_notes
from planish.tasks import Classification
from planish.training import FitSettings, fit, input_speed
from planish.training.batches import batches
from planish.training.input_speed import Waiting, costliest_operation, input_finding, input_rate

from .conftest import PREPROCESSING, SPEC, QuarterTask

TASK = Classification({}, ("a", "b"))
QUICK = {"epochs": 2, "batch_size": 32, "mixed_precision": "off", "augmentation": "none"}


def test_waiting_counts_the_making_and_not_the_using(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    closed = []

    def made():
        try:
            for number in range(5):
                now[0] += 3
                yield number
        finally:
            closed.append(True)

    waiting, seen = Waiting(), []
    for number in waiting.on(made()):
        if number == 4:
            break
        now[0] += 100
        seen.append(number)
    assert (seen, waiting.seconds) == ([0, 1, 2, 3], 15)
    assert closed  # a thread that makes batches must not outlive the loop


def test_the_rate_is_measured_over_epochs(monkeypatch: pytest.MonkeyPatch):
    """A clock that a batch moves on by 1 ms an image."""
    now, epochs = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def made(images, targets, spec, task, settings, epoch, *, ahead):
        epochs.append(epoch)
        for batch in batches(images, targets, spec, task, settings, epoch, ahead=ahead):
            now[0] += len(batch[0]) / 1000
            yield batch

    monkeypatch.setattr(input_speed, "batches", made)
    images, targets = np.zeros((70, 8, 8, 1), np.uint8), np.zeros(70, np.int64)
    found = input_rate(images, targets, InputSpec(1, 8, 8), TASK, FitSettings(batch_size=32), seconds=0.2)
    assert found.value == pytest.approx(1000)
    assert found.low == pytest.approx(1000)
    assert found.high == pytest.approx(1000)
    assert (found.unit, found.n, found.higher_is_better) == ("images/s", 210, True)
    assert epochs[:4] == [1, 2, 3, 4]


def test_a_real_rate_has_an_interval_and_falls_with_augmentation():
    images, targets = np.zeros((200, 64, 64, 3), np.uint8), np.zeros(200, np.int64)
    slow = Operations(blur=5.0, noise=10, hue=0.1)
    rates = [
        input_rate(images, targets, InputSpec(3, 64, 64), TASK, FitSettings(batch_size=50, augmentation=given), seconds=0.2)
        for given in ("none", slow)
    ]
    assert all(rate.low <= rate.value <= rate.high for rate in rates)
    assert rates[1].value < rates[0].value


def test_what_is_told():
    assert input_finding(0.2, 1.0) == ""
    assert input_finding(0.0, 0.0) == ""
    assert input_finding(4.0, 10.0) == "making batches takes 40 % of the training time"
    costliest = "blur, 3.1 ms for 64 images"
    assert (
        input_finding(4.0, 10.0, costliest) == f"making batches takes 40 % of the training time; the costliest augmentation is {costliest}"
    )


def test_the_costliest_operation_is_named():
    images, spec = np.zeros((32, 64, 64, 3), np.uint8), InputSpec(3, 64, 64)
    state = torch.get_rng_state()
    assert costliest_operation(images, spec, Operations(flip=True, blur=8.0, brightness=0.1)).startswith("blur, ")
    assert costliest_operation(images, spec, "standard").startswith("standard, ")
    assert costliest_operation(images, spec, "standard").endswith(" ms for 32 images")
    assert costliest_operation(images, spec, "none") == ""
    assert costliest_operation(images, spec, Operations()) == ""
    assert torch.equal(state, torch.get_rng_state())


def slowly(seconds: float):
    def made(*arguments, **named):
        for batch in batches(*arguments, **named):
            time.sleep(seconds)
            yield batch

    return made


def test_a_training_that_waits_says_so_once_in_a_run(task, network, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.import_module("planish.training.fit"), "batches", slowly(0.1))  # the package has a function of that name
    decided: dict[str, str] = {}

    def remember(key, work):
        if key not in decided:
            decided[key] = work()
        return decided[key]

    with collecting_notes() as notes, remembering(remember):
        fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"augmentation": Operations(rotate=10)}))
        fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"augmentation": Operations(rotate=10)}))
    told = [text for text in notes if "making batches" in text]
    assert len(told) == 1
    assert "costliest augmentation is rotate, " in told[0]


def test_a_training_that_does_not_wait_says_nothing(task, network, monkeypatch: pytest.MonkeyPatch):
    real = QuarterTask.loss

    def slow_loss(self, *arguments, **named):
        time.sleep(0.1)
        return real(self, *arguments, **named)

    monkeypatch.setattr(QuarterTask, "loss", slow_loss)
    with collecting_notes() as notes:
        fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK))
    assert not [text for text in notes if "making batches" in text]
