"""Conversion of user networks to what training, compression and export need: a float32 ``nn.Module`` whose weights are parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm
from torch.utils._pytree import tree_leaves

from planish.errors import ModelError, first_line
from planish.models.heads.stem_and_classifier import ImageSides, both_sides, describe_size
from planish.models.outputs import decoded, logits_and_auxiliary

_SAME = 1e-3  # tolerated difference of logits between two forward passes
_HOOKS: dict[type, Callable[[nn.Module, str], Any]] = {WeightNorm: remove_weight_norm, SpectralNorm: remove_spectral_norm}


def unwrapped(module: nn.Module, channels: int, image_size: ImageSides) -> tuple[nn.Module, list[str]]:
    """A float32 copy of a network on the CPU, taken out of ``torch.compile``, ``DataParallel`` and similar wrappers.

    The given network is not changed, except that its lazy layers (``nn.LazyLinear``) get their sizes and weights that a hook computes
    (weight norm, spectral norm) are detached.

    Returns:
        The copy, and messages that describe what was done.

    Raises:
        ModelError: the network is scripted, holds unregistered layers, is on the meta device, cannot be copied, or has lazy layers and does
            not run on such an image.
    """
    notes = []
    while (inner := _inner(module)) is not None:
        notes.append(f"the network inside {type(module).__name__} is taken")
        module = inner
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            "the network is a TorchScript module", "its layers cannot be read or changed", "hand over the nn.Module it was scripted from"
        )
    if unregistered := _unregistered(module):
        raise ModelError(
            f"the network's {unregistered[0]} holds layers or parameters in a plain {unregistered[1]}",
            "PyTorch does not see them there: they are neither trained nor saved",
            "put them in an nn.ModuleList, nn.ModuleDict or nn.ParameterList",
        )
    if any(tensor.is_meta for tensor in module.parameters()):
        raise ModelError("the network's parameters are on the meta device", "they have no values there", "build it on the CPU")
    _materialize(module, channels, image_size)
    _detach_computed_weights(module)
    try:
        module = copy.deepcopy(module)
    except Exception as error:  # attributes that are not tensors may raise anything
        raise ModelError(
            f"the network cannot be copied: {_culprit(module) or f'{type(error).__name__}: {error}'}",
            "it is copied before it is changed",
            "keep locks, files, loggers and the like outside the module",
        ) from error
    if devices := {str(t.device) for t in (*module.parameters(), *module.buffers()) if t.device.type != "cpu"}:
        notes.append(f"the network is on {', '.join(sorted(devices))}: it is taken on the CPU")
        module = module.cpu()
    if kinds := {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}:
        notes.append(f"the network is in {', '.join(sorted(str(kind).removeprefix('torch.') for kind in kinds))}: it is taken in float32")
        module = module.float()
    if count := _plain_batch_norms(module, channels, image_size):
        notes.append(f"{count} nn.SyncBatchNorm layers become ordinary batch norm: training runs in one process")
    return module, notes


def check_training_outputs(module: nn.Module, channels: int, image_size: ImageSides, num_classes: int) -> list[str]:
    """Check that a classifier returns logits in training mode; the network is not changed.

    Returns:
        A message if it returns other outputs besides the logits.

    Raises:
        ModelError: the network does not run in training mode, or returns no logits.
    """
    network = copy.deepcopy(module).train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = network(torch.zeros(2, channels, *both_sides(image_size)))
    except Exception as error:  # user code may raise anything
        raise ModelError(
            f"the network does not run in training mode: {type(error).__name__}: {first_line(error)}",
            f"it must take a float tensor {(2, channels, *both_sides(image_size))}",
        ) from error
    _, auxiliary = logits_and_auxiliary(outputs, num_classes)
    if isinstance(outputs, torch.Tensor):
        return []
    count = f"{len(auxiliary)} more of one number per class count as auxiliary classifiers" if auxiliary else "others are not trained"
    return [f"in training mode the network returns several outputs: the logits are trained, and {count}"]


def check_eval_outputs(module: nn.Module, channels: int, image_size: ImageSides) -> list[str]:
    """Check that a classifier's outputs in eval mode are logits that depend on the image alone; the network is not changed.

    Returns:
        Warnings if the outputs depend on the other images of the batch, or are probabilities.

    Raises:
        ModelError: the outputs are random, NaN or infinite, or a method of the network called ``decode`` does not take them.
    """
    network = copy.deepcopy(module).eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        images = torch.rand(2, channels, *both_sides(image_size))
        first, again, alone = network(images.clone()), network(images.clone()), network(images[:1].clone())
        _check_decode(network, first)
    if not first.isfinite().all():
        raise ModelError(
            "the network returns NaN or infinite logits", "it must be possible to train and evaluate it", "look at its weights"
        )
    if not torch.allclose(first, again, rtol=_SAME, atol=_SAME):
        raise ModelError(
            "the network returns other logits for the same images in eval mode",
            "answers in eval mode must not be random",
            "give F.dropout training=self.training, and draw random numbers in training only",
        )
    notes = []
    if not torch.allclose(first[:1], alone, rtol=_SAME, atol=_SAME):
        notes.append("in eval mode the logits of an image depend on the others in its batch, as with batch norm without running statistics")
    if first.min() >= 0 and (first.sum(1) - 1).abs().max() < _SAME:
        notes.append("the network returns probabilities, which are taken for logits: leave its softmax out, or return log_softmax")
    return notes


def _check_decode(network: nn.Module, logits: torch.Tensor) -> None:
    """Check that a method ``decode`` of a classifier, such as that of an autoencoder, is what Planish takes it for."""
    try:
        found = decoded(network, logits.clone())
        named = isinstance(found, Mapping) and all(isinstance(part, torch.Tensor) for part in found.values())
    except Exception:  # user code may raise anything
        named = False
    if not named:
        raise ModelError(
            "the network has a method decode() that does not turn its outputs into tensors by name",
            "decode(outputs) is called on the outputs of every network that has it",
            "give your own method another name, or wrap the network in a module without it",
        )


def bake_norms(module: nn.Module) -> list[str]:
    """Bake weight norm and spectral norm (hooks or parametrizations) and other parametrizations into the weights; changed in place.

    Returns:
        Messages that describe what was done; empty if the network has no parametrization.
    """
    done: dict[str, int] = {}
    for layer in module.modules():
        for hook in _norm_hooks(layer):
            _HOOKS[type(hook)](layer, hook.name)
            done[type(hook).__name__] = done.get(type(hook).__name__, 0) + 1
            if isinstance(hook, SpectralNorm):
                for key, left in list(layer._load_state_dict_pre_hooks.items()):  # torch 2.14 wraps this hook and then fails to remove it
                    if isinstance(getattr(left, "hook", left), SpectralNormLoadStateDictPreHook):
                        del layer._load_state_dict_pre_hooks[key]
        if parametrize.is_parametrized(layer):
            by_tensor: Any = layer.parametrizations
            for name in list(by_tensor):
                label = type(by_tensor[name][0]).__name__.lstrip("_")
                done[label] = done.get(label, 0) + 1
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return [f"{kind} of {count} layers is computed into their weights, which are trained without it" for kind, count in done.items()]


def _materialize(module: nn.Module, channels: int, image_size: ImageSides) -> None:
    """Run a network with lazy layers once, so that the layers get their sizes."""
    if not any(isinstance(layer, LazyModuleMixin) for layer in module.modules()):
        return
    try:
        _run_once(module, channels, image_size)
    except Exception as error:  # user code may raise anything
        raise ModelError(
            f"the network has lazy layers and does not run on a {describe_size(image_size)} image: {type(error).__name__}: {error}",
            "lazy layers get their sizes from the first image",
        ) from error


def _run_once(module: nn.Module, channels: int, image_size: ImageSides) -> None:
    """Run a network in eval mode on a black image, and restore the mode of each layer."""
    modes = [(m, m.training) for m in module.modules()]
    device = next((p.device for p in module.parameters()), None)
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, channels, *both_sides(image_size), device=device))
    finally:
        for m, training in modes:
            m.training = training


def _plain_batch_norms(module: nn.Module, channels: int, image_size: ImageSides) -> int:
    """Replace ``nn.SyncBatchNorm``, made for several GPUs and not foldable, by ``nn.BatchNorm1d`` or ``nn.BatchNorm2d``; changed in place.

    Returns:
        The number of replaced layers. Only layers that run are replaced, as the number of dimensions of their input decides between the
        two.
    """
    sides: dict[nn.Module, int] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: sides.setdefault(layer, inputs[0].ndim) and None)
        for layer in module.modules()
        if isinstance(layer, nn.SyncBatchNorm)
    ]
    if not hooks:
        return 0
    with suppress(Exception):  # later checks report a network that does not run
        _run_once(module, channels, image_size)
    for hook in hooks:
        hook.remove()
    plain: dict[nn.Module, nn.Module] = {}
    for layer, ndim in sides.items():
        assert isinstance(layer, nn.SyncBatchNorm)
        kind = nn.BatchNorm2d if ndim == 4 else nn.BatchNorm1d
        plain[layer] = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats).train(layer.training)
        plain[layer].load_state_dict(layer.state_dict())
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child in plain:
                parent._modules[name] = plain[child]
    return len(plain)


def _unregistered(module: nn.Module) -> tuple[str, str] | None:
    """The first attribute that holds layers or parameters that are not registered in the network, and its type."""
    known = {id(part) for part in (*module.modules(), *module.parameters())}
    for name, layer in module.named_modules():
        for attribute, value in vars(layer).items():
            if attribute.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            parts = [part for part in tree_leaves(value) if isinstance(part, nn.Module | nn.Parameter)]
            if any(id(part) not in known for part in parts):
                return f"{name}.{attribute}".lstrip("."), type(value).__name__
    return None


def _inner(module: nn.Module) -> nn.Module | None:
    """The network inside a wrapper of PyTorch; None if ``module`` is not a wrapper."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    compiled = getattr(module, "_orig_mod", None)
    return compiled if isinstance(compiled, nn.Module) else None


def _detach_computed_weights(module: nn.Module) -> None:
    """Detach weights that a hook recomputes before each forward pass: with the autograd graph of the last pass they cannot be copied."""
    for layer in module.modules():
        for hook in _norm_hooks(layer):
            if isinstance(weight := getattr(layer, hook.name), torch.Tensor):
                setattr(layer, hook.name, weight.detach())


def _norm_hooks(layer: nn.Module) -> list[Any]:
    """The layer's hooks of weight norm and spectral norm (the older implementations in ``torch.nn.utils``)."""
    return [hook for hook in layer._forward_pre_hooks.values() if type(hook) in _HOOKS]


def _culprit(module: nn.Module) -> str:
    """A description of the attribute that cannot be copied, and its type; empty if none is found."""
    for name, layer in module.named_modules():
        for attribute, value in vars(layer).items():
            if attribute.startswith("_"):
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                return f"{name + '.' if name else ''}{attribute} is a {type(value).__module__}.{type(value).__name__}"
    return ""
