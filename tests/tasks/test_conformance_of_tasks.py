"""The conformance suite over the tasks that come with the package."""

from __future__ import annotations

from pathlib import Path

from planish.testing import TaskConformance, write_shapes


class TestClassification(TaskConformance):
    task = "classification"

    def data(self, folder: Path) -> Path:
        return write_shapes(folder, channels=3, per_class=30)


class _Scenes(TaskConformance):
    image_size = 64

    def data(self, folder: Path) -> str:
        return "fashion-scenes-40"


class TestDetection(_Scenes):
    task = "detection"


class TestInstance(_Scenes):
    task = "instance"


class TestSemantic(_Scenes):
    task = "semantic"
