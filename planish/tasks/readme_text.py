"""What a bundle's README says of a task: in words, and in the last line of its Python."""

from __future__ import annotations

from dataclasses import dataclass

from planish.evaluation.drawing import LEAST_SCORE


@dataclass(frozen=True)
class Lines:
    """Of one task.

    Args:
        what: "A ... of so many classes".
        printed: a line that prints what was found, from ``y``, the image's outputs by name, and ``b``, what ``bundle.json`` holds.
        output: the one output that the line reads, by its own name; empty where it reads several.
    """

    what: str
    printed: str
    output: str = ""


_OBJECT = 'print(b["class_names"][y["labels"][i]], y["scores"][i], y["boxes"][i]'
_EACH = f'for i in np.flatnonzero(y["scores"] > {LEAST_SCORE}): '
_SHARES = 'for c, n in zip(*np.unique(y["classes"], return_counts=True)): print(b["class_names"][c], n / y["classes"].size)'

_LINES = {
    "classification": Lines("classifier", 'print(b["class_names"][int(logits[0].argmax())])', "logits"),
    "detection": Lines("detector of objects", f"{_EACH}{_OBJECT})"),
    "instance": Lines("detector of objects and their masks", f'{_EACH}{_OBJECT}, y["masks"][i].mean())'),
    "semantic": Lines("segmenter of pixels", _SHARES),
}


def lines(task: str) -> Lines:
    """Of the task of that name; of one that is not known, how large its outputs are."""
    return _LINES.get(task, Lines("model", "print({name: values.shape for name, values in y.items()})"))
