import pytest
import torch

from planish.artifact import InputSpec
from planish.data.augmentation.policy import augment, mixup_cutmix
from planish.errors import TrainingError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, channels: int, side: int) -> torch.Tensor:
    return torch.randint(1, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator(9))


@pytest.mark.parametrize("strength", ["none", "light", "standard"])
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 96)])
def test_shape_type_and_seed(strength: str, channels: int, side: int) -> None:
    images = noise(9, channels, side)
    before = images.clone()
    change = augment(InputSpec(channels, side, side), strength)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    out = change(images, generator(1))
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert torch.equal(out, change(images, generator(1)))
    assert torch.equal(out, images) == (strength == "none")
    assert torch.equal(out, change(images, generator(2))) == (strength == "none")
    assert torch.equal(images, before)
    assert torch.equal(state, torch.get_rng_state())
    assert len(change(images[:0], generator())) == 0


def test_light_shifts_and_mirrors_each_small_image_by_itself() -> None:
    image = noise(1, 1, 16)
    out = augment(InputSpec(1, 16, 16), "light")(image.expand(300, -1, -1, -1), generator())
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))[0, 0]
    windows = {
        (y, x, m): (w.flip(-1) if m else w) for y in range(5) for x in range(5) for m in (0, 1) for w in [padded[y : y + 16, x : x + 16]]
    }
    seen = {key for result in out for key, window in windows.items() if torch.equal(result[0], window)}
    assert all(any(torch.equal(result[0], w) for w in windows.values()) for result in out[:50])
    assert len(seen) == 50  # every shift, mirrored and not, turns up in 300 draws


def test_no_flip_where_it_changes_the_class() -> None:
    ramp = torch.arange(1, 29, dtype=torch.uint8).expand(50, 1, 28, 28).contiguous()
    out = augment(InputSpec(1, 28, 28), "light", flip=False)(ramp, generator())[..., 10, 5:20].int()
    assert (out.diff(dim=-1) > 0).all()


def test_large_images_are_cropped_each_by_itself() -> None:
    out = augment(InputSpec(3, 96, 96), "light")(noise(1, 3, 96).expand(6, -1, -1, -1), generator())
    assert len({o.numpy().tobytes() for o in out}) == 6


def test_mix_moves_labels_as_far_as_pixels() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 10, 10)  # image i is all i
    targets = torch.arange(4)
    kinds = set()
    mix = mixup_cutmix(4, 1.0, 1.0)
    for seed in range(20):
        mixed, soft = mix(images, targets, generator(seed))
        assert soft.shape == (4, 4)
        assert torch.allclose(soft.sum(1), torch.ones(4), atol=1e-5)
        # the mean pixel is the labels' weighted mean of the images that went in
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), soft @ torch.arange(4.0), atol=1e-3)
        kinds.add(len(mixed[1].unique()) > 1)
        again = mix(images, targets, generator(seed))
        assert torch.equal(mixed, again[0])
    assert kinds == {True, False}


def test_no_mix_is_one_hot() -> None:
    images = torch.zeros(2, 1, 4, 4)
    mixed, soft = mixup_cutmix(3, 0, 0)(images, torch.tensor([2, 0]), generator())
    assert mixed is images
    assert soft.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_bad_settings() -> None:
    with pytest.raises(TrainingError, match="none, light, standard"):
        augment(InputSpec(1, 28, 28), "heavy")  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="at least 0"):
        mixup_cutmix(3, -1, 0)
