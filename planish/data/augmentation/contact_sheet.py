"""Contact sheets: grids of training images next to their augmented versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from planish.data.augmentation.operations import to_uint8
from planish.errors import DataError

if TYPE_CHECKING:
    from planish.artifact import Pixels
    from planish.data.augmentation.policy import Augment

_GAP = 4  # pixels between images; twice that next to the originals
_CELL = 96  # pixels; smaller images are enlarged by the largest integer factor that fits


def contact_sheet(images: Pixels, change: Augment, generator: torch.Generator, *, versions: int = 6) -> Image.Image:
    """Draw one row per image on white: the original on the left, then augmented versions of it.

    Args:
        images: uint8 ``(N, H, W, C)``, a few images of the train split.
        change: augmentation function, as returned by ``planish.data.augmentation.policy.augment``.
        generator: random generator; equal seeds give equal sheets.
        versions: number of augmented versions per image.

    Raises:
        DataError: there are no images, or ``versions`` is below 1.

    Example:
        >>> from planish.artifact import InputSpec
        >>> from planish.data.augmentation.policy import augment
        >>> change = augment(InputSpec(1, 28, 28), "light")
        >>> sheet = contact_sheet(np.zeros((2, 28, 28, 1), np.uint8), change, torch.Generator().manual_seed(0))
        >>> sheet.save("augmented.png")  # doctest: +SKIP
    """
    if len(images) == 0 or versions < 1:
        raise DataError(f"{len(images)} images and {versions} versions", "a contact sheet shows at least one of each")
    originals = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    columns = [originals]
    for _ in range(versions):
        seen = change(originals, generator)
        columns.append(to_uint8(seen) if seen.is_floating_point() else seen)
    return _laid_out(torch.stack(columns, 1).permute(0, 1, 3, 4, 2).numpy())


def _laid_out(cells: Pixels) -> Image.Image:
    """Arrange ``(rows, columns, H, W, C)`` in a grid."""
    factor = max(1, _CELL // max(cells.shape[2:4]))
    cells = cells.repeat(factor, axis=2).repeat(factor, axis=3)
    rows, columns, height, width, channels = cells.shape
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + 2 * _GAP, channels), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP) + _GAP * (column > 0)
            sheet[top : top + height, left : left + width] = cells[row, column]
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
