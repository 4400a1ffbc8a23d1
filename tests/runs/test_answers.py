"""An original's answers take the place of labels: of an ONNX file, of networks by name, and what is noted about them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from planish.commands import compress
from planish.data.normalisation import Normalise
from planish.errors import GoalError, ModelError
from planish.export.bundle.verify import verify
from planish.models import save_artifact
from planish.progress import collecting_notes
from planish.runs.converted_onnx import converted_job
from planish.runs.external_onnx import file_job
from planish.runs.networks.answers import answered
from planish.runs.open_network import unlabelled_job
from planish.runs.store import Store
from planish.settings import ModelSettings
from planish.split_assignment import assignment_beside
from planish.testing import write_shapes
from planish.training.prepare import Job, prepare_job

SIDE = 16
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OCCURRING = (3, 14, 15, 92, 653, 589, 793)
NETWORK = """import torch
from PIL import Image
from torch import nn


def fixed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def any_number(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes, without their folders."""
    folder = tmp_path_factory.mktemp("photos")
    for number, file in enumerate(sorted(write_shapes(folder / "shapes", per_class=20, size=SIDE, channels=3).rglob("*.png"))):
        file.rename(folder / f"{number}.png")
    for empty in ("cross", "disc", "square", ""):
        (folder / "shapes" / empty).rmdir()
    return folder


def network(classes: int, photos: Path | None = None, occurring: tuple[int, ...] = ()) -> nn.Sequential:
    """An untrained classifier; with photos, one whose answers on them are several of those that may occur."""
    torch.manual_seed(1)
    built = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, classes)
    ).eval()
    with torch.no_grad():
        if photos is not None:
            pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in sorted(photos.iterdir())]))
            built[-1].bias -= built(Normalise(*IMAGENET)(pixels)).mean(0)  # type: ignore[operator]
        if occurring:
            built[-1].bias[[i for i in range(classes) if i not in occurring]] = -1e3  # type: ignore[index]
    return built


def exported(whole: nn.Module, file: Path) -> Path:
    torch.onnx.export(
        whole.eval(), (torch.randn(2, 3, SIDE, SIDE),), str(file), dynamo=False, dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        input_names=["x"], output_names=["y"], opset_version=17,
    )  # fmt: skip
    return file


def answer(job: Job, folder: Path, max_change: float = 1.0) -> tuple[Job, str]:
    folder.mkdir(exist_ok=True)
    store = Store(folder)
    with collecting_notes() as notes:
        found = answered(job, folder, store, max_change)
    store.close()
    return found, "\n".join(notes)


@pytest.mark.parametrize("ends", [(), (nn.Softmax(1),)])
@pytest.mark.parametrize("converted", [True, False])
def test_targets_are_the_answers_of_the_file(photos: Path, tmp_path: Path, ends: tuple[nn.Module, ...], converted: bool) -> None:
    file = exported(nn.Sequential(*network(1000, photos, OCCURRING), *ends), tmp_path / "net.onnx")
    job = file_job(photos, ModelSettings(str(file)), unlabelled=True)
    assert job.data.class_names == job.artifact.class_names == job.task.class_names == tuple(map(str, range(1000)))
    if converted:
        job = converted_job(job, file)
    job, notes = answer(job, tmp_path / "run")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    normalise = Normalise.of(job.artifact.preprocessing)
    every = []
    for name in ("train", "calibration", "validation", "test"):
        split = job.task.split(name)  # type: ignore[arg-type]
        pixels = torch.from_numpy(np.array(split.images(job.artifact.input_spec, job.artifact.preprocessing)))
        expected = session.run(None, {"x": normalise(pixels).numpy()})[0].argmax(1)
        np.testing.assert_array_equal(split.targets, expected)
        np.testing.assert_array_equal(job.data.splits[name].targets, expected)  # type: ignore[index]
        every += expected.tolist() if name != "calibration" else []
    assert 1 < len(set(every)) <= len(OCCURRING)
    assert f"on 60 images take the place of labels: {len(set(every))} of 1000 classes occur" in notes
    assert f"{100 * max(map(every.count, set(every))) / 60:.0f} % of the images" in notes
    assert "accuracy" not in notes


def test_answers_are_computed_once(photos: Path, tmp_path: Path) -> None:
    job = file_job(photos, ModelSettings(str(exported(network(4), tmp_path / "net.onnx"))), unlabelled=True)
    first, _ = answer(job, tmp_path / "run")
    job.artifact.files[0].write_bytes(b"not read again")
    again, _ = answer(job, tmp_path / "run")
    np.testing.assert_array_equal(first.task.split("train").targets, again.task.split("train").targets)


def test_few_images_and_a_single_answer_are_noted(photos: Path, tmp_path: Path) -> None:
    job = file_job(photos, ModelSettings(str(exported(network(9, None, (4,)), tmp_path / "net.onnx"))), unlabelled=True)
    n = len(job.task.split("test"))
    _, notes = answer(job, tmp_path / "run")
    assert "the original answers '4' on every image, so agreement is trivial" in notes
    assert f"and {n} test images" in notes
    assert "about 380 images in each would show 1 %" in notes  # 3.84 * 99: Wilson's interval of 380 of 380 ends at 99 %
    assert "few images" not in answer(job, tmp_path / "lenient", max_change=60)[1]
    assert "would show" not in answer(job, tmp_path / "strict", max_change=0)[1]


def test_an_original_that_returns_nan_is_refused(photos: Path, tmp_path: Path) -> None:
    job = unlabelled_job(photos, ModelSettings(network(3), mean=[0.5], std=[0.25]))
    with torch.no_grad():
        job.artifact.module[0].weight[0] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinity"):
        answer(job, tmp_path / "run")


def test_networks_by_name(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    how = {"mean": [0.5], "std": [0.25]}
    job, _ = answer(unlabelled_job(photos, ModelSettings(f"{file}:fixed", **how)), tmp_path / "fixed")  # type: ignore[arg-type]
    assert job.task.class_names == ("0", "1", "2", "3", "4")
    assert job.artifact.preprocessing.mean == (0.5,) * 3
    pixels = torch.from_numpy(np.array(job.task.split("test").images(job.artifact.input_spec, job.artifact.preprocessing)))
    space: dict[str, object] = {}
    exec(NETWORK, space)
    with torch.no_grad():
        expected = space["fixed"]()((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25).argmax(1)  # type: ignore[operator]
    np.testing.assert_array_equal(job.task.split("test").targets, expected)
    with pytest.raises(GoalError, match="not known how the images"):
        unlabelled_job(photos, ModelSettings(f"{file}:fixed"))
    with pytest.raises(ModelError, match="as many classes as it is asked for"):
        unlabelled_job(photos, ModelSettings(f"{file}:any_number", **how))  # type: ignore[arg-type]
    torch.save(space["any_number"](6).state_dict(), tmp_path / "six.pth")  # type: ignore[operator]
    found = unlabelled_job(photos, ModelSettings(f"{file}:any_number", tmp_path / "six.pth", **how))  # type: ignore[arg-type]
    assert len(found.task.class_names) == 6
    with pytest.raises(ModelError, match="random values"):
        unlabelled_job(photos, ModelSettings("resnet20"))


def test_a_saved_model_brings_its_classes_its_input_and_its_splits(photos: Path, tmp_path: Path) -> None:
    labelled = write_shapes(tmp_path / "shapes", per_class=20, size=SIDE, channels=3)
    trained = prepare_job(labelled, ModelSettings("resnet8x0.5"))
    save_artifact(trained.artifact, tmp_path / "model", trained.data.assignment)
    weights = tmp_path / "model" / "model.safetensors"
    job = unlabelled_job(photos, ModelSettings("resnet8x0.5", weights))
    assert job.task.class_names == ("cross", "disc", "square")
    assert job.artifact.preprocessing == trained.artifact.preprocessing
    assert job.artifact.input_spec == trained.artifact.input_spec
    for name, split in trained.data.splits.items():
        assert {file.read_bytes() for file in job.data.splits[name].paths} == {file.read_bytes() for file in split.paths}


def agreeing(file: Path, other: Path, photos: list[Path]) -> float:
    """Share of the photos, in percent, on which both files in ONNX Runtime have the same answer; the second takes pixels."""
    pixels = np.stack([np.asarray(Image.open(photo)) for photo in photos])
    float_inputs = Normalise(*IMAGENET)(torch.from_numpy(pixels)).numpy()
    answers = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"x": float_inputs})[0].argmax(1)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI, sums of 8-bit products would overflow
    session = onnxruntime.InferenceSession(str(other), options, providers=["CPUExecutionProvider"])
    return 100 * float((session.run(None, {session.get_inputs()[0].name: pixels})[0].argmax(1) == answers).mean())


def test_a_file_is_compressed_without_labels(photos: Path, tmp_path: Path) -> None:
    file = exported(network(12, photos), tmp_path / "net.onnx")
    (tmp_path / "plan.yaml").write_text("- {name: to_onnx}\n- {name: int8}\n")
    found = compress(file, photos, plan=tmp_path / "plan.yaml", out=tmp_path / "small")
    assert list(found.before) == list(found.after) == ["agreement"]
    assert found.before["agreement"].value == 100
    assert verify(tmp_path / "small").ok
    (small,) = (tmp_path / "small").glob("*.onnx")
    assignment = assignment_beside(tmp_path / "small")
    assert assignment is not None
    files = sorted(photos.iterdir())
    hashes = np.stack([np.frombuffer(hashlib.sha256(each.read_bytes()).digest(), np.uint8) for each in files])
    test = [each for each, split in zip(files, assignment.find(hashes), strict=True) if split == "test"]
    assert len(test) == found.after["agreement"].n
    assert found.after["agreement"].value == pytest.approx(agreeing(file, small, test))


def test_a_saved_model_is_pruned_without_labels(photos: Path, tmp_path: Path) -> None:
    job = prepare_job(write_shapes(tmp_path / "shapes", per_class=20, size=SIDE, channels=3), ModelSettings("resnet8"))
    save_artifact(job.artifact, tmp_path / "model", job.data.assignment)
    (tmp_path / "plan.yaml").write_text("- {name: channel_pruning, pruning_ratio: 0.3}\n- {name: distill, epochs: 1}\n")
    found = compress(tmp_path / "model", photos, plan=tmp_path / "plan.yaml", out=tmp_path / "small")
    assert found.before["agreement"].value == 100
    assert found.size_bytes_after < 0.8 * found.size_bytes_before
    labelled = compress(
        tmp_path / "model", tmp_path / "shapes", plan=tmp_path / "plan.yaml", unlabelled=True, out=tmp_path / "other"
    )  # fmt: skip
    assert list(labelled.after) == ["agreement"]
    with pytest.raises(GoalError, match="--mean for"):
        compress(tmp_path / "model", photos, plan=tmp_path / "plan.yaml", mean=0.5, out=tmp_path / "third")


def test_any_network_is_compressed_by_its_outputs(photos: Path, tmp_path: Path) -> None:
    file = exported(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)), tmp_path / "net.onnx")
    (tmp_path / "plan.yaml").write_text("- {name: to_onnx}\n- {name: int8}\n")
    found = compress(file, photos, task="outputs", mean=0.5, std=0.25, plan=tmp_path / "plan.yaml", out=tmp_path / "small")
    assert found.before["explained_variance"].value == pytest.approx(100, abs=1e-3)
    assert 90 < found.after["explained_variance"].value <= 100
    assert verify(tmp_path / "small").ok
