"""PyTorch data sets become class folders, or the item that cannot is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from planish.data.sources.dataset import folder_of
from planish.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)


class Named(list):  # type: ignore[type-arg]
    classes = ("crane", "crane")


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ([(PIXELS, 1.7)], "an item is"),  # a regression target, which was cut to a class
        ([(PIXELS, torch.tensor([0, 1]))], "an item is"),
        ([{"image": PIXELS, "label": 1}], "an item is"),
        ([(Image.fromarray(PIXELS).convert("F"), 0)], "colour mode F"),
        ([(np.zeros((5, 8, 9), np.uint8), 0)], "shape"),
        (Named([(PIXELS, 0), (PIXELS, 1)]), "'crane'"),  # as in short lists of ImageNet's names; they were merged
    ],
)
def test_items_that_are_no_image_of_a_class(tmp_path, dataset, said) -> None:
    with pytest.raises(DataError, match=said):
        folder_of(dataset, tmp_path)


@pytest.mark.parametrize(
    "image", [Image.fromarray(PIXELS).convert("CMYK"), torch.from_numpy(PIXELS).permute(2, 0, 1), torch.zeros(4, 8, 9, dtype=torch.uint8)]
)
def test_images_of_every_usual_kind(tmp_path, image) -> None:
    (file,) = folder_of([(image, torch.tensor(3))], tmp_path).rglob("*.png")
    with Image.open(file) as written:
        assert (written.size, file.parent.name) == ((9, 8), "3")
