"""What an ONNX file from another exporter returns, as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from planish.artifact import InputSpec, Preprocessing
from planish.devices.isolation import call_isolated
from planish.export.onnx.external import USUAL_BATCH, ExternalModel, outputs_one_by_one, read_external
from planish.export.runtimes.first_load import limits_for
from planish.files.onnx_reading import data_files
from planish.files.workspace import fresh_folder

if TYPE_CHECKING:
    from planish.artifact import Pixels


def outputs_of(foreign: ExternalModel, spec: InputSpec, preprocessing: Preprocessing, sample: Pixels) -> dict[str, Any]:
    """The outputs of the file as it is, by name, one row per image; computed in a separate process, one image at a time.

    Args:
        foreign: the file.
        spec: size of the images.
        preprocessing: with the ``mean`` and ``std`` that it expects.
        sample: uint8 ``(N, H, W, C)``.

    Raises:
        ModelError: it does not run on such images.
        ExportError: it crashes the libraries that read it, or takes too long.
    """
    folder = fresh_folder("outputs-")
    pixels, found = folder / "images.npy", folder / "outputs.npz"
    arguments = {
        "file": str(foreign.file), "found": str(found), "spec": TypeAdapter(InputSpec).dump_json(spec).decode(),
        "preprocessing": TypeAdapter(Preprocessing).dump_json(preprocessing).decode(), "sample": str(pixels),
    }  # fmt: skip
    np.save(pixels, sample)
    size = sum(part.stat().st_size for part in (foreign.file, *data_files(foreign.file)))
    limits = limits_for(size, sample.size * min(foreign.batch or 1, USUAL_BATCH))
    names = call_isolated("planish.export.onnx.external_outputs:write_outputs", arguments, f"{foreign.file} in onnxruntime", limits)
    with np.load(found, allow_pickle=False) as arrays:
        return {name: arrays[str(i)] for i, name in enumerate(names)}


def write_outputs(file: str, found: str, spec: str, preprocessing: str, sample: str) -> list[str]:
    """The part of ``outputs_of`` that runs in the separate process; its arguments are JSON values."""
    foreign, images = read_external(Path(file)), np.load(sample, allow_pickle=False)
    fed_spec, how = TypeAdapter(InputSpec).validate_json(spec), TypeAdapter(Preprocessing).validate_json(preprocessing)
    outputs = outputs_one_by_one(foreign.model, foreign.batch or 1, fed_spec, how, images)
    np.savez(found, **{str(i): values for i, values in enumerate(outputs.values())})
    return list(outputs)
