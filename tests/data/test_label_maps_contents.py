"""Label maps with noise of compression, named values, colours and odd pixel types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import HEIGHT, IMAGES, WIDTH, loaded, picture
from PIL import Image

from planish.data.annotations.map_codes import codes_in
from planish.data.images import load_images
from planish.errors import DataError


def maps(root: Path, values: Callable[[int], np.ndarray | Image.Image], suffix: str = ".png", names: Any = None, **options: Any) -> Path:
    for i in range(IMAGES):
        picture(i, root / "images" / f"{i:02d}.png")
        (root / "masks").mkdir(exist_ok=True)
        made = values(i)
        (made if isinstance(made, Image.Image) else Image.fromarray(made)).save(root / "masks" / f"{i:02d}{suffix}", **options)
    if names is not None:
        (root / "classes.json").write_text(json.dumps(names))
    return root


def stripes(*values: int) -> np.ndarray:
    return np.repeat(np.repeat(np.array(values, np.uint8), -(-WIDTH // len(values)))[None, :WIDTH], HEIGHT, axis=0)


def stray(*values: int, pixels: int = 2) -> Callable[[int], np.ndarray]:
    def made(number: int) -> np.ndarray:
        found, rng = stripes(0, 255), np.random.default_rng(number)
        for value in values if number % 3 == 1 else ():
            found[rng.integers(0, HEIGHT, pixels), rng.integers(0, WIDTH, pixels)] = value
        return found

    return made


@pytest.mark.parametrize(
    ("values", "suffix", "options"),
    [
        (lambda i: stripes(0, 255), ".jpg", {"quality": 40}),
        (lambda i: stripes(0, 255, 0), ".jpg", {"quality": 75}),
        (stray(3, 250), ".png", {}),
        (stray(254), ".png", {}),
        (stray(128), ".png", {}),
        (lambda i: Image.fromarray(stripes(0, 255)).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BILINEAR), ".png", {}),
        (lambda i: Image.fromarray(stray(3, 250)(i)).convert("RGB"), ".png", {}),
    ],
)
def test_noise_in_black_and_white_masks(tmp_path: Path, values: Any, suffix: str, options: Any) -> None:
    data, notes = loaded(maps(tmp_path / "d", values, suffix, **options))
    assert data.class_names == ("background", "class 1")
    found = np.stack([np.asarray(Image.fromarray(data.splits["train"].targets[i]).resize((WIDTH, HEIGHT), 0)) for i in range(3)])
    assert set(np.unique(found)) == {0, 1}
    assert "cut at 128" in notes
    assert (found[:, :, 2] == 0).all()
    assert (found[:, :, 20] == 1).all()


@pytest.mark.parametrize(
    ("values", "names", "ignored"),
    [
        (stray(1, 2), ("background", "class 1", "class 2"), True),
        (lambda i: stripes(0, 128, 255), ("background", "class 128"), True),
        (lambda i: stripes(0, 100, 200), ("background", "class 100", "class 200"), False),
        (lambda i: stripes(0, 1, 2), ("background", "class 1", "class 2"), False),
        (lambda i: stripes(0, 7, 255, 255), ("background", "class 7"), True),
    ],
)
def test_classes_are_no_noise(tmp_path: Path, values: Any, names: tuple[str, ...], ignored: bool) -> None:
    data, notes = loaded(maps(tmp_path / "d", values))
    assert data.class_names == names
    assert ("255 in masks is taken for pixels to be ignored" in notes) == ignored


def test_jpeg_masks_of_several_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in 3 groups"):
        load_images(maps(tmp_path / "a", lambda i: stripes(0, 128, 255), ".jpg"))
    data, notes = loaded(maps(tmp_path / "b", lambda i: stripes(0, 128, 255), ".jpg", {"0": "sky", "128": "road", "255": "car"}))
    assert data.class_names == ("sky", "road", "car")
    assert "nearest" in notes
    first = data.splits["train"].targets[0]
    assert first[5, 3] == 0
    assert first[5, 16] == 1
    assert first[5, 29] == 2
    with pytest.raises(DataError, match="16 apart"):
        load_images(maps(tmp_path / "c", lambda i: stripes(0, 60, 120), ".jpg", ["sky", "road", "car"]))


@pytest.mark.parametrize(
    ("names", "class_names"),
    [
        ({"0": "sky", "1": "road", "255": "car"}, ("sky", "road", "car")),
        ({"car": 255, "sky": 0, "road": 1}, ("sky", "road", "car")),
        ({"0": "sky", "1": "road", "7": "never", "255": "car"}, ("sky", "road", "never", "car")),
        ({"0": "sky", "1": "sky", "255": "car"}, ("sky", "car")),
    ],
)
def test_values_that_a_file_names_are_kept(tmp_path: Path, names: Any, class_names: tuple[str, ...]) -> None:
    data, notes = loaded(maps(tmp_path / "d", lambda i: stripes(0, 1, 255), names=names))
    assert data.class_names == class_names
    first = data.splits["train"].targets[0]
    assert class_names[first[5, 3]] == "sky"
    assert class_names[first[5, 29]] == "car"
    assert ("in no mask and keep their place in the order: never" in notes) == ("never" in class_names)


def test_colours_keep_the_order_of_the_file(tmp_path: Path) -> None:
    def coloured(number: int) -> np.ndarray:
        return np.stack([stripes(200, 0), stripes(10, 0), stripes(0, 90)], axis=-1)

    data, _ = loaded(maps(tmp_path / "a", coloured, names={"red": [200, 10, 0], "pink": [255, 0, 255], "blue": [0, 0, 90]}))
    assert data.class_names == ("red", "pink", "blue")
    with pytest.raises(DataError, match=r"masks hold #c80a00, which classes\.json does not name"):
        load_images(maps(tmp_path / "b", coloured, names={"black": [0, 0, 0], "blue": [0, 0, 90]}))


def test_names_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no name"):
        load_images(maps(tmp_path / "d", lambda i: stripes(0, 1), names={"0": {"name": "sky"}, "1": None}))


def test_floating_point_masks(tmp_path: Path) -> None:
    file = tmp_path / "m.tif"
    Image.fromarray(stripes(0, 3).astype(np.float32)).save(file)
    assert codes_in(file) == {0, 3}
    Image.fromarray(stripes(0, 3).astype(np.float32) + 0.5).save(file)
    with pytest.raises(DataError, match="no class numbers"):
        codes_in(file)
