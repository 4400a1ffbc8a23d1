"""Somebody's network in the form that training, compression and export work on: one float32 ``nn.Module`` whose weights are parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from planish.errors import ModelError, first_line
from planish.models.outputs import logits_and_auxiliary

_HOOKS: dict[type, Callable[[nn.Module, str], Any]] = {WeightNorm: remove_weight_norm, SpectralNorm: remove_spectral_norm}


def unwrapped(module: nn.Module, channels: int, image_size: int) -> tuple[nn.Module, list[str]]:
    """A float32 copy of the network inside ``torch.compile``, ``DataParallel`` and the like; the one handed over is left as it is, but
    that its lazy layers (``nn.LazyLinear``) get their sizes.

    Returns:
        The copy, and what was done, in words.

    Raises:
        ModelError: it is a scripted network, cannot be copied, or has lazy layers and does not run on such an image.
    """
    notes = []
    while (inner := _inner(module)) is not None:
        notes.append(f"the network inside {type(module).__name__} is taken")
        module = inner
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            "the network is a TorchScript module", "its layers cannot be read or changed", "hand over the nn.Module it was scripted from"
        )
    _materialize(module, channels, image_size)
    _detach_computed_weights(module)
    try:
        module = copy.deepcopy(module)
    except Exception as error:  # an attribute that is no tensor may raise anything
        raise ModelError(
            f"the network cannot be copied: {_culprit(module) or f'{type(error).__name__}: {error}'}",
            "it is copied before it is changed",
            "keep locks, files, loggers and the like outside the module",
        ) from error
    if kinds := {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}:
        notes.append(f"the network is in {', '.join(sorted(str(kind).removeprefix('torch.') for kind in kinds))}: it is taken in float32")
        module = module.float()
    return module, notes


def check_training_outputs(module: nn.Module, channels: int, image_size: int, num_classes: int) -> list[str]:
    """What a classifier returns in training mode, in words where it is more than logits; the network is left as it is.

    Raises:
        ModelError: it does not run in training mode, or returns no logits.
    """
    network = copy.deepcopy(module).train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = network(torch.zeros(2, channels, image_size, image_size))
    except Exception as error:  # the network is not ours: anything may come out of it
        raise ModelError(
            f"the network does not run in training mode: {type(error).__name__}: {first_line(error)}",
            f"it must take a float tensor (2, {channels}, {image_size}, {image_size})",
        ) from error
    _, auxiliary = logits_and_auxiliary(outputs, num_classes)
    if isinstance(outputs, torch.Tensor):
        return []
    count = f"{len(auxiliary)} more of one number a class count as auxiliary classifiers" if auxiliary else "others are not trained"
    return [f"in training mode the network returns several outputs: the logits are trained, and {count}"]


def bake_norms(module: nn.Module) -> list[str]:
    """Compute weight norm and spectral norm, of either form, and other parametrizations into the weights; changed in place.

    Returns:
        What was done, in words; nothing where there are none.
    """
    done: dict[str, int] = {}
    for layer in module.modules():
        for hook in _norm_hooks(layer):
            _HOOKS[type(hook)](layer, hook.name)
            done[type(hook).__name__] = done.get(type(hook).__name__, 0) + 1
            if isinstance(hook, SpectralNorm):
                for key, left in list(layer._load_state_dict_pre_hooks.items()):  # torch 2.14 does not find its own, which it has wrapped
                    if isinstance(getattr(left, "hook", left), SpectralNormLoadStateDictPreHook):
                        del layer._load_state_dict_pre_hooks[key]
        if parametrize.is_parametrized(layer):
            by_tensor: Any = layer.parametrizations
            for name in list(by_tensor):
                label = type(by_tensor[name][0]).__name__.lstrip("_")
                done[label] = done.get(label, 0) + 1
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return [f"{kind} of {count} layers is computed into their weights, which are trained without it" for kind, count in done.items()]


def _materialize(module: nn.Module, channels: int, image_size: int) -> None:
    """Run a network with lazy layers once, so that they get their sizes."""
    if not any(isinstance(layer, LazyModuleMixin) for layer in module.modules()):
        return
    modes = [(m, m.training) for m in module.modules()]
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, channels, image_size, image_size))
    except Exception as error:  # the network is not ours: anything may come out of it
        raise ModelError(
            f"the network has lazy layers and does not run on a {image_size}x{image_size} image: {type(error).__name__}: {error}",
            "lazy layers get their sizes from the first image",
        ) from error
    finally:
        for m, training in modes:
            m.training = training


def _inner(module: nn.Module) -> nn.Module | None:
    """The network that a wrapper of torch's holds, None where it is none."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    compiled = getattr(module, "_orig_mod", None)
    return compiled if isinstance(compiled, nn.Module) else None


def _detach_computed_weights(module: nn.Module) -> None:
    """Weights that a hook computes anew before every call may still hold the last one's graph, with which they cannot be copied."""
    for layer in module.modules():
        for hook in _norm_hooks(layer):
            if isinstance(weight := getattr(layer, hook.name), torch.Tensor):
                setattr(layer, hook.name, weight.detach())


def _norm_hooks(layer: nn.Module) -> list[Any]:
    """The layer's weight norm and spectral norm of the older form."""
    return [hook for hook in layer._forward_pre_hooks.values() if type(hook) in _HOOKS]


def _culprit(module: nn.Module) -> str:
    """The attribute that cannot be copied, and its type."""
    for name, layer in module.named_modules():
        for attribute, value in vars(layer).items():
            if attribute.startswith("_"):
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                return f"{name + '.' if name else ''}{attribute} is a {type(value).__module__}.{type(value).__name__}"
    return ""
