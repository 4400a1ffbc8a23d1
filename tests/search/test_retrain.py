"""New images are taken in: what comes of it is made as the old one was, compared on images of both kinds, and only replaces a worse one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from planish import commands
from planish.compression import ChannelPruning, Int8
from planish.errors import BundleError, DataError
from planish.export import ToOnnx
from planish.export.bundle import SEAL, read_bundle
from planish.measurement import Measurement
from planish.plan import Plan
from planish.search.opened import open_model
from planish.search.retrain import Continued
from planish.testing import write_shapes


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images, and a run that was made of them."""
    folder = tmp_path_factory.mktemp("old")
    data = write_shapes(folder / "shapes", per_class=100)
    commands.train(data, model="resnet8x0.5", out=folder / "run" / "model", changes=["epochs=20"])
    commands.compress(
        folder / "run" / "model", data, plan=Plan(ChannelPruning(ratio=0.25), ToOnnx(), Int8()), out=folder / "run" / "bundle"
    )
    return data, folder / "run"


def _negatives(folder: Path) -> Path:
    """The same shapes as the old network never saw them: dark on bright."""
    for file in write_shapes(folder, per_class=100, seed=1).rglob("*.png"):
        ImageOps.invert(Image.open(file)).save(file)
    return folder


def test_what_is_better_on_both_takes_its_place(old: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = old
    negatives, before = _negatives(tmp_path / "new"), (run / "bundle" / SEAL).read_text()
    found = commands.continue_from(run, data, negatives, out=tmp_path / "out", changes=("epochs=20",), replace_served=True)
    assert found.gain["new"].value > 10, found.verdict
    assert found.gain["new"].value == pytest.approx(found.new["new"].value - found.old["new"].value)
    assert found.new["new"].n == found.old["new"].n == found.gain["new"].n

    (images, targets), model = _test_images(negatives), open_model(tmp_path / "out" / "bundle")
    right = (model.predictor()(images)["logits"].argmax(axis=1) == targets).mean()
    assert found.new["new"].value == pytest.approx(100 * right), "as counted on the files themselves"
    steps = [step.technique for step in read_bundle(tmp_path / "out" / "bundle").lineage.steps]
    assert steps == [step.technique for step in read_bundle(run / "bundle").lineage.steps]
    assert found.replaced is found.better
    assert ((run / "bundle" / SEAL).read_text() != before) is found.better
    assert commands.verify(run).ok


def _test_images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images = commands.data(folder)
    test, model = images.splits["test"], open_model(folder.parent / "out" / "bundle")
    return test.images(model.input_spec, model.preprocessing), test.targets


@pytest.mark.parametrize(("old_gain", "new_gain", "better"), [(0, 1, True), (2, 1, True), (-0.1, 20, False), (3, 0, False)])
def test_it_must_win_on_new_images_and_lose_on_no_old_ones(old_gain: float, new_gain: float, better: bool) -> None:
    gain = {name: Measurement("accuracy_gain", value, "points", 30, True, -5, 5) for name, value in (("old", old_gain), ("new", new_gain))}
    assert Continued({}, {}, gain, Measurement("latency_ratio", 1.0, "ratio", 5, True)).better is better


def test_what_cannot_be_continued_says_why(old: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = old
    (tmp_path / "labels.csv").write_text("path,label\nx.png,\n")
    with pytest.raises(DataError, match="label"):
        commands.continue_from(run, data, tmp_path / "labels.csv", out=tmp_path / "out")
    other = write_shapes(tmp_path / "other", per_class=20, seed=3)
    (other / "disc").rename(other / "heart")
    with pytest.raises(DataError, match="another classifier"):
        commands.continue_from(run, data, other, out=tmp_path / "out")
    (run / "bundle").rename(tmp_path / "alone")
    try:
        with pytest.raises(BundleError, match="name the run that made it"):
            commands.continue_from(tmp_path / "alone", data, other, out=tmp_path / "out")
    finally:
        (tmp_path / "alone").rename(run / "bundle")
    assert not (tmp_path / "out").exists()
