"""Names of metrics as the user writes them: ``balanced-accuracy``, ``map50``, ``recall:hat``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from planish.errors import DataError, GoalError
from planish.task import SplitName, Task

_SHOWN_CLASSES = 20


def parse_metric(text: str, task: str, whole: Mapping[str, str], of_class: Sequence[str], class_names: Sequence[str]) -> str:
    """Return the name of a metric in the form that measurements have: ``f1_macro``, ``map_50``, ``recall:hat``.

    Capitals do not matter, and neither does whether words are joined by ``_``, ``-`` or a space.

    Args:
        text: the metric as the user wrote it.
        task: name of the task, for the message.
        whole: names of measurements by the names that the user writes, for metrics of all classes; the former are accepted as well.
        of_class: metrics of a single class, written ``recall:CLASS``.
        class_names: the classes.

    Raises:
        GoalError: the task has no such metric, or there is no such class; the message suggests the nearest one.
    """
    kind, colon, label = text.partition(":")
    kind = kind.strip().lower().replace("-", "_").replace(" ", "_")
    rule = f"metrics of {task} are {', '.join((*whole, *(f'{name}:CLASS' for name in of_class)))}"
    if not colon and kind in (*whole, *whole.values()):
        return whole.get(kind, kind)
    if kind in of_class:
        return f"{kind}:{_class_named(text, label, class_names)}"
    if kind in whole:
        raise GoalError(f"--metric {text}", f"{kind} is of all classes; {rule}", f"did you mean {kind!r}?")
    near = difflib.get_close_matches(kind, [*whole, *of_class], n=1)
    fix = f"did you mean {near[0] + (':CLASS' if near[0] in of_class else '')!r}?" if near else ""
    raise GoalError(f"--metric {text}", rule, fix)


def _class_named(text: str, label: str, class_names: Sequence[str]) -> str:
    if label in class_names:
        return label
    alike = [name for name in class_names if name.casefold() == label.strip().casefold()]
    if len(alike) == 1:
        return alike[0]
    shown = ", ".join(class_names[:_SHOWN_CLASSES]) + f" and {len(class_names) - _SHOWN_CLASSES} more" * (len(class_names) > _SHOWN_CLASSES)
    folded = {name.casefold(): name for name in class_names}
    near = [folded[each] for each in difflib.get_close_matches(label.casefold(), folded, n=1)]
    kind = text.partition(":")[0]
    what = f"there is no class {label!r}" if label else "no class is named"
    fix = f"did you mean {f'{kind}:{near[0]}'!r}?" if near else f"for example --metric {kind}:{class_names[0]}" if class_names else ""
    raise GoalError(f"--metric {text}: {what}", f"classes are {shown}", fix)


def require_defined(task: Task, splits: Iterable[SplitName]) -> None:
    """Check that the task's primary metric is defined on splits: that they have images of its class.

    Raises:
        DataError: it is not; the message names the split.
    """
    for name in splits:
        try:
            task.guessing(task.split(name).targets)
        except DataError as error:
            raise DataError(f"the {name} split has {error.received}", error.rule, error.fix) from None
