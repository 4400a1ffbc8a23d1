from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from planish.artifact import InputSpec, Preprocessing
from planish.devices.machine import describe_machine
from planish.errors import ModelError
from planish.evaluation.evaluate import evaluate
from planish.evaluation.metrics.classification import classification_metrics
from planish.evaluation.size import macs, size_bytes
from planish.progress import listening

SPEC, PREPROCESSING = InputSpec(3, 4, 4), Preprocessing(4, "squash", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def task() -> Any:
    rng = np.random.default_rng(0)
    images, targets = rng.integers(0, 255, (23, 4, 4, 3), dtype=np.uint8), rng.integers(0, 3, 23)
    split = SimpleNamespace(targets=targets, images=lambda spec, preprocessing: images)
    return SimpleNamespace(
        split=lambda name: split, metrics=lambda outputs, targets: classification_metrics(outputs["logits"], targets, "abc"), images=images
    )


def test_evaluate_keeps_the_order_and_takes_a_smaller_last_batch(task: Any) -> None:
    sizes, told = [], []

    def predictor(images: Any) -> Any:
        sizes.append(len(images))
        return {"logits": images.reshape(len(images), -1)[:, :3].astype(np.float32)}

    with listening(told.append):
        found = evaluate(predictor, task, "validation", SPEC, PREPROCESSING, batch_size=10)
    assert sizes == [10, 10, 3]
    np.testing.assert_array_equal(found.outputs["logits"], task.images.reshape(23, -1)[:, :3])
    right = (found.outputs["logits"].argmax(1) == found.targets).mean()
    assert found.metrics["accuracy"].value == pytest.approx(100 * right)
    assert (told[-1].done, told[-1].total) == (23, 23)


def test_a_model_that_loses_rows_is_refused(task: Any) -> None:
    with pytest.raises(ModelError, match="1 rows of 'logits' for 10 images"):
        evaluate(lambda images: {"logits": np.zeros((1, 3))}, task, "test", SPEC, PREPROCESSING, batch_size=10)


def test_macs_of_layers_that_can_be_counted_by_hand() -> None:
    conv = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1, groups=1), torch.nn.Conv2d(8, 8, 3, padding=1, groups=8))
    assert macs(conv, InputSpec(3, 10, 10)).value == 100 * (9 * 3 * 8 + 9 * 8)
    network = torchvision.models.resnet18().train()
    network.layer1.eval()
    assert macs(network, InputSpec(3, 224, 224)).value == pytest.approx(1.814e9, rel=0.001)
    assert network.training
    assert not network.layer1.training


def test_size_is_of_all_files(tmp_path: Any) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file, count in zip(files, (10, 7), strict=True):
        file.write_bytes(b"x" * count)
    assert size_bytes(files).value == 17


def test_machine_is_described_quickly_and_in_plain_values() -> None:
    described = describe_machine()
    assert all(isinstance(v, str | int | float) for v in described.values())
    assert described["cpu"]
    assert int(described["memory_bytes"]) > 1e8
    assert described["torch"] == torch.__version__.split("+")[0] or str(described["torch"]).startswith(torch.__version__.split("+")[0])
