"""A single long training that goes on when it is begun again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planish.runs.store import STORE_FILE, claim


@contextmanager
def resumable(out: Path, job: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """Within this block, one process alone trains what ``out`` will hold, and decides as an interrupted one before it.

    What that needs lies in ``OUT.checkpoint``, beside it, and goes when the block ends well, or before there is anything to go on from.

    Args:
        out: the folder that is made in the end.
        job: settings of the training; an interrupted one goes on with the same only.
        resume: whether there may be an interrupted one.

    Yields:
        The checkpoint of the training, see ``fit``.

    Raises:
        BundleError: another process is at it, or it was interrupted and ``resume`` is not asked for, or its settings were others.
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
