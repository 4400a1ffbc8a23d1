"""``planish train --continue-from``: new images are taken in, and what comes of it must beat what is served, on old images and on new."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact
from planish.data import ImageData, load_images, require_classes
from planish.errors import BundleError, DataError
from planish.evaluation.classification_metrics import percent
from planish.evaluation.evaluate import evaluate
from planish.evaluation.latency import measure_latency
from planish.evaluation.statistics import Floats, bootstrap_mean, paired_difference
from planish.export.bundle import bundle_folder, read_bundle, write_bundle
from planish.measurement import Measurement
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.search.files import write_result
from planish.search.goal import seconds as in_seconds
from planish.search.opened import Opened, open_model
from planish.task import SplitName, Task
from planish.tasks import task_for
from planish.training.original import train_original
from planish.training.prepare import Job
from planish.training.recipe import Recipe, resolved_recipe
from planish.workspace import fresh_folder, replace_folder


@dataclass(frozen=True)
class Continued:
    """``continued.json``: what new images brought.

    Args:
        old: accuracy on test of what was served, on ``old`` and on ``new`` images.
        new: likewise of what was made now.
        gain: new less old, in points, paired by image.
        latency_ratio: old latency by new; above 1 the new one is faster.
        replaced: whether the new bundle took the old one's place.
    """

    old: dict[str, Measurement]
    new: dict[str, Measurement]
    gain: dict[str, Measurement]
    latency_ratio: Measurement
    replaced: bool = False

    @property
    def better(self) -> bool:
        """More of the new images are right, and no fewer of the old ones."""
        return self.gain["new"].value > 0 and self.gain["old"].value >= 0

    @property
    def verdict(self) -> str:
        """In a line."""
        said = ", ".join(
            f"{self.gain[of].value:+.2f} points [{self.gain[of].low:.2f}, {self.gain[of].high:.2f}] on {self.gain[of].n} {of} images"
            for of in ("old", "new")
        )
        what = "the new bundle beats the old one" if self.better else "the new bundle does not beat the old one on both"
        return f"{what}: {said}; {self.latency_ratio.value:.2f}x as fast" + ("; it took its place" if self.replaced else "")


def continue_from(
    served: str | Path,
    data: str | Path,
    added: str | Path,
    *,
    out: str | Path,
    recipe: Recipe | str | Path | None = None,
    changes: tuple[str, ...] = (),
    budget: str | float | None = None,
    replace_served: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
) -> Continued:
    """Train the network behind a bundle on old and new images, make a bundle of it by the same steps, and compare the two on test images.

    Args:
        served: a run's folder or its bundle.
        data: the images that it was made from.
        added: new images with labels: a folder, or a manifest such as ``planish monitor --label`` writes and people fill in.
        out: folder for what is made; must not exist.
        recipe: of the training; None for fine-tuning.
        changes: of its values.
        budget: wall-clock time of the training.
        replace_served: let the new bundle take the old one's place, if it is better.
        skip_bad: leave broken images out.
        seed: of the splits, as the old ones were made with.

    Returns:
        What was found. ``out`` holds it as ``continued.json``, ``model/``: the network, trained on, and ``bundle/``: made of it.

    Raises:
        BundleError: there is no bundle, its network is not kept, or ``out`` exists.
        DataError: the new images have classes that the network does not know.
    """
    folder, old_bundle = Path(out), bundle_folder(Path(served))
    if folder.exists():
        raise BundleError(f"{folder} exists already", "a model is never overwritten", "choose another --out")
    for source in (data, added):
        require_classes(source, "training on from a bundle")
    opened, described = open_model(old_bundle), read_bundle(old_bundle)
    start = _network_behind(old_bundle)
    plan = Plan.from_dicts([{"name": step.technique, **step.params} for step in described.lineage.steps[len(start.lineage.steps) :]])
    options: dict[str, Any] = {"skip_bad": skip_bad, "decode_side": start.preprocessing.decode_side, "channels": start.input_spec.channels}
    sources = {"old": load_images(data, seed=seed, **options), "new": load_images(added, seed=seed, **options)}
    manifest = fresh_folder("joined-") / "images.csv"
    _write_manifest(sources, manifest)
    images = load_images(manifest, seed=seed, **options)
    if images.class_names != start.class_names:
        raise DataError(
            f"the images have the classes {', '.join(images.class_names[:8])}, the network {', '.join(start.class_names[:8])}",
            "a class that it does not know needs another classifier",
            "train anew, on all images",
        )
    task = task_for(described.name, images.splits, images.class_names)
    chosen = resolved_recipe(recipe, [f"training.seed={seed}", *changes], data, pretrained=True)
    checkpoint = folder.with_name(folder.name + ".checkpoint")  # the same command goes on from it
    folder.parent.mkdir(parents=True, exist_ok=True)
    job = Job(task, start, images, knows_classes=True, pretrained=True, notes=())
    limit = None if budget is None else in_seconds(budget)
    trained = train_original(job, mode="always", settings=chosen.training, checkpoint=checkpoint, seconds=limit).artifact
    made = plan.apply(trained, task)
    fresh = replace(opened, path=folder / "bundle", format=made.format, files=made.files)
    timed = measure_latency(
        {name: one.subject(described.threads, described.batch) for name, one in (("old", opened), ("new", fresh))},
        baseline="old", threads=described.threads, batch=described.batch,
    )  # fmt: skip
    scores = {name: _scores(one, task) for name, one in (("old", opened), ("new", fresh))}
    of_new = np.isin(task.split("test").keys, [path.resolve().as_posix() for path in sources["new"].splits["test"].paths])
    groups = {"old": ~of_new, "new": of_new}
    found = Continued(
        old={of: _accuracy(scores["old"][rows]) for of, rows in groups.items()},
        new={of: _accuracy(scores["new"][rows]) for of, rows in groups.items()},
        gain={of: _gain(scores["new"][rows], scores["old"][rows]) for of, rows in groups.items()},
        latency_ratio=timed.measurements["new"]["latency_ratio"],
    )
    save_artifact(trained, folder / "model")
    shutil.copyfile(manifest, folder / "images.csv")
    measurements = timed.measurements["new"] | {"accuracy": _accuracy(scores["new"])}
    write_bundle(
        made, task, folder / "bundle", runtime=opened.runtime, measurements=measurements, threads=described.threads, batch=described.batch
    )
    if found.better and replace_served:
        copy = old_bundle.with_name(old_bundle.name + ".partial")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "bundle", copy)
        replace_folder(old_bundle, copy)
        found = replace(found, replaced=True)
    write_result(folder / "continued.json", found)
    checkpoint.unlink(missing_ok=True)
    return found


def _network_behind(bundle: Path) -> Artifact:
    """What a run has kept of the network that its bundle was made from, which can be trained."""
    kept = (bundle.parent / "work" / "original", bundle.parent / "model")  # of a run; of an earlier continuation
    found = next((folder for folder in kept if (folder / "artifact.json").exists()), None)
    if found is None:
        raise BundleError(
            f"beside {bundle} there is no network that could be trained", "a bundle holds only what is served", "name the run that made it"
        )
    return load_artifact(found)


def _write_manifest(sources: Mapping[str, ImageData], file: Path) -> None:
    """All images with the splits that they have, so that none that was trained on becomes one to test on."""
    names: tuple[SplitName, ...] = ("train", "validation", "test")
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", "label", "split"])
        for source in sources.values():
            for name in names:
                split = source.splits[name]
                for path, target in zip(split.paths, split.targets, strict=True):
                    writer.writerow([path.resolve().as_posix(), source.class_names[target], name])


def _scores(model: Opened, task: Task) -> Floats:
    """One an image of test."""
    found = evaluate(model.predictor(threads=2), task, "test", model.input_spec, model.preprocessing)
    return np.asarray(task.scores(found.outputs, found.targets), dtype=np.float64)


def _accuracy(scores: Floats) -> Measurement:
    return percent("accuracy", len(scores), bootstrap_mean(scores))


def _gain(new: Floats, old: Floats) -> Measurement:
    return percent("accuracy_gain", len(new), paired_difference(new, old), unit="points")
