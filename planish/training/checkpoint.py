"""Training checkpoints, from which an interrupted training resumes after its last complete epoch; read without running code from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch

from planish.errors import TrainingError
from planish.files.workspace import replacing
from planish.progress import note


class Stateful(Protocol):
    """An object with a state dict: a network or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


@dataclass
class TrainingState:
    """The progress of a training. It holds no random state, as every epoch derives its own from the seed.

    Args:
        bf16: whether the training uses bfloat16.
        history: one mapping per epoch, see ``fit.Epoch``.
        steps: number of steps so far.
        schedule: state of the schedule, see ``Schedule.state``.
        notes: messages emitted during training.
        stopped: why training ended; empty while it is running.
        best_score: best validation score, higher is better.
        best_state: the weights with the best score; None without early stopping.
        epochs_without_better: number of epochs since the best score.
        averaged_steps: number of steps in the weight average of ``swa_share``.
        snapshots: the weights at the end of each learning-rate cycle except the last.
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
    """A hash of everything that determines a training; a checkpoint is only used to resume the training that wrote it."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def write_checkpoint(path: Path, identity: str, progressed: TrainingState, parts: Mapping[str, Stateful]) -> None:
    """Write a checkpoint to a temporary file and rename it into place, so that an interruption leaves the previous one intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = {f.name: getattr(progressed, f.name) for f in fields(progressed)}
    with replacing(path) as partial:
        torch.save({"identity": identity, "progressed": shown} | {name: part.state_dict() for name, part in parts.items()}, partial)


def read_checkpoint(path: Path, identity: str, parts: Iterable[str]) -> tuple[TrainingState, dict[str, Any]] | None:
    """Return the progress of a training and the states of its parts from a checkpoint; None if there is no file, or it cannot be read.

    Raises:
        TrainingError: the checkpoint belongs to another training.
    """
    if not path.exists():
        return None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        known, progressed, states = loaded["identity"], TrainingState(**loaded["progressed"]), {name: loaded[name] for name in parts}
    except Exception as error:  # torch.load raises many kinds of errors
        note(f"the checkpoint {path} cannot be read, so training begins anew ({type(error).__name__}: {error})")
        return None
    if known != identity:
        raise TrainingError(
            f"the checkpoint {path} belongs to another training",
            "images, network, settings, teacher and time limit must be the same to go on",
            "delete it to start afresh",
        )
    return progressed, states
