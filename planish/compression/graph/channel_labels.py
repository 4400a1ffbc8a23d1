"""Dependencies between channels, found by propagating channel labels through the network along with its activations.

During a real forward pass, every tensor carries a label tensor of the same shape that gives the channel of each element. Functions that
move data (reshape, permute, concatenation, ...) are run on the labels as well. The output channels of a convolution or linear layer get new
labels; labels that meet in a sum or a product are united. In the end, each class of labels is a set of weight slices that can only be
removed together. The labels of unsupported operations are frozen: this costs compression but never exactness.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from planish.compression.graph.label_classes import ATTRIBUTE, FROZEN, LabelledTensors, compact
from planish.errors import TechniqueError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Function names as returned by `_name`, without leading and trailing underscores: `__add__`, `add_` and `add` are the same.
_KEEPS = _words(
    "clone contiguous to float double half bfloat16 type type_as detach data alias requires_grad zeros_like ones_like empty_like "
    "rand_like randn_like full_like cpu dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout"
)
_ELEMENTWISE = _words(
    "relu relu6 leaky_relu elu celu selu gelu silu mish sigmoid tanh hardtanh hardswish hardsigmoid softplus softsign logsigmoid "
    "tanhshrink threshold rrelu hardshrink softshrink clamp clip abs neg exp log log2 log10 log1p sqrt rsqrt square reciprocal sin cos erf "
    "floor ceil round sign add iadd radd sub isub rsub mul imul rmul div idiv rdiv truediv itruediv rtruediv true_divide floor_divide "
    "pow rpow ipow maximum minimum where lerp addcmul addcdiv copy fill zero masked_fill nan_to_num eq ne lt le gt ge logical_and "
    "logical_or logical_not and or invert xor expand_as bernoulli"
)
_MOVES = _words(
    "view reshape flatten unflatten permute transpose t T mT swapaxes swapdims movedim moveaxis squeeze unsqueeze expand repeat tile "
    "repeat_interleave flip view_as reshape_as broadcast_to pixel_unshuffle ravel adjoint H"
)
_PARTS = _words("getitem narrow select index_select chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split unbind")
_REDUCES = _words("mean sum amax amin max min norm vector_norm var std var_mean std_mean logsumexp prod all any argmax argmin")
_POOLS = {f"{kind}_pool{d}d": -d - 1 for d in (1, 2, 3) for kind in ("avg", "max", "lp", "adaptive_avg", "adaptive_max")}
_POOLS |= {f"{name}_with_indices": axis for name, axis in _POOLS.items() if "max" in name} | {"interpolate": 1, "upsample": 1}


def _name(func: Any) -> str:
    name: str = getattr(func, "__name__", "")
    if name == "__get__":  # a property such as x.T
        name = func.__self__.__name__
    return name.strip("_")


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], index: int, name: str, default: Any = None) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


class ChannelLabels(LabelledTensors):
    """Runs every torch function and propagates channel labels from its inputs to its outputs.

    ``reads_values`` is True if the network's code has read the values of an activation, so that another image may run other layers.
    """

    reads_values = False

    def run(self, module: nn.Module, example: Tensor) -> None:
        """Run one forward pass; the labels of the input and the outputs are frozen."""
        setattr(example, ATTRIBUTE, torch.zeros(()).long().expand(example.shape))
        with torch.no_grad(), self.watching(module), self:
            outputs = module(example)
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and hasattr(output, ATTRIBUTE):
                self._freeze(getattr(output, ATTRIBUTE))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if getattr(func, "__name__", "") in ("__bool__", "item", "tolist") and hasattr(args[0], ATTRIBUTE):
            self.reads_values = True
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if not any(hasattr(t, ATTRIBUTE) or id(t) in self._names for t in inputs):
            return result
        name = _name(func)
        if name == "setitem":
            self._set_item(*args)
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor) and id(t) not in self._names]
        if outputs and not name.startswith("new_"):  # `x.new_zeros` only takes the dtype and device of x
            for output, labels in zip(outputs, self._rule(name, func, args, kwargs, inputs, outputs), strict=True):
                setattr(output, ATTRIBUTE, labels)
        return result

    def _rule(self, name: str, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
        """Return the labels of each output."""
        first = args[0] if args else inputs[0]
        shape = outputs[0].shape
        if "out" in kwargs:
            return self._unknown(inputs, outputs)
        if name in _KEEPS and isinstance(first, Tensor):
            return [self._labels(first).expand(shape)]
        if name in _ELEMENTWISE or (name in ("max", "min") and len(inputs) == 2):
            return [self._meet(inputs, shape)]
        if name.startswith("conv_transpose"):
            return [self._conv_transpose(shape, *(_argument(args, kwargs, i, n) for i, n in ((0, "input"), (1, "weight"), (2, "bias"))))]
        if name in ("conv1d", "conv2d", "conv3d"):
            image, weight, bias = (_argument(args, kwargs, i, n) for i, n in ((0, "input"), (1, "weight"), (2, "bias")))
            return [self._conv(shape, image, weight, bias, _argument(args, kwargs, 6, "groups", 1))]
        if name == "linear":
            return [self._linear(shape, *(_argument(args, kwargs, i, n) for i, n in ((0, "input"), (1, "weight"), (2, "bias"))))]
        if name in ("batch_norm", "instance_norm", "prelu"):
            return [self._per_channel(inputs)]
        if name in _POOLS:
            vector = self._channels(self._labels(first), _POOLS[name])
            return [self._spread(vector, _POOLS[name], o.shape) for o in outputs]
        if name == "pad":
            return [self._pad(self._labels(first), _argument(args, kwargs, 1, "pad"), shape)]
        if name in ("softmax", "log_softmax"):
            return [self._softmax(self._labels(first), _argument(args, kwargs, 1, "dim"))]
        if name in _REDUCES and len(inputs) == 1:
            dim = kwargs.get("dim", kwargs.get("axis"))
            if dim is None:  # only the norms have another positional argument (the order) before dim
                dim = _argument(args, {}, 2 if name in ("norm", "vector_norm") else 1, "")
            return self._reduce(self._labels(first), dim, outputs)
        if name == "layer_norm" and isinstance(first, Tensor):
            return [self._layer_norm(self._labels(first), len(_argument(args, kwargs, 1, "normalized_shape")), inputs[1:])]
        if name in ("cat", "concat", "concatenate", "stack"):
            dim = kwargs.get("dim", _argument(args, kwargs, 1, "axis", 0))
            return [self._cat(args[0] if args else kwargs["tensors"], dim, shape, name == "stack")]
        if name in ("channel_shuffle", "native_channel_shuffle", "pixel_shuffle"):
            return [self._shuffle(name, func, args, kwargs)]
        if name in _PARTS:
            return self._parts(func, args, kwargs)
        if name in _MOVES:
            return self._moved(func, args, kwargs)
        return self._unknown(inputs, outputs)

    def _unknown(self, inputs: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
        for tensor in inputs:
            if id(tensor) in self._names:
                self._freeze_parameter(tensor)
            elif hasattr(tensor, ATTRIBUTE):
                self._freeze(self._labels(tensor))
        return [torch.zeros(()).long().expand(o.shape) for o in outputs]

    def _meet(self, inputs: list[Tensor], shape: torch.Size) -> Tensor:
        """Unite the labels of the operands of an elementwise operation with broadcasting."""
        known: list[Tensor] = []
        constants: list[Tensor] = []
        for tensor in inputs:
            is_labelled = hasattr(tensor, ATTRIBUTE) or (id(tensor) in self._names and tensor.numel() > 1)
            (known if is_labelled else constants).append(tensor)
        together: list[Tensor] = []
        rest = [self._labels(t) for t in known]
        while rest:
            labels = rest.pop(0)
            aligned = labels[(None,) * (len(shape) - labels.ndim)]
            others = {len(shape) - o.ndim + axis for o in (*rest, *together) for axis in self._varying(o)}
            # A value that scales many different channels (a spatial attention map) belongs to none of them and cannot be removed.
            if any(aligned.shape[axis] == 1 < shape[axis] for axis in others):
                self._freeze(labels)
            else:
                together.append(aligned.expand(shape))
        if not together:
            return torch.zeros(()).long().expand(shape)
        for other in together[1:]:
            self._unite(together[0], other)
        result = max(together, key=lambda t: t.stride().count(0))
        for constant in constants:
            offset = len(shape) - constant.ndim
            if any(axis >= offset and constant.shape[axis - offset] > 1 for axis in self._varying(result)):
                self._freeze(result)
        return result

    def _conv(self, shape: torch.Size, image: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        axis = image.ndim - weight.ndim + 1
        into = self._channels(self._labels(image), axis)
        name = self._names.get(id(weight))
        if name is None:
            # The weight is computed (standardised, for example): the effect of removing slices on that computation is unknown.
            self._freeze(into)
            self._freeze(self._labels(weight))
            return torch.zeros(()).long().expand(shape)
        out = self.dim(name, 0, weight.shape[0])
        if groups > 1 and weight.shape[1] == 1:  # depthwise, one or several outputs per input channel
            self._unite(out.view(groups, -1), into.view(-1, 1))
            if not isinstance(self._running[-1][1], nn.modules.conv._ConvNd):
                self._hold(groups, into)
        else:
            self._unite(into.view(groups, -1), self.dim(name, 1, weight.shape[1]))
            self._unite_along(out.view(groups, -1), 0)
        self._bias(bias, out)
        return self._spread(out, axis, shape)

    def _conv_transpose(self, shape: torch.Size, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        axis = image.ndim - weight.ndim + 1
        into = self._channels(self._labels(image), axis)
        name, groups = self._names.get(id(weight)), shape[axis] // weight.shape[1]
        if name is None:
            self._freeze(into)
            self._freeze(self._labels(weight))
            return torch.zeros(()).long().expand(shape)
        self._unite(into, self.dim(name, 0, weight.shape[0]))
        if groups > 1 and weight.shape[0] == groups:  # depthwise
            out = into.repeat_interleave(weight.shape[1])
        else:
            self._unite_along(into.view(groups, -1), 0)
            out = self.dim(name, 1, weight.shape[1]).repeat(groups)
        self._bias(bias, out)
        return self._spread(out, axis, shape)

    def _linear(self, shape: torch.Size, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        into = self._channels(self._labels(features), -1)
        name = self._names.get(id(weight))
        if name is None:
            self._freeze(into)
            self._freeze(self._labels(weight))
            return torch.zeros(()).long().expand(shape)
        self._unite(into, self.dim(name, 1, weight.shape[1]))
        out = self.dim(name, 0, weight.shape[0])
        self._bias(bias, out)
        return self._spread(out, -1, shape)

    def _bias(self, bias: Tensor | None, out: Tensor) -> None:
        if bias is not None:
            self._unite(out, self._labels(bias).reshape(-1))

    def _per_channel(self, inputs: list[Tensor]) -> Tensor:
        """Batch norm, instance norm and PReLU, whose parameters are vectors along axis 1."""
        labels = self._labels(inputs[0])
        channels = self._channels(labels, 1 if labels.ndim > 1 else 0)
        for vector in inputs[1:]:
            if vector.numel() > 1:
                self._bias(vector, channels)
        return labels

    def _layer_norm(self, labels: Tensor, axes: int, affine: list[Tensor]) -> Tensor:
        for tensor in affine:
            if id(tensor) in self._names:
                self._freeze_parameter(tensor)
        if any(axis >= labels.ndim - axes for axis in self._varying(labels)):
            self._freeze(labels)
        return labels

    def _softmax(self, labels: Tensor, dim: int | None) -> Tensor:
        if dim is None or dim % labels.ndim in self._varying(labels):
            self._freeze(labels)
        return labels

    def _reduce(self, labels: Tensor, dim: Any, outputs: list[Tensor]) -> list[Tensor]:
        dims = range(labels.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
        axes = {d % max(labels.ndim, 1) for d in dims}
        if axes & set(self._varying(labels)):  # a mean over channels depends on their number
            self._freeze(labels)
        kept = labels[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(labels.ndim))]
        return [kept if o.ndim == kept.ndim else kept.squeeze(tuple(axes)) for o in outputs]

    def _pad(self, labels: Tensor, pad: Any, shape: torch.Size) -> Tensor:
        varying = self._varying(labels)
        for place in range(0, len(pad), 2):
            axis = labels.ndim - 1 - place // 2
            before, after = pad[place], pad[place + 1]
            if axis not in varying:
                labels = labels.narrow(axis, 0, 1).expand([shape[a] if a == axis else s for a, s in enumerate(labels.shape)])
            elif before > 0 <= after or before == 0 < after:  # zero channels, whose number is fixed in the code, cannot be removed
                labels = F.pad(labels, [0, 0] * (place // 2) + [before, after], value=FROZEN)
            elif before or after:
                self._freeze(labels)
                return torch.zeros(()).long().expand(shape)
        return labels

    def _cat(self, tensors: Any, dim: int, shape: torch.Size, stack: bool) -> Tensor:
        dim %= len(shape)
        parts = [self._labels(t).unsqueeze(dim) if stack else self._labels(t) for t in tensors if t.shape != (0,)]
        channels = {axis for part in parts for axis in self._varying(part)}
        same = [axis for axis in range(len(shape)) if axis != dim and all(p.stride(axis) == 0 or p.shape[axis] == 1 for p in parts)]
        joined = torch.cat([p[tuple(slice(0, 1) if axis in same else slice(None) for axis in range(len(shape)))] for p in parts], dim)
        return self._one_axis(joined.expand(shape), dim if dim in channels or not channels else max(channels))

    def _shuffle(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        labels = self._labels(args[0])
        if name == "pixel_shuffle":  # the r * r neighbouring channels that form one output channel are removed together
            factor = _argument(args, kwargs, 1, "upscale_factor")
            self._unite_along(self._channels(labels, -3).view(-1, factor**2), 1)
        else:  # the channels at the same index of each group are removed together
            self._unite_along(self._channels(labels, 1).view(_argument(args, kwargs, 1, "groups"), -1), 0)
        moved: Tensor = func(labels.contiguous(), *args[1:], **kwargs)
        return moved

    def _moved(self, func: Any, args: Any, kwargs: Any) -> list[Tensor]:
        def moved(as_labels: Callable[[Tensor], Tensor]) -> Any:
            swapped = tree_map(lambda t: as_labels(t) if isinstance(t, Tensor) else t, (args, kwargs))
            return func(*swapped[0], **swapped[1])

        try:
            result = moved(self._labels)
        except RuntimeError:  # `view` depends on strides, and broadcast labels have other strides than the activations
            result = moved(lambda t: self._labels(t).contiguous())
        return [self._one_axis(m) for m in tree_leaves(result)]

    def _one_axis(self, labels: Tensor, axis: int | None = None) -> Tensor:
        """If a reshape has spread the channels over several axes, unite them along all but one axis (the last by default).

        A channel axis viewed as (groups, channels per group) is then cut at the same index of each group, as channel shuffle requires.
        """
        varying = self._varying(labels)
        if len(varying) > 1:
            keep = axis if axis in varying else varying[-1]
            for other in varying:
                if other != keep:
                    self._unite_along(labels, other)
        return labels

    def _parts(self, func: Any, args: Any, kwargs: Any) -> list[Tensor]:
        """Slice, chunk or split: channels are cut at the same index of each part, so that sizes computed from the shape stay correct."""
        labels = self._labels(args[0])
        for axis in self._varying(labels):
            size = labels.shape[axis]
            places = self._spread(torch.arange(size), axis, labels.shape)
            taken = [np.unique(compact(p).numpy()) for p in tree_leaves(func(places, *args[1:], **kwargs))]
            sizes = [len(t) for t in taken]
            if sizes and sizes[0] == size:
                continue
            if len(sizes) > 1 and sum(sizes) == size and self._hold(sizes, *torch.split_with_sizes(labels.movedim(axis, 0), sizes)):
                continue
            part = sizes[0] if sizes else 0
            if not part or size % part or any(len(t) != part or t[0] % part or t[-1] - t[0] != part - 1 for t in taken):
                self._freeze(labels)
                continue
            along = labels.movedim(axis, 0)
            self._unite_along(along.reshape(size // part, part, *along.shape[1:]), 0)
            self._hold(part, along[:part])
            self._hold(size, along)
        return [self._one_axis(m) for m in tree_leaves(func(labels, *args[1:], **kwargs))]

    def _set_item(self, target: Tensor, index: Any, value: Any) -> None:
        if not hasattr(target, ATTRIBUTE):
            self._unknown([value] if isinstance(value, Tensor) else [], [])
            return
        whole = self._labels(target)
        if isinstance(value, Tensor) and value.numel() > 1:
            self._unite(whole[index], self._labels(value))
        for axis in self._varying(whole):  # the code has the written indices as numbers, so channels must keep their positions
            places = self._spread(torch.arange(whole.shape[axis]), axis, whole.shape)
            if len(np.unique(places[index].numpy())) < whole.shape[axis]:
                self._freeze(whole)


def label(module: nn.Module, example: Tensor) -> ChannelLabels:
    """Run ``module`` once in eval mode and, if possible, once in training mode, where auxiliary heads also run.

    Args:
        module: the network; not changed.
        example: a small real input ``(1, C, H, W)``.

    Raises:
        TechniqueError: activation values decide which layers run, and some layers did not run.
    """
    module = copy.deepcopy(module).eval()
    labels = ChannelLabels(module)
    labels.run(module, example.clone())
    module.train()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._NormBase):
            child.eval()
    try:
        labels.run(module, example.clone())
    except Exception:  # for example an input too small for an auxiliary head; the network cannot be trained at this size anyway
        labels._running.clear()
    if labels.reads_values and (unseen := _unseen(module, labels)):
        raise TechniqueError(
            f"the network's forward chooses by the values in an image which layers run, and {', '.join(unseen[:4])} did not",
            "channels are cut in all layers that share them",
            "leave pruning out; or compute both branches and select with torch.where",
        )
    return labels


def _unseen(module: nn.Module, labels: ChannelLabels) -> list[str]:
    """The layers with weights that have not run in any forward pass."""
    seen = {name for name, _ in labels.dims}
    return [
        name
        for name, layer in module.named_modules()
        if (own := [f"{name}.{key}" if name else key for key, value in layer._parameters.items() if value is not None])
        and not seen.intersection(own)
    ]
