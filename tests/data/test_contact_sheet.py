import io

import numpy as np
import pytest
import torch
from PIL import Image

from planish.artifact import InputSpec
from planish.data.augmentation.contact_sheet import contact_sheet
from planish.data.augmentation.operations import Operations
from planish.data.augmentation.policy import augment, mixup_cutmix
from planish.errors import DataError

SIDE, ZOOM = 32, 3


def images(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, channels), dtype=np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    side = SIDE * ZOOM
    top, left = 4 + row * (side + 4), 4 + column * (side + 4) + (4 if column else 0)
    return np.asarray(sheet)[top : top + side : ZOOM, left : left + side : ZOOM]


def test_originals_are_on_the_left_and_what_training_sees_beside_them() -> None:
    given, change = images(), augment(InputSpec(3, SIDE, SIDE), Operations(rotate=20, noise=5))
    sheet = contact_sheet(given, change, generator(), versions=3)
    assert sheet.mode == "RGB"
    assert sheet.size == (4 * (SIDE * ZOOM + 4) + 8, 4 * (SIDE * ZOOM + 4) + 4)
    drawing = generator()
    for column in range(4):
        seen = torch.from_numpy(given).permute(0, 3, 1, 2)
        seen = seen if column == 0 else change(seen, drawing)
        for row in range(4):
            assert (cell(sheet, row, column) == seen[row].permute(1, 2, 0).numpy()).all()


def test_it_is_the_same_picture_again_and_another_with_another_seed() -> None:
    change = augment(InputSpec(3, SIDE, SIDE), "standard")
    one, again, other = (contact_sheet(images(), change, generator(seed)).tobytes() for seed in (0, 0, 1))
    assert one == again != other


def test_mixed_images_are_shown_mixed() -> None:
    given = np.stack([np.full((SIDE, SIDE, 3), value, np.uint8) for value in (0, 100, 200)])
    labels = torch.zeros(3, dtype=torch.int64)
    sheet = contact_sheet(given, lambda shown, g: mixup_cutmix(5, 1.0, 0.0)(shown.float(), labels, g)[0], generator())
    mixed = [cell(sheet, row, column).mean() for row in range(3) for column in range(1, 7)]
    assert {float(cell(sheet, row, 0).mean()) for row in range(3)} == {0.0, 100.0, 200.0}
    assert sum(value not in (0.0, 100.0, 200.0) for value in mixed) > 12
    cut = contact_sheet(given, lambda shown, g: mixup_cutmix(5, 0.0, 1.0)(shown.float(), labels, g)[0], generator())
    assert any(len(np.unique(cell(cut, row, column))) == 2 for row in range(3) for column in range(1, 7))


def test_grey_and_large_images_and_png() -> None:
    grey = contact_sheet(images(1), augment(InputSpec(1, SIDE, SIDE), "light"), generator(), versions=1)
    assert grey.mode == "L"
    file = io.BytesIO()
    grey.save(file, "PNG")
    assert (np.asarray(Image.open(file)) == np.asarray(grey)).all()
    large = contact_sheet(np.zeros((1, 120, 200, 3), np.uint8), augment(InputSpec(3, 120, 200), "none"), generator(), versions=1)
    assert large.size == (2 * 204 + 8, 128)


@pytest.mark.parametrize(("count", "versions"), [(0, 3), (2, 0)])
def test_nothing_to_show(count: int, versions: int) -> None:
    with pytest.raises(DataError, match="at least one"):
        contact_sheet(images()[:count], augment(InputSpec(3, SIDE, SIDE), "light"), generator(), versions=versions)
