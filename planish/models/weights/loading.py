"""Loading of weights into a network, with adaptation of the classifier and of input channels."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from planish.errors import ModelError, first_line
from planish.models.weights.checkpoints import State, aligned, read_checkpoint
from planish.models.weights.computed import with_computed

# torchvision's DenseNet weights use old names: "norm.1" is "norm1" in its current DenseNet.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def read_weights(path: Path, module: nn.Module) -> State:
    """Read tensors from a file, under the names that ``module`` gives them; see ``checkpoints``.

    Raises:
        ModelError: the file cannot be read.
    """
    own = module.state_dict()
    return with_computed(aligned(read_checkpoint(path), own), own)


def with_shared(state: State, own: State) -> State:
    """``state`` with shared tensors under each of their names; safetensors files hold them under only one.

    Args:
        state: tensors by name, as read from the file.
        own: the network's ``state_dict()``.
    """
    names_of: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in own.items():
        names_of.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    filled = dict(state)
    for names in names_of.values():
        kept = next((state[name] for name in names if name in state), None)
        filled |= {name: kept for name in names if kept is not None and name not in state}
    return filled


def fit_weights(module: nn.Module, state: State, classifier: str | None, optional: Iterable[str] = ()) -> tuple[bool, list[str]]:
    """Load ``state`` into the network.

    If ``state`` has no classifier, or one of another size, the network keeps its own newly initialised one. The first convolution's weights
    for RGB are summed for grey images, and weights for grey images are spread over RGB. Everything else must fit exactly.

    Args:
        module: the network, changed in place.
        state: tensors by name.
        classifier: name of the classifier layer; None if there is none, so that all must fit.
        optional: prefixes of names in ``state`` that are ignored.

    Returns:
        Whether the classifier is newly initialised, and messages that describe what was done.

    Raises:
        ModelError: something else does not fit; the message names the keys.
    """
    notes: list[str] = []
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items() if not key.startswith(tuple(optional))}
    own = module.state_dict()
    state = with_shared(state, own)
    head = (
        [] if classifier is None else [key for key in own if key.startswith(f"{classifier}.")]
    )  # with weight norm, the weight consists of two tensors
    new_head = any(key not in state or state[key].shape != own[key].shape for key in head)
    if new_head:
        other = next((key for key in head if key in state and state[key].shape != own[key].shape), None)
        old = (
            None
            if other is None
            else f"a classifier of another shape ({other} is {tuple(state[other].shape)}, not {tuple(own[other].shape)})"
        )
        if other is not None and state[other].ndim == own[other].ndim and state[other].shape[1:] == own[other].shape[1:]:
            old = f"a classifier of {len(state[other])} outputs"
        old = old or ("only a part of the classifier" if any(key in state for key in head) else "no classifier")
        notes.append(f"the weights have {old}: a fresh one of {len(own[head[0]])} takes its place")
        state = {key: value for key, value in state.items() if key not in head} | {key: own[key] for key in head}

    for key, value in state.items():
        if (
            key in own
            and value.ndim == own[key].ndim == 4
            and _but_channels(value) == _but_channels(own[key])
            and value.shape != own[key].shape
        ):
            if (value.shape[1], own[key].shape[1]) == (3, 1):
                state[key] = value.sum(1, keepdim=True)
                notes.append(f"{key} is for RGB: its weights are summed for grey images")
            elif (value.shape[1], own[key].shape[1]) == (1, 3) and module.get_submodule(key.rpartition(".")[0]).groups == 1:
                state[key] = value.expand(-1, 3, -1, -1) / 3
                notes.append(f"{key} is for grey images: its weights are spread over RGB")

    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    if missing or unexpected or shapes:
        near = {key: difflib.get_close_matches(key, unexpected, n=1, cutoff=0.7) for key in missing[:4]}
        named = [f"{key} (the file has {near[key][0]})" if near.get(key) else key for key in missing]
        found = (("missing", named), ("unexpected", unexpected), ("another shape", shapes))
        raise ModelError(
            "the weights do not fit the network: " + "; ".join(f"{what}: {_some(keys)}" for what, keys in found if keys),
            "all but the classifier must fit",
            "name the network they were trained with",
        )
    try:
        module.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:  # raised for sparse or quantized tensors
        raise ModelError(f"the weights cannot be copied: {first_line(error)}", "they are dense tensors", "save them so") from error
    if broken := [key for key, parameter in module.named_parameters() if not parameter.isfinite().all()]:
        raise ModelError(
            f"the weights hold NaN or infinite values in {_some(broken)}", "a training that diverged leaves them", "give others"
        )
    return new_head, notes


def _but_channels(weight: torch.Tensor) -> tuple[int, ...]:
    return (weight.shape[0], *weight.shape[2:])


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
