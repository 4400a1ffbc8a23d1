"""Cache of a teacher's outputs, shared by trainings on the same augmented images."""

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
    """A cache of one teacher's outputs, keyed by a hash of the image.

    Images without augmentation recur in every epoch. Augmented ones recur in other trainings: with equal seeds, the n-th epoch of each
    training has the same views, so that the candidates of a search, and the training rounds of each candidate, share the teacher's outputs.

    Args:
        at_once: fixed batch size of the teacher. The last bits of a convolution's output depend on the batch size, and outputs must not
            depend on what is already cached, as the cache is empty when a training is resumed.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._known: dict[bytes, Any] = {}
        self._bytes = 0

    def ask(self, images: Tensor, teacher: Callable[[list[int]], Any]) -> Any:
        """The teacher's outputs for ``images``, a tensor or a dictionary of tensors with first axis N.

        Args:
            images: ``(N, ...)`` on the CPU, at most ``at_once``; the key of each output is the hash of its image.
            teacher: computes the outputs for images of the given indices; called only with uncached images, repeated to fill the batch.
        """
        keys = [_hash(image) for image in images]
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        found: dict[bytes, Any] = {}
        if missing:
            # copied, as a part of the answers would keep all of them in memory
            answers = tree_map(lambda part: part[: len(missing)].clone(), teacher((missing * self._at_once)[: self._at_once]))
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
    """The cache of a teacher in this process, for a batch size and a precision. Only the most recently used cache is kept."""
    return _answers_of(fingerprint(teacher), at_once, bf16)


@lru_cache(maxsize=1)
def _answers_of(teacher: str, at_once: int, bf16: bool) -> TeacherCache:
    return TeacherCache(at_once)
