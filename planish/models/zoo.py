"""Networks by name (this package, torchvision, timm or user code), with or without weights, adapted to the images."""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from planish.artifact import Source
from planish.errors import ModelError, WeightsMissingError, first_line
from planish.files.trust import file_sha256, trust
from planish.models.builtin import NAMES, build_builtin, is_builtin
from planish.models.detection import Detector
from planish.models.detection.levels import (
    DETECTIONS,
    Levels,
    TrainingBoxes,
    choose_levels,
    describe_reach,
    detections_for,
    levels_in,
    nearest_multiples,
    require_reach,
)
from planish.models.factories import from_file, from_package, installed_models
from planish.models.heads import torchvision as torchvision_heads
from planish.models.heads.backbone import map_strides
from planish.models.heads.build import Head, head_for, with_head
from planish.models.heads.stem_and_classifier import (
    WATCH_SIZE,
    ImageSides,
    both_sides,
    find_classifier,
    logits_layer,
    replace_classifier,
    set_input_channels,
    shrink_stem,
)
from planish.models.outputs import decodes
from planish.models.plain import bake_norms, check_eval_outputs, check_training_outputs, unwrapped
from planish.models.raw_outputs import with_named_outputs
from planish.models.weights.checkpoints import State, aligned, read_checkpoint
from planish.models.weights.loading import fit_weights, read_weights
from planish.task import OUTPUTS

# Up to this image size, a stem made for 224 pixels discards too much resolution: the last maps of a ResNet would have one pixel. At 64
# pixels the changed stem would make a ResNet-18 16 times as expensive. See ``heads.stem_and_classifier.shrink_stem``.
SMALL_IMAGE = 48
_WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors", ".bin")
_AUXILIARY = ("aux", "AuxLogits")  # auxiliary classifiers, which GoogLeNet and Inception use when trained from scratch


@dataclass(frozen=True)
class Created:
    """A network ready to be trained or used.

    Args:
        source: description from which ``build`` builds the network again.
        module: takes normalised float images ``(N, C, H, W)``, returns logits ``(N, num_classes)`` or, for a detector or segmenter, its raw
            outputs.
        notes: messages about what was decided or changed.
        pretrained: whether the network has given weights (from the library, a file, or the module that was passed).
        new_classifier: whether the classifier is newly initialised, so that the network must be trained before use.
        mean: channel means that the weights expect, on the 0..1 scale; None if unknown.
        std: channel standard deviations that the weights expect, on the 0..1 scale; None if unknown.
    """

    source: Source
    module: nn.Module
    notes: tuple[str, ...]
    pretrained: bool
    new_classifier: bool
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def create(
    model: str | nn.Module,
    *,
    num_classes: int,
    channels: int,
    image_size: ImageSides,
    weights: str | Path | None = None,
    task: str = "classification",
    training: TrainingBoxes | None = None,
) -> Created:
    """Create a network for a task and an image format. New layers are initialised from torch's global random state.

    Args:
        model: ``resnet20``, ``resnet14x2`` (of this package, see ``builtin.NAMES``), ``searched:c16s1-r32n2k3s2`` (see ``models.space``), a
            name that another package adds (entry point ``planish.models``), ``torchvision:NAME``, ``timm:NAME``, a bare NAME (looked up in
            that order), ``FILE.py:factory``, or an ``nn.Module``. A factory is called with those of ``num_classes`` and ``channels`` (or
            ``in_chans``, ``in_channels``) that its signature has.
        num_classes: number of classes.
        channels: image channels, 1 or 3.
        image_size: height and width in pixels, or one number for both. If the shorter side is at most ``SMALL_IMAGE``, the stem of a
            library's network is changed, unless the weights include a classifier that fits: such a network was trained with its own stem.
        weights: ``imagenet`` for the library's pretrained weights, or a file (see ``weights.loading.read_weights``).
        task: name of the task. For detection and segmentation, the named network becomes the backbone; an ``nn.Module`` or a factory's
            network that has a ``decode`` method is used as a complete detector or segmenter.
        training: input size and training boxes by which a detector's levels are chosen; None for images of ``image_size`` and
            unknown boxes.

    Raises:
        ModelError: an unknown name, a network that does not run on such images, or weights that do not fit.
    """
    if task == OUTPUTS:
        return _with_raw_outputs(model, channels, image_size, weights)
    if (head := head_for(task)) is not None:
        training = training or TrainingBoxes(partial(nearest_multiples, *both_sides(image_size)))
        return _with_head(model, num_classes, channels, image_size, weights, task, training, head)
    if isinstance(model, nn.Module):
        return _handed_over(model, Source("module", num_classes, channels, task=task), image_size, weights)
    if not isinstance(model, str):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ModelError(
            f"{kind} as the network", "it is a torch.nn.Module or the name of a network", "hand over an instance, weights apart"
        )
    name = full_name(model)
    source = Source(name, num_classes, channels, sha256=_trusted_sha256(name), task=task)
    module, unwrapping = _built(source, image_size=image_size)
    state = None if weights is None else _library_weights(name) if weights == "imagenet" else read_weights(Path(weights), module)
    notes = [*([] if name == model else [f"{model} is {name}"]), *unwrapping]
    library = name.startswith(("torchvision:", "timm:"))
    if library and (shorter := min(both_sides(image_size))) <= SMALL_IMAGE:
        small = f"images of {shorter} pixels are small"
        if state is not None and _has_classifier(state, module, channels):
            notes.append(f"{small}, but the weights come with a classifier that fits, so the stem stays as they were trained")
        elif did := shrink_stem(module, channels):
            notes.append(f"{small}, so the stem keeps their resolution: {did}")
            source = replace(source, small_stem=True)
    classifier = _check_classifier(module, num_classes, channels, image_size, name)
    new_classifier, mean, std = True, None, None
    if state is not None:
        new_classifier, did_fit = fit_weights(module, state, classifier, _AUXILIARY if library else ())
        notes += did_fit
        mean, std = _normalisation(name, module, channels)
        if mean is not None and str(weights) != "imagenet":
            notes.append(f"{weights} is taken to expect the normalisation of {name}'s own weights")
    notes += bake_norms(module)
    if not library and not is_builtin(name):
        notes += check_eval_outputs(module, channels, image_size)
        notes += check_training_outputs(module, channels, image_size, num_classes)
    return Created(source, module, tuple(notes), state is not None, new_classifier, mean, std)


def build(source: Source, module: nn.Module | None = None, image_size: ImageSides = WATCH_SIZE) -> nn.Module:
    """Build the network that ``source`` describes, without its weights.

    Args:
        source: from ``Created.source`` or an artifact's lineage.
        module: the ``nn.Module`` that was passed originally, for ``source.name == "module"``; it is copied.
        image_size: an image size that such a network runs on; needed with ``module``, and for ONNX files that take several sizes.

    Raises:
        ModelError: the network cannot be built here: no module is given, or its file is missing or was changed.
    """
    built, _ = _built(source, module, image_size)
    bake_norms(built)
    return built


def _built(source: Source, module: nn.Module | None = None, image_size: ImageSides = WATCH_SIZE) -> tuple[nn.Module, list[str]]:
    """``build`` without baking in weight norm and other parametrizations; also returns messages about removed wrappers."""
    if source.name in _with_own_head(source.task):
        return torchvision_heads.build(source.name.rpartition(":")[2], source.num_classes, source.channels, source.detections), []
    if source.strides:
        backbone = build(replace(source, task=Source.task, strides=()), module)
        return with_head(backbone, source), []
    if source.name == "module":
        if module is None:
            raise ModelError(
                "this model started from a network that was handed over in Python",
                "its code is not part of what was saved",
                "give it again: load_artifact(folder, module=...)",
            )
        module, notes = unwrapped(module, source.channels, image_size)
        if source.task == OUTPUTS:
            return with_named_outputs(module, source.channels, image_size), notes
        if not decodes(module):
            _, outputs = logits_layer(module, source.channels, image_size)
            if outputs != source.num_classes:
                classifier, _ = find_classifier(module, source.channels, image_size)
                module = replace_classifier(module, classifier, source.num_classes)
        return module, notes
    if ".onnx:" in source.name:
        from planish.models.onnx.networks import classifier_from_file, network_from_file

        path, _, output = source.name.partition(".onnx:")
        file, size = Path(f"{path}.onnx"), both_sides(image_size)
        if source.task == OUTPUTS:
            return network_from_file(file, source, size), []
        return classifier_from_file(file, output, source, size), []
    kind, _, name = source.name.rpartition(":")
    if source.name in installed_models() and not is_builtin(source.name):
        return unwrapped(from_package(source), source.channels, image_size)
    if kind == "" or is_builtin(source.name):
        return build_builtin(source.name, source.num_classes, source.channels), []
    if kind not in ("torchvision", "timm"):
        module, notes = unwrapped(from_file(Path(kind), name, source), source.channels, image_size)
        return with_named_outputs(module, source.channels, image_size) if source.task == OUTPUTS else module, notes
    built = _torchvision(name, source.num_classes) if kind == "torchvision" else _timm(name, source.num_classes)
    if source.channels != 3:
        set_input_channels(built, source.channels)
    if source.small_stem:
        shrink_stem(built, source.channels)
    return built, []


def names() -> list[str]:
    """All names that ``create`` takes: networks of this package (each may have a width factor, ``resnet14x2``), of other packages (entry
    point ``planish.models``), of torchvision and of timm."""
    import timm
    import torchvision

    torchvisions = torchvision.models.list_models(module=torchvision.models)
    return [
        *NAMES,
        *installed_models(),
        *(f"torchvision:{name}" for name in torchvisions),
        *(f"timm:{name}" for name in timm.list_models()),
    ]


def _handed_over(module: nn.Module, source: Source, image_size: ImageSides, weights: str | Path | None) -> Created:
    if weights == "imagenet":
        raise ModelError("weights 'imagenet' for a network handed over in Python", "it comes with its own weights", "leave weights away")
    classes, channels = source.num_classes, source.channels
    inner, notes = unwrapped(module, channels, image_size)
    classifier, had = logits_layer(inner, channels, image_size)
    built, _ = _built(source, inner, image_size)
    notes += [] if had == classes else [f"the network has {had} outputs: a fresh classifier of {classes} takes their place"]
    new_classifier = had != classes
    if weights is not None:
        new_classifier, did = fit_weights(built, read_weights(Path(weights), built), classifier)
        notes += did
    notes += bake_norms(built) + check_eval_outputs(built, channels, image_size)
    notes += check_training_outputs(built, channels, image_size, classes)
    return Created(source, built, tuple(notes), True, new_classifier, None, None)


def _with_raw_outputs(model: str | nn.Module, channels: int, image_size: ImageSides, weights: str | Path | None) -> Created:
    """A network whose outputs are compared as they are: a module or a factory's."""
    given = model if isinstance(model, nn.Module) else None
    name = "module" if given is not None else full_name(str(model))
    if name.startswith(("torchvision:", "timm:")) or is_builtin(name):
        raise ModelError(f"the outputs of {name}", "it is a classifier, whose answers are compared", "leave --task away")
    source = Source(name, 1, channels, sha256=_trusted_sha256(name), task=OUTPUTS)
    module, notes = _built(source, given, image_size)
    if weights is not None:
        notes += fit_weights(module, read_weights(Path(weights), module), None)[1]
    notes += bake_norms(module)
    return Created(source, module, tuple(notes), True, False, None, None)


def _with_head(
    model: str | nn.Module,
    num_classes: int,
    channels: int,
    image_size: ImageSides,
    weights: str | Path | None,
    task: str,
    training: TrainingBoxes,
    head: Head,
) -> Created:
    detections, limits = DETECTIONS, list[str]()
    if head.boxes:
        detections, limits = detections_for(training.boxes, masks=head.masks)
    detections = training.detections or detections
    if isinstance(model, str) and (known := f"torchvision:{model.removeprefix('torchvision:')}") in _with_own_head(task):
        created = _torchvisions_own(Source(known, num_classes, channels, task=task, detections=detections), weights)
        return replace(created, notes=(*created.notes, *limits))
    name = "module" if isinstance(model, nn.Module) else full_name(model)
    source = Source(name, num_classes, channels, sha256=_trusted_sha256(name), task=task, detections=detections)
    given = model if isinstance(model, nn.Module) else None
    own, did = None, list[str]()
    if decodes(given) or name.rpartition(":")[0].endswith(".py") or (name in installed_models() and not is_builtin(name)):
        own, did = _built(source, given)
    if own is not None and decodes(own):
        if weights is not None:
            did += fit_weights(own, read_weights(Path(weights), own), None)[1]
        did += bake_norms(own)
        if isinstance(own, Detector):
            require_reach(Levels(own.strides, own.bins), *training.sides(max(own.strides)))
        return Created(source, own, tuple(did), given is not None or weights is not None, False, None, None)
    classes = 1000 if weights == "imagenet" else num_classes
    classifier = create(model, num_classes=classes, channels=channels, image_size=WATCH_SIZE)
    state = None if weights is None or weights == "imagenet" else read_checkpoint(Path(weights))
    module, source, adapted = _on_maps(classifier.module, source, image_size, training, state or {}, head)
    if state is not None and len(state) == len(module.state_dict()):
        state = aligned(state, module.state_dict())
    notes = [f"{task} by a pyramid on the maps of {name} at strides {', '.join(map(str, source.strides))}", *adapted, *limits]
    if state is not None and _fits(state, module):
        module.load_state_dict(state)
        return Created(source, module, tuple(notes), True, False, None, None)
    if weights is not None:
        weighted = create(model, num_classes=classes, channels=channels, image_size=WATCH_SIZE, weights=weights)
        module = with_head(weighted.module, source)
        return Created(source, module, tuple(notes), True, True, weighted.mean, weighted.std)
    return Created(source, module, tuple(notes), False, True, None, None)


def _with_own_head(task: str) -> list[str]:
    """Full names of torchvision's detectors or segmenters for a task."""
    return [] if head_for(task) is None else [f"torchvision:{name}" for name in torchvision_heads.names(task)]


def _torchvisions_own(source: Source, weights: str | Path | None) -> Created:
    """A detector or segmenter of torchvision, with those weights of a file that fit."""
    module = build(source)
    if weights is None:
        return Created(source, module, (), False, True, None, None)
    if weights == "imagenet":
        raise ModelError(f"weights 'imagenet' for {source.name}", "torchvision publishes COCO's for it", "give a file of weights")
    given = read_weights(Path(weights), module)
    wanted = module.state_dict()
    fitting = {name: value for name, value in given.items() if name in wanted and wanted[name].shape == value.shape}
    if not fitting:
        raise ModelError(f"nothing in {weights} fits {source.name}", "its names are those of torchvision's state_dict")
    module.load_state_dict(wanted | fitting)
    fresh = sorted(wanted.keys() - fitting.keys())
    named = ", ".join(fresh[:6]) + ", ..." * (len(fresh) > 6)
    notes = (f"{len(fitting)} tensors come from {weights}; fresh are {named}",) if fresh else ()
    mean, std = torchvision_heads.normalisation(module)
    return Created(source, module, notes, True, bool(fresh), *((mean, std) if source.channels == 3 else (None, None)))


def _on_maps(
    classifier: nn.Module, source: Source, image_size: ImageSides, training: TrainingBoxes, state: State, head: Head
) -> tuple[nn.Module, Source, list[str]]:
    """A detector or segmenter on a backbone, the source to rebuild it (its levels adapted to images and boxes), and messages about changes.

    If ``state`` holds the weights of a whole trained detector, that detector's levels are used.
    """
    for levels in levels_in(state) if head.boxes else ():
        trained = replace(source, strides=levels.strides, bins=levels.bins)
        try:
            module = with_head(copy.deepcopy(classifier), trained)
        except ModelError:  # the backbone has no such maps
            continue
        if _fits(state, module):
            height, width = training.sides(max(levels.strides))
            require_reach(levels, height, width)
            return module, trained, [describe_reach(training.boxes, height, width, levels)] if any(map(len, training.boxes)) else []
    available = map_strides(classifier, source.channels)
    strides = head.strides_for(min(both_sides(image_size)), 8 if 8 in available else 4)
    source, notes = replace(source, strides=strides), list[str]()
    if head.boxes:
        levels, notes = choose_levels(strides, training, available)
        source = replace(source, strides=levels.strides, bins=levels.bins)
    return with_head(copy.deepcopy(classifier), source), source, notes


def _fits(state: State, module: nn.Module) -> bool:
    own = module.state_dict()
    return state.keys() == own.keys() and all(value.shape == own[name].shape for name, value in state.items())


def _has_classifier(state: State, module: nn.Module, channels: int) -> bool:
    key = find_classifier(module, channels, WATCH_SIZE)[0] + ".weight"
    return key in state and state[key].shape == module.get_parameter(key).shape


def full_name(name: str) -> str:
    """The full name: ``torchvision:resnet18`` for ``resnet18``; the path of a factory's file is made absolute."""
    kind, colon, rest = name.rpartition(":")
    if kind.endswith(".py"):
        return f"{Path(kind).resolve().as_posix()}:{rest}"
    if is_builtin(name) or name in installed_models():
        return name
    if name.endswith(_WEIGHTS):
        raise ModelError(
            f"{name} is a file of weights", "a network is code, which such files do not hold", "give --weights, and its network"
        )
    if name.endswith((".py", ".onnx")):
        fix = "name the function: FILE.py:factory" if name.endswith(".py") else "optimize and explain take it"
        raise ModelError(f"{name} names no network that can be trained", "it is a function in a Python file, or a library's network", fix)
    if "timm/" in name:  # Hugging Face's name of timm networks: hf-hub:timm/NAME
        return full_name(f"timm:{name.rpartition('timm/')[2]}")
    if colon and kind not in ("torchvision", "timm"):
        raise ModelError(f"no network is called {name!r}", "before the colon stands 'torchvision', 'timm' or a FILE.py")
    import torchvision

    if kind != "timm" and rest in torchvision.models.list_models(module=torchvision.models):
        return f"torchvision:{rest}"
    import timm

    if kind != "torchvision" and timm.is_model(rest):
        return f"timm:{rest}"
    known = [n for n in names() if not colon or n.startswith(kind)]
    short = {n.rpartition(":")[2]: n for n in reversed(known)}
    near = [short[n] for n in difflib.get_close_matches(rest, short, n=3)]
    raise ModelError(
        f"no network is called {name!r}",
        "a network is one of ours (" + ", ".join((*NAMES, *installed_models())) + "), torchvision:NAME, timm:NAME or FILE.py:factory",
        f"did you mean {' or '.join(near)}?" if near else "see planish.models.names()",
    )


def _torchvision(name: str, num_classes: int, **more: Any) -> nn.Module:
    import torchvision

    if name in ("googlenet", "inception_v3"):  # auxiliary classifiers make the output a tuple, and without init_weights torchvision warns
        more |= {"aux_logits": False, "init_weights": True} if "weights" not in more else {}
    return cast(nn.Module, torchvision.models.get_model(name, num_classes=num_classes, **more))


def _timm(name: str, num_classes: int) -> nn.Module:
    import timm

    try:
        return cast(nn.Module, timm.create_model(name, num_classes=num_classes))
    except RuntimeError as error:  # a weights tag that timm does not have
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ModelError(f"timm cannot make {name}: {first_line(error)}", f"it has {', '.join(tags[:8]) or 'no weights for it'}") from error


def factory_file(name: str) -> Path | None:
    """The Python file of ``FILE.py:factory``; None for any other name.

    Raises:
        ModelError: the file does not exist.
    """
    kind = name.rpartition(":")[0]
    if not kind.endswith(".py"):
        return None
    if not Path(kind).is_file():
        raise ModelError(f"there is no file {kind}", "a network may be given as FILE.py:function")
    return Path(kind)


def _trusted_sha256(name: str) -> str:
    """SHA-256 of a factory's file, which is marked as trusted because the user named it; empty for any other name."""
    file = factory_file(name)
    if file is None:
        return ""
    trust(file)
    return file_sha256(file)


def _check_classifier(module: nn.Module, num_classes: int, channels: int, image_size: ImageSides, name: str) -> str | None:
    """Run the network on an image of this size, check its number of outputs, and return the name of the classifier layer if it has one."""
    classifier, outputs = logits_layer(module, channels, image_size)
    if outputs != num_classes:
        one = outputs == 1 and num_classes == 2
        fix = (
            "for one logit z of the second class return torch.cat([torch.zeros_like(z), z], 1)"
            if one
            else "let the factory take num_classes"
        )
        raise ModelError(f"{name} returns {outputs} logit{'s' * (outputs != 1)}", f"the data has {num_classes} classes", fix)
    return classifier


def _library_weights(name: str) -> State:
    """The weights that a library publishes for its network, downloaded unless they are cached."""
    kind, _, short = name.rpartition(":")
    if kind not in ("torchvision", "timm"):
        raise WeightsMissingError(
            f"there are no ImageNet weights for {name}", "torchvision's and timm's networks have them", "give a file of weights"
        )
    try:
        if kind == "torchvision":
            return _torchvision(short, 1000, weights="DEFAULT").state_dict()
        import timm

        return cast(State, timm.create_model(short, pretrained=True).state_dict())
    except Exception as error:  # urllib, requests and the Hugging Face hub each raise their own errors
        raise WeightsMissingError(
            f"the ImageNet weights of {name} cannot be had: {first_line(error)}",
            "they are downloaded once, then cached",
            "where there is no network, bring the file and give --weights FILE",
        ) from error


def _normalisation(name: str, module: nn.Module, channels: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation that a library's weights were trained with; averaged over the channels for grey images."""
    kind, _, short = name.rpartition(":")
    if kind == "timm":
        config = cast(dict[str, Any], module.pretrained_cfg)
        mean, std = tuple(config["mean"]), tuple(config["std"])
    elif short in ("googlenet", "inception_v3"):
        mean, std = (0.5,) * 3, (0.5,) * 3  # these two, ported from TensorFlow, undo torchvision's normalisation internally
    elif kind == "torchvision":
        import torchvision

        preset = torchvision.models.get_model_weights(short).DEFAULT.transforms()
        mean, std = tuple(preset.mean), tuple(preset.std)
    else:
        return None, None
    return (mean, std) if channels == 3 else ((sum(mean) / len(mean),), (sum(std) / len(std),))
