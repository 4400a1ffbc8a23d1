"""What is measured side by side: the original in fp32, the peers, and what Planish shipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.finished import Finished
from benchmarks.peers.quantizing import CALIBRATIONS, PRESETS, calibration_images, quantize_for_onnxruntime, quantize_for_openvino
from benchmarks.peers.recovery import recover
from planish.artifact import Artifact
from planish.evaluation.evaluate import evaluate
from planish.evaluation.size import macs
from planish.export import ToOnnx, ToOpenVino
from planish.progress import note
from planish.runs.open_model import Opened, open_model
from planish.task import SplitName

PLANISH = "Planish"


@dataclass(frozen=True)
class Contestant:
    """A model file and how it came to be.

    Args:
        key: short and unique.
        done: in words.
        model: the file with its runtime and preprocessing.
        is_peer: neither the original nor Planish's.
        training_seconds: spent on it alone; the quantized forms of one network share them.
        macs: of the network, for one image.
    """

    key: str
    done: str
    model: Opened
    is_peer: bool
    training_seconds: float
    macs: float

    def scores(self, run: Finished, split: SplitName) -> Any:
        """1.0 where it is right, an image of the split each."""
        model = self.model
        found = evaluate(model.predictor(threads=2), run.task, split, model.input_spec, model.preprocessing)
        return run.task.scores(found.outputs, found.targets)


def contestants(run: Finished, ratios: list[float], seconds: float) -> Iterator[Contestant]:
    """Make the peers, and name all that is measured.

    Args:
        run: what they start from.
        ratios: shares of channels that Torch-Pruning removes, a network each.
        seconds: of training for all of them together.
    """
    folder = run.folder / "peers"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    exported = ToOnnx().apply(run.original, run.task)
    for artifact, runtime in ((exported, "onnxruntime"), (ToOpenVino().apply(exported, run.task), "openvino")):
        files = tuple(Path(shutil.copy(file, folder / f"original{file.suffix}")) for file in artifact.files)
        yield Contestant(f"original@{runtime}", "original, fp32", _opened(run, files, runtime), False, 0.0, _macs(run.original))
    chosen = run.result.chosen
    theirs = chosen.measurements["macs"].value
    yield Contestant(PLANISH, f"Planish: {chosen.summary}", open_model(run.folder), False, run.chosen_seconds, theirs)
    yield from _quantized(run, run.original, folder / "unpruned", "", 0.0)
    for pruned in recover(run, ratios, seconds):
        done = f"Torch-Pruning {pruned.ratio:.0%}, distilled {pruned.epochs:.3g} epochs, "
        yield from _quantized(run, pruned.network, folder / f"pruned-{pruned.ratio:g}", done, pruned.seconds)


def _quantized(run: Finished, network: Artifact, folder: Path, done: str, seconds: float) -> Iterator[Contestant]:
    """One network quantized by each tool, in whichever of its ways keeps more accuracy on validation."""
    folder.mkdir()
    exported = ToOnnx().apply(network, run.task)
    file = Path(shutil.copy(exported.files[0], folder / "fp32.onnx"))
    tools: tuple[tuple[str, str, Callable[..., tuple[Path, ...]], list[str]], ...] = (
        ("ONNX Runtime static INT8", "onnxruntime", quantize_for_onnxruntime, list(CALIBRATIONS)),
        ("NNCF INT8", "openvino", quantize_for_openvino, list(PRESETS)),
    )
    images = calibration_images(run.original, run.task)
    for tool, runtime, quantize, ways in tools:
        made = {}
        for way in ways:
            files = quantize(file, folder / f"{runtime}-{way}", images, way)
            key = f"{folder.name}-{way}@{runtime}"
            made[way] = Contestant(key, f"{done}{tool} ({way})", _opened(run, files, runtime), True, seconds, _macs(network))
        accuracy = {way: 100 * float(c.scores(run, "validation").mean()) for way, c in made.items()}
        note(f"{done}{tool}: " + ", ".join(f"{way} {value:.2f} %" for way, value in accuracy.items()) + " on validation")
        yield made[max(accuracy, key=lambda way: accuracy[way])]


def _opened(run: Finished, files: tuple[Path, ...], runtime: str) -> Opened:
    a, kind = run.original, "openvino" if files[0].suffix == ".xml" else "onnx"
    return Opened(files[0], kind, runtime, files, a.input_spec, a.preprocessing, a.class_names)


def _macs(network: Artifact) -> float:
    return macs(network.module, network.input_spec).value
