"""Open the model given to a command, together with its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from planish.errors import GoalError

if TYPE_CHECKING:
    from planish.data import ImageData
    from planish.runs.open_model import Opened
    from planish.settings import ModelSettings
    from planish.split_assignment import SplitAssignment


def channel_list(values: float | Sequence[float] | None) -> list[float] | None:
    """Convert one value for all channels, or one per channel, to a list."""
    if values is None:
        return None
    return [float(values)] if isinstance(values, (int, float)) else [float(value) for value in values]


def open_with_images(
    network: ModelSettings,
    data: str,
    *,
    seed: int,
    skip_bad: bool,
    runtime: str = "auto",
    teachers: Sequence[SplitAssignment | None] = (),
) -> tuple[Opened, ImageData]:
    """Open a model, and load images into the splits stored with it.

    Args:
        network: the name of a network, with weights and preprocessing; or the path of a saved model, bundle, run or file, without them.
        data: the dataset.
        seed: of the split, if the model does not store one.
        skip_bad: skip broken images instead of raising an error.
        runtime: for exported files.
        teachers: split assignments of teacher models; their training images are kept out of test, too.

    Raises:
        GoalError: weights or preprocessing are given for a saved model, which stores its own.
        ModelError: ``network`` is none of these, or has no trained weights.
    """
    from planish.data import Decoding, load_images
    from planish.progress import note
    from planish.runs.open_model import open_model
    from planish.runs.open_network import open_network
    from planish.split_assignment import assignment_beside, combined

    if _is_network(network):
        beside = assignment_beside(Path(network.weights)) if network.weights else None
        return open_network(network, data, seed=seed, skip_bad=skip_bad, assignment=combined([beside, *teachers]))
    _refuse_preprocessing(network)
    opened = open_model(network.name, runtime)
    opened = replace(opened, assignment=combined([opened.assignment, *teachers]))
    if opened.assignment is None:
        note(f"{opened.path} keeps no splits: images are split with seed {seed}, and may be in train of the model and in test here")
    images = load_images(
        data, seed=seed, skip_bad=skip_bad, decoding=Decoding(opened.preprocessing.decode_side, opened.input_spec.channels),
        task=opened.task, assignment=opened.assignment, class_names=opened.class_names,
    )  # fmt: skip
    return opened, images


def _is_network(network: ModelSettings) -> bool:
    from planish.runs.converted_onnx import is_external_onnx

    if is_external_onnx(network.name):
        return True
    if Path(network.name).exists() or Path(network.name).suffix in (".onnx", ".xml"):
        return False
    return network.weights is not None or ":" in network.name


def _refuse_preprocessing(network: ModelSettings) -> None:
    names = ("weights", "mean", "std", "image_size", "resize", "task")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(network, name) is not None]:
        raise GoalError(
            f"{', '.join(given)} for {network.name}",
            "a saved model keeps its own",
            "only valid with a network's name: FILE.py:factory, timm:NAME, torchvision:NAME",
        )
