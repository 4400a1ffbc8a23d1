"""Techniques on a network that returns several tensors by name and reads them itself, as detectors do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from planish.artifact import RAW, Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.runtimes.registry import executed_precisions, load
from planish.files.trust import trust
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.tasks import Detection

SPEC = InputSpec(1, 64, 64)
BINS, KEPT = 4, 20
FACTORY = """
import sys
sys.path.insert(0, {folder!r})
from test_named_outputs import Pyramid
def factory(num_classes, channels):
    return Pyramid()
"""


def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Pyramid(nn.Module):
    """Two levels that see one another, up and down, with boxes and classes at each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(1, 16, 3, 2), block(16, 24, 3, 2), block(24, 32, 3, 2))
        self.deep = block(32, 48, 3, 2)
        self.across, self.top = block(32, 24, 1), block(48, 24, 1)
        self.fine, self.down, self.coarse = block(48, 24), block(24, 24, 3, 2), block(48, 24)
        self.boxes = nn.ModuleList(nn.Conv2d(24, 4 * BINS, 1) for _ in range(2))
        self.classes = nn.ModuleList(nn.Conv2d(24, 3, 1) for _ in range(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        shallow = self.stem(x)
        deep = self.top(self.deep(shallow))
        fine = self.fine(torch.cat([self.across(shallow), functional.interpolate(deep, scale_factor=2.0)], 1))
        coarse = self.coarse(torch.cat([deep, self.down(fine)], 1))
        heads = zip((fine, coarse), self.boxes, self.classes, strict=True)
        return {f"level_{8 * 2**i}": torch.cat([boxes(maps), classes(maps)], 1) for i, (maps, boxes, classes) in enumerate(heads)}

    def loss(self, outputs: dict[str, Tensor], targets: Any) -> Tensor:
        return torch.stack([values.square().mean() for values in outputs.values()]).mean()

    def decode(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = torch.cat([values.flatten(2) for values in outputs.values()], 2)
        steps = torch.arange(BINS, dtype=rows.dtype).view(1, 1, -1, 1)
        sides = (rows[:, : 4 * BINS].unflatten(1, (4, BINS)).softmax(2) * steps).sum(2).transpose(1, 2)
        scores, labels = rows[:, 4 * BINS :].sigmoid().max(1)
        scores, best = scores.topk(KEPT, dim=1)
        kept = sides.gather(1, best.unsqueeze(2).expand(-1, -1, 4)) / (2 * BINS)
        boxes = torch.cat([kept[..., :2], kept[..., :2] + 0.2 + kept[..., 2:]], 2)
        return {"boxes": boxes, "scores": scores, "labels": labels.gather(1, best)}


class Images:
    def __init__(self, count: int, seed: int) -> None:
        self.keys, self.targets = tuple(map(str, range(count))), [None] * count
        self.pixels = np.random.default_rng(seed).integers(0, 256, (count, SPEC.height, SPEC.width, 1), np.uint8)

    def __len__(self) -> int:
        return len(self.keys)

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Any:
        return self.pixels[:, :: SPEC.height // spec.height, :: SPEC.width // spec.width]


class Objectless(Detection):
    def batch_targets(self, targets: Any, rows: Any, spec: InputSpec) -> Any:
        return [{} for _ in rows]


@pytest.fixture(scope="module")
def task() -> Any:
    splits: Any = {name: Images(48, seed) for seed, name in enumerate(("train", "calibration", "validation", "test"))}
    return Objectless(splits, ("a", "b", "c"))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    network = Pyramid()
    network(torch.randn(64, 1, SPEC.height, SPEC.width))  # statistics other than those it begins with
    file = tmp_path_factory.mktemp("code") / "pyramid.py"
    file.write_text(FACTORY.format(folder=str(Path(__file__).parent)))
    trust(file)
    how = Preprocessing(64, "squash", (0.5,), (0.25,))
    source = Source(f"{file}:factory", 3, 1, task="detection")
    return Artifact("torch", SPEC, how, ("a", "b", "c"), Lineage(source), module=network.eval())


PLANS: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "channel_pruning": [{"name": "channel_pruning", "pruning_ratio": 0.5}],
    "taylor": [{"name": "channel_pruning", "pruning_ratio": 0.5, "importance": "taylor"}],
    "latency_pruning": [{"name": "latency_pruning", "speedup": 1.5, "cost": "macs"}],
    "unstructured_pruning": [{"name": "unstructured_pruning", "sparsity": 0.5}],
    "nm_pruning": [{"name": "nm_pruning"}],
    "weight_sharing": [{"name": "weight_sharing"}],
    "factorize": [{"name": "factorize", "parameter_reduction": 0.5}],
    "learned_rounding": [{"name": "learned_rounding"}],
    "qat": [{"name": "channel_pruning", "pruning_ratio": 0.25}, {"name": "qat", "epochs": 0}],
}


@pytest.mark.parametrize("steps", PLANS.values(), ids=PLANS)
def test_it_applies_is_saved_and_returns_from_its_file_what_the_network_decodes(
    steps: list[dict[str, Any]], before: Artifact, task: Any, tmp_path: Path
) -> None:
    after = Plan.from_dicts(steps).apply(before, task)
    save_artifact(after, tmp_path / "saved")
    again = load_artifact(tmp_path / "saved", original=after.original)
    images = task.split("test").images(SPEC, before.preprocessing)[:16]
    expected = TorchPredictor(after.module, after.preprocessing)(images)
    assert {name: values.shape for name, values in expected.items()} == {"boxes": (16, KEPT, 4), "scores": (16, KEPT), "labels": (16, KEPT)}
    for name, values in TorchPredictor(again.module, after.preprocessing)(images).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)
    file = Plan.from_dicts([{"name": "to_onnx"}]).apply(again, task)
    found = load(file.files, "onnxruntime")(images)
    assert list(found) == list(expected), "what is decoded from is not returned"
    if after.facts["precision"] != "int8":
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
        # which of two equally sure places comes first may hang on the last bit
        ours, theirs = (np.sort(boxes.reshape(len(images), -1), axis=1) for boxes in (found["boxes"], expected["boxes"]))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_pruned_network_returns_maps_of_the_same_size(before: Artifact, task: Any) -> None:
    after = Plan.from_dicts([{"name": "channel_pruning", "pruning_ratio": 0.5}]).apply(before, task)
    example = torch.zeros(2, 1, SPEC.height, SPEC.width)
    shapes = [{name: values.shape for name, values in network(example).items()} for network in (before.module, after.module)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in after.module.parameters()) < 0.5 * sum(p.numel() for p in before.module.parameters())


@pytest.mark.parametrize("more", [{}, {"equalise": True}, {"max_slowdown": 0.2}])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_rounds_the_layers_and_not_what_is_decoded(
    runtime: str, more: dict[str, Any], before: Artifact, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    # layers this small take no time that could be measured: here all take half of it in integers
    monkeypatch.setattr(
        "planish.compression.quantization.int8.time_of_each", lambda model, names, runtime: (np.ones(len(names)), np.full(len(names), 0.5))
    )
    plan = [{"name": "to_onnx"}, {"name": "int8", "calibration_images": 48, **more}]
    after = Plan.from_dicts(plan + [{"name": "to_openvino"}] * (runtime == "openvino")).apply(before, task)
    images = task.split("test").images(SPEC, before.preprocessing)[:16]
    expected = TorchPredictor(before.module, before.preprocessing)(images)
    found = load(after.files, runtime)(images)
    assert np.abs(found["scores"] - expected["scores"]).max() < 0.05
    if runtime == "openvino":
        return
    assert "int8" in executed_precisions(after.files, "onnxruntime")
    graph = onnx.load(str(after.files[0])).graph
    reached = {f"{RAW}level_8", f"{RAW}level_16"}
    assert reached <= {name for node in graph.node for name in node.output}
    rounded = ("QuantizeLinear", "DequantizeLinear")
    for node in graph.node:  # in topological order
        if reached.intersection(node.input):
            at_once = any(name.startswith(RAW) for name in node.input)
            assert at_once or node.op_type not in rounded, f"{node.name} is rounded, and comes after the layers"
            reached.update(node.output)


def test_a_copy_of_a_traced_network_still_decodes(before: Artifact, task: Any) -> None:
    after = Plan.from_dicts([{"name": "qat", "epochs": 0}]).apply(before, task)
    copied = copy.deepcopy(copy.deepcopy(after.module))
    assert set(copied.decode(copied(torch.zeros(1, 1, SPEC.height, SPEC.width)))) == {"boxes", "scores", "labels"}
