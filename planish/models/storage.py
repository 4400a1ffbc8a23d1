"""Saving of an artifact as JSON and safetensors, and rebuilding it from its lineage. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save_model
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing
from planish.errors import BundleError, PlanishError
from planish.files.reading import describe, require_regular
from planish.files.schema import read_versioned
from planish.files.workspace import replace_folder
from planish.models.weights.loading import with_shared
from planish.models.zoo import build
from planish.split_assignment import SPLITS_FILE, SplitAssignment
from planish.technique import resolve

_MOST_CLASSES_MORE = 1000  # than there are class names: a number in a file must not exhaust the memory
_DESCRIPTION, _WEIGHTS = "artifact.json", "model.safetensors"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ArtifactDescription:
    """``artifact.json``: a saved model without its weights.

    Args:
        format: ``torch``, ``onnx``, ``openvino``, ...
        input_spec: channels, height and width of the model's input.
        preprocessing: how an image file becomes the model's input.
        class_names: names of the classes, in the order of the model's outputs.
        lineage: the network that the model started from, and the techniques applied to it.
        files: files of an exported model, relative to the folder; a runtime loads the first one.
    """

    format: str
    input_spec: InputSpec
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    lineage: Lineage
    files: tuple[str, ...] = ()
    schema_version: Literal[1] = 1


def fingerprint(module: nn.Module) -> str:
    """A hash of the network's layers, parameters and buffers; the same in every process."""
    known = hashlib.sha256(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(module)).encode())
    for name, value in module.state_dict().items():
        known.update(name.encode())
        known.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return known.hexdigest()


def save_artifact(artifact: Artifact, folder: Path, assignment: SplitAssignment | None = None) -> None:
    """Write the artifact to ``folder``: ``artifact.json`` and the weights, or the files of an exported model.

    An existing folder is replaced, but only once the new one is complete. ``artifact.original`` is not saved.

    Args:
        artifact: the model.
        folder: target folder.
        assignment: the data splits that the model was trained with, saved as ``splits.json``.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if artifact.module is not None:
        save_model(artifact.module, str(partial / _WEIGHTS))  # keeps one copy of tensors that layers share
    for file in artifact.files:
        shutil.copyfile(file, partial / file.name)
    description = ArtifactDescription(
        format=artifact.format,
        input_spec=artifact.input_spec,
        preprocessing=artifact.preprocessing,
        class_names=artifact.class_names,
        lineage=artifact.lineage,
        files=tuple(file.name for file in artifact.files),
    )
    (partial / _DESCRIPTION).write_text(json.dumps(TypeAdapter(ArtifactDescription).dump_python(description, mode="json"), indent=1))
    if assignment is not None:
        assignment.save(partial / SPLITS_FILE)
    replace_folder(folder, partial)


def load_artifact(folder: Path, *, module: nn.Module | None = None, original: Artifact | None = None) -> Artifact:
    """Load an artifact that ``save_artifact`` wrote.

    A PyTorch network is built from its source, the structural changes of its techniques are repeated, and its weights are loaded strictly.
    It is returned in eval mode.

    Args:
        folder: folder of the artifact.
        module: the network that the artifact started from, if that was an ``nn.Module`` passed in Python.
        original: value of ``Artifact.original``.

    Raises:
        BundleError: the folder is incomplete, was changed, or has another version.
        ModelError: the network cannot be built here.
    """
    found = read_versioned(folder / _DESCRIPTION, ArtifactDescription, "it is as Planish wrote it", "save the model again")
    artifact = Artifact(
        format=found.format,
        input_spec=found.input_spec,
        preprocessing=found.preprocessing,
        class_names=found.class_names,
        lineage=found.lineage,
        files=tuple(folder / Path(name).name for name in found.files),
        original=original,
    )
    numbers, lineage = {len(found.preprocessing.mean), len(found.preprocessing.std)}, found.lineage
    if not numbers <= {1, found.input_spec.channels}:
        raise _broken(folder, ValueError(f"a normalisation of {max(numbers)} channels, and images of {found.input_spec.channels}"))
    absent = [file.name for file in artifact.files if not file.is_file()]
    if absent:
        raise BundleError(f"{folder} has no {', '.join(absent)}", "all files of an artifact lie in its folder", "make it again")
    if artifact.files:
        return artifact
    try:
        if lineage.source.num_classes > _MOST_CLASSES_MORE + len(artifact.class_names):
            raise ValueError(f"{lineage.source.num_classes} classes, of which {len(artifact.class_names)} have names")
        built = build(lineage.source, module, (artifact.input_spec.height, artifact.input_spec.width))
        for step in lineage.steps:
            if step.structure and (rebuild := getattr(resolve(step.technique), "rebuild", None)):
                built = rebuild(built, step.structure)
        _load_weights(built, folder / _WEIGHTS)
    except PlanishError:
        raise
    except Exception as error:  # an edited lineage may describe no network, or another one
        raise _broken(folder, error) from error
    return replace(artifact, module=built.eval())


def _load_weights(module: nn.Module, file: Path) -> None:
    """Load weights strictly. The file holds one copy of tensors that layers share. The values are put into the network's own state dict, as
    some networks (MNASNet) need its version metadata, which the file does not hold.
    """
    require_regular(file)
    saved, state = load_file(file), module.state_dict()
    filled = with_shared(saved, state)
    if missing := state.keys() - filled.keys():
        raise KeyError(f"no weights for {', '.join(sorted(missing)[:5])}")
    state.update({name: value for name, value in filled.items() if name in state})
    if unexpected := saved.keys() - state.keys():
        raise KeyError(f"weights for {', '.join(sorted(unexpected)[:5])}, which the network does not have")
    module.load_state_dict(state, strict=True)


def _broken(folder: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{folder} is not a whole artifact: {describe(error)}",
        f"it needs {_DESCRIPTION} and the weights or files it names",
        "save it again",
    )
