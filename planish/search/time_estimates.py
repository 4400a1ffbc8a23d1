"""Estimates of the time that parts of a search take, from timings made in this run; and how much of its budget a run used."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import torch

from planish.artifact import Artifact
from planish.decisions import decide
from planish.evaluation.latency import LEAST_LAUNCHES
from planish.plan import Plan
from planish.progress import note
from planish.runs.store import Store
from planish.search.result import BudgetUse, StageSeconds
from planish.search.state import DeployedCandidate, Search
from planish.task import SplitName, Task
from planish.training.batches import batches_per_epoch
from planish.training.prepare import Job

FINALISTS = 5  # maximum number of trials that are measured side by side at the end
FINAL_LAUNCHES, CHOSEN_LAUNCHES = 4, 5  # of the session that the choice is based on, and of the last one, whose latencies are reported
_TIMED_SECONDS = 2.0  # timing per subject in these sessions, not counting its start
_RESERVED_SHARE = 0.35  # maximum share of the time left that is reserved for the end of the run
_WRITING_PROCESSES = 2  # writing the bundle and the report takes about as long as starting this many processes,
_WRITING_SECONDS = 2.0  # and at least this many seconds
_TEST = 4.0  # relative to computing the metrics once: two models, their metrics by class, and their errors, on test
_DEPLOYING = 1.6  # relative to one export: exporting again as INT8, with calibration
_BACKWARD = 3.0  # training step relative to a forward pass
_VALIDATIONS = 5  # minimum number of models that are run on validation
_JUDGING = 2.0  # evaluation on test relative to the forward passes: computing the metrics takes time as well
_STEP_SECONDS, _STEP_SHARE = 3.0, 0.01  # of the training that times a step: maximum, and share of the time left
_BATCH = 32
_TOLERANCE_SHARE, _TOLERANCE_SECONDS = 0.1, 20.0  # a budget counts as kept within the larger of the two
_SHOWN = 5
_LEAST_SECONDS = 1.0  # smallest overrun of a stage that is reported


def seconds_per_image(store: Store, artifact: Artifact) -> float:
    """Return the seconds of the original's forward pass per image, measured once per run."""
    return float(store.once("seconds an image", "searching", lambda: _fastest(artifact)))


def training_seconds(job: Job, budget: float, elapsed: float) -> float:
    """Return the seconds available for the epochs of a training, so that the whole job stays within its budget.

    Reading images (before), evaluating on test and writing the report (after) are subtracted.

    Args:
        job: the images and the network.
        budget: seconds for the whole job.
        elapsed: seconds so far.
    """

    def left() -> float:
        one = _fastest(job.artifact)
        after = _JUDGING * len(job.task.split("test")) * one + writing_seconds(0.0)
        least = _BACKWARD * len(job.task.split("train")) * one
        if elapsed + least + after > budget:
            note(f"the budget of {budget:.0f} s is too short: one epoch needs at least about {elapsed + least + after:.0f} s")
        return max(budget - elapsed - after, least, 1.0)

    return float(decide("seconds of training", left))


def _fastest(artifact: Artifact) -> float:
    """Return the seconds per image of the fastest of a few batches, so that a momentary disturbance has no effect."""
    spec, module = artifact.input_spec, artifact.module.eval()
    images = torch.randn(_BATCH, spec.channels, spec.height, spec.width, device=next(module.parameters()).device)
    seconds = []
    with torch.no_grad():
        for _ in range(5):
            begun = perf_counter()
            module(images)
            seconds.append(perf_counter() - begun)
    return min(seconds) / _BATCH


def forward_seconds(search: Search, split: SplitName) -> float:
    """Estimate the seconds of the original's forward passes over a split."""
    runner = search.runner
    return len(runner.task.split(split)) * seconds_per_image(runner.store, runner.original)


def training_step_seconds(search: Search) -> float:
    """Return the seconds of a training step of the original with its teachers, timed once per run by a short training.

    If the original cannot be trained, it is estimated from its forward pass.
    """
    runner, left = search.runner, search.seconds_left
    seconds = runner.store.once("seconds of timing a step", "searching", lambda: max(0.1, min(_STEP_SECONDS, _STEP_SHARE * left)))
    plan = Plan(replace(search.recovery, teachers=search.teachers, max_seconds=seconds))
    if runner.store.attempt("timing a step", "searching", lambda: runner.artifact(plan)):
        return search.recovery.batch_size * seconds_per_image(runner.store, runner.original) * (_BACKWARD + max(1, len(search.teachers)))
    how = runner.artifact(plan).lineage.steps[-1].structure
    runner.release()
    return float(max(1e-5, how["step_seconds"]))


def steps_per_epoch(search: Search) -> int:
    """Return the number of training steps of one epoch of recovery."""
    return max(1, batches_per_epoch(len(search.runner.task.split("train")), search.recovery.batch_size))


def deploy_seconds(search: Search) -> float:
    """Estimate the seconds to export a network and run it on validation, from what that took for the original."""
    steps = search.deployment.steps().steps
    exports = sum(search.runner.store.seconds_of(f"artifact:{Plan(*steps[:count]).key}") for count in range(1, len(steps) + 1))
    return 1 + exports + _outputs_seconds(search, DeployedCandidate(Plan(), search.deployment))


def writing_seconds(process_seconds: float) -> float:
    """Estimate the seconds to write the bundle, the evidence and the report."""
    return max(_WRITING_SECONDS, _WRITING_PROCESSES * process_seconds)


def session_seconds(search: Search, subjects: int, launches: int = LEAST_LAUNCHES, seconds: float = 0.0) -> float:
    """Estimate the seconds of a timing session with ``subjects`` files, plus the second copy of the baseline.

    Args:
        search: state of the search.
        subjects: number of files.
        launches: how often all processes are started.
        seconds: timing per subject.
    """
    return (subjects + 1) * (launches * search.journal.process_seconds + seconds)


def test_seconds(search: Search) -> float:
    """Estimate the seconds to evaluate the original and the chosen model on test."""
    task, outputs = search.runner.task, _outputs_seconds(search, DeployedCandidate(Plan(), search.fp32[0]))
    return len(task.split("test")) / max(1, len(task.split("validation"))) * (2 * outputs + _TEST * _judging_seconds(search))


def least_finish_seconds(search: Search, finalists: int) -> float:
    """Estimate the minimum seconds of the end of a run.

    It consists of exporting, timing and evaluating ``finalists`` trials, timing the chosen model again, evaluating on test, and writing the
    files.
    """
    originals = len(search.originals) + 1
    judging = len(search.originals) * _judging_seconds(search)
    least = session_seconds(search, originals) + judging + test_seconds(search) + writing_seconds(search.journal.process_seconds)
    if not finalists:
        return least
    return least + session_seconds(search, originals + finalists) + finalists * (deploy_seconds(search) + _judging_seconds(search))


def seconds_to_come(search: Search, trials: int) -> float:
    """Estimate the minimum seconds to time ``trials`` trials and to finish the run with one of them."""
    return session_seconds(search, trials + 2) + least_finish_seconds(search, 1)


def finish_seconds(search: Search, trials: int) -> float:
    """Return the seconds to reserve for the end of a run: its full duration, at most a share of the time left, at least the minimum."""
    finalists, originals = min(FINALISTS, trials), len(search.originals) + 1
    least = least_finish_seconds(search, min(1, trials))
    at_ease = (
        session_seconds(search, originals + finalists, FINAL_LAUNCHES, _TIMED_SECONDS)
        + session_seconds(search, originals, CHOSEN_LAUNCHES, _TIMED_SECONDS)
        + (finalists + 1) * (deploy_seconds(search) + _judging_seconds(search))
        + test_seconds(search)
        + writing_seconds(search.journal.process_seconds)
    )
    return max(least, min(at_ease, _RESERVED_SHARE * search.seconds_left))


def least_seconds(store: Store, artifact: Artifact, task: Task, exporting: float, process: float, trains: bool) -> tuple[float, float]:
    """Estimate the seconds of one epoch of training, and the minimum seconds of everything after it.

    The latter covers exporting to one runtime in two precisions, two timing sessions, the evaluations, and writing the files.

    Args:
        store: store of the run.
        artifact: the original, possibly untrained.
        task: task with the images.
        exporting: seconds that one export took.
        process: seconds of one process in one launch of a timing session.
        trains: whether the original is trained.
    """
    one = 0.0 if artifact.module is None else seconds_per_image(store, artifact)
    train, validation, test = (len(task.split(name)) for name in ("train", "validation", "test"))
    epoch = (_BACKWARD * train + validation) * one if trains else 0.0
    sessions = 2 * LEAST_LAUNCHES * 3 * process
    rest = _DEPLOYING * exporting + sessions + (_VALIDATIONS * validation + 2 * test) * one + writing_seconds(process)
    return epoch, rest


def is_kept(allowed: float, taken: float) -> bool:
    """Whether ``taken`` seconds are within a budget of ``allowed`` seconds, with a tolerance of 10 % or 20 s, whichever is larger."""
    return taken <= allowed + max(_TOLERANCE_SHARE * allowed, _TOLERANCE_SECONDS)


def budget_use(search: Search) -> BudgetUse:
    """Return how much of the budget was used; to be called at the end of a run, after all measurements."""
    store = search.runner.store
    writing = writing_seconds(search.journal.process_seconds)
    taken = float(store.once("seconds taken", "writing", lambda: store.now)) + writing
    longer = []
    if not is_kept(search.budget, taken):
        stages = [StageSeconds(stage, round(s, 1), round(search.journal.planned[stage], 1)) for stage, s in store.seconds().items()]
        stages.sort(key=lambda stage: stage.expected_seconds - stage.seconds)
        longer = [stage for stage in stages if stage.seconds - stage.expected_seconds >= _LEAST_SECONDS][:_SHOWN]
    return BudgetUse(search.budget, round(taken, 1), round(search.least_seconds, 1), longer)


def _outputs_seconds(search: Search, shipped: DeployedCandidate) -> float:
    return search.runner.store.seconds_of(f"outputs:{shipped.plan.key}@{shipped.runtime}:validation")


def _judging_seconds(search: Search) -> float:
    runner, baseline = search.runner, DeployedCandidate(Plan(), search.fp32[0])

    def judge() -> float:
        begun = perf_counter()
        runner.metrics(baseline.plan, baseline.runtime, "validation")
        return perf_counter() - begun

    return float(runner.store.once("seconds of judging", "searching", judge))
