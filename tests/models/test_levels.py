"""What a detector can reach: against a search over all of its places, and the levels that follow from input and boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.errors import ModelError
from planish.models import create, load_artifact, save_artifact
from planish.models.detection import Detector
from planish.models.detection.assignment import assign
from planish.models.detection.boxes import iou
from planish.models.detection.decode import boxes_of, centres_of
from planish.models.detection.levels import Levels, TrainingBoxes, choose_levels, detections_for, levels_in, reachable_iou
from planish.models.zoo import build
from planish.progress import collecting_notes
from planish.settings import ModelSettings
from planish.training.prepare import prepare_job

WHOLE = [np.array([[0, 0, 1, 1]], np.float32)]


def square(side: int) -> TrainingBoxes:
    return TrainingBoxes(lambda multiple: (max(multiple, round(side / multiple) * multiple),) * 2)


def with_boxes(side: int, boxes: list[np.ndarray]) -> TrainingBoxes:
    return TrainingBoxes(square(side).sides, boxes)


def grid(count: int) -> list[np.ndarray]:
    """One image with squares of a thirtieth of its sides."""
    corner = np.stack([np.arange(count) % 20, np.arange(count) // 20], 1) / 20
    return [np.concatenate([corner, corner + 1 / 30], 1).astype(np.float32)]


def places(levels: Levels, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [centres_of(height // stride, width // stride, torch.zeros(1)) for stride in levels.strides]
    return torch.cat([where for where, _ in parts]), torch.cat([size.expand(len(where), 2) for where, size in parts])


def searched(boxes: np.ndarray, levels: Levels, height: int, width: int) -> np.ndarray:
    """Each place's best box for each object, drawn from the distributions that a head returns; the best assignment of all to all."""
    centres, cells = places(levels, height, width)
    wanted = torch.from_numpy(boxes)
    best = torch.zeros(len(wanted), len(centres))
    for k, box in enumerate(wanted):
        reach = torch.cat([(centres - box[:2]) / cells, (box[2:] - centres) / cells], 1).clamp(0, levels.bins - 1)
        below = reach.floor().clamp(max=levels.bins - 2).long()
        chance = torch.zeros(len(centres), 4, levels.bins).scatter_(2, below[..., None], (1 - (reach - below))[..., None])
        chance.scatter_(2, below[..., None] + 1, (reach - below)[..., None])
        best[k] = iou(boxes_of(chance.clamp_min(1e-12).log()[None], centres, cells)[0], box)
    # places that learn an object in training, whatever is predicted: those that ``assign`` takes for it alone
    for k, box in enumerate(wanted):
        count = len(centres)
        asked = torch.zeros(1, count, 1)
        allowed = torch.zeros(count, dtype=torch.bool)
        for start in range(0, count, 10):  # ten places an object: shown in turns
            asked[:] = 1e-8
            asked[0, start : start + 10] = 1
            found = assign(
                asked, box.expand(1, count, 4), centres, cells, box[None, None], torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
            )
            allowed |= found.positive[0]
        best[k][~allowed] = 0
    rows, columns = linear_sum_assignment(best.numpy(), maximize=True)
    result = np.zeros(len(boxes))
    result[rows] = best.numpy()[rows, columns]
    return result


@pytest.mark.parametrize("kind", ["any", "tiny", "crowded", "long"])
def test_the_reachable_iou_is_that_of_a_search_over_all_places(kind: str) -> None:
    rng = np.random.default_rng(("any", "tiny", "crowded", "long").index(kind))
    levels, height, width = Levels((8, 16), 4), 64, 96
    for _ in range(4):
        count = {"any": 6, "tiny": 12, "crowded": 12, "long": 6}[kind]
        centre = rng.uniform(0.05, 0.95, (count, 2)) if kind != "crowded" else 0.4 + rng.uniform(0, 0.12, (count, 2))
        sides = {"any": (0.05, 0.9), "tiny": (0.01, 0.1), "crowded": (0.02, 0.12), "long": (0.03, 0.08)}[kind]
        half = rng.uniform(*sides, (count, 2)) / 2
        if kind == "long":
            half[:, 0] = rng.uniform(0.3, 0.5, count)
        boxes = np.clip(np.concatenate([centre - half, centre + half], 1), 0, 1).astype(np.float32)
        found, expected = reachable_iou([boxes], height, width, levels), searched(boxes, levels, height, width)
        assert found.sum() == pytest.approx(expected.sum(), abs=1e-3)
        if kind in ("any", "long"):
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_two_objects_on_one_cell_cannot_both_be_met() -> None:
    """Both lie around one centre of a level of one cell of 16 pixels each way, and around no other."""
    levels = Levels((16,))
    twins = np.array([[0.45, 0.45, 0.55, 0.55], [0.46, 0.46, 0.54, 0.54]], np.float32) + 0.125
    assert sorted(reachable_iou([twins], 64, 64, levels)) == pytest.approx([0, 1])
    assert reachable_iou([twins[:1], twins[1:]], 64, 64, levels) == pytest.approx([1, 1]), "in two images they can"


@pytest.mark.parametrize(("side", "strides"), [(640, (8, 16, 32)), (320, (4, 8, 16))])
def test_an_object_as_large_as_the_image_is_within_reach(side: int, strides: tuple[int, ...]) -> None:
    assert reachable_iou(WHOLE, side, side, Levels(strides)) == pytest.approx([0.49], abs=0.001)
    levels, notes = choose_levels(strides, square(side), (4, 8, 16, 32))
    assert reachable_iou(WHOLE, side, side, levels)[0] >= 0.9
    assert "as large as the image" in notes[0]


@pytest.mark.parametrize("side", [96, 128])
def test_usual_sizes_keep_their_levels(side: int) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.6, (50, 2))
    boxes = [np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (50, 2))], 1)[i : i + 5].astype(np.float32) for i in range(0, 50, 5)]
    levels, notes = choose_levels((4, 8, 16), with_boxes(side, boxes), (4, 8, 16, 32))
    assert levels == Levels((4, 8, 16), 8)
    assert len(notes) == 1
    assert "best reachable IoU of 50 training boxes" in notes[0]


def test_coarser_levels_where_bins_do_not_reach() -> None:
    levels, _ = choose_levels((8, 16, 32), square(1280), (8, 16, 32))
    assert max(levels.strides) > 32
    assert reachable_iou(WHOLE, 1280, 1280, levels)[0] >= 0.9
    with pytest.raises(ModelError, match=r"6016 x 6016.*at best"):
        choose_levels((8, 16, 32), TrainingBoxes(lambda multiple: (6016, 6016)), (8, 16, 32))


def small_boxes(count: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    centre = rng.uniform(0.05, 0.95, (count, 12, 2))
    half = rng.uniform(0.005, 0.015, (count, 12, 2))  # 3 to 10 pixels of 320
    return list(np.concatenate([centre - half, centre + half], 2).astype(np.float32))


def test_small_boxes_bring_a_finer_level_where_the_backbone_has_one() -> None:
    before = reachable_iou(small_boxes(), 320, 320, Levels((8, 16, 32)))
    assert (before < 0.9).mean() > 0.1
    levels, notes = choose_levels((8, 16, 32), with_boxes(320, small_boxes()), (2, 4, 8, 16, 32))
    assert levels.strides == (4, 8, 16, 32)
    after = reachable_iou(small_boxes(), 320, 320, levels)
    assert (after < 0.9).mean() < 0.01
    assert f"{(before < 0.9).sum():,} of 480 training boxes could be met with an IoU below 0.9 only" in notes[0]
    none, notes = choose_levels((8, 16, 32), with_boxes(320, small_boxes()), (8, 16, 32))
    assert none.strides == (8, 16, 32)
    assert notes[-1].startswith("warning: best reachable IoU of 480 training boxes")


def test_a_single_odd_box_changes_nothing_and_is_told() -> None:
    boxes = [np.array([[0.1, 0.1, 0.5, 0.5]], np.float32)] * 199 + [np.array([[0.501, 0.501, 0.503, 0.503]], np.float32)]
    levels, notes = choose_levels((8, 16, 32), with_boxes(320, boxes), (4, 8, 16, 32))
    assert levels == Levels((8, 16, 32))
    assert "below 0.9 for 1 (0.5%)" in notes[0]


def test_as_many_detections_as_images_hold_objects() -> None:
    def boxes(count: int) -> list[np.ndarray]:
        return [np.zeros((count, 4), np.float32)]

    assert detections_for(boxes(80), masks=False) == (100, [])
    assert detections_for(boxes(81), masks=False)[0] == 150
    assert detections_for(boxes(300), masks=False)[0] == 400
    for masks, most in ((False, 500), (True, 300)):
        kept, notes = detections_for(boxes(900), masks=masks)
        assert kept == most
        assert "tiles" in notes[-1]


@pytest.mark.parametrize("name", ["resnet8", "torchvision:ssdlite320_mobilenet_v3_large"])
def test_a_perfect_detector_returns_300_objects(name: str) -> None:
    """Raw outputs that are right at 300 places give 300 detections."""
    training = with_boxes(320, grid(300))
    torch.manual_seed(0)
    created = create(name, task="detection", num_classes=1, channels=3, image_size=320, training=training)
    assert created.source.detections == 400
    with torch.no_grad():
        found = created.module.eval().decode(created.module(torch.rand(1, 3, 320, 320)))
    assert found["boxes"].shape == (1, 400, 4)
    if isinstance(created.module, Detector):
        outputs = {f"level_{s}": torch.full((1, 4 * created.source.bins + 1, 320 // s, 320 // s), -9.0) for s in created.source.strides}
        finest = outputs[f"level_{min(created.source.strides)}"]
        row, column = torch.arange(300) // 20 * 2, torch.arange(300) % 20 * 2
        for side in range(4):
            finest[0, side * created.source.bins + (1 if side else 0), row, column] = 9.0
        finest[0, -1, row, column] = 9.0
        assert (created.module.decode(outputs)["scores"] > 0.5).sum() == 300


def artifact_of(source: Source, module: torch.nn.Module, side: int) -> Artifact:
    preprocessing = Preprocessing(side, "squash", (0.5,) * 3, (0.2,) * 3)
    return Artifact("torch", InputSpec(3, side, side), preprocessing, ("a", "b"), Lineage(source), module=module.eval())


def test_lineage_rebuilds_levels_bins_and_detections(tmp_path: Path) -> None:
    torch.manual_seed(0)
    training = with_boxes(320, grid(200))
    created = create("resnet8", task="detection", num_classes=2, channels=3, image_size=320, training=training)
    assert (created.source.bins, created.source.detections) == (11, 250)
    save_artifact(artifact_of(created.source, created.module, 320), tmp_path / "a")
    back = load_artifact(tmp_path / "a")
    images = torch.rand(1, 3, 320, 320)
    with torch.no_grad():
        for one, other in zip(*(m.decode(m(images)).values() for m in (created.module, back.module)), strict=True):
            assert torch.equal(one, other)
    description = json.loads((tmp_path / "a/artifact.json").read_text())
    assert description["lineage"]["source"]["bins"] == 11


def test_an_artifact_saved_before_there_was_a_choice_is_the_network_it_was(tmp_path: Path) -> None:
    source = Source("resnet8", 2, 3, task="detection", strides=(4, 8, 16))
    save_artifact(artifact_of(source, build(source), 64), tmp_path / "a")
    file = tmp_path / "a/artifact.json"
    description = json.loads(file.read_text())
    for name in ("bins", "detections"):
        del description["lineage"]["source"][name]
    file.write_text(json.dumps(description))
    back = load_artifact(tmp_path / "a")
    assert (back.module.bins, back.module.detections) == (8, 100)
    assert back.lineage.source == source


def test_weights_of_a_whole_detector_bring_their_own_levels(tmp_path: Path) -> None:
    source = Source("resnet8", 2, 3, task="detection", strides=(4, 8, 16))
    torch.save(build(source).state_dict(), tmp_path / "weights.pth")
    asked = {"task": "detection", "num_classes": 2, "channels": 3, "weights": tmp_path / "weights.pth"}
    assert levels_in(build(source).state_dict())[0] == Levels((4, 8, 16))
    created = create("resnet8", image_size=192, **asked)
    assert (created.source.strides, created.source.bins, created.new_classifier) == ((4, 8, 16), 8, False)
    with pytest.raises(ModelError, match=r"320 x 320 pixels for a detector.*0\.49 at best.*at most about"):
        create("resnet8", image_size=320, **asked)
    with pytest.raises(ModelError, match=r"0\.49 at best"):
        create(build(source), image_size=320, task="detection", num_classes=2, channels=3)


def test_students_of_other_levels_learn_from_those_that_both_have() -> None:
    def outputs(strides: tuple[int, ...], bins: int) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        network = build(Source("resnet8", 2, 3, task="detection", strides=strides, bins=bins)).eval()
        return network, network(torch.rand(2, 3, 64, 64))

    student, ours = outputs((4, 8), 8)
    _, same = outputs((4, 8), 8)
    assert student.distance(ours, same).item() == pytest.approx(0, abs=1e-5)
    for strides, bins in (((4, 8), 12), ((4, 8, 16), 8)):
        assert torch.isfinite(student.distance(ours, outputs(strides, bins)[1]))
    with pytest.raises(ModelError, match="levels are compared"):
        student.distance(ours, {"level_64": same["level_4"]})


def write_images(folder: Path, boxes: list[list[int]], size: int, count: int = 8) -> Path:
    folder.mkdir()
    listed, annotations = [], []
    for i in range(count):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)).save(folder / f"{i}.png")
        listed.append({"id": i, "file_name": f"{i}.png", "height": size, "width": size})
        annotations += [{"id": len(annotations) + k, "image_id": i, "category_id": 1, "bbox": box} for k, box in enumerate(boxes)]
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def test_before_training_all_this_is_told(tmp_path: Path) -> None:
    grid = [[6 * (k % 11), 6 * (k // 11), 4, 4] for k in range(121)]
    with collecting_notes() as notes:
        job = prepare_job(write_images(tmp_path / "many", grid, 66), ModelSettings("resnet8", image_size=64))
    assert job.artifact.lineage.source.detections == 200
    said = " ".join(notes)
    assert "best reachable IoU of " in said
    assert "training images hold up to 121 objects: the detector returns 200 detections per image" in said
    assert "training images hold more than 100 objects of a class, and map counts as many" in said
    with collecting_notes() as notes:
        job = prepare_job(write_images(tmp_path / "large", [[0, 0, 330, 330]], 330), ModelSettings("resnet8", image_size=320))
    assert reachable_iou(WHOLE, 320, 320, Levels(job.artifact.lineage.source.strides, job.artifact.lineage.source.bins))[0] >= 0.9
    assert "as large as the image" in " ".join(notes)
