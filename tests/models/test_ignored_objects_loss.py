"""No detector learns that there is nothing where an object is ignored: what it says there has no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from planish.artifact import Source
from planish.models.detection.ignored import ignored_boxes
from planish.models.zoo import build

SIDE = 128
OBJECT, REGION = [0.05, 0.05, 0.3, 0.3], [0.45, 0.45, 1.0, 1.0]


def target(*, ignored: bool, label: int = 1) -> dict[str, Tensor]:
    one = {"boxes": torch.tensor([OBJECT]), "labels": torch.tensor([0])}
    return one | ({"ignored_boxes": torch.tensor([REGION]), "ignored_labels": torch.tensor([label])} if ignored else {})


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    own = name == "resnet8"
    return build(Source(name if own else f"torchvision:{name}", 3, 3, task="detection", strides=(4, 8, 16) if own else ()))


def class_gradients(network: nn.Module, outputs: dict[str, Tensor], target: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The loss, and at each place of each level the sum of absolute gradients of what is said of classes."""
    for values in outputs.values():
        values.grad = None
    loss = network.loss(outputs, [target])  # type: ignore[operator]
    loss.backward()
    own = hasattr(network, "bins")
    gradients = []
    for level, values in enumerate(outputs.values()):
        count = 3 if own else network._anchors_a_place(level) * network.classes  # type: ignore[operator]
        part = values.grad[:, 4 * network.bins :] if own else values.grad[:, :count]  # type: ignore[index, operator]
        gradients.append(part[0])
    return loss.detach(), gradients


@pytest.mark.parametrize("name", ["resnet8", "fcos_resnet50_fpn", "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"])
def test_one_stage_detectors_learn_nothing_where_a_class_is_ignored(name: str) -> None:
    network = network_of(name).train()
    with torch.no_grad():
        outputs = network(torch.rand(2, 3, SIDE, SIDE))
    # as sure as can be of class 1 everywhere: without the mark that is very wrong
    outputs = {key: values[:1].clone().requires_grad_() for key, values in outputs.items()}
    plain, before = class_gradients(network, outputs, target(ignored=False))
    marked, after = class_gradients(network, outputs, target(ignored=True))
    finest_before, finest_after = before[0], after[0]
    rows, columns = finest_before.shape[1:]
    inside = (slice(None), slice(int(0.7 * rows), int(0.85 * rows)), slice(int(0.7 * columns), int(0.85 * columns)))
    if name == "ssdlite320_mobilenet_v3_large":  # hard negatives are few: only that none is there
        assert finest_after[inside].abs().sum() == 0
    else:
        each = 3 if name == "resnet8" else network.classes  # type: ignore[union-attr]
        before_class, after_class = (g[inside].unflatten(0, (-1, each)) for g in (finest_before, finest_after))
        assert (before_class[:, 1].abs() > 0).all(), "background was learned there"
        assert (after_class[:, 1] == 0).all() or name == "retinanet_resnet50_fpn"
        assert after_class[:, 1].abs().sum() < before_class[:, 1].abs().sum()
        assert torch.equal(after_class[:, [0, 2]], before_class[:, [0, 2]]), "other classes are learned as before"
    assert marked <= plain
    again, _ = class_gradients(
        network, outputs, target(ignored=False) | {"ignored_boxes": torch.zeros(0, 4), "ignored_labels": torch.zeros(0).long()}
    )
    torch.testing.assert_close(again, plain)


def test_an_object_in_a_crowd_of_its_class_is_learned_all_the_same() -> None:
    network = network_of("resnet8").train()
    outputs = {key: values.requires_grad_() for key, values in network(torch.rand(2, 3, SIDE, SIDE)).items()}
    outputs = {key: values.detach()[:1].clone().requires_grad_() for key, values in outputs.items()}
    crowd = {"ignored_boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]]), "ignored_labels": torch.tensor([0])}
    _, alone = class_gradients(network, outputs, target(ignored=False))
    _, inside = class_gradients(network, outputs, target(ignored=False) | crowd)
    for before, after in zip(alone, inside, strict=True):
        positive = before[0] < 0  # gradients that ask for more of class 0
        assert torch.equal(after[0][positive], before[0][positive])
        assert (after[0][~positive] == 0).all()
        assert torch.equal(after[1:], before[1:])
    assert any((g[0] < 0).any() for g in inside)


def test_two_stages_take_no_background_from_what_is_ignored() -> None:
    network = network_of("fasterrcnn_mobilenet_v3_large_320_fpn").train()
    rpn, seen = network.model.rpn, {}  # type: ignore[union-attr]
    anchors = [torch.tensor([[70.0, 70, 120, 120], [60, 60, 124, 124], [5, 70, 30, 120], [6, 6, 38, 38], [30, 30, 70, 70]])]
    one = {"boxes": torch.tensor([OBJECT]) * SIDE, "labels": torch.tensor([1])}
    labels, _ = rpn.assign_targets_to_anchors(anchors, [one])  # type: ignore[operator]
    assert labels[0].tolist()[:3] == [0, 0, 0]
    labels, _ = rpn.assign_targets_to_anchors(anchors, [one | {"ignored_boxes": torch.tensor([REGION]) * SIDE}])  # type: ignore[operator]
    assert labels[0].tolist()[:3] == [-1, -1, 0], "-1 is not sampled"
    heads = network.model.roi_heads  # type: ignore[union-attr]
    original = heads.select_training_samples

    def watched(proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> object:
        seen["proposals"] = proposals
        return original(proposals, targets)

    heads.select_training_samples = watched  # type: ignore[union-attr, assignment]
    outputs = network(torch.rand(2, 3, SIDE, SIDE))
    assert torch.isfinite(network.loss(outputs, [target(ignored=True)] * 2))  # type: ignore[operator]
    for proposals in seen["proposals"]:
        assert len(proposals)
        assert not ignored_boxes(proposals, torch.tensor([REGION]) * SIDE, torch.tensor([OBJECT]) * SIDE).any()
