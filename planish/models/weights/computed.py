"""Weights that a file holds in parts, as masks, weight norm and spectral norm of ``torch.nn.utils`` save them, computed into one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from planish.progress import note

State = dict[str, torch.Tensor]


def with_computed(state: State, names: Iterable[str]) -> State:
    """The tensors of a file, with each weight computed from its parts if the network has the weight and not the parts.

    Args:
        state: tensors by name, such as ``conv.weight_g`` and ``conv.weight_v``.
        names: names of the network's own tensors, such as ``conv.weight``.
    """
    state = _new_names(state, own := set(names))
    done: dict[str, list[str]] = {}
    for key in own - state.keys():
        layer, _, name = key.rpartition(".")
        start = f"{layer}.parametrizations.{name}." if layer else f"parametrizations.{name}."
        for kind, (parts, compute) in _KINDS.items():
            keys = [part.format(key=key, start=start) for part in parts]
            if all(part in state and part not in own for part in keys):
                state[key] = compute(*(state.pop(part) for part in keys))
                done.setdefault(kind, []).append(key)
                break
    for kind, keys in done.items():
        note(f"{kind} of {len(keys)} layers in the file is computed into their weights")
    return state


def _new_names(state: State, own: set[str]) -> State:
    """Weight norm under the names of ``torch.nn.utils.parametrizations``, which the network has, where the file has the older ones."""
    renamed = {}
    for key, value in state.items():
        layer, _, name = key.rpartition(".")
        base, _, letter = name.rpartition("_")
        new = f"{layer}.parametrizations.{base}.original{'gv'.find(letter)}" if letter in ("g", "v") else key
        renamed[new if new in own and key not in own else key] = value
    return renamed


def _masked(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return weight * mask


def _weight_norm(length: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    axes = [axis for axis in range(direction.ndim) if length.ndim == 0 or length.shape[axis] == 1]
    return direction * (length / direction.square().sum(axes, keepdim=True).sqrt())


def _spectral_norm(weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    # transposed convolutions are normalised along their second axis
    matrix = (weight if len(left) == len(weight) else weight.transpose(0, 1)).flatten(1)
    return weight / (left @ matrix @ right)


_KINDS: dict[str, tuple[tuple[str, ...], Callable[..., torch.Tensor]]] = {
    "the mask of a pruning": (("{key}_orig", "{key}_mask"), _masked),
    "weight norm": (("{key}_g", "{key}_v"), _weight_norm),
    "weight norm (parametrized)": (("{start}original0", "{start}original1"), _weight_norm),
    "spectral norm": (("{key}_orig", "{key}_u", "{key}_v"), _spectral_norm),
    "spectral norm (parametrized)": (("{start}original", "{start}0._u", "{start}0._v"), _spectral_norm),
}
