"""Collects the data that the numbers of a finished search were computed from, so that a report can recompute them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planish.search.evidence import Sources, Validation
from planish.search.result import CandidateResult, Result
from planish.search.state import ModelOutputs, Search


def sources(search: Search, result: Result) -> Sources:
    """Return the timings of every session, the validation scores of every candidate, and the folder of every file.

    Args:
        search: the finished search, whose journal lists what was timed and evaluated.
        result: the result with the candidates.
    """
    candidates = {c.key: c for c in (*result.candidates, *result.baselines.values(), result.chosen)}
    timed_as = {key: search.journal.timed_as.get(key, key) for key in candidates}
    sessions = []
    for session in search.journal.sessions.values():
        rounds = session.rounds | {key: session.rounds[timed] for key, timed in timed_as.items() if timed in session.rounds}
        sessions.append(replace(session, rounds=rounds))
    return Sources(
        sessions=sessions,
        validation=_validation(search, candidates),
        files={key: "original" if not candidates[key].plan else timed.partition("@")[0] for key, timed in timed_as.items()},
    )


def _validation(search: Search, candidates: dict[str, CandidateResult]) -> Validation:
    judged = {key: pair for key, pair in search.journal.drop_sources.items() if key in candidates}
    models: dict[str, ModelOutputs] = {_name(model): model for pair in judged.values() for model in pair}
    rows = {name: row for row, name in enumerate(models)}
    split, task = search.runner.task.split("validation"), search.runner.task
    images = task.effective_images(split.targets)
    return Validation(
        candidates=np.array(list(judged)),
        own=np.array([rows[_name(own)] for own, _ in judged.values()], np.int64),
        reference=np.array([rows[_name(reference)] for _, reference in judged.values()], np.int64),
        scores=np.stack([np.asarray(search.runner.scores(*model, "validation"), np.float64) for model in models.values()]),
        keys=np.array(split.keys),
        images=np.array(np.nan if images is None else images),
    )


def _name(model: ModelOutputs) -> str:
    plan, runtime = model
    return f"{plan.key}@{runtime}"
