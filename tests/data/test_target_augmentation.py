import pytest
import torch

from planish.artifact import InputSpec
from planish.data.augmentation.operations import Operations
from planish.data.augmentation.targets import STRENGTHS, AnyTargets, augment_targets
from planish.errors import TrainingError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, channels: int, side: int) -> torch.Tensor:
    return torch.randint(1, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator(9))


def targets_of(kind: str, count: int, side: int) -> AnyTargets:
    if kind == "maps":
        return torch.randint(0, 5, (count, side, side), generator=generator(8))
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8]])
    targets = []
    for i in range(count):
        target = {"boxes": boxes[: i % 3], "labels": torch.arange(len(boxes[: i % 3]))}
        if kind == "masks":
            masks = torch.zeros(len(target["labels"]), side, side, dtype=torch.uint8)
            for mask, (left, top, right, bottom) in zip(masks, (target["boxes"] * side).int().tolist(), strict=True):
                mask[top:bottom, left:right] = 1
            target["masks"] = masks
        targets.append(target)
    return targets


def same(one: AnyTargets, other: AnyTargets) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("strength", ["none", "light", "standard"])
@pytest.mark.parametrize("kind", ["boxes", "masks", "maps"])
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 96)])
def test_shapes_types_and_seed(strength: str, kind: str, channels: int, side: int) -> None:
    images, targets = noise(9, channels, side), targets_of(kind, 9, side)
    before = images.clone(), targets_of(kind, 9, side)
    mixed = strength == "standard"
    change = augment_targets(
        InputSpec(channels, side, side),
        strength,  # type: ignore[arg-type]
        mosaic=0.4 * mixed,
        copy_paste=0.5 * (mixed and kind == "masks"),
    )
    state = torch.get_rng_state()
    out, moved = change(images, targets, generator(1))
    again = change(images, targets, generator(1))
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert torch.equal(out, again[0])
    assert same(moved, again[1])
    other = change(images, targets, generator(2))
    assert torch.equal(out, images) == same(moved, targets) == torch.equal(out, other[0]) == (strength == "none")
    assert torch.equal(images, before[0])
    assert same(targets, before[1])
    assert torch.equal(state, torch.get_rng_state())
    if isinstance(moved, torch.Tensor):
        assert (moved.shape, moved.dtype) == ((9, side, side), torch.int64)
    else:
        assert len(moved) == 9
        for target in moved:
            assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)
            assert len(target["boxes"]) == len(target["labels"])
            assert bool((target["boxes"] >= 0).all() & (target["boxes"] <= 1 + 1e-6).all())
            assert bool((target["boxes"][:, 2:] > target["boxes"][:, :2]).all())
            if kind == "masks":
                assert (target["masks"].shape, target["masks"].dtype) == ((len(target["labels"]), side, side), torch.uint8)
    assert len(change(images[:0], targets[:0], generator())[0]) == 0


@pytest.mark.parametrize("kind", ["boxes", "masks"])
@pytest.mark.parametrize("strength", ["light", "standard"])
def test_batches_without_any_object(kind: str, strength: str) -> None:
    images, targets = noise(3, 3, 48), [targets_of(kind, 1, 48)[0]] * 3  # the first has none
    change = augment_targets(InputSpec(3, 48, 48), strength, mosaic=0.5, copy_paste=0.5 * (kind == "masks"))  # type: ignore[arg-type]
    out, moved = change(images, targets, generator())
    assert [len(t["labels"]) for t in moved] == [0, 0, 0]
    assert out.shape == images.shape


def test_mirrored_boxes_and_maps_are_exact() -> None:
    ramp = torch.arange(1, 33, dtype=torch.uint8).expand(40, 1, 32, 32).contiguous()
    maps = ramp[:, 0].long()
    change = augment_targets(InputSpec(1, 32, 32), Operations(flip=True))
    out, moved = change(ramp, maps, generator())
    mirrored = out[:, 0, 0, 0] == 32
    assert 8 < mirrored.sum() < 32
    assert torch.equal(out[~mirrored], ramp[~mirrored])
    assert torch.equal(out[mirrored], ramp[mirrored].flip(-1))
    assert torch.equal(moved, out[:, 0].long())  # type: ignore[arg-type]
    _, boxes = change(ramp, [{"boxes": torch.tensor([[0.1, 0.2, 0.4, 0.7]]), "labels": torch.tensor([0])}] * 40, generator())
    for target, flipped in zip(boxes, mirrored, strict=True):
        expected = torch.tensor([[0.6, 0.2, 0.9, 0.7]]) if flipped else torch.tensor([[0.1, 0.2, 0.4, 0.7]])
        assert torch.allclose(target["boxes"], expected, atol=1e-5)  # type: ignore[index]
    unmoved, _ = augment_targets(InputSpec(1, 32, 32), Operations(flip=True), flip=False)(ramp, maps, generator())
    assert torch.equal(unmoved, ramp)


def test_colours_leave_targets_alone() -> None:
    images, maps = noise(8, 3, 32), targets_of("maps", 8, 32)
    for operations in (Operations(brightness=0.5, hue=0.2), Operations(erase=0.3)):
        out, moved = augment_targets(InputSpec(3, 32, 32), operations)(images, maps, generator())
        assert not torch.equal(out, images)
        assert same(moved, maps)


@pytest.mark.parametrize("operations", [Operations(trivialaugment=True), Operations(randaugment=25)])
def test_automatic_augmentation_moves_nothing(operations: Operations) -> None:
    """What changes colours keeps a symmetric image symmetric; shear, translation and rotation would not."""
    quarter = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=generator(3))
    quarter = quarter.repeat_interleave(3, 2).repeat_interleave(3, 3)
    half = torch.cat([quarter, quarter.flip(2)], 2)
    images = torch.cat([half, half.flip(3)], 3)
    out, _ = augment_targets(InputSpec(3, 96, 96), operations, flip=False)(images, targets_of("boxes", 64, 96), generator())
    assert (out != images).any((1, 2, 3)).sum() > 32
    for axis in (2, 3):
        assert (out.int() - out.flip(axis).int()).abs().max() <= 1


def test_the_middle_strength_is_operations() -> None:
    images, targets = noise(6, 3, 64), targets_of("boxes", 6, 64)
    named = augment_targets(InputSpec(3, 64, 64), "light")(images, targets, generator(4))
    spelled = augment_targets(InputSpec(3, 64, 64), STRENGTHS["light"])(images, targets, generator(4))
    assert torch.equal(named[0], spelled[0])
    assert same(named[1], spelled[1])


def test_bad_settings() -> None:
    spec = InputSpec(3, 32, 32)
    with pytest.raises(TrainingError, match="none, light, standard"):
        augment_targets(spec, "heavy")  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"mosaic=1.5.*between 0 and 1"):
        augment_targets(spec, "light", mosaic=1.5)
    with pytest.raises(TrainingError, match="mixup_alpha=-1"):
        augment_targets(spec, "light", mixup_alpha=-1)
    with pytest.raises(TrainingError, match="copy_paste=0"):
        augment_targets(spec, "none", copy_paste=1.0)(noise(2, 3, 32), targets_of("boxes", 2, 32), generator())
