"""Convert the signature of a command to its command-line arguments."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import Parameter, Token


class _NotOnCommandLine:
    """A stand-in for types that are only imported for type checkers, and that cannot be given on a command line."""

    def __class_getitem__(cls, item: object) -> type:
        return cls


class _Names(Mapping[str, Any]):
    """The namespace for evaluating annotations; unknown names become ``_NotOnCommandLine``, so that PyTorch need not be imported."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known

    def __getitem__(self, name: str) -> Any:
        return self._known[name] if name in self._known else getattr(builtins, name, _NotOnCommandLine)

    def __iter__(self) -> Iterable[str]:  # type: ignore[override]
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def arguments(command: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a command that can be given on a command line, with types that cyclopts supports.

    A union is reduced to the member that can be written: ``str | Path | Recipe`` to text, ``float | Sequence[float]`` to comma-separated
    numbers. Other parameters, such as callbacks, are omitted.
    """
    found = []
    for parameter in inspect.signature(command).parameters.values():
        annotation = eval(parameter.annotation.replace("nn.Module", "Module"), {}, _Names(command.__globals__))
        written = _written(annotation)
        if written is None:
            continue
        default = parameter.default
        if isinstance(default, tuple):
            default = list(default) or None
        if isinstance(default, list):
            written = Annotated[written, Parameter(show_default=",".join(map(str, default)))]
        if isinstance(default, bool) and written is bool:
            written = Annotated[bool, Parameter(show_default=False)]
        positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        kind = inspect.Parameter.POSITIONAL_ONLY if positional else parameter.kind
        found.append(parameter.replace(annotation=written, default=default, kind=kind))
    return found


def _written(annotation: Any) -> Any:
    """Return the command-line type of an annotation; None if it has none."""
    if get_origin(annotation) is Annotated:
        inner, *rest = get_args(annotation)
        written = _written(inner)
        return None if written is None else Annotated[(written, *rest)]
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    optional = type(None) in members
    for wanted in (_lists_of_text, _lists_of_numbers, _texts, _simple):
        if (written := wanted(members)) is not None:
            return written | None if optional or wanted is _lists_of_text else written
    return None


def _texts(members: Sequence[Any]) -> Any:
    return str if str in members or Path in members else None


def _simple(members: Sequence[Any]) -> Any:
    return next((one for one in members if one in (bool, int, float) or get_origin(one) is Literal), None)


def _lists_of_text(members: Sequence[Any]) -> Any:
    for one in members:
        if get_origin(one) in (Sequence, list) and set(get_args(get_args(one)[0]) or get_args(one)) & {str, Path}:
            return list[str]
    return None


def _lists_of_numbers(members: Sequence[Any]) -> Any:
    for one in members:
        if get_origin(one) is Sequence and get_args(one)[0] in (int, float):
            kind = get_args(one)[0]
            return Annotated[list[kind], Parameter(converter=_numbers_of(kind), n_tokens=1)]  # type: ignore[valid-type]
    return None


def _numbers_of(kind: type) -> Callable[[Any, Sequence[Token]], Any]:
    def convert(_: Any, tokens: Sequence[Token]) -> list[Any]:
        try:
            return [kind(part) for part in tokens[0].value.split(",")]
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise ValueError(f"{tokens[0].value} cannot be read. It is {what} with commas between.") from None

    return convert
