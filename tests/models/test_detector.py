"""The detector: what it learns at which place by hand, suppression against torchvision, its file, and that it learns at all."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional
from torchvision.ops import batched_nms, box_iou, generalized_box_iou

from planish.artifact import Source
from planish.errors import ModelError
from planish.models import create
from planish.models.detection import Detector
from planish.models.detection.assignment import Assigned, assign
from planish.models.detection.boxes import iou
from planish.models.detection.decode import boxes_of, centres_of, keep_best
from planish.models.detection.losses import detection_loss, distance_loss, within
from planish.models.heads.backbone import Backbone
from planish.models.heads.segmentation import Segmenter
from planish.models.zoo import build


def small(masks: bool = False) -> Detector:
    torch.manual_seed(0)
    return Detector(build(Source("resnet8", 10, 3)), 3, 3, (4, 8), masks=masks, width=16)


@pytest.mark.parametrize(("strides", "widths"), [((8, 16, 32, 64), [8, 8, 16, 16]), ((8, 16), [8, 8])])
def test_maps_that_the_backbone_lacks_are_made_from_finer_ones(strides: tuple[int, ...], widths: list[int]) -> None:
    layers = (nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, 16, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    backbone = Backbone(nn.Sequential(*layers), 3, strides)
    maps = fx.symbolic_trace(backbone)(torch.zeros(2, 3, 128, 192))
    assert [tuple(each.shape) for each in maps] == [(2, width, 128 // s, 192 // s) for width, s in zip(widths, strides, strict=True)]
    assert backbone.widths == widths


def test_overlaps_are_torchvisions() -> None:
    g = torch.Generator().manual_seed(0)
    boxes = [torch.cat([c, c + torch.rand(7, 2, generator=g)], 1) for c in (torch.rand(7, 2, generator=g), torch.rand(7, 2, generator=g))]
    a, b = boxes[0].unsqueeze(1), boxes[1].unsqueeze(0)
    torch.testing.assert_close(iou(a, b), box_iou(*boxes))
    torch.testing.assert_close(iou(a, b, generalised=True), generalized_box_iou(*boxes))


def test_boxes_come_from_distances_in_cells() -> None:
    centres, size = centres_of(2, 4, torch.zeros(1))
    assert centres.tolist()[:2] == [[0.125, 0.25], [0.375, 0.25]]
    assert size.tolist() == [0.25, 0.5]
    sides = torch.full((1, 8, 4, 4), -30.0)
    sides[..., 1] = 30  # one cell to each side
    box = boxes_of(sides, centres, size.expand(8, 2))[0, 1]
    torch.testing.assert_close(box, torch.tensor([0.125, -0.25, 0.625, 0.75]))


def test_distance_loss_by_hand() -> None:
    """A distance of 1.25 is three quarters of 1 and a quarter of 2."""
    logits = torch.tensor([[[0.3, -0.2, 0.5, 0.0]] * 4])
    logs = functional.log_softmax(logits[0, 0], 0)
    expected = -(0.75 * logs[1] + 0.25 * logs[2])
    assert distance_loss(logits, torch.full((1, 4), 1.25)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_loss_of_the_classes_by_hand() -> None:
    """Two places, two classes: the first holds an object of class 0 that its box suits to 0.8, the second nothing."""
    box = torch.tensor([0.0, 0.0, 0.5, 1.0])
    boxes, sides = box.expand(1, 2, 4), torch.zeros(1, 2, 4, 8)  # the right box, so that overlap costs nothing
    assigned = Assigned(
        torch.tensor([[True, False]]),
        torch.zeros(1, 2, dtype=torch.long),
        boxes,
        torch.zeros(1, 2, dtype=torch.long),
        torch.tensor([[0.8, 0.0]]),
    )
    centres, cells = torch.tensor([[0.25, 0.5], [0.75, 0.5]]), torch.tensor([[0.5, 1.0]]).expand(2, 2)
    logits = torch.tensor([[[0.5, -1.0], [-2.0, 0.3]]])
    p = [[1 / (1 + math.exp(-value)) for value in row] for row in logits[0].tolist()]
    at_object = -0.8 * math.log(p[0][0]) - 0.2 * math.log(1 - p[0][0]) - math.log(1 - p[0][1])
    at_none = sum(-0.75 * chance**2 * math.log(1 - chance) for chance in p[1])
    distances = 0.5 * 0.8 * math.log(8)  # all distances are as likely
    expected = at_object + at_none + distances  # the weights' sum, 0.8, is raised to 1
    assert detection_loss(logits, sides, boxes, centres, cells, assigned).item() == pytest.approx(expected, rel=1e-5)


def test_an_object_is_learned_where_class_and_box_suit_it_best() -> None:
    """Four places in a row; the object covers the first two. The second has the better box, the first the better class."""
    centres = torch.tensor([[0.125, 0.5], [0.375, 0.5], [0.625, 0.5], [0.875, 0.5]])
    wanted = torch.tensor([[[0.0, 0.0, 0.5, 1.0]]])
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 1.0], [0.0, 0.0, 0.5, 0.9], [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]])
    scores = torch.tensor([[[0.9, 0.1], [0.5, 0.1], [0.9, 0.1], [0.9, 0.1]]])
    cells = torch.tensor([[0.25, 1.0]]).expand(4, 2)
    found = assign(scores, boxes, centres, cells, wanted, torch.tensor([[0]]), torch.tensor([[True]]))
    assert found.positive.tolist() == [[True, True, False, False]], "centres outside the object learn nothing, however good their box"
    suits = [math.sqrt(0.9) * 0.8**6, math.sqrt(0.5) * 0.9**6]
    expected = [0.9 * s / max(suits) for s in suits]
    torch.testing.assert_close(found.weights[0, :2], torch.tensor(expected))


def test_a_place_covers_an_object_as_well_as_four_cells_do_and_better_once_its_box_is_better() -> None:
    """Two levels with a place at the middle of the object, whose cells are a tenth and a twentieth of the image."""
    centres, cells = torch.full((2, 2), 0.5), torch.tensor([[0.1, 0.1], [0.05, 0.05]])
    wanted, nowhere = torch.tensor([[[0.3, 0.3, 0.7, 0.7]]]), torch.tensor([0.5, 0.5, 0.5, 0.5])
    asked = (wanted, torch.tensor([[0]]), torch.tensor([[True]]))
    found = assign(torch.full((1, 2, 1), 0.5), torch.stack([nowhere, nowhere])[None], centres, cells, *asked)
    torch.testing.assert_close(found.weights, torch.tensor([[1.0, 0.25**6]]))  # 0.4² of 0.4², and 0.2² of 0.4²
    better = torch.tensor([0.3, 0.3, 0.7, 0.66])
    found = assign(torch.full((1, 2, 1), 0.5), torch.stack([nowhere, better])[None], centres, cells / 2, *asked)
    torch.testing.assert_close(found.weights, torch.tensor([[0.9 * (0.25 / 0.9) ** 6, 0.9]]))


def test_an_object_smaller_than_a_cell_is_learned_at_the_nearest_place() -> None:
    centres = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
    boxes = torch.tensor([[[0.2, 0.4, 0.4, 0.6], [0.6, 0.4, 0.9, 0.6]]])
    wanted = torch.tensor([[[0.30, 0.45, 0.34, 0.55], [0.0, 0.0, 0.0, 0.0]]])
    cells, labels = torch.tensor([[0.5, 1.0]]).expand(2, 2), torch.zeros(1, 2, dtype=torch.long)
    found = assign(torch.full((1, 2, 1), 0.5), boxes, centres, cells, wanted, labels, torch.tensor([[True, False]]))
    assert found.positive.tolist() == [[True, False]], "and what only fills the batch up is learned nowhere"


@pytest.mark.parametrize("side", [0.2, 0.05, 0.02])
def test_the_best_place_of_an_object_however_small_has_its_iou_as_target(side: float) -> None:
    low, high = 0.5 - side / 2, 0.5 + side / 2
    centres, boxes = torch.tensor([[0.5, 0.5], [0.1, 0.1]]), torch.zeros(1, 2, 4)
    wanted, cells = torch.tensor([[[low, low, high, high]]]), torch.full((2, 2), 0.125)
    found = assign(torch.full((1, 2, 1), 0.01), boxes, centres, cells, wanted, torch.tensor([[0]]), torch.tensor([[True]]))
    torch.testing.assert_close(found.weights, torch.tensor([[(side / 0.5) ** 2, 0.0]]))


def test_suppression_is_torchvisions() -> None:
    g = torch.Generator().manual_seed(1)
    for crowded in (False, True) * 20:
        corners, sides = torch.rand(1, 300, 2, generator=g) * 0.8, torch.rand(1, 300, 2, generator=g) * 0.3 + 0.02
        if crowded:
            corners = corners[:, :20].repeat(1, 15, 1) + 0.01 * torch.randn(1, 300, 2, generator=g)
            sides = sides[:, :20].repeat(1, 15, 1)
        boxes, scores = torch.cat([corners, corners + sides], 2), torch.rand(1, 300, 3, generator=g)
        kept, sure, labels = keep_best(boxes, scores, 100)
        best, pairs = scores[0].flatten().topk(100)
        places, kinds = pairs // 3, pairs % 3
        assert len(places.unique()) < 100, "some places are sure of two classes"
        expected = batched_nms(boxes[0][places], best, kinds, 0.6)
        count = int((sure[0] > 0).sum())
        torch.testing.assert_close(sure[0, :count], best[expected])
        assert labels[0, :count].tolist() == kinds[expected].tolist()
        torch.testing.assert_close(kept[0, :count], boxes[0][places[expected]].clamp(0, 1))


@pytest.mark.parametrize("masks", [False, True])
def test_it_learns_coloured_boxes(masks: bool) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images, targets = torch.rand(8, 3, 64, 64) * 0.3, []
    for i in range(8):
        boxes, labels, shapes = [], [], []
        for kind in range(int(rng.integers(1, 4))):
            free = False
            while not free:  # none covers another
                width, height = (int(v) for v in rng.integers(12, 28, 2))
                x, y = int(rng.integers(0, 64 - width)), int(rng.integers(0, 64 - height))
                free = not any(shape[y : y + height, x : x + width].any() for shape in shapes)
            images[i, :, y : y + height, x : x + width] = 0
            images[i, kind, y : y + height, x : x + width] = 1
            boxes.append([x / 64, y / 64, (x + width) / 64, (y + height) / 64])
            labels.append(kind)
            shape = torch.zeros(64, 64, dtype=torch.uint8)
            shape[y : y + height, x : x + width] = 1
            shapes.append(shape)
        targets.append({"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)} | ({"masks": torch.stack(shapes)} if masks else {}))
    network = small(masks).train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(200):
        loss = network.loss(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0]
    with torch.no_grad():
        found = network.eval().decode(network(images))
    for i, one in enumerate(targets):
        for k, (box, label) in enumerate(zip(one["boxes"], one["labels"], strict=True)):
            overlap = iou(box, found["boxes"][i]) * (found["labels"][i] == label) * (found["scores"][i] > 0.2)
            assert overlap.max() > 0.5, (i, k)
            if masks:
                mask = functional.interpolate(found["masks"][i, overlap.argmax()][None, None], (64, 64), mode="bilinear")[0, 0] > 0.5
                own = one["masks"][k].bool()
                assert (mask & own).sum() / (mask | own).sum() > 0.5


def test_images_without_objects_teach_as_well() -> None:
    network, nothing = small().train(), {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    outputs = network(torch.rand(2, 3, 64, 64))
    loss = network.loss(outputs, [nothing, nothing])
    loss.backward()
    assert torch.isfinite(loss)
    assert 0 < loss < 1, "hardly anything is said at first, and rightly so"


def test_a_copy_is_no_distance_away_and_others_are() -> None:
    network = small(masks=True).eval()
    with torch.no_grad():
        outputs, other, smaller = (network(torch.rand(2, 3, side, side)) for side in (64, 64, 32))
    assert network.distance(outputs, outputs).item() == pytest.approx(0, abs=1e-5)
    assert network.distance(outputs, other) > 0
    assert torch.isfinite(network.distance(smaller, outputs)), "from a teacher that saw larger images"


def test_places_within_a_box() -> None:
    assert within(torch.tensor([0.25, 0.0, 0.75, 0.5]), 4, 4).int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


BACKBONES = (
    "resnet8", "torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:shufflenet_v2_x0_5", "timm:mobilenetv3_small_050",
)  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("task", ["detection", "instance", "semantic"])
def test_any_backbone_is_traced_and_built_again(task: str, name: str) -> None:
    torch.manual_seed(0)
    created = create(name, task=task, num_classes=5, channels=1, image_size=128)
    images = torch.rand(2, 1, 128, 128)
    outputs = created.module.eval()(images)
    fx.symbolic_trace(created.module)
    again = build(created.source)
    again.load_state_dict(created.module.state_dict())
    found, repeated = (network.eval().decode(network(images)) for network in (created.module, again))
    for key, values in found.items():
        torch.testing.assert_close(values, repeated[key])
    if task == "semantic":
        assert found["classes"].shape == (2, 128, 128)
    else:
        assert found["boxes"].shape == (2, 100, 4)
    assert all(isinstance(v, torch.Tensor) for v in (outputs.values() if isinstance(outputs, dict) else [outputs]))


def test_a_copy_of_a_backbone_keeps_the_mode_of_each_part() -> None:
    """torchvision's own copies of traced networks are in training mode, in which batch norm gives other outputs and changes."""
    backbone = Backbone(build(Source("resnet8", 10, 3)), 3, (4, 8)).eval()
    x = torch.rand(2, 3, 32, 32)
    maps = backbone(x)
    copied = copy.deepcopy(backbone)
    assert not any(part.training for part in copied.modules())
    for a, b in zip(maps, copied(x), strict=True):
        assert torch.equal(a, b)
    backbone.train()
    frozen = next(name for name, part in backbone.named_modules() if isinstance(part, nn.BatchNorm2d))
    backbone.get_submodule(frozen).eval()
    copied = copy.deepcopy(backbone)
    assert {name for name, part in copied.named_modules() if not part.training} == {frozen}
    assert all(a is not b for a, b in zip(backbone.parameters(), copied.parameters(), strict=True))


def test_small_images_have_fine_maps() -> None:
    def strides(task: str, size: int) -> tuple[int, ...]:
        return create("torchvision:resnet18", task=task, num_classes=2, channels=3, image_size=size).source.strides

    assert {strides(task, 128) for task in ("detection", "instance")} == {(4, 8, 16)}
    assert {strides(task, 160) for task in ("detection", "instance")} == {(8, 16, 32)}
    assert [strides("semantic", size) for size in (96, 128)] == [(4, 8, 16), (4, 8, 16, 32)]


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(ModelError, match="maps of stride"):
        Detector(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)), 2, 3, (8, 16))


def test_a_segmenter_learns_and_leaves_out_what_is_ignored() -> None:
    torch.manual_seed(0)
    network = Segmenter(build(Source("resnet8", 10, 3)), 2, 3, (4, 8), width=16)
    targets = torch.zeros(4, 32, 32, dtype=torch.long)
    targets[:, 8:24, 8:24] = 1
    images = torch.randn(4, 3, 32, 32) * 0.1 + targets.unsqueeze(1)
    targets[:, :4] = 255
    outputs = network(images)
    larger = functional.interpolate(outputs, (32, 32), mode="bilinear")
    expected = functional.cross_entropy(larger, targets, ignore_index=255)
    torch.testing.assert_close(network.loss(outputs, targets), expected)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(60):
        loss = network.loss(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        said = network.eval().decode(network(images))["classes"]
    assert (said == targets)[targets != 255].float().mean() > 0.9
