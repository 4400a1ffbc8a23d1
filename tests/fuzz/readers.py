"""What reads files, each with an example and a function that does with it what a command does."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import seeds

SIDE = 24


@dataclass(frozen=True)
class Reader:
    """One kind of input.

    Args:
        examples: each writes one into a folder.
        read: is given the changed copy, an ``out`` folder for what it writes, and what draws its options.
        fixed: names of files that are not changed.
        seal: makes an example consistent again after it was changed, so that more than a hash is tried.
    """

    examples: tuple[Callable[[Path], None], ...]
    read: Callable[[Path, Path, Random], None]
    fixed: tuple[str, ...] = ()
    seal: Callable[[Path, Random], None] | None = None


def _data(source: Path, out: Path, rng: Random) -> None:
    from planish.data import Decoding, load_images, tile_images

    task = rng.choice((None, None, None, "detection", "instance", "semantic", "classification"))
    skip = rng.random() < 0.6
    if rng.random() < 0.15:
        tile_images(source, out / "tiles", size=16, task=task, skip_bad=skip, cache_dir=out / "cache")
        assert any((out / "tiles").iterdir())
        return
    loaded = load_images(source, skip_bad=skip, task=task, decoding=Decoding(16), cache_dir=out / "cache")
    for split in loaded.splits.values():
        if len(split):
            split.targets[0]


def _manifest(source: Path, out: Path, rng: Random) -> None:
    _data(source / rng.choice(("data.csv", "data.jsonl")), out, rng)


def _coco_file(source: Path, out: Path, rng: Random) -> None:
    _data(source if rng.random() < 0.7 else source / "annotations" / "instances.json", out, rng)


def _images(source: Path, out: Path, rng: Random) -> None:
    """All files of the folder, of which one was changed."""
    from planish.artifact import InputSpec, Preprocessing
    from planish.data.preprocessing import decode, preprocess
    from planish.errors import DataError

    for file in sorted(source.iterdir()):
        if not file.is_file() or (file.name == "x.avif" and rng.random() < 0.9):  # that one takes half of the time
            continue
        try:
            decode(file.read_bytes(), rng.choice((1, 3)), 16, 2_000_000)
            if rng.random() < 0.2:
                preprocess(
                    file.read_bytes(), InputSpec(3, 16, 16), Preprocessing(16, rng.choice(("squash", "crop")), (0.5,) * 3, (0.5,) * 3)
                )
        except DataError:
            continue


def _checkpoints(source: Path, out: Path, rng: Random) -> None:
    from planish.errors import ModelError
    from planish.models.weights.loading import fit_weights, read_weights

    for file in sorted(source.iterdir()):
        if file.is_file():
            network = seeds.Small()
            try:
                fit_weights(network, read_weights(file, network), "fc")
            except ModelError:
                continue


def _artifact(source: Path, out: Path, rng: Random) -> None:
    from planish.runs.open_model import open_model

    opened = open_model(source)
    assert opened.artifact is not None
    opened.predictor()(np.zeros((1, opened.input_spec.height, opened.input_spec.width, opened.input_spec.channels), np.uint8))


def _onnx(source: Path, out: Path, rng: Random) -> None:
    from planish.artifact import InputSpec, Preprocessing
    from planish.errors import PlanishError
    from planish.export.onnx.external import metadata_of, read_external, write_with_normalisation

    sample = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    (out / "cache").mkdir()
    for file in sorted(source.glob("*.onnx")):
        try:
            metadata_of(file)
            foreign = read_external(file)
            spec = InputSpec(3, min(foreign.height or 16, 64), min(foreign.width or 16, 64))
            pixels = np.resize(sample, (3, spec.height, spec.width, 3))
            how = Preprocessing(16, "squash", (0.5,) * 3, (0.25,) * 3)
            write_with_normalisation(foreign, out / "cache" / "fed.onnx", spec, how, 2, pixels, [0, 1, 0])
        except PlanishError:
            continue


def _our_onnx(source: Path, out: Path, rng: Random) -> None:
    from planish.export.runtimes.registry import available
    from planish.runs.open_model import open_model

    runtime = rng.choice(("auto", *available("onnx")))
    opened = open_model(source, runtime)
    spec = opened.input_spec
    opened.predictor()(np.zeros((1, spec.height, spec.width, spec.channels), np.uint8))


def _explained(source: Path, out: Path, rng: Random) -> None:
    from planish.explanation.opening import dynamic_size_notes, open_explained
    from planish.explanation.overflow import overflow_share
    from planish.explanation.profiles.source_graph import LAYERS, SourceGraph

    file = source / rng.choice(("plain.onnx", "model.xml"))
    opened = open_explained(file, runtime="auto", threads=1, batch=1, data=None, settings={})
    dynamic_size_notes(opened.model)
    if file.suffix == ".onnx":
        graph = SourceGraph(file)
        for node in graph.graph.node:
            if node.op_type in LAYERS:
                graph.weights(node)
        graph.activation_types()
        overflow_share(file)


def _plans(source: Path, out: Path, rng: Random) -> None:
    from planish.plan import Plan

    plan = Plan.load(source / rng.choice(("plan.yaml", "plan.json")))
    plan.check({"format": "torch", "precision": "fp32", "weights": "dense", "training": "done"})
    assert plan.key
    assert str(plan)


def _recipes(source: Path, out: Path, rng: Random) -> None:
    from planish.training.recipe import load_recipe, set_values

    recipe = load_recipe(source / rng.choice(("recipe.yaml", "short.yml", "recipe.json")))
    set_values(recipe, ["epochs=2"]).to_yaml()


def _report(source: Path, out: Path, rng: Random) -> None:
    from planish.commands import report

    report(source)


def _run(source: Path, out: Path, rng: Random) -> None:
    """The page, the splits, and going on with the run."""
    from planish.commands import report
    from planish.errors import PlanishError
    from planish.runs.store import claim
    from planish.split_assignment import assignment_beside

    with contextlib.suppress(PlanishError):
        report(source)
    assignment_beside(source)
    store = claim(source, {"data": "x"}, resume=True)
    try:
        for key in list(store.keys()):
            store.once(key, "searching", lambda: 1)
        store.seconds()
    finally:
        store.close()


def _bundle(source: Path, out: Path, rng: Random) -> None:
    from planish.export.bundle.verify import verify
    from planish.runs.open_model import open_model
    from planish.serving.model import ServedModel

    what = rng.randrange(3)
    if what == 0:
        str(verify(source, latency=False))
    elif what == 1:
        opened = open_model(source)
        spec = opened.input_spec
        opened.predictor()(np.zeros((1, spec.height, spec.width, spec.channels), np.uint8))
    else:
        served = ServedModel("model", "1", source)
        served.responses(served.run(served.sample))
        served.drift.add({"brightness": 0.5, "confidence": 0.5}, "red", 1.7e9, "camera")
        served.drift.findings()


def _sealed(source: Path, rng: Random) -> None:
    """Write the hashes of the changed files, as whoever changes a bundle on purpose does."""
    folder = source if (source / "bundle.json").exists() else source / "model"
    files = [folder / "bundle.json", folder / "bundle.json.sha256"]
    if rng.random() < 0.25 or any(file.exists() and not file.is_file() for file in files):
        return
    try:
        description = json.loads((folder / "bundle.json").read_bytes())
        for name in description["sha256"]:
            if (folder / name).is_file():
                description["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / "bundle.json").write_text(json.dumps(description))
    except (ValueError, TypeError, KeyError, OSError, RecursionError):
        pass
    try:
        digest = hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()
        (folder / "bundle.json.sha256").write_text(f"{digest}  bundle.json\n")
    except OSError:
        pass


def _log(source: Path, out: Path, rng: Random) -> None:
    from planish.serving.monitoring.labelling import find_label_candidates
    from planish.serving.monitoring.monitor import monitor

    if rng.random() < 0.5:
        for one in monitor(source / "log", [f"model={source / 'model'}"]):
            assert one.verdict
    else:
        find_label_candidates(source / "log", out / "labels", 4)
        assert any((out / "labels").iterdir())


def _keys(source: Path, out: Path, rng: Random) -> None:
    from planish.errors import PlanishError
    from planish.export.bundle.signature import check_signature, sign
    from planish.serving.http.key_file import read_keys

    for act in (
        lambda: read_keys(source / "keys.txt"),
        lambda: check_signature(source / "model", source / "public.pem"),
        lambda: sign(source / "model", source / "key.pem"),
    ):
        try:
            act()
        except PlanishError:
            continue


READERS: dict[str, Reader] = {
    "coco": Reader((seeds.coco,), _coco_file),
    "yolo": Reader((seeds.yolo, seeds.yolo_polygons), _data),
    "voc": Reader((seeds.voc,), _data),
    "masks": Reader((seeds.masks, seeds.instance_masks), _data),
    "manifest": Reader((seeds.manifest,), _manifest),
    "folders": Reader((seeds.class_folders,), _data),
    "images": Reader((seeds.images,), _images),
    "checkpoints": Reader((seeds.checkpoints,), _checkpoints),
    "artifact": Reader((seeds.artifact,), _artifact),
    "onnx": Reader((seeds.onnx_files,), _onnx),
    "ours": Reader((seeds.our_onnx,), lambda folder, out, rng: _our_onnx(folder / "model.onnx", out, rng)),
    "explained": Reader((seeds.files_of_others,), _explained),
    "plans": Reader((seeds.plans,), _plans),
    "recipes": Reader((seeds.recipes,), _recipes),
    "run": Reader((seeds.run_folder,), _run),
    "pages": Reader((seeds.localisation_run, seeds.evaluation, seeds.comparison), _report),
    "bundle": Reader((seeds.bundle("detection"), seeds.bundle("semantic"), seeds.classifier_bundle), _bundle, seal=_sealed),
    "log": Reader((seeds.log,), _log, seal=_sealed),
    "keys": Reader((seeds.keys,), _keys),
}
