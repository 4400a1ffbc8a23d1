"""Weights from files: read without running anything from them, and made to fit a network or refused by name."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from planish.errors import ModelError

State = dict[str, torch.Tensor]
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
# The DenseNet files that torchvision publishes are older than its DenseNet: "norm.1" is "norm1" today.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def read_weights(path: Path) -> State:
    """Tensors by name, from ``.safetensors``, or from a ``.pt``/``.pth`` state_dict (bare, or under ``state_dict`` or ``model``).

    Raises:
        ModelError: not there, not such a file, or a file that would have to run Python code to be read.
    """
    if not path.is_file():
        raise ModelError(f"there are no weights at {path}", "weights are 'imagenet' or a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        try:
            return _without_prefix(safetensors.torch.load_file(path))
        except Exception as error:
            raise ModelError(f"cannot read {path}: {error}", "it must be a safetensors file") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds Python objects besides tensors, perhaps a whole pickled network",
            "reading it would run code from the file, so only plain weights are read",
            "where you trust it, load it yourself and save torch.save(model.state_dict(), 'weights.pth')",
        ) from error
    except Exception as error:
        raise ModelError(
            f"cannot read {path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            "weights are a .safetensors file or what torch.save(model.state_dict(), ...) wrote",
        ) from error
    return _without_prefix(_state_dict(loaded, path))


def fit_weights(module: nn.Module, state: State, classifier: str, optional: Iterable[str] = ()) -> tuple[bool, list[str]]:
    """Load ``state`` into the network.

    A classifier of another size, or none, leaves the network's own fresh one in place; a first convolution for RGB is summed for grey
    images and one for grey spread over RGB. Everything else must fit exactly.

    Args:
        module: the network, changed in place.
        state: tensors by name.
        classifier: name of the layer that makes the logits.
        optional: beginnings of names that may be in ``state`` without being in the network.

    Returns:
        Whether the classifier is fresh, and what was done, in words.

    Raises:
        ModelError: anything else does not fit; the message names the keys.
    """
    notes: list[str] = []
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items() if not key.startswith(tuple(optional))}
    own = module.state_dict()
    head = {key for key in (f"{classifier}.weight", f"{classifier}.bias") if key in own}
    new_head = any(key not in state or state[key].shape != own[key].shape for key in head)
    if new_head:
        old = state.get(f"{classifier}.weight")
        size = "no classifier" if old is None else f"a classifier of {old.shape[0]} outputs"
        notes.append(f"the weights have {size}: a fresh one of {own[f'{classifier}.weight'].shape[0]} takes its place")
        state = {key: value for key, value in state.items() if key not in head} | {key: own[key] for key in head}

    for key, value in state.items():
        if key in own and value.ndim == 4 and value.shape[1] != own[key].shape[1] and value.shape[2:] == own[key].shape[2:]:
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
        found = (("missing", missing), ("unexpected", unexpected), ("another shape", shapes))
        raise ModelError(
            "the weights do not fit the network: " + "; ".join(f"{what}: {_some(keys)}" for what, keys in found if keys),
            "all but the classifier must fit",
            "name the network they were trained with",
        )
    module.load_state_dict(state, strict=False)
    return new_head, notes


def _state_dict(loaded: Any, path: Path) -> State:
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        keys = f" with {_some([str(key) for key in loaded])}" if isinstance(loaded, Mapping) else ""
        raise ModelError(
            f"{path} holds a {type(loaded).__name__}{keys}",
            "it must hold tensors by name, bare or under 'state_dict' or 'model'",
            "save torch.save(model.state_dict(), 'weights.pth')",
        )
    return dict(loaded)


def _without_prefix(state: State) -> State:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
