"""Images without labels that also teach: which are taken, with which targets, and what they change in a search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from planish.commands import optimize, train
from planish.data.images import load_images
from planish.data.joined import JoinedSplit
from planish.errors import DataError, GoalError
from planish.models.storage import load_artifact
from planish.progress import collecting_notes
from planish.runs.store import Store
from planish.search.extra_images import with_extra_images
from planish.settings import ModelSettings
from planish.task import Task
from planish.testing import write_shapes
from planish.training.fit import fit
from planish.training.prepare import prepare_job
from planish.training.settings import FitSettings

_NETWORK = ModelSettings("resnet8x0.5")


def unsorted(folder: Path, per_class: int = 8, seed: int = 9) -> Path:
    """Shapes in one folder, under names that do not tell which."""
    folder.mkdir()
    for number, file in enumerate(sorted(write_shapes(folder.with_name(f"{folder.name}-shapes"), per_class, seed=seed).rglob("*.png"))):
        shutil.copy(file, folder / f"{number:03d}.png")
    return folder


def extended(data: Path, extra: Path, tmp_path: Path) -> tuple[Task, Task, list[str]]:
    """The task before and after, and the notes."""
    job = prepare_job(data, _NETWORK)
    (tmp_path / "run").mkdir(exist_ok=True)
    store = Store(tmp_path / "run")
    with collecting_notes() as notes:
        task = with_extra_images(job, extra, job.artifact, _NETWORK, tmp_path / "run", store)
    store.close()
    return job.task, task, notes


def test_the_original_answers_for_them(tmp_path: Path) -> None:
    data, extra = write_shapes(tmp_path / "shapes", per_class=20), unsorted(tmp_path / "unsorted")
    before, after, notes = extended(data, extra, tmp_path)
    assert any(text.startswith("24 images of unsorted without labels also teach") for text in notes)
    job = prepare_job(data, _NETWORK)
    spec, how = job.artifact.input_spec, job.artifact.preprocessing
    train, more = before.split("train"), after.split("train")
    assert isinstance(more, JoinedSplit)
    assert len(more) == len(train) + 24
    names = [key.removeprefix("unsorted/") for key in more.keys[-24:]]
    assert sorted(names) == sorted(file.name for file in extra.iterdir())
    pixels = np.stack([np.asarray(Image.open(extra / name))[..., None] for name in names])
    images = more.images(spec, how)
    np.testing.assert_array_equal(images[len(train) :], pixels)
    np.testing.assert_array_equal(images[: len(train)], train.images(spec, how)[:])
    mixed = np.array([len(train) + 3, 0, len(more) - 1, 5])
    np.testing.assert_array_equal(images[mixed], np.stack([images[int(i)] for i in mixed]))
    assert more.file_bytes(len(train) + 3) == (extra / names[3]).read_bytes()
    assert more.file_bytes(2) == train.file_bytes(2)
    with torch.no_grad():
        normalised = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - how.mean[0]) / how.std[0]
        answers = job.artifact.module.eval()(normalised.float()).argmax(1).numpy()
    np.testing.assert_array_equal(more.targets, np.concatenate([train.targets, answers]))
    for name in ("validation", "test", "calibration"):
        assert after.split(name) is before.split(name)  # type: ignore[arg-type]


def test_copies_of_labelled_images_are_left_out(tmp_path: Path) -> None:
    data, extra = write_shapes(tmp_path / "shapes", per_class=20), unsorted(tmp_path / "unsorted")
    splits = load_images(data).splits
    for name in ("validation", "test", "train"):
        (extra / f"copy-{name}.png").write_bytes(splits[name].file_bytes(1))  # type: ignore[index]
    pixels = np.asarray(Image.open(splits["test"].paths[2]))
    Image.fromarray(np.clip(pixels.astype(int) + 3, 0, 255).astype(np.uint8)).save(extra / "brighter.webp", lossless=True)
    _, after, notes = extended(data, extra, tmp_path)
    assert any("24 images" in text and "4 are left out as copies" in text for text in notes)
    assert not [key for key in after.split("train").keys if "copy" in key or "brighter" in key]
    with pytest.raises(DataError, match="are also in"):
        extended(data, data, tmp_path)


def test_a_training_sees_them(tmp_path: Path) -> None:
    data, extra = write_shapes(tmp_path / "shapes", per_class=20), unsorted(tmp_path / "unsorted")
    _, after, _ = extended(data, extra, tmp_path)
    job = prepare_job(data, _NETWORK)
    fitted = fit(job.artifact.module, after, job.artifact.input_spec, job.artifact.preprocessing, FitSettings(epochs=1, batch_size=16))
    assert fitted.epochs == 1
    assert len(fitted.history) == 1


def test_where_they_make_no_sense(tmp_path: Path) -> None:
    extra = unsorted(tmp_path / "unsorted")
    with pytest.raises(GoalError, match="put them into one folder"):
        optimize(extra, model="x.onnx", extra_images=extra, out=tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_with_extra_images(tmp_path: Path) -> None:
    data, extra = write_shapes(tmp_path / "shapes", per_class=60), unsorted(tmp_path / "unsorted", per_class=60)
    train(data, model="resnet8", epochs=4, out=tmp_path / "model")
    result = optimize(
        data, model="resnet8", weights=tmp_path / "model" / "model.safetensors", extra_images=extra, budget="60s", out=tmp_path / "run",
        runtime="onnxruntime",
    )  # fmt: skip
    assert any("180 images of unsorted" in text for text in result.notes)
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "--extra-images" not in record["command"]  # it was called from Python
    resumed = optimize(
        data, model="resnet8", weights=tmp_path / "model" / "model.safetensors", extra_images=extra, budget="60s", out=tmp_path / "run",
        runtime="onnxruntime", resume=True,
    )  # fmt: skip
    assert resumed.chosen.key == result.chosen.key
    assert load_artifact(tmp_path / "run" / "work" / "original").module is not None
