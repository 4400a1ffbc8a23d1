"""A training that was interrupted goes on where its last whole epoch ended. Written with ``torch.save``, read without running code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch

from planish.errors import TrainingError
from planish.files.workspace import replacing
from planish.progress import note


class Stateful(Protocol):
    """A network or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


@dataclass
class Progressed:
    """How far a training is. Random state is not among it: every epoch derives its own from the seed.

    Args:
        bf16: the precision it was begun in.
        history: one mapping an epoch.
        steps: made so far.
        schedule: how it goes on, see ``Schedule.state``.
        notes: made on the way.
        stopped: why it ended, empty while it has not.
        best_score: on validation.
        best_state: the weights that reached it, where they may be needed.
        epochs_without_better: since then.
        averaged_steps: whose weights are in the average of ``swa_share``.
        snapshots: the weights at the end of each cycle but the last.
    """

    bf16: bool
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    schedule: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: str = ""
    best_score: float = float("-inf")
    best_state: dict[str, torch.Tensor] | None = None
    epochs_without_better: int = 0
    averaged_steps: int = 0
    snapshots: list[dict[str, torch.Tensor]] = field(default_factory=list)


def identity(*parts: Any) -> str:
    """A hash of what makes a training what it is; a checkpoint only continues the training it came from."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def write_checkpoint(path: Path, identity: str, progressed: Progressed, parts: Mapping[str, Stateful]) -> None:
    """Write whole, then rename into place, so that an interruption leaves the former checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = {f.name: getattr(progressed, f.name) for f in fields(progressed)}
    with replacing(path) as partial:
        torch.save({"identity": identity, "progressed": shown} | {name: part.state_dict() for name, part in parts.items()}, partial)


def read_checkpoint(path: Path, identity: str, parts: Mapping[str, Stateful]) -> Progressed | None:
    """Bring ``parts`` to the state they were written in; None where there is no file, or it cannot be read.

    Raises:
        TrainingError: it is one of another training.
    """
    if not path.exists():
        return None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        known, progressed, states = loaded["identity"], Progressed(**loaded["progressed"]), {name: loaded[name] for name in parts}
    except Exception as error:  # torch.load raises many kinds
        note(f"the checkpoint {path} cannot be read, so training begins anew ({type(error).__name__}: {error})")
        return None
    if known != identity:
        raise TrainingError(
            f"the checkpoint {path} belongs to another training",
            "images, network, settings, teacher and time limit must be the same to go on",
            "delete it to start afresh",
        )
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return progressed
