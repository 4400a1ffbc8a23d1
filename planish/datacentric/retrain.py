"""Retraining: a deployed network is fine-tuned on old and new images, and replaced if the new one is shown to be better."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact
from planish.data import Decoding, ImageData, load_listed, require_classes
from planish.data.cache.files import content_hashes
from planish.data.sources.inventory import Inventory, combined_inventory
from planish.data.sources.listing import Listed
from planish.data.sources.manifest import list_manifest
from planish.data.sources.reading import read_source, report_found
from planish.data.sources.source import LabelledFiles
from planish.datacentric.replacement_test import ALPHA, MAX_DROP, Gate
from planish.errors import BundleError, DataError
from planish.evaluation.evaluate import evaluate
from planish.evaluation.latency import LatencySettings, measure_latency
from planish.evaluation.metrics.classification import percent, share
from planish.evaluation.statistics.intervals import Floats, paired_difference
from planish.export.bundle.folder import DESCRIPTION, bundle_folder, read_bundle, write_bundle
from planish.files.atomic import write_result
from planish.files.workspace import cache_root, replace_folder, replacing
from planish.measurement import Measurement
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.progress import note
from planish.runs.open_model import Opened, open_model
from planish.runs.resumable import resumable
from planish.settings import DeploymentTarget, RecipeSettings, RunSettings
from planish.split_assignment import ASSIGNED_SPLITS, SplitAssignment
from planish.task import Task
from planish.tasks import task_for
from planish.training.original import train_original
from planish.training.prepare import Job
from planish.training.recipe import resolved_recipe
from planish.units import seconds as in_seconds

_ADDED, _RETRAINED, _FIRST = "added.csv", "retrained", "first_bundle"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Retraining:
    """``retraining.json``: comparison of the deployed model and the one retrained with new images.

    Args:
        old: test accuracy of the deployed model on ``old`` images, which it was made with, and on ``new`` ones, if there are any.
        new: the same for the retrained model.
        gain: new minus old accuracy, in points, paired by image.
        latency_ratio: old latency divided by new; above 1 the new model is faster.
        p_values: p-values of the tests on ``new`` and on ``old`` images, see ``Gate``.
        alpha: significance level of each test.
        max_drop: maximum accuracy drop on old images, in points.
        replaced: whether the new bundle replaced the old one.
        notes: decisions made on the user's behalf.
    """

    old: dict[str, Measurement]
    new: dict[str, Measurement]
    gain: dict[str, Measurement]
    latency_ratio: Measurement
    p_values: dict[str, float]
    alpha: float = ALPHA
    max_drop: float = MAX_DROP
    replaced: bool = False
    notes: list[str] = Field(default_factory=list)
    schema_version: Literal[1] = 1

    @property
    def better(self) -> bool:
        """Whether it is shown to be better on new images, and to lose less than ``max_drop`` points on old ones; see ``Gate``."""
        return Gate(self.alpha, self.max_drop).passed(self.p_values)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        said = ", ".join(
            f"{self.gain[of].value:+.2f} points [{self.gain[of].low:.2f}, {self.gain[of].high:.2f}] on {self.gain[of].n} {of} test images"
            for of in self.gain
        )
        how_sure = f"p = {self.p_values['new']:.2g}" if "new" in self.gain else "none is for testing"
        shown = {
            "new": f"better on new images ({how_sure})",
            "old": f"less than {self.max_drop:g} points worse on old ones (p = {self.p_values['old']:.2g})",
        }
        unshown = [text for of, text in shown.items() if self.p_values[of] > self.alpha]
        what = (
            "the new bundle is " + " and ".join(shown.values())
            if not unshown
            else "the new bundle is not shown to be " + ", nor ".join(unshown)
        )
        end = "; it took the old one's place" if self.replaced else ""
        return f"{what}, at an error of {100 * self.alpha:g}% each: {said}; {self.latency_ratio.value:.2f}x as fast{end}"


def retrain(
    served: str | Path,
    data: str | Path,
    added: str | Path,
    *,
    recipe: RecipeSettings,
    gate: Gate,
    replace_served: bool = False,
    run: RunSettings,
) -> Retraining:
    """Train the network behind a bundle on old and new images, make a new bundle by the same steps, and compare the two on test images.

    Images keep the splits stored in the bundle, and new ones are assigned by their content, so neither network was trained or selected
    on the images that they are compared on. With ``replace_served``, the new images are kept with the run, whatever the result: the next
    retraining includes them, and starts from the network that is deployed then.

    Args:
        served: folder of a run, or its bundle.
        data: the images that it was made from.
        added: new images with labels: a folder, or a manifest, such as a completed one of ``planish label-candidates``. For images that
            are also in ``data``, the labels given here apply.
        recipe: recipe of the training; fine-tuning by default.
        gate: the tests that the new network must pass.
        replace_served: replace the old bundle by the new one, if it passes.
        run: settings of the run; its folder must not exist, and the budget is that of the training.

    Returns:
        The comparison. The folder contains it as ``retraining.json``, the retrained network in ``model/``, its bundle in ``bundle/``,
        and all images added so far in ``added.csv``.

    Raises:
        BundleError: there is no bundle, its network or its splits were not kept, or the folder exists.
        DataError: the new images have classes that the network lacks, or there are too few test images.
    """
    folder, old_bundle, seed, skip_bad, budget = (
        Path(run.out or "retrained"),
        bundle_folder(Path(served)).absolute(),  # what lies beside it is needed, and "." has nothing beside it
        run.seed,
        run.skip_bad,
        run.budget,
    )
    if folder.exists():
        raise BundleError(f"{folder} exists already", "a model is never overwritten", "choose another --out")
    for source in (data, added):
        require_classes(source, "training on from a bundle")
    opened, described = open_model(old_bundle), read_bundle(old_bundle)
    if opened.assignment is None:
        raise BundleError(
            f"{old_bundle} keeps no splits", "it cannot be told which images its network was trained on", "make the bundle again"
        )
    start = _network_behind(old_bundle)
    plan = Plan.from_dicts([{"name": step.technique, **step.params} for step in described.lineage.steps[len(start.lineage.steps) :]])
    (first, old_inventory), (new, new_inventory) = _listed(data), _listed(added)
    new_images = [*_kept(old_bundle), *new]
    inventory = combined_inventory({str(data): old_inventory, str(added): new_inventory})
    listed = LabelledFiles("old and new images", _latest(first, new_images), inventory=inventory)
    images = load_listed(
        described.task, listed.printable(), skip_bad=skip_bad, assignment=opened.assignment, class_names=start.class_names,
        decoding=Decoding(start.preprocessing.decode_side, start.input_spec.channels),
    )  # fmt: skip
    is_new = _check(images, start, opened.assignment, gate, replace_served)
    task = task_for(described.task, images.splits, images.class_names)
    chosen = resolved_recipe(recipe.recipe, [f"training.seed={seed}", *recipe.changes], data, pretrained=True)
    job = Job(task, start, images, trained_on_classes=True, pretrained=True, notes=())
    limit = None if budget is None else in_seconds(budget)
    settings = {
        "served": str(served), "data": str(data), "added": str(added), "recipe": chosen.to_yaml(), "budget": budget, "skip_bad": skip_bad,
        "seed": seed, "replace_served": replace_served,
    }  # fmt: skip
    with resumable(folder, settings, resume=True) as checkpoint:  # the same command continues from the checkpoint
        trained = train_original(job, chosen.training, mode="always", checkpoint=checkpoint, seconds=limit).artifact
        made = plan.apply(trained, task)
        fresh = replace(opened, path=folder / "bundle", format=made.format, files=made.files)
        subjects = {name: one.subject(described.threads, described.batch_size) for name, one in (("old", opened), ("new", fresh))}
        timed = measure_latency(subjects, "old", LatencySettings(described.threads, described.batch_size))
        scores = {name: _scores(one, task) for name, one in (("old", opened), ("new", fresh))}
        groups = {of: rows for of, rows in (("old", ~is_new), ("new", is_new)) if rows.any()}
        found = Retraining(
            old={of: _accuracy(scores["old"][rows]) for of, rows in groups.items()},
            new={of: _accuracy(scores["new"][rows]) for of, rows in groups.items()},
            gain={of: _gain(scores["new"][rows], scores["old"][rows]) for of, rows in groups.items()},
            latency_ratio=timed.measurements["new"]["latency_ratio"],
            p_values=gate.p_values(scores["new"], scores["old"], is_new),
            alpha=gate.alpha,
            max_drop=gate.max_drop,
        )
        save_artifact(trained, folder / "model", images.assignment)
        _keep(new_images, folder / _ADDED)
        measurements = timed.measurements["new"] | {"accuracy": _accuracy(scores["new"])}
        write_bundle(
            made,
            task,
            folder / "bundle",
            target=DeploymentTarget(opened.runtime, described.threads, described.batch_size),
            measurements=measurements,
            assignment=images.assignment,
        )
        if replace_served:
            _keep(new_images, old_bundle.parent / _ADDED)
        if found.better and replace_served:
            _replace_bundle(folder, old_bundle)
            found = replace(found, replaced=True)
        write_result(folder / "retraining.json", found)
    return found


def _check(
    images: ImageData, start: Artifact, assignment: SplitAssignment, gate: Gate, replace_served: bool
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which test images are new, ``(N,)``.

    Raises:
        DataError: the images do not match this network, or there are too few.
    """
    images.require("train", "validation", "test")
    if missing := sum(assignment.counts().values()) - images.known:
        note(f"{missing} of the images that the served network was made with are not there any more")
    is_new = ~images.splits["test"].known_to(assignment)
    counts = int(is_new.sum()), int((~is_new).sum())
    if replace_served:
        gate.require(*counts)
    new = sum(len(images.splits[name]) for name in ASSIGNED_SPLITS) - images.known
    if not (new and counts[1]):
        raise DataError(
            f"{new} images are new, and {counts[1]} old ones are for testing",
            "the networks are compared on old images, and trained on new ones as well",
            "name images that the bundle was made from, and new ones",
        )
    if not counts[0]:
        note("none of the new images was assigned to the test split, as about 15 % are: their accuracy is not measured")
    return is_new


def _network_behind(bundle: Path) -> Artifact:
    """Return the trainable network that a bundle was made from: that of its run, or of the retraining that made the bundle."""
    run, name = bundle.parent, _name_of(bundle)
    first = run / _RETRAINED / _FIRST
    is_first = not first.is_file() or first.read_text() == name
    kept = (run / "work" / "original", run / "model") if is_first else (run / _RETRAINED / name,)
    found = next((folder for folder in kept if (folder / "artifact.json").exists()), None)
    if found is None:
        raise BundleError(
            f"beside {bundle} there is no network that could be trained", "a bundle holds only what is served", "name the run that made it"
        )
    start = load_artifact(found)
    if start.module is None:
        raise BundleError(
            f"{bundle} was made from an ONNX file that could not be converted to a network",
            "only networks are trained; the notes in its report name the reason", "optimize the network in PyTorch",
        )  # fmt: skip
    return start


def _replace_bundle(made: Path, bundle: Path) -> None:
    """Replace ``bundle`` by the bundle in ``made``, and store its network beside it.

    The network is copied before the bundle, under a name derived from the bundle, so that a crash at any time leaves a matching pair.
    """
    networks, name = bundle.parent / _RETRAINED, _name_of(made / "bundle")
    before = networks / _name_of(bundle)
    networks.mkdir(exist_ok=True)
    if not (networks / _FIRST).exists():
        (networks / f"{_FIRST}.partial").write_text(_name_of(bundle))
        (networks / f"{_FIRST}.partial").rename(networks / _FIRST)
    for source, target in ((made / "model", networks / name), (made / "bundle", bundle)):
        copy = target.with_name(target.name + ".partial")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        replace_folder(target, copy)
    shutil.rmtree(before, ignore_errors=True)


def _name_of(bundle: Path) -> str:
    """Return a name derived from the bundle's description."""
    return hashlib.sha256((bundle / DESCRIPTION).read_bytes()).hexdigest()[:16]


def _listed(source: str | Path) -> tuple[list[Listed], Inventory]:
    """Return the images of a source with absolute paths, and its inventory, which is reported."""
    told = read_source(source, cache_root(None), None)[1]
    assert isinstance(told, LabelledFiles)
    report_found(told)
    return [replace(item, key=item.path.resolve().as_posix(), path=item.path.resolve()) for item in told.images], told.inventory


def _kept(bundle: Path) -> list[Listed]:
    """Return the images that earlier retrainings added."""
    file = bundle.parent / _ADDED
    if not file.is_file():
        return []
    kept = list_manifest(file)
    note(f"{len(kept)} images that were added earlier are taken from {file}")
    return kept


def _latest(first: Sequence[Listed], added: Sequence[Listed]) -> list[Listed]:
    """Return all images without repetitions: of images with the same content, or of the same file, the last added one counts."""
    everything = [*first, *added]
    hashes, unread = content_hashes([item.path for item in everything], cache_root(None))
    contents = [item.key if i in unread else hashes[i].tobytes() for i, item in enumerate(everything)]
    label = dict(zip(contents[len(first) :], added, strict=True))
    kept = [item for item, content in zip(first, contents, strict=False) if content not in label]
    relabelled = sum(content in label and label[content].label != item.label for item, content in zip(first, contents, strict=False))
    if relabelled:
        note(f"{relabelled} images have another label than before")
    return [*kept, *label.values()]


def _keep(images: Sequence[Listed], file: Path) -> None:
    """Write a manifest of images; if a file is listed twice, the last label counts."""
    with replacing(file) as partial, partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", "label"])
        writer.writerows((key, item.label) for key, item in {item.key: item for item in images}.items())


def _scores(model: Opened, task: Task) -> Floats:
    """Return one score per test image."""
    found = evaluate(model.predictor(threads=2), task, "test", model.input_spec, model.preprocessing)
    return np.asarray(task.scores(found.outputs, found.targets), dtype=np.float64)


def _accuracy(scores: Floats) -> Measurement:
    """Return the share of images that are right, in percent, with Wilson's interval: new images are few, and often all right."""
    return percent("accuracy", len(scores), share(scores == 1))


def _gain(new: Floats, old: Floats) -> Measurement:
    """Return the paired difference in points."""
    return percent("accuracy_gain", len(new), paired_difference(new, old), unit="points")
