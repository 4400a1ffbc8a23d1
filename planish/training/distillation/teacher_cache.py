"""A teacher is asked once about each image: rounds of recovery that see the same views share its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_structure, tree_unflatten

from planish.models.storage import fingerprint

_MOST_BYTES = 512 * 2**20


class TeacherCache:
    """What one teacher answered, by the images it was shown.

    Images that are not augmented come again in every epoch. Augmented ones come again in other trainings: with one seed the n-th epoch of
    each shows the same views, so that the candidates of a search, and the rounds that each is given, ask the same questions.

    Args:
        at_once: images that the teacher is always shown together. The last bits of a convolution differ with their number, and an answer
            must not depend on what is known already: a training that is resumed knows nothing.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._known: dict[bytes, Any] = {}
        self._bytes = 0

    def ask(self, images: Tensor, teacher: Callable[[list[int]], Any]) -> Any:
        """The answers to ``images``, a tensor or tensors by name, first axis N.

        Args:
            images: ``(N, ...)`` on the CPU, what the answers depend on; at most ``at_once``.
            teacher: answers the images of the given indices, which were not shown before, some of them several times.
        """
        keys = [_hash(image) for image in images]
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        found: dict[bytes, Any] = {}
        if missing:
            answers = tree_map(lambda part: part[: len(missing)], teacher((missing * self._at_once)[: self._at_once]))
            parts = zip(*tree_flatten(answers)[0], strict=True)
            found = {keys[i]: tree_unflatten(list(part), tree_structure(answers)) for i, part in zip(missing, parts, strict=True)}
            size = sum(part.numel() * part.element_size() for part in tree_leaves(answers))
            if self._bytes + size <= _MOST_BYTES:
                self._known.update(found)
                self._bytes += size
        return tree_map(lambda *rows: torch.stack(rows), *(found[key] if key in found else self._known[key] for key in keys))


def _hash(image: Tensor) -> bytes:
    known = hashlib.sha256(f"{tuple(image.shape)} {image.dtype}".encode())
    known.update(image.contiguous().numpy().tobytes())
    return known.digest()


def cache_of(teacher: nn.Module, at_once: int, bf16: bool = False) -> TeacherCache:
    """What the teacher answered so far in this process, so many images at once and in that precision. Only the last ones are kept."""
    return _answers_of(fingerprint(teacher), at_once, bf16)


@lru_cache(maxsize=1)
def _answers_of(teacher: str, at_once: int, bf16: bool) -> TeacherCache:
    return TeacherCache(at_once)
