"""Training: that it learns, repeats, resumes, stops in time, and says what is wrong."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from planish.data.normalisation import Normalise
from planish.decisions import remembering
from planish.errors import TrainingError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.progress import Progress, collecting_notes, listening
from planish.training import FitSettings, fit
from planish.training.fit import FitRun, Teacher
from planish.training.optimizers import optimizer_of
from planish.training.schedules.averaging import update_average
from planish.training.schedules.freezing import LayerFreezer
from planish.training.schedules.learning_rate import learning_rate

from .conftest import PREPROCESSING, SPEC, Quarters, QuarterTask

QUICK = {"epochs": 3, "batch_size": 32, "learning_rate": 0.05, "mixed_precision": "off", "augmentation": "none"}


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_it_learns_and_leaves_the_given_network_alone(task, network):
    before = copy.deepcopy(network)
    fitted = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 6}))
    assert fitted.history[-1].validation_score > 90
    assert fitted.history[-1].train_loss < fitted.history[0].train_loss
    assert fitted.stopped == "finished"
    assert not fitted.module.training
    assert same(network, before)
    logits = TorchPredictor(fitted.module, PREPROCESSING)(task.split("validation").images(SPEC, PREPROCESSING))["logits"]
    assert 100 * np.mean(logits.argmax(1) == task.split("validation").targets) == fitted.history[-1].validation_score


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.003, "ema_decay": 0.9, "clip_norm": 1.0},
        {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "augmentation": "light", "label_smoothing": 0.1, "channels_last": False},
        {"augmentation": "standard", "patience": 5, "ema_decay": 0.9},
        {"sampler": "balanced", "l1": 1e-4},
        {"augmentation": {"rotate": 10, "noise": 5, "trivialaugment": True}},
        {"mixed_precision": "bf16"},
        {"swa_share": 0.55},
        {"cycles": 5, "warmup_epochs": 0, "ema_decay": 0.5},
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(task, network, tmp_path: Path, more, monkeypatch: pytest.MonkeyPatch):
    network = nn.Sequential(network, nn.Dropout(0.1))  # something that draws random numbers
    settings = FitSettings(**QUICK | more)
    whole = fit(network, task, SPEC, PREPROCESSING, settings)
    torch.manual_seed(99)  # somebody else's random numbers must not matter

    real, calls = QuarterTask.loss, []

    def interrupted(self, *arguments, **named):
        calls.append(1)
        if len(calls) == 8:  # in the second epoch of five steps
            raise KeyboardInterrupt
        return real(self, *arguments, **named)

    monkeypatch.setattr(QuarterTask, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(tmp_path / "c.pt"))
    resumed = fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(tmp_path / "c.pt"))
    assert len(calls) == 8 + 10  # the first epoch was not repeated
    assert same(whole.module, resumed.module)
    assert len(whole.snapshots) == settings.cycles
    assert all(same(a, b) for a, b in zip(whole.snapshots, resumed.snapshots, strict=True))
    timeless = [[{**asdict(e), "seconds": 0} for e in f.history] for f in (whole, resumed)]
    assert timeless[0] == timeless[1]
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    calls.clear()
    again = fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(tmp_path / "c.pt"))
    assert same(again.module, whole.module)
    assert not calls


def test_a_checkpoint_of_another_training_is_refused_and_one_that_cannot_be_read_is_not_needed(task, network, tmp_path: Path):
    checkpoint, settings = tmp_path / "c.pt", FitSettings(**QUICK | {"epochs": 1})
    first = fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(checkpoint))
    with pytest.raises(TrainingError, match="another training"):
        fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 2}), run=FitRun(checkpoint))
    other = copy.deepcopy(network)
    other.conv1.weight.data[0] += 1
    with pytest.raises(TrainingError, match="another training"):
        fit(other, task, SPEC, PREPROCESSING, settings, run=FitRun(checkpoint))
    relabelled = copy.deepcopy(task)
    relabelled.split("train").targets[0] = 3 - relabelled.split("train").targets[0]
    with pytest.raises(TrainingError, match="another training"):
        fit(network, relabelled, SPEC, PREPROCESSING, settings, run=FitRun(checkpoint))
    for damaged in (b"", checkpoint.read_bytes()[:1000]):
        checkpoint.write_bytes(damaged)
        with collecting_notes() as notes:
            again = fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(checkpoint))
        assert same(first.module, again.module)
        assert "cannot be read, so training begins anew" in notes[0]


def test_seeds_matter(task, network):
    one, other = (fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 1, "seed": seed})).module for seed in (0, 1))
    assert not same(one, other)


class FakeTime:
    """The clock of a training: each step takes as long as it is told to, and nothing else takes any time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.step_seconds, self.steps = 1000.0, 1 / 64, 0
        for module in ("planish.training.schedules.schedule", "planish.training.fit"):
            monkeypatch.setattr(sys.modules[module], "monotonic", lambda: self.now)
        real = QuarterTask.loss

        def timed(task, *arguments, **named):
            self.now += self.step_seconds
            self.steps += 1
            return real(task, *arguments, **named)

        monkeypatch.setattr(QuarterTask, "loss", timed)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime(monkeypatch)


@pytest.mark.parametrize("more", [{}, {"swa_share": 0.25}, {"cycles": 2}])
def test_the_time_limit_is_kept_and_the_schedule_ends_there(task, network, clock, more):
    settings = FitSettings(**QUICK | {"epochs": 10_000, "warmup_epochs": 1000} | more)
    fitted = fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(max_seconds=2.0))
    assert 0.95 * 2 <= clock.now - 1000 <= 2
    assert fitted.seconds == pytest.approx(clock.now - 1000)
    assert fitted.stopped == "deadline"
    assert fitted.epochs == clock.steps / 5
    if "swa_share" not in more:
        assert fitted.history[-1].learning_rate < 0.05 * QUICK["learning_rate"]
    assert fitted.history[-1].validation_score > 90
    assert len(fitted.snapshots) == settings.cycles


def test_a_machine_that_becomes_slower_shortens_the_training(task, network, clock, monkeypatch: pytest.MonkeyPatch):
    def slower(*_):
        clock.step_seconds = 1 / 16 if clock.now > 1001 else 1 / 64

    monkeypatch.setattr(sys.modules["planish.training.fit"].Stage, "advance", slower)
    fitted = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 10_000}), run=FitRun(max_seconds=4.0))
    assert 64 + 40 <= clock.steps <= 64 + 48
    assert 3.7 <= clock.now - 1000 <= 4.1
    assert fitted.history[-1].learning_rate < 0.1 * QUICK["learning_rate"]


def test_where_no_time_is_left_there_is_a_network_all_the_same(task, network):
    fitted = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK), run=FitRun(max_seconds=-1))
    assert fitted.stopped == "deadline"
    assert same(fitted.module, network)


def test_a_generous_time_limit_changes_nothing(task, network, clock):
    free = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK))
    bound = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK), run=FitRun(max_seconds=3600))
    assert same(free.module, bound.module)
    assert bound.stopped == "finished"


@pytest.mark.parametrize("interrupted_at", [3, 17])
def test_interrupted_under_a_time_limit_it_goes_on_as_if_it_had_not_been(
    task, network, clock, tmp_path: Path, interrupted_at, monkeypatch: pytest.MonkeyPatch
):
    """Also where the machine is slower when it goes on, and after the interruption took long, and without any checkpoint."""
    settings = FitSettings(**QUICK | {"epochs": 10_000})
    whole = fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(max_seconds=0.5))
    decided: dict[str, Any] = {}

    def remember(key, work):
        return decided.setdefault(key, work()) if key not in decided else decided[key]

    stop = clock.steps + interrupted_at
    real = QuarterTask.loss

    def interrupted(self, *arguments, **named):
        if clock.steps == stop:
            raise KeyboardInterrupt
        return real(self, *arguments, **named)

    for checkpoint in (tmp_path / "c.pt", None):
        decided.clear()
        stop = clock.steps + interrupted_at
        monkeypatch.setattr(QuarterTask, "loss", interrupted)
        with remembering(remember):
            with pytest.raises(KeyboardInterrupt):
                fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(checkpoint, 0.5))
            before = dict(decided)
            monkeypatch.setattr(QuarterTask, "loss", real)
            clock.now += 1000
            resumed = fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(checkpoint, 0.5))
        assert before
        assert before.items() <= decided.items()
        assert same(whole.module, resumed.module)
        assert whole.seconds == resumed.seconds
        assert whole.history == resumed.history


@pytest.mark.parametrize("more", [{"learning_rate": 1e25}, {"learning_rate": 1e25, "clip_norm": 1.0, "warmup_epochs": 0}])
def test_a_loss_that_is_not_finite_says_where_and_what_to_try(task, network, more):
    with pytest.raises(TrainingError, match=r"epoch \d+, step \d+.*learning rate below") as caught:
        fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | more))
    assert ("clip_norm" in caught.value.fix) == ("clip_norm" not in more)


def test_a_single_last_image_is_left_out(network):
    task = QuarterTask({"train": Quarters(33, 0), "validation": Quarters(8, 1)})
    fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 1}))
    assert [len(outputs) for outputs, _ in task.seen] == [32]
    task = QuarterTask({"train": Quarters(34, 0), "validation": Quarters(8, 1)})
    fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 1}))
    assert [len(outputs) for outputs, _ in task.seen] == [32, 2]
    with pytest.raises(TrainingError, match="at least 2"):
        fit(network, QuarterTask({"train": Quarters(1, 0), "validation": Quarters(8, 1)}), SPEC, PREPROCESSING, FitSettings(**QUICK))


def test_every_image_is_seen_once_an_epoch_with_its_own_target(network):
    task = QuarterTask({"train": Quarters(70, 0), "validation": Quarters(8, 1)})
    fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 1}))
    seen = torch.cat([targets for _, targets in task.seen])
    assert torch.equal(seen.sort().values, torch.from_numpy(task.split("train").targets).sort().values)


def test_early_stopping_restores_the_best(task, network, monkeypatch: pytest.MonkeyPatch):
    scores = iter([0.5, 0.9, 0.6, 0.7, 0.8, 1.0])
    monkeypatch.setattr(QuarterTask, "scores", lambda self, outputs, targets: np.array([next(scores)]))
    stopped = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 6, "patience": 3}))
    assert stopped.stopped == "patience"
    assert len(stopped.history) == 5
    kept: list[nn.Module] = []
    real = TorchPredictor.__init__

    def keep(self, module, *arguments):
        kept.append(copy.deepcopy(module))
        real(self, module, *arguments)

    scores = iter([0.5, 0.9, 0.6, 0.7, 0.8, 1.0])
    monkeypatch.setattr(TorchPredictor, "__init__", keep)
    again = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 6, "patience": 3}))
    assert same(again.module, kept[1])


def test_norms_and_biases_are_not_decayed(network):
    groups = optimizer_of(network, SPEC, FitSettings(weight_decay=0.1), LayerFreezer(network, SPEC, "none", 1.0)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            assert (id(parameter) in decayed) == (isinstance(module, nn.Conv2d | nn.Linear) and name == "weight")
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_the_average_follows_the_weights(task, network):
    plain = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK))
    averaged = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"ema_decay": 0.9}))
    assert not same(plain.module, averaged.module)
    assert averaged.module.bn1.num_batches_tracked == plain.module.bn1.num_batches_tracked


def test_a_layer_that_is_used_twice_is_averaged_once():
    module = nn.ModuleDict({"one": nn.Conv2d(2, 2, 1)})
    module["again"] = module["one"]
    average = copy.deepcopy(module)
    with torch.no_grad():
        average["one"].weight.zero_()
        module["one"].weight.fill_(1)
    update_average(average, module, 0.9)
    torch.testing.assert_close(average["one"].weight, torch.full((2, 2, 1, 1), 0.1))


def test_teacher_and_student_see_the_same_images_and_the_teacher_does_not_change(task, network, monkeypatch: pytest.MonkeyPatch):
    seen: list[torch.Tensor] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(1)

        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            seen.append(x.detach().clone())
            return self.bn(x).mean((2, 3)).expand(-1, 4)

    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            if self.training:
                Noting.seen.append(x.detach().clone())
            return self.network(x)

        seen: list[torch.Tensor] = []  # noqa: RUF012

    monkeypatch.setattr("planish.training.distillation.compiled_teacher.find_spec", lambda _: None)  # the teacher stays in PyTorch
    teacher = Watching().train()
    fit(Noting(), task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 1, "augmentation": "light"}), teacher=Teacher(teacher))
    assert len(seen) == 6, "the first time to see which memory layout it takes"
    assert all(torch.equal(a, b) for a, b in zip(seen[1:], Noting.seen, strict=True))
    assert teacher.training
    assert teacher.bn.num_batches_tracked == 0


def test_the_weight_shares_the_loss_between_targets_and_teacher(task, network):
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(SPEC.height * SPEC.width, 4))
    losses = {
        weight: fit(
            network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 1, "learning_rate": 1e-12}),
            teacher=Teacher(teacher, weight),
        ).history[0].train_loss
        for weight in (0.0, 0.25, 1.0)
    }  # fmt: skip
    assert losses[0.25] == pytest.approx(0.75 * losses[0.0] + 0.25 * losses[1.0], rel=1e-4)


def test_progress_counts_up_to_its_total_and_says_how_it_goes(task, network):
    told: list[Progress] = []
    with listening(told.append):
        fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK))
    training = [p for p in told if p.stage == "training"]
    assert (training[-1].done, training[-1].total) == (15, 15)
    assert sum("validation accuracy" in p.text for p in training) == 3


def test_rates_rise_then_fall_to_nothing():
    rates = [learning_rate(p, 0.4, 0.25) for p in np.linspace(0, 1, 101)]
    assert rates[0] == 0
    assert max(rates) == rates[25] == pytest.approx(0.4)
    assert rates == sorted(rates[:25]) + sorted(rates[25:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates[62] == pytest.approx(0.2 * (1 + math.cos(math.pi * 0.37 / 0.75)), rel=1e-6)


def test_settings_refuse_what_cannot_be():
    from pydantic import ValidationError

    for wrong in ({"epochs": 0}, {"learning_rate": -1}, {"optimizer": "adam"}, {"momentun": 0.9}, {"loss": "hinge"}, {"l1": -1}):
        with pytest.raises(ValidationError):
            FitSettings(**wrong)


def test_rates_start_again_in_every_cycle_or_stay_where_they_are():
    rates = [learning_rate(0.1 + 0.01 * (step + 0.5), 0.4, 0.1, cycles=3) for step in range(90)]
    alone = [learning_rate((step + 0.5) / 30, 0.4, 0.0) for step in range(30)]
    np.testing.assert_allclose(rates, alone * 3, atol=1e-9)
    assert learning_rate(1.0, 0.4, 0.1, cycles=3) == pytest.approx(0, abs=1e-12)
    stays = [learning_rate(p, 0.4, 0.1, constant_from=0.75) for p in np.linspace(0, 1, 101)]
    assert stays[:76] == [learning_rate(p, 0.4, 0.1) for p in np.linspace(0, 1, 101)[:76]]
    assert set(stays[75:]) == {stays[75]}


def watched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The weights after each step of the optimizer, in the order of the network's parameters."""
    after: list[dict[str, torch.Tensor]] = []
    real = torch.optim.SGD.step

    def step(self, *arguments):
        found = real(self, *arguments)
        after.append({id(p): p.detach().clone() for group in self.param_groups for p in group["params"]})
        return found

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    return after


def test_swa_is_the_mean_of_the_weights_after_each_of_the_last_steps(task, network, monkeypatch: pytest.MonkeyPatch):
    after = watched(monkeypatch)
    fitted = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"swa_share": 0.4, "ema_decay": 0.9}))
    assert len(after) == 15
    last = [list(state.values()) for state in after[-6:]]
    expected = sorted(float(torch.stack(same).double().mean(0).norm()) for same in zip(*last, strict=True))
    found = sorted(float(p.detach().double().norm()) for p in fitted.module.parameters())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    plain = sorted(float(p.double().norm()) for p in last[-1])
    assert not np.allclose(plain, expected, rtol=1e-5)
    # the statistics of the first batch norm are those of what the average makes of training images
    images = torch.from_numpy(task.split("train").images(SPEC, PREPROCESSING))
    with torch.no_grad():
        maps = fitted.module.conv1(Normalise.of(PREPROCESSING)(images))
    torch.testing.assert_close(fitted.module.bn1.running_mean, maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert fitted.history[-1].learning_rate == fitted.history[-2].learning_rate > 0


def test_snapshots_are_the_weights_at_the_end_of_each_cycle(task, network, monkeypatch: pytest.MonkeyPatch):
    after = watched(monkeypatch)
    fitted = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"cycles": 3, "warmup_epochs": 0}))
    assert len(fitted.snapshots) == 3
    assert fitted.snapshots[-1] is fitted.module
    for snapshot, step in zip(fitted.snapshots, (5, 10, 15), strict=True):
        expected = sorted(float(p.norm()) for p in after[step - 1].values())
        assert sorted(float(p.detach().norm()) for p in snapshot.parameters()) == pytest.approx(expected)
        assert not snapshot.training
    assert len(fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 1})).snapshots) == 1


def test_averaging_that_does_not_go_together_is_refused(task, network):
    with pytest.raises(TrainingError, match="choose one"):
        fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"cycles": 2, "swa_share": 0.3}))
    with pytest.raises(TrainingError, match=r"warming up.*at most swa_share=0\.5"):
        fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"warmup_epochs": 3, "swa_share": 0.6}))


def test_statistics_follow_a_short_training(task, network):
    """A momentum that is meant for long trainings would leave them where they began."""
    slow = copy.deepcopy(network)
    for norm in slow.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.001
    fitted = fit(slow, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 6}))
    assert fitted.history[-1].validation_score > 90
    assert {norm.momentum for norm in slow.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.001}
