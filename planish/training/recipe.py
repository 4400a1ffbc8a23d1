"""Recipes: modifications of a network and its training settings, as YAML files that can be read, edited and shared."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Normalisation
from planish.data import images_per_class, task_in
from planish.errors import PlanError
from planish.files.reading import read_text
from planish.files.schema import SCHEMA_VERSION, require_version
from planish.files.yaml_text import parse_yaml
from planish.models.heads import torchvision as torchvision_heads
from planish.progress import note
from planish.tasks import recipe_of
from planish.technique import Technique, parameter_names, registered, resolve, wrong_values
from planish.training.settings import FitSettings

if TYPE_CHECKING:
    from planish.task import Task

# modifications of this package, in the order of application: those that change the structure come before those that depend on it
MODIFICATIONS = (
    "depth", "width", "kernels", "downsampling", "pooling", "squeeze_excitation", "norm", "activation", "initialization", "whitening",
    "dropout", "dropconnect", "stochastic_depth",
)  # fmt: skip
_DECLARED = "modification_after"  # attribute of other packages' techniques: name of the modification after which they are applied
_FEW = 300  # images per class
RECOVERY = "recovery"  # name of the recipe with the defaults of ``distill``
NOTHING = "none"  # value of a modification that is not applied
_KEPT = ("norm",)  # modifications for which "none" is a kind, which is applied

_Pixels = Annotated[int, Field(ge=8, le=2048)]
_BothSides = Annotated[str, Field(pattern=r"^\d{1,4}x\d{1,4}$")]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """How a network is modified and trained.

    Args:
        description: what the recipe is for.
        modifications: modifications to apply, by name, with their hyper-parameters; a single value stands for the first one:
            ``{"activation": "elu", "norm": {"kind": "group", "groups": 16}}``.
        training: hyper-parameters of the training.
        image_size: input size in pixels, or ``HEIGHTxWIDTH``; None for the size of the images, at most 224 (320 for detection and
            segmentation).
        normalisation: of pixels, by statistics of the dataset or of each image; see ``planish.artifact.Preprocessing``.
    """

    description: str = ""
    modifications: dict[str, Any] = Field(default_factory=dict)
    training: FitSettings = Field(default_factory=FitSettings)
    image_size: _Pixels | _BothSides | None = None
    normalisation: Normalisation = "dataset"
    schema_version: Literal[1] = 1

    def to_yaml(self) -> str:
        return yaml.safe_dump(TypeAdapter(Recipe).dump_python(self, mode="json"), sort_keys=False)

    def techniques(self) -> list[Technique]:
        """The modifications in the order in which they are applied.

        Raises:
            PlanError: a modification or one of its values is unknown.
        """
        found = []
        for name in modifications():
            value = self.modifications.get(name)
            if value is None or (value == NOTHING and name not in _KEPT):
                continue
            kind = resolve(name)
            given = value if isinstance(value, Mapping) else {parameter_names(kind)[0]: value}
            try:
                found.append(TypeAdapter(kind).validate_python(dict(given)))
            except ValidationError as error:
                raise PlanError(f"modifications.{name}: {value!r}", wrong_values(error)) from None
        return found


def modifications() -> tuple[str, ...]:
    """The names that a recipe may have under ``modifications``, in the order of application.

    Techniques of other packages (entry point ``planish.techniques``) are included if they have a class attribute ``modification_after``:
    the name of the modification that they directly follow. Several that follow the same one are sorted by name.

    Raises:
        PlanError: ``modification_after`` names an unknown modification.
    """
    waiting = {name: str(getattr(kind, _DECLARED)) for name, kind in registered().items() if hasattr(kind, _DECLARED)}
    ordered = list(MODIFICATIONS)
    while ready := sorted((name for name, after in waiting.items() if after in ordered), reverse=True):
        for name in ready:
            ordered.insert(ordered.index(waiting.pop(name)) + 1, name)
    if waiting:
        name, after = min(waiting.items())
        raise PlanError(
            f"the modification {name!r} is declared to follow {after!r}", f"modifications are {', '.join(ordered)}", "name one of these"
        )
    return tuple(ordered)


def shipped() -> dict[str, Recipe]:
    """The recipes included in the package, by name."""
    return {name: load_recipe(name) for name in _names()}


def load_recipe(source: str | Path) -> Recipe:
    """Load a recipe.

    Args:
        source: name of a recipe included in the package, or a YAML or JSON file. With the key ``base: NAME``, the file needs to hold only
            the differences to that recipe, which may also be a file; its path is relative to the folder of this one.

    Raises:
        PlanError: there is no such recipe, or it has an unknown key or value; the message suggests the nearest known key.
    """
    return _load(source, ())


def _load(source: str | Path, derived: tuple[Path, ...]) -> Recipe:
    """Load a recipe that is, directly or not, the base of those in the files ``derived``."""
    path = Path(source)
    if str(source) in _names():
        text = (_FOLDER / f"{source}.yaml").read_text()
    else:
        if path.resolve() in derived:
            raise PlanError(
                f"the recipe {path} is its own base", "a base is another recipe", f"bases are {', '.join(_names())}, or a YAML file"
            )
        if path.suffix not in (".yaml", ".yml", ".json"):
            near = difflib.get_close_matches(str(source), _names(), n=1)
            raise PlanError(
                f"there is no recipe {str(source)!r}",
                f"recipes are {', '.join(_names())}, or a YAML file",
                f"did you mean {near[0]!r}?" if near else "",
            )
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:
            raise PlanError(f"cannot read the recipe {path}: {error}") from None
    try:
        given = parse_yaml(text)
    except ValueError as error:
        raise PlanError(f"the recipe {source} is not YAML: {error}") from None
    if not isinstance(given, dict):
        raise PlanError(f"the recipe {source} is not a mapping", f"its keys are {', '.join(_TOP)}")
    if SCHEMA_VERSION in given:  # recipes written by hand may omit it
        require_version(given, Recipe, f"the recipe {source}", "change it to that", PlanError)
        del given[SCHEMA_VERSION]
    base = Recipe()
    if "base" in given:
        name = str(given.pop("base"))
        base = _load(name if name in _names() or not Path(name).suffix else path.parent / name, (*derived, path.resolve()))
    return _with(base, _flat(given))


def default_recipe(pretrained: bool, images_per_class: float, of_task: str = "") -> Recipe:
    """The default recipe: that of the task (``Task.recipe``) or, if it has none, one chosen by whether the network is pretrained and by the
    number of training images per class.
    """
    if of_task:
        return load_recipe(of_task)
    return load_recipe("scratch-small" if not pretrained else "finetune-few" if images_per_class <= _FEW else "finetune-many")


def recipe_for(of_task: str, model: object) -> str:
    """The name of a task's recipe for a model; torchvision's detectors and segmenters have recipes of their own for some tasks.

    Args:
        of_task: name of the task's recipe (``Task.recipe``); may be empty.
        model: name of the model, with or without ``torchvision:``; any other object is not a torchvision model.
    """
    name = model.removeprefix("torchvision:") if isinstance(model, str) else ""
    theirs = f"{of_task}-torchvision"
    return theirs if theirs in _names() and torchvision_heads.has_head(name) else of_task


def resolved_recipe(
    recipe: Recipe | str | Path | None,
    changes: Iterable[str],
    data: str | Path,
    pretrained: bool,
    task: str | None = None,
    model: object = None,
) -> Recipe:
    """The recipe to use, with changes applied.

    Args:
        recipe: a recipe, or its name or file; None for the default for data, task and model.
        changes: assignments, see ``set_values``.
        data: the images, used to choose the default.
        pretrained: whether the network has given weights.
        task: name of the task; None to infer it from the data.
        model: the model or its name.
    """
    if recipe is None:
        of_task = recipe_for(recipe_of(task or task_in(data)), model)
        recipe = default_recipe(pretrained, 0 if of_task else images_per_class(data), of_task)
    return set_values(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), changes)


def warn_of_fresh_weights(named: Recipe | str | Path | None, pretrained: bool) -> None:
    """Warn if the recipe ``recovery``, made for trained networks, is used with randomly initialised weights.

    Args:
        named: the recipe as the user specified it.
        pretrained: whether the network has given weights.
    """
    if named == RECOVERY and not pretrained:
        note(
            f"the recipe {RECOVERY} is for recovering the accuracy of a compressed network, and this one has random weights; "
            "scratch-small is made for those"
        )


def set_values(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """A copy of a recipe with some values changed.

    Args:
        recipe: the recipe, not changed.
        assignments: ``training.epochs=10``, ``modifications.activation=elu``, ``modifications.norm.groups=16``; the prefix ``training.`` or
            ``modifications.`` may be omitted: ``epochs=10``.

    Raises:
        PlanError: an assignment is malformed, or has an unknown key or value.
    """
    values = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise PlanError(f"{assignment!r} is not an assignment", "it is KEY=VALUE", "for example training.epochs=10")
        values[full_key(key)] = parse_value(value)
    return _with(recipe, values)


def parse_value(text: str) -> Any:
    """Parse a value from the command line: ``10``, ``0.5``, ``true``, ``elu``."""
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def full_key(key: str) -> str:
    """The full key: ``training.epochs`` for ``epochs``, ``modifications.activation`` for ``activation``.

    Raises:
        PlanError: there is no such key; the message suggests the nearest one.
    """
    first, _, rest = key.partition(".")
    if key in _TOP and key not in ("modifications", "training"):
        return key
    if first == "training" and rest in _SETTINGS:
        return key
    known_modifications = modifications()
    if first == "modifications" and rest.partition(".")[0] in known_modifications:
        return key
    if first in known_modifications:
        return f"modifications.{key}"
    if key in _SETTINGS:
        return f"training.{key}"
    known = [*_SETTINGS, *known_modifications, *_TOP]
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    raise PlanError(
        f"there is no key {key!r} in a recipe",
        f"modifications are {', '.join(known_modifications)}; of training there are {', '.join(_SETTINGS)}",
        f"did you mean {near[0]!r}?" if near else "",
    )


def apply_modifications(artifact: Artifact, task: Task, modifications: Sequence[Technique]) -> Artifact:
    """Apply modifications to an artifact. The result is a new starting point and not a compressed form of the old one, so it has no
    ``original``.

    Raises:
        TechniqueError: a modification does not apply to this network.
    """
    for modification in modifications:
        artifact = modification.apply(artifact, task)
    return replace(artifact, original=None)


_FOLDER = files("planish.training") / "recipes"
_TOP = tuple(one.name for one in fields(Recipe) if one.name != SCHEMA_VERSION)
_EXAMPLES = {"training": "training: {epochs: 10}", "modifications": "modifications: {activation: elu}"}
_SETTINGS = tuple(one.name for one in fields(FitSettings))


def _names() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten ``{"training": {"epochs": 10}}`` to ``{"training.epochs": 10}``; values of modifications are not flattened."""
    pairs: list[tuple[str, Any]] = []
    for key, value in given.items():
        if key not in ("training", "modifications"):
            pairs.append((full_key(str(key)), value))  # keys in YAML may be of any type
        elif isinstance(value, Mapping):
            pairs += [(full_key(f"{key}.{name}"), inner) for name, inner in value.items()]
        elif value is not None:  # all its keys may be commented out
            raise PlanError(f"{key}: {value!r:.80}", f"{key} of a recipe is a mapping", f"for example {_EXAMPLES[key]}")
    values = dict(pairs)
    if len(values) < len(pairs):
        again = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise PlanError(f"the key {again!r} is given twice, with and without its prefix", "a key has one value", "remove one")
    return values


def _with(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    whole = TypeAdapter(Recipe).dump_python(recipe, mode="json")
    for key, value in values.items():
        first, _, rest = key.partition(".")
        name, _, part = rest.partition(".")
        if not rest:
            whole[first] = value
        elif part:
            now = whole[first].get(name)
            if not isinstance(now, dict):  # a single value stands for the first hyper-parameter
                off = now is None or (now == NOTHING and name not in _KEPT)
                now = {} if off else {parameter_names(resolve(name))[0]: now}
            whole[first][name] = now | {part: value}
        else:
            whole[first][name] = value
    try:
        changed = TypeAdapter(Recipe).validate_python(whole)
    except ValidationError as error:
        raise PlanError("the recipe does not fit together", wrong_values(error)) from None
    changed.techniques()  # raises for wrong values of modifications
    return changed
