"""Bundles of models that say where: they verify, a model that answers otherwise does not, and the README's lines run them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patches import COLOURS, scattered, write_model, write_patches

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.export.bundle.folder import EXPECTED
from planish.export.bundle.readme import readme
from planish.export.bundle.verify import verify

TASKS = ("detection", "instance", "semantic")


@pytest.fixture(scope="module", params=TASKS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patches(tmp_path_factory.mktemp("patches") / request.param, request.param)


def task_of(bundle: Path) -> str:
    return str(json.loads((bundle / "bundle.json").read_text())["task"])


def test_it_verifies(bundle: Path) -> None:
    report = verify(bundle)
    assert report.ok, report
    assert (report.samples, report.worst) == (4, 0)


def test_a_model_that_answers_otherwise_is_found(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other golden outputs, as those of another image are; hashes are checked before and tested elsewhere."""
    monkeypatch.setattr("planish.export.bundle.verify.changed_files", lambda folder, bundle: [])
    mine = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    with np.load(bundle / EXPECTED) as saved:
        right = dict(saved)
    np.savez(mine / EXPECTED, **{name: np.roll(values, 1, axis=0) for name, values in right.items()})
    report = verify(mine)
    assert not report.ok
    assert {line.split(":")[0] for line in report.failures} <= {f"golden/00{i}.png" for i in range(4)}
    np.savez(mine / EXPECTED, **{name: values[:, :2] for name, values in right.items()})
    assert all("has another shape" in line for line in verify(mine).failures)


def test_reference_values(bundle: Path) -> None:
    found = json.loads((bundle / "reference.json").read_text())
    values, general = found["values"], ["brightness", "contrast", "sharpness", "width", "height"]
    if task_of(bundle) == "semantic":
        assert list(values) == [*general, "confidence", *(f"share of {name}" for name in ("background", *COLOURS))]
        assert {len(one) for one in values.values()} == {24}
        assert found["class_counts"] == {}
    else:
        assert list(values) == [*general, "objects", "object size", "confidence"]
        assert len(values["objects"]) == 24
        assert 0 < len(values["confidence"]) == len(values["object size"]) < 24, "none is there for images without objects"
        assert sum(found["class_counts"].values()) == len(values["confidence"])
        assert list(found["class_counts"]) == list(COLOURS)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_lines_of_the_readme_say_what_is_there(bundle: Path, runtime: str) -> None:
    described = json.loads((bundle / "bundle.json").read_text())
    task, names = described["task"], described["class_names"]
    artifact = Artifact(
        "onnx", InputSpec(**described["input_spec"]), Preprocessing(**described["preprocessing"]), tuple(names),
        Lineage(Source("patches", len(names), 3)), files=(bundle / "model.onnx",),
    )  # fmt: skip
    lines = readme(artifact, task, runtime).split("```python\n")[1].split("\n```")[0]
    assert len(lines.splitlines()) <= 12
    assert all(len(line) <= 140 for line in lines.splitlines())
    with np.load(bundle / EXPECTED) as saved:
        expected = dict(saved)
    for number, golden in enumerate(described["golden_samples"]):
        done = subprocess.run([sys.executable, "-I", "-c", lines, golden], cwd=bundle, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said = done.stdout.splitlines()
        if task == "semantic":
            counts = np.bincount(expected["classes"][number].ravel(), minlength=4) / expected["classes"][number].size
            assert {line.split()[0]: float(line.split()[1]) for line in said} == pytest.approx(
                {name: count for name, count in zip(names, counts, strict=True) if count}
            )
        else:
            rows = np.flatnonzero(expected["scores"][number] > 0.3)
            assert [line.split()[0] for line in said] == [names[expected["labels"][number, row]] for row in rows]
            assert [float(line.split()[1]) for line in said] == pytest.approx(expected["scores"][number, rows].tolist(), abs=1e-5)


def test_golden_masks_need_little_room(tmp_path: Path) -> None:
    bundle = write_patches(tmp_path / "instance", "instance", scattered(8), golden=8)
    assert (bundle / EXPECTED).stat().st_size < 6000, "5 maps of 24 x 16 for each of 8 images are 61 kB"


def test_the_patches_are_found(tmp_path: Path) -> None:
    """What the tests of services rest on: the files do what they say."""
    import onnxruntime
    from patches import picture, prepared

    image = prepared(picture({"red": (0.125, 0.25, 0.5, 0.75), "blue": (0.625, 0.5, 0.75, 1)}, (96, 64), shape="rectangle"))
    found = {}
    for task in TASKS:
        session = onnxruntime.InferenceSession(write_model(tmp_path / "model.onnx", task))
        names = [one.name for one in session.get_outputs()]
        found[task] = dict(zip(names, session.run(names, {"images": image}), strict=True))
    assert found["detection"]["boxes"][0, :2].tolist() == [[0.125, 0.25, 0.5, 0.75], [0.625, 0.5, 0.75, 1]]
    assert found["detection"]["scores"][0].tolist() == pytest.approx([0.9, 0.2, 0, 0, 0])
    assert found["detection"]["labels"][0, :2].tolist() == [0, 2]
    assert found["instance"]["masks"][0, 0].sum() == 9 * 8
    assert (found["semantic"]["classes"] == 3).sum() == 12 * 32
