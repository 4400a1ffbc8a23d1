"""Progressive resizing: which sizes a network sees, how long it takes, and where it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from planish.artifact import InputSpec
from planish.progress import collecting_notes
from planish.training import FitSettings, fit
from planish.training.fit import FitRun, Teacher
from planish.training.resizing import ProgressiveResizing, Resized

from .conftest import PREPROCESSING
from .test_fit import FakeTime

SPEC = InputSpec(1, 96, 96)
SETTINGS = FitSettings(epochs=4, batch_size=16, learning_rate=0.05, mixed_precision="off", augmentation="none", start_scale=0.7)


class Tiny(nn.Sequential):
    """Records the height of every batch in training, or in eval mode if it is a teacher."""

    def __init__(self, teaches: bool = False) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))
        self.heights: list[int] = []
        heights = self.heights

        def note(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            if layer.training != teaches:
                heights.append(int(given[0].shape[2]))

        self[0].register_forward_pre_hook(note)


def test_the_first_seventy_percent_are_small_and_the_teacher_sees_full_size(task) -> None:
    student, teacher = Tiny(), Tiny(teaches=True)
    fitted = fit(student, task, SPEC, PREPROCESSING, SETTINGS, teacher=Teacher(teacher), run=FitRun(validate=False))
    steps = round(fitted.epochs) * -(-len(task.split("train")) // SETTINGS.batch_size)
    seen = [height for height in student.heights if height != 1]
    assert seen == [64] * int(np.ceil(0.7 * steps)) + [96] * int(0.3 * steps)
    assert set(teacher.heights) == {96}


def test_a_network_for_smaller_images_starts_from_its_own_size(task) -> None:
    student = Tiny()
    spec = InputSpec(1, 160, 160)
    fit(Resized(student, (96, 96), "dataset"), task, spec, PREPROCESSING, SETTINGS, run=FitRun(validate=False))
    assert list(dict.fromkeys(student.heights)) == [64, 96]


@pytest.mark.parametrize("validate", [True, False])
def test_a_time_limit_is_kept_though_later_steps_take_longer(task, monkeypatch: pytest.MonkeyPatch, validate: bool) -> None:
    clock, student = FakeTime(monkeypatch), Tiny()

    def timed(layer: nn.Module, given: Any) -> None:
        if layer.training:
            clock.step_seconds = given[0].shape[2] ** 2 / 96**2 / 16

    student[0].register_forward_pre_hook(timed)
    settings = FitSettings(**{**vars(SETTINGS), "epochs": 10_000})
    fitted = fit(student, task, SPEC, PREPROCESSING, settings, run=FitRun(max_seconds=20.0, validate=validate))
    assert 0.95 * 20 <= clock.now - 1000 <= 20
    small = sum(height == 64 for height in student.heights)
    assert small / clock.steps == pytest.approx(0.7, abs=0.02)
    assert fitted.history[-1].learning_rate < 0.05 * settings.learning_rate


def test_a_network_of_one_size_is_trained_at_full_size_and_a_note_says_so(task) -> None:
    torch.manual_seed(0)
    fixed = nn.Sequential(nn.Conv2d(1, 2, 3, stride=8), nn.Flatten(), nn.Linear(2 * 12 * 12, 4))
    with collecting_notes() as notes:
        fit(fixed, task, SPEC, PREPROCESSING, SETTINGS, run=FitRun(validate=False))
    assert any("does not take images of 64 x 64 pixels" in text for text in notes)


@pytest.mark.parametrize(("side", "scale", "small"), [(224, 0.7, 160), (96, 0.7, 64), (64, 0.7, None), (32, 0.5, None), (224, 1.0, None)])
def test_small_sizes_are_multiples_of_32_of_at_least_64_pixels(side: int, scale: float, small: int | None) -> None:
    resizing = ProgressiveResizing(Tiny(), InputSpec(1, side, side), scale, "dataset", np.array([0, 1]))
    pixels = torch.rand(2, 1, side, side)
    assert resizing(pixels, 0.5).shape[2] == (small or side)
    assert resizing(pixels, 0.75) is pixels
    assert resizing.cost(0.5) == pytest.approx(((small or side) / side) ** 2)


def test_images_of_boxes_maps_and_numbers_are_full_size() -> None:
    for targets in ([{"boxes": torch.zeros(0, 4)}], np.zeros((2, 96, 96), np.uint8), np.zeros((2, 3), np.float32)):
        with collecting_notes() as notes:
            assert ProgressiveResizing(Tiny(), SPEC, 0.7, "dataset", targets).small is None
        assert "only for classes" in notes[0]
