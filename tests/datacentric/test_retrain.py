"""New images are taken in: what comes of it is made as the old one was, judged by images neither saw, and only replaces what it beats."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable, Iterable
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from planish import commands
from planish.compression import Int8
from planish.data import load_images
from planish.datacentric import retrain
from planish.datacentric.retrain import Retraining
from planish.errors import BundleError, DataError, GoalError
from planish.evaluation.latency import LatencySettings
from planish.export import ToOnnx
from planish.export.bundle.folder import SEAL, read_bundle
from planish.measurement import Measurement
from planish.models.storage import fingerprint, load_artifact
from planish.plan import Plan
from planish.runs.open_model import open_model
from planish.split_assignment import SplitAssignment
from planish.testing import write_shapes
from planish.training.original import Original, train_original
from planish.training.prepare import Job

TESTED = {"alpha": 0.05, "max_drop": 25.0}  # 45 old test images cannot show less


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images, and a run that was made of them, split by a seed that is nobody's default."""
    folder = tmp_path_factory.mktemp("old")
    data = write_shapes(folder / "shapes", per_class=100)
    commands.train(data, model="resnet8x0.5", out=folder / "run" / "model", changes=["epochs=20"], seed=3)
    plan = Plan(ToOnnx(), Int8())
    commands.compress(folder / "run" / "model", data, plan=plan, out=folder / "run" / "bundle")
    return data, folder / "run"


def negatives(folder: Path, per_class: int = 100, seed: int = 1) -> Path:
    """The same shapes as the old network never saw them: dark on bright."""
    for file in write_shapes(folder, per_class=per_class, seed=seed).rglob("*.png"):
        ImageOps.invert(Image.open(file)).save(file)
    return folder


def contents(paths: Iterable[Path]) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths}


def in_split(job: Job, *names: str) -> set[str]:
    return {short for name in names for short in contents(job.task.split(name).paths)}  # type: ignore[arg-type,attr-defined]


def kept(bundle: Path, *names: str) -> set[str]:
    return {short for short, split in SplitAssignment.load(bundle / "splits.json").splits.items() if split in names}


def watch(monkeypatch: pytest.MonkeyPatch, train: Callable[..., Original]) -> list[Job]:
    """What networks are trained on, and from which, with ``train`` in place of the training; the second one ends there."""
    seen: list[Job] = []

    def watched(job: Job, settings: Any, **options: Any) -> Original:
        seen.append(job)
        if len(seen) > 1:
            raise InterruptedError
        return train(job, settings, **options)

    monkeypatch.setattr(retrain, "train_original", watched)
    # how fast they are is not asked here
    monkeypatch.setattr(retrain, "LatencySettings", partial(LatencySettings, seconds=0.2, rounds=2, launches=2))
    return seen


def test_rounds_build_on_what_is_served_and_on_all_labels(old: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = watch(monkeypatch, train_original)
    data, run = old
    run = Path(shutil.copytree(run, tmp_path / "run"))
    first_bundle, before = tmp_path / "first", (run / "bundle" / SEAL).read_text()
    shutil.copytree(run / "bundle", first_bundle)
    new = negatives(tmp_path / "new")
    out = tmp_path / "out"
    found = commands.retrain(run, data, add=new, out=out, changes=("epochs=60",), replace=True, **TESTED)

    assert found.replaced, found.verdict
    assert found.better
    assert max(found.p_values.values()) <= 0.05
    assert "took the old one's place" in found.verdict
    assert (run / "bundle" / SEAL).read_text() == (out / "bundle" / SEAL).read_text() != before
    assert commands.verify(run, latency=False).ok
    steps = [step.technique for step in read_bundle(out / "bundle").lineage.steps]
    assert steps == [step.technique for step in read_bundle(first_bundle).lineage.steps]

    tested, trained = in_split(jobs[0], "test"), in_split(jobs[0], "train", "validation")
    assert not tested & trained, "the new network saw none of them"
    assert not tested & kept(first_bundle, "train", "validation"), "nor did the old one"
    assert kept(first_bundle, "test") <= tested, "its test images are still for testing"
    assert kept(first_bundle, "train") <= trained
    of_new = contents(new.rglob("*.png"))
    assert found.new["new"].n == found.old["new"].n == found.gain["new"].n == len(tested & of_new)
    assert found.new["old"].n == len(tested - of_new)
    paths = [path for path in new.rglob("*.png") if contents([path]) <= tested]
    for name, bundle in (("old", first_bundle), ("new", run / "bundle")):
        accuracy = Measurement("accuracy", 100 * _right(bundle, paths), "%", len(paths), True)
        assert getattr(found, name)["new"].value == pytest.approx(accuracy.value), "as counted on the files themselves"

    later = negatives(tmp_path / "later", per_class=10, seed=2)
    with pytest.raises(InterruptedError):
        commands.retrain(run, data, add=later, out=tmp_path / "out2")
    again = jobs[1]
    assert fingerprint(again.artifact.module) == fingerprint(load_artifact(out / "model").module), "it starts from what is served"
    assert in_split(again, "train", "validation", "test") == contents([*data.rglob("*.png"), *new.rglob("*.png"), *later.rglob("*.png")])
    for name in ("train", "validation", "test"):
        assert kept(run / "bundle", name) <= in_split(again, name), "nothing moved"


def _right(bundle: Path, paths: list[Path]) -> float:
    model, names = open_model(bundle), ("cross", "disc", "square")
    spec = model.input_spec
    pixels = np.stack([np.asarray(Image.open(path).resize((spec.width, spec.height))) for path in paths])[..., None]
    assert pixels.shape[1:] == (24, 24, 1)
    said = model.predictor()(pixels)["logits"].argmax(axis=1)
    return float(np.mean([names[k] == path.parent.name for k, path in zip(said, paths, strict=True)]))


def test_labels_stay_with_the_run_where_nothing_was_replaced(
    old: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = watch(monkeypatch, lambda job, settings, **_: Original(job.artifact))  # as good as before
    data, run = old
    run = Path(shutil.copytree(run, tmp_path / "run"))
    before = (run / "bundle" / SEAL).read_text()
    new = write_shapes(tmp_path / "new", per_class=60, seed=4)
    found = commands.retrain(run, data, add=new, out=tmp_path / "out", replace=True, **TESTED)
    assert not found.better
    assert not found.replaced
    assert "not shown to be better on new images" in found.verdict
    assert (run / "bundle" / SEAL).read_text() == before
    relabelled = next((new / "disc").iterdir())
    (tmp_path / "labels.csv").write_text(f"path,label\n{relabelled},square\n")
    with pytest.raises(InterruptedError):
        commands.retrain(run, data, add=tmp_path / "labels.csv", out=tmp_path / "out2")
    again = jobs[1]
    assert in_split(again, "train", "validation", "test") == contents([*data.rglob("*.png"), *new.rglob("*.png")])
    for name in ("train", "validation", "test"):
        split = again.task.split(name)  # type: ignore[arg-type]
        for path, target in zip(split.paths, split.targets, strict=True):  # type: ignore[attr-defined]
            label = "square" if path == relabelled.resolve() else path.parent.name
            assert again.task.class_names[target] == label, "the last label counts"
    assert fingerprint(again.artifact.module) == fingerprint(load_artifact(run / "model").module)
    with (run / "added.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 180


def gain_of(value: float) -> dict[str, Measurement]:
    return {of: Measurement("accuracy_gain", value, "points", 30, True, -5, 5) for of in ("old", "new")}


@pytest.mark.parametrize(("p_old", "p_new", "better"), [(0.01, 0.01, True), (0.05, 0.05, True), (0.06, 0.0, False), (0.0, 0.06, False)])
def test_both_tests_must_show_it(p_old: float, p_new: float, better: bool) -> None:
    found = Retraining({}, {}, gain_of(20), Measurement("latency_ratio", 1.0, "ratio", 5, True), {"old": p_old, "new": p_new})
    assert found.better is better
    assert ("not shown" in found.verdict) is not better
    stricter = Retraining(
        {}, {}, gain_of(20), Measurement("latency_ratio", 1.0, "ratio", 5, True), {"old": p_old, "new": p_new}, alpha=0.001
    )
    assert "at an error of 0.1% each" in stricter.verdict
    assert not stricter.better, "one of the two p-values is above 0.001 in every case"


def test_a_few_new_images_that_are_all_right_do_not_show_100_percent() -> None:
    found = retrain._accuracy(np.ones(6))
    assert found.value == 100
    assert found.low == pytest.approx(61, abs=0.1)


def test_what_cannot_be_continued_says_why(old: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = old
    run = Path(shutil.copytree(run, tmp_path / "run"))
    out = tmp_path / "out"
    (tmp_path / "labels.csv").write_text("path,label\nx.png,\n")
    with pytest.raises(DataError, match="label"):
        commands.retrain(run, data, add=tmp_path / "labels.csv", out=out)
    other = write_shapes(tmp_path / "other", per_class=20, seed=3)
    with pytest.raises(DataError, match=r"old images are for testing.*at least 133"):
        commands.retrain(run, data, add=write_shapes(tmp_path / "more", per_class=60, seed=3), out=out, replace=True)
    with pytest.raises(DataError, match=r"0 images are new, and \d+ old ones are for testing"):
        commands.retrain(run, data, add=data, out=out)
    with pytest.raises(GoalError, match="alpha of 5"):
        commands.retrain(run, data, add=other, out=out, alpha=5)
    (other / "disc").rename(other / "heart")
    with pytest.raises(DataError, match="the model lacks"):
        commands.retrain(run, data, add=other, out=out)
    with chdir(run / "bundle"), pytest.raises(DataError, match="the model lacks"):  # its network is beside it
        commands.retrain(".", data, add=other, out=out)
    (run / "bundle").rename(tmp_path / "alone")
    with pytest.raises(BundleError, match="name the run that made it"):
        commands.retrain(tmp_path / "alone", data, add=other, out=out)
    (tmp_path / "alone" / "splits.json").unlink()
    with pytest.raises(BundleError, match="keeps no splits"):
        commands.retrain(tmp_path / "alone", data, add=other, out=out)
    assert not out.exists()


def test_what_follows_a_model_uses_its_splits(old: tuple[Path, Path], tmp_path: Path) -> None:
    """The run was split by seed 3; everything below is asked with the default seed."""
    data, run = old
    first = kept(run / "model", "test")
    assert first != kept_by_default(data), "another seed is another split"
    files = {
        key: hashlib.sha256((data / key).read_bytes()).hexdigest()[:16]
        for key in (p.relative_to(data).as_posix() for p in data.rglob("*.png"))
    }

    def evaluated(model: Path, images: Path = data, **options: Any) -> set[str]:
        commands.evaluate(model, images, out=tmp_path / "evaluation", **options)
        with np.load(tmp_path / "evaluation" / "evaluation.npz") as saved:
            return {str(key) for key in saved["keys"]}

    for model in (run / "model", run, run / "bundle", next((run / "bundle").glob("*.onnx"))):
        assert {files[key] for key in evaluated(model)} == first, model
    assert not {files[key] for key in evaluated(run)} & kept(run / "model", "train", "validation")
    assert kept(run / "bundle", "test") == first, "compress"
    commands.export(run / "model", data, to="onnx", out=tmp_path / "exported")
    assert kept(tmp_path / "exported", "test") == first
    weights = next((run / "model").glob("*.safetensors"))
    commands.train(data, model="resnet8x0.5", weights=weights, out=tmp_path / "tuned", changes=["epochs=1"])
    assert kept(tmp_path / "tuned", "test") == first
    assert commands.explain(run, data=data).layers  # its images are those of the model's calibration

    other = write_shapes(tmp_path / "other", per_class=10, seed=9)
    assert commands.evaluate(run, other)["accuracy"].n == 30, "none is known, so all are evaluated"
    assert commands.evaluate(run, other, split="test")["accuracy"].n < 30
    more = Path(shutil.copytree(data, tmp_path / "more"))
    shutil.copy(next((other / "disc").iterdir()), more / "disc" / "new.png")
    assert evaluated(run, more) - {"disc/new.png"} == {key for key, short in files.items() if short in first}


def kept_by_default(data: Path) -> set[str]:
    return {short for short, split in load_images(data).assignment.splits.items() if split == "test"}


def test_the_same_command_goes_on_from_an_interrupted_training_alone(
    old: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = old
    out, asked = tmp_path / "out", []

    def interrupted(job: Job, settings: Any, *, checkpoint: Path, **_: Any) -> Any:
        asked.append(checkpoint.exists())
        checkpoint.touch()
        if len(asked) == 2:
            with pytest.raises(BundleError, match="in use by the process"):
                commands.retrain(run, data, add=new, out=out)
        raise InterruptedError

    monkeypatch.setattr(retrain, "train_original", interrupted)
    new = negatives(tmp_path / "new", per_class=40)
    for _ in range(2):
        with pytest.raises(InterruptedError):
            commands.retrain(run, data, add=new, out=out)
    assert asked == [False, True]
    with pytest.raises(BundleError, match="seed was 0 and is now 1"):
        commands.retrain(run, data, add=new, out=out, seed=1)


def test_a_few_new_images_of_one_class_are_taken_in(old: tuple[Path, Path], tmp_path: Path) -> None:
    """None of them is for testing, so nothing is shown of such images; the network is trained on them all the same."""
    data, run = old
    short = {hashlib.sha256(path.read_bytes()).hexdigest()[:16]: path for path in negatives(tmp_path / "new", 12).glob("disc/*.png")}
    for _ in range(len(short) - 3):
        short.popitem()
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{path},disc\n" for path in short.values()))
    found = commands.retrain(run, data, add=tmp_path / "labels.csv", out=tmp_path / "out", changes=("epochs=1",))
    kept_now = SplitAssignment.load(tmp_path / "out" / "bundle" / "splits.json").splits
    assert {short_hash for short_hash in kept_now if short_hash in short} == set(short)
    assert "test" not in {kept_now[name] for name in short}, "this test is about images of which none is for testing"
    assert set(found.gain) == {"old"}
    assert not found.better
    assert "none is for testing" in found.verdict
