"""A teacher's answers are those it would give, and it is asked about each image once."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from planish.training import Distill
from planish.training.distillation import teacher_cache as remembered
from planish.training.distillation.teacher_cache import TeacherCache, cache_of


def test_each_image_is_asked_about_once():
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).requires_grad_(False)
    images = torch.randint(0, 256, (6, 2, 2, 3), dtype=torch.uint8)
    asked: list[list[int]] = []

    def ask(shown: torch.Tensor, chosen: list[int]) -> torch.Tensor:
        asked.append(chosen)
        return teacher(shown[chosen].float())

    answers = TeacherCache(at_once=4)
    for indices in ([0, 1, 2, 3], [5, 1, 3]):
        shown = images[indices]
        assert torch.allclose(answers.ask(shown, partial(ask, shown)), teacher(shown.float()))
    assert asked == [[0, 1, 2, 3], [0] * 4], "always four at once, of those that were not known"


def test_what_does_not_fit_is_answered_all_the_same(monkeypatch):
    monkeypatch.setattr(remembered, "_MOST_BYTES", 4 * 3 * 4)
    images, answers = torch.arange(8, dtype=torch.uint8).view(8, 1), TeacherCache(at_once=4)
    for start in (0, 4, 0, 4, 2):
        part = images[start : start + 4]
        found = answers.ask(part, lambda chosen, part=part: part[chosen].float().expand(-1, 3))
        assert torch.equal(found, part.float().expand(-1, 3))


def test_answers_take_no_more_memory_than_is_counted():
    answers = TeacherCache(at_once=64)
    answers.ask(torch.zeros(1, 4, dtype=torch.uint8), lambda chosen: torch.zeros(len(chosen), 10))
    (known,) = answers._known.values()
    assert known.untyped_storage().nbytes() == answers._bytes == 10 * 4


def test_another_teacher_gives_other_answers():
    teacher = nn.Linear(2, 2)
    known = cache_of(teacher, 64)
    assert cache_of(copy.deepcopy(teacher), 64) is known
    assert cache_of(teacher, 32) is not known
    known = cache_of(teacher, 64)
    assert cache_of(teacher, 64, bf16=True) is not known
    known = cache_of(teacher, 64)
    teacher.weight.data[0, 0] += 1
    assert cache_of(teacher, 64) is not known


def test_a_second_distillation_does_not_run_the_teacher(artifact, task, monkeypatch):
    """And gives the very same student."""
    start = Distill(epochs=1, batch_size=32, augmentation="none").apply(artifact, task)
    images_seen = []
    plain = TeacherCache.ask

    def counted(self, images, teacher):
        return plain(self, images, lambda chosen: images_seen.append(len(set(chosen))) or teacher(chosen))

    monkeypatch.setattr(TeacherCache, "ask", counted)
    remembered._answers_of.cache_clear()
    technique = Distill(epochs=2, batch_size=32, augmentation="light")
    first = technique.apply(start, task)
    asked = sum(images_seen)
    assert 160 < asked <= 320  # two epochs of 160 images; a few views come twice
    second = technique.apply(start, task)
    assert sum(images_seen) == asked
    for a, b in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
