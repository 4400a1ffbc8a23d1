"""Networks in ONNX files: classifiers that return logits, and others with their outputs as they are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import fx, nn

from planish.artifact import Source
from planish.errors import ModelError
from planish.files.onnx_reading import onnx_sha256
from planish.models.onnx.convert import Converted, convert_file
from planish.models.onnx.unfolding import unfold_batch_norm
from planish.models.raw_outputs import with_named_outputs

_KEEP_NUMBERS = (torch.flatten, torch.unflatten, torch.squeeze, torch.unsqueeze, torch.reshape, torch.permute)


def classifier_from_file(file: Path, output: str, source: Source, size: tuple[int, int]) -> fx.GraphModule:
    """Convert a classifier; a softmax or sigmoid at its end is left out, and batch norm that was folded away is put back.

    Args:
        file: the ONNX file.
        output: name of the output with one value per class.
        source: number of classes and channels, and the hash of the file, which is not checked if it is empty.
        size: height and width in pixels, where the file leaves them free.

    Returns:
        A network that takes normalised images ``(N, C, H, W)`` and returns logits ``(N, classes)``.

    Raises:
        ModelError: the file is missing, was changed, cannot be converted, or has other classes or channels.
    """
    converted = _converted(file, source, size, (output,))
    module = _with_logits(converted.module)
    example = torch.zeros(2, converted.channels, converted.height, converted.width)
    unfold_batch_norm(module, example)
    with torch.no_grad():
        found = module(example)
    if converted.channels != source.channels or tuple(found.shape) != (2, source.num_classes):
        raise ModelError(
            f"the output {output} of {file} is {tuple(found.shape[1:])} for images of {converted.channels} channels",
            f"a classifier returns {source.num_classes} values for images of {source.channels} channels",
        )
    return module


def network_from_file(file: Path, source: Source, size: tuple[int, int]) -> fx.GraphModule:
    """Convert a network with all its outputs, which ``decode`` returns by their names; batch norm that was folded away is put back.

    Args:
        file: the ONNX file.
        source: number of channels, and the hash of the file, which is not checked if it is empty.
        size: height and width in pixels, where the file leaves them free.

    Raises:
        ModelError: the file is missing, was changed, cannot be converted, or has other channels.
    """
    converted = _converted(file, source, size, ())
    if converted.channels != source.channels:
        raise ModelError(f"{file} takes images of {converted.channels} channels", f"the images have {source.channels}")
    sides = converted.height, converted.width
    unfold_batch_norm(converted.module, torch.zeros(2, converted.channels, *sides))
    named = with_named_outputs(converted.module, converted.channels, sides, converted.outputs)
    assert isinstance(named, fx.GraphModule)
    return named


def _converted(file: Path, source: Source, size: tuple[int, int], outputs: tuple[str, ...]) -> Converted:
    if not file.is_file():
        raise ModelError(f"{file} is not there", "a network is rebuilt from the ONNX file that it was made from", "bring it back")
    if source.sha256 and onnx_sha256(file) != source.sha256:
        raise ModelError(
            f"{file} has changed since this model was made from it", "a network is rebuilt from the same file", "bring it back"
        )
    return convert_file(file, size=size, outputs=outputs)


def _with_logits(module: fx.GraphModule) -> fx.GraphModule:
    """Leave out a softmax or sigmoid at the end and flatten the output; changes and returns ``module``."""
    end = next(node for node in module.graph.nodes if node.op == "output")
    last = end.args[0]
    while isinstance(last, fx.Node) and last.target in _KEEP_NUMBERS:
        last = last.args[0]
    if isinstance(last, fx.Node) and last.op == "call_module":
        layer = module.get_submodule(str(last.target))
        if isinstance(layer, (nn.Softmax, nn.Sigmoid)):
            last.replace_all_uses_with(last.all_input_nodes[0])
            module.graph.eliminate_dead_code()
            module.delete_all_unused_submodules()
    found = end.args[0]
    if not (isinstance(found, fx.Node) and found.target is torch.flatten):
        with module.graph.inserting_before(end):
            end.args = (module.graph.call_function(torch.flatten, (found, 1)),)
    module.recompile()
    return module
