"""Quantization error by layer, as a signal-to-noise ratio: the power of the reference output over the power of the difference from it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.errors import ModelError
from planish.explanation.model_file import Array, ModelFile
from planish.explanation.profiles.source_graph import SourceGraph
from planish.explanation.unrounded import expose_onnx, expose_openvino

_EQUAL_DB = 200
Batches = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class LayerErrors:
    """Signal-to-noise ratios in decibels: at 20 dB the noise has a tenth of the signal's amplitude; every further 6 dB halve it.

    Args:
        final_db: of the model's output, the worst one if there are several; 200 for identical outputs.
        layers_db: of layer outputs, by name of the layer in the file; includes the errors of all earlier layers.
        added_db: if only that output is rounded and everything before it is exact: the error that the layer itself adds.
        images: number of images used.
        reference: description of the reference.
    """

    final_db: float
    layers_db: dict[str, float]
    added_db: dict[str, float]
    images: int
    reference: str


class _Power:
    """Signal and noise power by tensor, accumulated over batches."""

    def __init__(self) -> None:
        self.signal: dict[str, float] = {}
        self.noise: dict[str, float] = {}

    def add(self, name: str, expected: Array, found: Array) -> None:
        if expected.shape != found.shape:
            return
        reference = expected.astype(np.float64)
        self.signal[name] = self.signal.get(name, 0.0) + float(np.square(reference).sum())
        self.noise[name] = self.noise.get(name, 0.0) + float(np.square(reference - found).sum())

    def db(self, name: str) -> float:
        signal = max(self.signal[name], 1e-30)
        return 10 * float(np.log10(signal / max(self.noise[name], signal * 10 ** (-_EQUAL_DB / 10))))


def measure_errors(model: ModelFile, batches: Batches, reference: Path | None = None) -> LayerErrors | None:
    """Compare a quantized file with a reference on the same inputs.

    Args:
        model: the quantized file, with Q/DQ pairs.
        batches: inputs by name.
        reference: the float ONNX file it was quantized from. By default the reference is the same file with unrounded activations, so that
            only the rounding of activations counts as error.

    Returns:
        The errors; None if the file rounds no activations and there is no reference.

    Raises:
        ModelError: the reference has different inputs or outputs.
    """
    expose = expose_onnx if model.path.suffix == ".onnx" else expose_openvino
    with tempfile.TemporaryDirectory() as folder:
        run, plain, tensors = expose(model, Path(folder))
        if not tensors and reference is None:
            return None
        if reference is not None:
            plain = _reference(reference, [tensor.before for tensor in tensors], Path(folder))
        power, finals = _Power(), set()
        for inputs in batches:
            try:
                expected = plain(inputs)
            except Exception as error:  # the bindings raise many kinds without a common base
                raise ModelError(f"{reference} does not take what {model.path} takes", "a reference has the same inputs") from error
            found = run(inputs)
            for tensor in tensors:
                if (values := expected.get(tensor.before)) is not None:
                    power.add(tensor.before, values, found[tensor.after])
                    power.add(f"{tensor.before} alone", values, tensor.apply(values))
            outputs = [name for name in found if name not in {tensor.after for tensor in tensors}]
            for i, name in enumerate(outputs):
                key = f"output {i}"
                finals.add(key)
                power.add(key, expected[name] if name in expected else list(expected.values())[i], found[name])
    layers_db: dict[str, float] = {}
    added_db: dict[str, float] = {}
    for tensor in tensors:
        if tensor.before in power.noise and tensor.layer:
            layers_db.setdefault(tensor.layer, power.db(tensor.before))
            added_db.setdefault(tensor.layer, power.db(f"{tensor.before} alone"))
    if not finals & power.noise.keys():
        raise ModelError(f"the outputs of {reference} have other shapes than those of {model.path}", "a reference has the same outputs")
    return LayerErrors(
        final_db=min(power.db(key) for key in finals & power.noise.keys()),
        layers_db=layers_db,
        added_db=added_db,
        images=sum(len(next(iter(b.values()))) for b in batches),
        reference=str(reference) if reference else "the same file with unrounded activations",
    )


def _reference(path: Path, wanted: Sequence[str], folder: Path) -> Any:
    """Load the reference, with the wanted tensors (those it contains) as additional outputs."""
    import onnx
    from onnx import TensorProto, helper

    source, model = SourceGraph(path), ModelFile(path, "onnxruntime")
    outputs = [output.name for output in source.graph.output]
    extra = [name for name in dict.fromkeys(wanted) if name in source.made_by and name not in outputs]
    source.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in extra)
    onnx.save(source.model, str(folder / "reference.onnx"))
    session = model.onnxruntime_session(model.onnxruntime_options(), folder / "reference.onnx")
    names, inputs = [*outputs, *extra], [node.name for node in session.get_inputs()]

    def run(fed: Mapping[str, Array]) -> dict[str, Array]:
        by_position = dict(zip(inputs, fed.values(), strict=True))
        return dict(zip(names, session.run(names, by_position), strict=True))

    return run
