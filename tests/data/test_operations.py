"""Single augmentations by name: what each does to a batch, and what is refused."""

from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from pydantic import TypeAdapter, ValidationError
from torchvision.transforms.v2 import functional as F

from planish.artifact import InputSpec
from planish.data.augmentation.operations import Operations
from planish.data.augmentation.policy import augment

EACH: dict[str, Any] = {
    "crop": (0.5, 1.0),
    "shear": 10,
    "scale": (0.8, 1.2),
    "rotate": 15,
    "shift": 0.125,
    "flip": True,
    "vertical_flip": True,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.3,
    "hue": 0.05,
    "randaugment": 9,
    "trivialaugment": True,
    "blur": 1.5,
    "noise": 10,
    "erase": 0.25,
}
ALONE = [pytest.param({name: strength}, id=name) for name, strength in EACH.items()]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator(9))


def of(images: torch.Tensor, operations: dict[str, Any], seed: int = 0, flip: bool = True) -> torch.Tensor:
    return augment(InputSpec(images.shape[1], *images.shape[2:]), Operations(**operations), flip)(images, generator(seed))


@pytest.mark.parametrize("operations", [*ALONE, pytest.param(EACH, id="all")])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 32, 32), (3, 20, 33), (3, 96, 96)])
def test_shape_type_and_seed(operations: dict[str, Any], channels: int, height: int, width: int) -> None:
    images = noise(12, channels, height, width)
    before, state = images.clone(), torch.get_rng_state()
    out = of(images, operations, seed=1)
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert torch.equal(out, of(images, operations, seed=1))
    colourless = channels == 1 and operations.keys() <= {"saturation", "hue"}
    assert torch.equal(out, images) == colourless
    assert torch.equal(out, of(images, operations, seed=2)) == colourless
    assert torch.equal(images, before)
    assert torch.equal(state, torch.get_rng_state())
    assert len(of(images[:0], operations)) == 0
    assert of(images[:1], operations).shape == images[:1].shape


@pytest.mark.parametrize("operations", ALONE)
def test_each_image_gets_its_own_draw(operations: dict[str, Any]) -> None:
    images = noise(1, 3, 96, 96).expand(24, -1, -1, -1)
    different = len({image.numpy().tobytes() for image in of(images, operations)})
    assert different == 2 if operations.keys() <= {"flip", "vertical_flip"} else different > 12


def test_nothing_changes_at_strength_0() -> None:
    off = {name: type(strength)() for name, strength in EACH.items() if not isinstance(strength, tuple)}
    images = noise(5, 3, 16, 16)
    assert torch.equal(of(images, {}), images)
    assert torch.equal(of(images, off | {"scale": (1, 1), "crop": (1, 1)}), images)
    assert Operations(**off) == Operations()
    assert torch.equal(of(images, {"scale": (1.0, 1.0), "shift": 1e-9}), images)  # a resampling that moves nothing


def test_images_in_a_layout_of_their_own() -> None:
    """Batches come as ``(N, H, W, C)`` and are only seen as ``(N, C, H, W)``."""
    images = noise(6, 3, 24, 24)
    seen = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(of(images, EACH), of(seen, EACH))


def test_mirrored_images_are_mirrored() -> None:
    image = noise(1, 3, 10, 14)
    pil = F.to_pil_image(image[0])
    for name, theirs in (("flip", ImageOps.mirror), ("vertical_flip", ImageOps.flip)):
        both = {image[0].numpy().tobytes(), F.pil_to_tensor(theirs(pil)).numpy().tobytes()}
        out = of(image.expand(400, -1, -1, -1), {name: True})
        assert {o.numpy().tobytes() for o in out} == both
        share = sum(torch.equal(o, image[0]) for o in out) / 400
        assert 0.4 < share < 0.6


def test_no_flip_where_it_changes_the_class() -> None:
    images = noise(50, 1, 8, 8)
    assert torch.equal(of(images, {"flip": True}, flip=False), images)
    assert not torch.equal(of(images, {"vertical_flip": True}, flip=False), images)


@pytest.mark.parametrize(("name", "most", "low", "high"), [("brightness", 0.2, 80, 120), ("brightness", 1.0, 0, 200)])
def test_brightness_is_a_factor_around_1(name: str, most: float, low: float, high: float) -> None:
    out = of(torch.full((2000, 1, 2, 2), 100, dtype=torch.uint8), {name: most})[:, 0, 0, 0].float()
    assert low <= out.min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < out.max() <= high
    assert float(out.mean()) == pytest.approx(100, rel=0.03)


def test_results_are_clipped_and_do_not_wrap_around() -> None:
    out = of(torch.full((1000, 1, 2, 2), 250, dtype=torch.uint8), {"brightness": 1.0})
    assert float((out[:, 0, 0, 0] == 255).float().mean()) == pytest.approx(0.49, abs=0.05)
    for value in (0, 255):
        out = of(torch.full((20, 3, 16, 16), value, dtype=torch.uint8), {"noise": 5}).float()
        assert (out - value).abs().max() < 40


def test_noise_goes_up_to_its_sigma_in_grey_levels() -> None:
    added = of(torch.full((400, 1, 40, 40), 128, dtype=torch.uint8), {"noise": 20}).float() - 128
    sigmas = added.std((1, 2, 3))
    assert sigmas.max() < 21
    assert float(sigmas.mean()) == pytest.approx(10, rel=0.1)


def test_rotation_stays_within_its_degrees() -> None:
    """A dot on the horizontal axis shows by how much the image was turned."""
    images = torch.zeros(300, 1, 65, 65, dtype=torch.uint8)
    images[:, :, 31:34, 55:58] = 255
    out = of(images, {"rotate": 20}).float()[:, 0]
    axis = torch.arange(65.0) - 32
    mass = out.sum((1, 2))
    angle = torch.atan2((out.sum(2) * axis).sum(1) / mass, (out.sum(1) * axis).sum(1) / mass).rad2deg()
    assert angle.abs().max() < 20.5
    assert angle.max() > 18
    assert angle.min() < -18
    assert float(angle.mean()) == pytest.approx(0, abs=2.5)


def test_a_shift_is_a_share_of_the_side() -> None:
    images = torch.zeros(300, 1, 41, 81, dtype=torch.uint8)
    images[:, :, 20, 40] = 255
    out = of(images, {"shift": 0.25}).float()[:, 0]
    mass = out.sum((1, 2))
    down = (out.sum(2) * (torch.arange(41.0) - 20)).sum(1) / mass
    right = (out.sum(1) * (torch.arange(81.0) - 40)).sum(1) / mass
    for moved, side in ((down, 41), (right, 81)):
        assert 0.22 * side < moved.abs().max() < 0.26 * side


def test_what_is_erased_is_at_most_its_share() -> None:
    images = torch.zeros(500, 1, 40, 40, dtype=torch.uint8)
    share = (of(images, {"erase": 0.25}) > 0).float().mean((1, 2, 3))
    assert share.max() < 0.29
    assert float(share.mean()) == pytest.approx(0.125, rel=0.15)


def test_a_crop_shows_a_part_enlarged() -> None:
    ramp = torch.linspace(50, 250, 80).round().to(torch.uint8).expand(200, 1, 80, 80).contiguous()
    rows = of(ramp, {"crop": (0.25, 0.25)})[:, 0, 40].float()
    width = (rows[:, -6] - rows[:, 5]) / (200 * 69 / 79)  # share of the width that is seen
    assert 0.42 < width.min() < 0.45  # a ratio of sides up to 4 / 3 stretches one of them by its root
    assert 0.56 < width.max() < 0.59
    assert rows.min() >= 50  # nothing from outside


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"rotate": 181}, "rotate"),
        ({"rotate": -5}, "rotate"),
        ({"rotate": True}, "rotate"),
        ({"rotate": float("nan")}, "rotate"),
        ({"flip": 0.5}, "flip"),
        ({"scale": [1.2, 0.8]}, "scale"),
        ({"scale": 1.2}, "scale"),
        ({"crop": [0.0, 1.0]}, "crop"),
        ({"crop": [0.5, 1.5]}, "crop"),
        ({"hue": 0.6}, "hue"),
        ({"saturation": 1.5}, "saturation"),
        ({"randaugment": 31}, "randaugment"),
        ({"noise": 300}, "noise"),
        ({"erase": 1.0}, "erase"),
        ({"rotation": 5}, "rotation"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Operations(**wrong)


@pytest.mark.parametrize("operations", [{}, *ALONE, pytest.param(EACH, id="all")])
def test_they_survive_json_and_show_only_what_is_on(operations: dict[str, Any]) -> None:
    adapter = TypeAdapter(Operations)
    given = Operations(**operations)
    assert adapter.validate_json(adapter.dump_json(given)) == given
    assert adapter.dump_python(given, mode="json").keys() == operations.keys()
    assert set(given.on) == operations.keys()
    assert hash(given) == hash(Operations(**operations))


def test_pil_agrees_on_a_turned_image() -> None:
    """A whole way through: the largest turn drawn is one that Pillow can make as well."""
    image = F.gaussian_blur(noise(1, 3, 33, 33), [9, 9], [2.0, 2.0])
    out = of(image.expand(60, -1, -1, -1), {"rotate": 40}).float()
    pil = F.to_pil_image(image[0])
    turns = [F.pil_to_tensor(pil.rotate(a / 4, Image.Resampling.BILINEAR)).float() for a in range(-160, 161)]
    for turned in out[:10]:
        assert min(float((turned - other)[:, 8:25, 8:25].abs().max()) for other in turns) < 4
