"""What parts of a search take, from what was timed on this machine in this run; and how much of its budget it used."""

from __future__ import annotations

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
from planish.training.prepare import Job

FINALISTS = 5  # that are measured side by side in the end, at most
FINAL_LAUNCHES, CHOSEN_LAUNCHES = 4, 5  # of the session that chooses, and of the one whose numbers are the run's
_TIMED_SECONDS = 2.0  # for each subject of these sessions, beside starting it
_RESERVED_SHARE = 0.35  # of the time that is left, for the end of the run
_WRITING_PROCESSES = 2  # writing the bundle and the page takes about as long as starting so many processes,
_WRITING_SECONDS = 2.0  # and so many seconds at least
_TEST = 4.0  # times judging once: two models, their metrics by class, and their errors, on test
_DEPLOYING = 1.6  # times exporting to one runtime: exporting again as INT8, with calibration
_BACKWARD = 3.0  # times forward: a step of training
_VALIDATIONS = 5  # models that are run over validation at least
_JUDGING = 2.0  # times running over test: its metrics as well
_BATCH = 32
_TOLERANCE_SHARE, _TOLERANCE_SECONDS = 0.1, 20.0  # within the one or the other a budget counts as kept
_SHOWN = 5
_LEAST_SECONDS = 1.0  # that a stage took more than was expected


def seconds_an_image(store: Store, artifact: Artifact) -> float:
    """Seconds that the original takes for one image, measured once in a run."""
    return float(store.once("seconds an image", "searching", lambda: _fastest(artifact)))


def training_seconds(job: Job, budget: float, elapsed: float) -> float:
    """Seconds that the epochs of a training may take, so that all of it is done within its budget: reading images comes before, judging
    the network on test and writing its page after.

    Args:
        job: the images and the network.
        budget: seconds for all of it.
        elapsed: by now.
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
    """Seconds per image, by the fastest of a few batches: one disturbed moment must not decide."""
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
    """Seconds that the original takes over a split."""
    runner = search.runner
    return len(runner.task.split(split)) * seconds_an_image(runner.store, runner.original)


def ship_seconds(search: Search) -> float:
    """Seconds that exporting a network and running it over validation take, from what they took for the original."""
    steps = search.deployment.steps().steps
    exports = sum(search.runner.store.seconds_of(f"artifact:{Plan(*steps[:count]).key}") for count in range(1, len(steps) + 1))
    return 1 + exports + _outputs_seconds(search, DeployedCandidate(Plan(), search.deployment))


def writing_seconds(process_seconds: float) -> float:
    """Seconds that the bundle, the evidence and the page take."""
    return max(_WRITING_SECONDS, _WRITING_PROCESSES * process_seconds)


def session_seconds(search: Search, subjects: int, launches: int = LEAST_LAUNCHES, seconds: float = 0.0) -> float:
    """Seconds that timing so many files side by side takes, a second copy of the baseline included."""
    return (subjects + 1) * (launches * search.journal.process_seconds + seconds)


def test_seconds(search: Search) -> float:
    """Seconds that running the original and the chosen model over test and judging them takes."""
    task, outputs = search.runner.task, _outputs_seconds(search, DeployedCandidate(Plan(), search.fp32[0]))
    return len(task.split("test")) / max(1, len(task.split("validation"))) * (2 * outputs + _TEST * _judging_seconds(search))


def least_finish_seconds(search: Search, finalists: int) -> float:
    """Seconds that the end of a run takes at least: so many trials exported, timed beside the originals and judged; the chosen model timed
    once more; test; and the files written.
    """
    originals = len(search.originals) + 1
    judging = len(search.originals) * _judging_seconds(search)
    least = session_seconds(search, originals) + judging + test_seconds(search) + writing_seconds(search.journal.process_seconds)
    if not finalists:
        return least
    return least + session_seconds(search, originals + finalists) + finalists * (ship_seconds(search) + _judging_seconds(search))


def seconds_to_come(search: Search, trials: int) -> float:
    """Seconds that timing so many trials, and the end of the run with one of them, take at least."""
    return session_seconds(search, trials + 2) + least_finish_seconds(search, 1)


def finish_seconds(search: Search, trials: int) -> float:
    """Seconds that are reserved for the end of a run: those that it takes at ease, or a share of what is left where that is less."""
    finalists, originals = min(FINALISTS, trials), len(search.originals) + 1
    least = least_finish_seconds(search, min(1, trials))
    at_ease = (
        session_seconds(search, originals + finalists, FINAL_LAUNCHES, _TIMED_SECONDS)
        + session_seconds(search, originals, CHOSEN_LAUNCHES, _TIMED_SECONDS)
        + (finalists + 1) * (ship_seconds(search) + _judging_seconds(search))
        + test_seconds(search)
        + writing_seconds(search.journal.process_seconds)
    )
    return max(least, min(at_ease, _RESERVED_SHARE * search.seconds_left))


def least_seconds(store: Store, artifact: Artifact, task: Task, exporting: float, process: float, trains: bool) -> tuple[float, float]:
    """Seconds that one epoch of training takes, and what must follow it at least: exporting to one runtime in two precisions, timing both
    and the chosen one once more, test, and the files.

    Args:
        store: of the run.
        artifact: the original, untrained perhaps.
        task: the images.
        exporting: seconds that one export took.
        process: seconds that one process takes in one launch of a session of timing.
        trains: whether the original is trained.
    """
    one = 0.0 if artifact.module is None else seconds_an_image(store, artifact)
    train, validation, test = (len(task.split(name)) for name in ("train", "validation", "test"))
    epoch = (_BACKWARD * train + validation) * one if trains else 0.0
    sessions = 2 * LEAST_LAUNCHES * 3 * process
    rest = _DEPLOYING * exporting + sessions + (_VALIDATIONS * validation + 2 * test) * one + writing_seconds(process)
    return epoch, rest


def is_kept(allowed: float, taken: float) -> bool:
    """Whether so many seconds are within a budget, give or take 10 % or 20 s."""
    return taken <= allowed + max(_TOLERANCE_SHARE * allowed, _TOLERANCE_SECONDS)


def budget_use(search: Search) -> BudgetUse:
    """Called at the end of a run, when all is measured."""
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
