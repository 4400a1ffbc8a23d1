"""A single long training that can be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planish.runs.store import STORE_FILE, claim


@contextmanager
def resumable(out: Path, job: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """Within this block, only this process trains the model of ``out``, and it makes the same decisions as an interrupted one before it.

    The state is saved in the folder ``OUT.checkpoint`` next to ``out``. It is deleted if the block succeeds, or if it fails before there is
    a checkpoint to resume from.

    Args:
        out: the folder that the training creates at its end.
        job: settings of the training; to resume it they must be the same.
        resume: continue an interrupted training if there is one.

    Yields:
        Path of the checkpoint of the training, see ``fit``.

    Raises:
        BundleError: another process is working on it, it was interrupted and ``resume`` is False, or its settings were different.
    """
    folder = out.with_name(out.name + ".checkpoint")
    checkpoint, ended = folder / "training.checkpoint", False
    store = claim(folder, job, resume and (folder / STORE_FILE).exists())
    try:
        with store.remembering():
            yield checkpoint
        ended = True
    finally:
        if ended or not checkpoint.exists():
            shutil.rmtree(folder)
        store.close()
