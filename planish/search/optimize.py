"""The main job: from images, a model and a goal to a model to deploy and the measurements that support it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from torch import nn

from planish import units
from planish.data import is_unlabelled, require_classes
from planish.devices.device import current_device
from planish.errors import GoalError, ModelError, RuntimeMissingError
from planish.evaluation.latency import LatencySettings, process_seconds
from planish.export import ToOnnx
from planish.export.runtimes.registry import available, default_precision_runtimes, require_runtime
from planish.export.steps import steps_from_onnx
from planish.files.trust import trust
from planish.goal import DEFAULT_RISK, Goal
from planish.models.zoo import factory_file
from planish.plan import Plan
from planish.progress import note
from planish.runs.converted_onnx import converted_job
from planish.runs.external_onnx import file_job, refuse_training
from planish.runs.live import telling
from planish.runs.networks.answers import answered
from planish.runs.networks.raw_outputs import outputs_job
from planish.runs.open_network import unlabelled_job
from planish.runs.original import stored_original, trained_here
from planish.runs.precision import decided_precision
from planish.runs.record import run_folder
from planish.runs.runner import Runner, subject_of
from planish.runs.store import check_folder
from planish.search.deployment import deploy
from planish.search.extra_images import with_extra_images
from planish.search.finish import finish
from planish.search.post_training import check_trained_on_classes, without_training
from planish.search.result import Result
from planish.search.state import Journal, RuntimeVariant, Search, Watch
from planish.search.time_estimates import finish_seconds, least_seconds
from planish.search.trials.recovery import recover
from planish.search.trials.screening import screen
from planish.settings import DeploymentTarget, GoalSettings, ModelSettings, OriginalSettings, RunSettings
from planish.split_assignment import keep_assignment
from planish.task import OUTPUTS, Task, metric_of
from planish.training.distillation.distill import recovery_of
from planish.training.original import TrainMode, original_settings
from planish.training.prepare import Job, prepare_job
from planish.training.recipe import recipe_for

# Shares of the budget that is left at the time.
_ORIGINAL_SHARE, _TEACHERS_SHARE, _SCREENING_SHARE = 0.36, 0.5, 0.2
_LEAST_TRAINING_SECONDS = 2.0
_MOST_EPOCHS = 60  # maximum of one round of recovery; not tuned
# Recovery, by how the original was initialised, and the learning rate where little was lost. Those of good weights were measured by
# ``benchmarks/recovery_study.py``: docs/decisions/0145-good-weights-recover-at-low-rates.md.
_RECOVERY: dict[str, dict[str, Any]] = {
    "scratch": {"learning_rate": 0.1},
    "pretrained": {"learning_rate": 0.005, "batch_size": 32, "freeze": "early"},
}
_PRETRAINED_MILD_RATE = 0.002
_STUDENTS = ("resnet20", "resnet8x2")
_BF16 = {"avx512_bf16", "amx_bf16"}  # instruction sets with which OpenVINO computes in bf16 by default


@dataclass(frozen=True)
class Teaching:
    """The students and teachers of a search.

    Args:
        students: other architectures to try, distilled from the original. None for some small ones if the original is trained from scratch
            (to match a pretrained original they would need more images and time); empty for none.
        teachers: number of networks in the teacher ensemble: the original and copies of it trained with other seeds, in half of the budget.
        extra_images: a folder with images without labels on which candidates are also distilled; None for none.
    """

    students: Sequence[str] | None = None
    teachers: int = 1
    extra_images: str | None = None


def optimize(
    data: str | Path,
    *,
    model: ModelSettings,
    goal: GoalSettings,
    target: DeploymentTarget,
    original: OriginalSettings,
    teaching: Teaching,
    run: RunSettings,
    watch: Watch | None = None,
) -> Result:
    """Make a network smaller and faster within a limit on the accuracy drop, and verify it on the exported file.

    Files and layers are timed on the current device (``planish.devices.device``).

    Args:
        data: a folder with a subfolder per class, a CSV or JSON-lines manifest, or a built-in name; or, for a trained network, a folder of
            images without labels, on which agreement with the network's own answers takes the place of accuracy.
        model: a network; or a classifier's ``.onnx`` file from any source, which is converted to a network; where that is not possible,
            everything that needs no training is tried.
        goal: limits that the deployed model must meet.
        target: where the model is deployed; the runtime ``auto`` stands for any that is installed.
        original: how the original is trained; its augmentation is used in all trainings.
        teaching: students and further teachers.
        run: settings of the run; the default folder is under ``runs/``, named after data and model, the default budget 20 minutes.
        watch: called with all candidates whenever one is added or updated.

    Returns:
        The result, which is also written to ``result.json``; the bundle is saved in the same folder.

    Raises:
        PlanishError: the images, the model or the goal cannot be used, or the connection to the device was lost; resume the run then.
    """
    runtime, teachers, seed, train_mode = target.runtime, teaching.teachers, run.seed, original.train_mode
    seconds = units.seconds("20m" if run.budget is None else run.budget)
    max_drop = _max_drop(goal)
    limits = Goal(
        max_drop_points=1.0 if max_drop is None else max_drop,
        max_latency_ms=None if goal.max_latency is None else units.milliseconds(goal.max_latency),
        max_size_bytes=None if goal.max_size is None else units.size_bytes(goal.max_size),
        risk=DEFAULT_RISK if goal.risk is None else _accepted(goal.risk),
    )
    allowed = _runtimes() if runtime == "auto" else (_found(runtime),)
    _check(limits, target.threads, target.batch)
    name = model.name
    is_file = name.endswith(".onnx")
    if teachers > 1:
        require_classes(data, f"{teachers} teachers, whose probabilities are averaged,")
    folder = Path(run.out) if run.out is not None else default_folder(data, name)
    check_folder(folder, run.resume)
    raw = model.task == OUTPUTS
    unlabelled = raw or is_unlabelled(data, model.task)
    _check_unlabelled(unlabelled, goal, train_mode, teaching.extra_images)
    if not is_file and not unlabelled and (model.mean is not None or model.std is not None):
        raise GoalError(f"a mean or std for {name}", "networks bring theirs or take the data's; only a file may expect any", "omit it")
    job_settings = {
        "data": str(data), "model": name, "weights": str(model.weights or ""), "runtime": runtime, "threads": target.threads,
        "batch": target.batch, "image_size": model.image_size, "epochs": original.epochs, "augmentation": original.augmentation,
        "train": train_mode, "skip_bad": run.skip_bad, "seed": seed, "resize": model.resize, "task": model.task,
        "metric": model.metric,
        "mean": None if model.mean is None else list(model.mean), "std": None if model.std is None else list(model.std),
        "students": None if teaching.students is None else list(teaching.students), "teachers": teachers,
        "max_drop": limits.max_drop_points, "risk": limits.risk,
        "max_latency_ms": limits.max_latency_ms, "max_size_bytes": limits.max_size_bytes, "budget": seconds,
        "extra_images": teaching.extra_images, "processor": current_device().name, "device": current_device().address or None,
    }  # fmt: skip
    with telling(folder, watch) as watched, run_folder(folder, job_settings, run.resume) as record:
        if run.resume:
            store = record.store  # fails before the images are read if another process is working on the run
        if raw:
            refuse_training(name, weights=model.weights if is_file else None, teachers=teachers > 1)
            job = outputs_job(data, model, skip_bad=run.skip_bad, seed=seed)
        elif is_file:
            refuse_training(name, weights=model.weights, teachers=teachers > 1)
            job = file_job(data, model, skip_bad=run.skip_bad, seed=seed, unlabelled=unlabelled)
            try:
                job = converted_job(job, Path(name))
                note(f"{Path(name).name} is a network of torch layers with the same outputs: pruning and distillation apply to it")
            except ModelError as error:
                note(f"{Path(name).name} stays a file, which is not pruned or trained: {error}")
                asked = {"student": teaching.students, "epochs": original.epochs, "extra-images": teaching.extra_images}
                refuse_training(name, **asked, train=train_mode == "always")
        elif unlabelled:
            job = unlabelled_job(data, model, skip_bad=run.skip_bad, seed=seed)
        else:
            job = prepare_job(data, model, skip_bad=run.skip_bad, seed=seed)
        if train_mode == "auto" and (is_file or unlabelled):
            train_mode = "never"
        _check_teachers(teachers, model.model, train_mode, job)
        limits = limits_in_metric_unit(limits, max_drop, job.task)
        for file in filter(None, map(factory_file, teaching.students or ())):
            trust(file)
        # Fail early if the network cannot be exported, before hours are spent on training it.
        measured = None if run.resume else _export_seconds(job, allowed[0], target)
        store = record.store  # creates the folder only now that the inputs are known to be valid
        keep_assignment(folder, job.data.assignment)
        if unlabelled:
            job = answered(job, folder, store, limits.max_drop_points)
        exporting, process = store.once("seconds of exporting", "setup", lambda: measured or _export_seconds(job, allowed[0], target))
        trains = train_mode == "always" or (train_mode == "auto" and not job.trained_on_classes)
        epoch, rest = least_seconds(store, job.artifact, job.task, exporting, process, trains)
        least = store.elapsed + teachers * epoch + rest
        if least > seconds:
            note(
                f"the budget of {seconds:.0f} s is too short for these images, this model and this machine: at least "
                f"about {least:.0f} s are needed; only the essential steps are carried out"
            )
        left = seconds - store.elapsed
        spare = min((_ORIGINAL_SHARE if teachers == 1 else _TEACHERS_SHARE / teachers) * left, (left - rest) / teachers)
        spare = max(spare, epoch, _LEAST_TRAINING_SECONDS)
        precision = decided_precision(store, "auto", lambda: job.artifact)
        training = original_settings(job, original, seed=seed, mixed_precision=precision)
        artifact = stored_original(job, folder, store, training, mode=train_mode, seconds=spare)
        taught_by = ["original"] if teachers > 1 else []
        for number in range(1, teachers):
            taught_by.append(f"teacher-{number}")
            other = prepare_job(data, model, skip_bad=run.skip_bad, seed=seed, weights_seed=seed + number)
            training = original_settings(other, original, seed=seed + number, mixed_precision=precision)
            stored_original(other, folder, store, training, mode=train_mode, seconds=spare, name=taught_by[-1])
        if teaching.extra_images is not None:
            task = with_extra_images(job, teaching.extra_images, artifact, model, folder, store, skip_bad=run.skip_bad)
            job = replace(job, task=task)
        runner = Runner(store, folder / "work", job.task, artifact)
        runtimes = store.once("runtimes", "searching", lambda: [allowed, _runtimes()])
        by_default = store.once("default precision", "searching", _default_precisions)
        allowed = (*runtimes[0], *(by_default[name] for name in runtimes[0] if name in by_default))
        defaults = dict.fromkeys((*by_default.values(), *(name for name in allowed if name not in runtimes[1])))
        stays_file = artifact.module is None
        fp32 = tuple(RuntimeVariant("fp32", r, stays_file) for r in runtimes[1])
        of_task = recipe_for(job.task.recipe, job.artifact.lineage.source.name)
        recovery = recovery_of(
            of_task, epochs=original.epochs or _MOST_EPOCHS, augmentation=original.augmentation, mixed_precision=precision
        )
        if not of_task:
            recovery = replace(recovery, **_RECOVERY["pretrained" if job.pretrained else "scratch"])
        journal = Journal(process)
        journal.planned["training the original"] = spare
        usual_students = _STUDENTS if not job.pretrained and not of_task else ()
        search = Search(
            runner=runner,
            goal=limits,
            threads=target.threads,
            batch=target.batch,
            recovery=recovery,
            mild_rate=_PRETRAINED_MILD_RATE if job.pretrained and not of_task else recovery.learning_rate,
            trained_before=not trained_here(folder),
            budget=seconds,
            least_seconds=least,
            allowed=allowed,
            fp32=fp32,
            defaults=tuple(RuntimeVariant("fp32", r, stays_file) for r in defaults),
            deployment=fp32[0],
            students=usual_students if teaching.students is None else tuple(teaching.students),
            teachers=tuple(str(folder / "work" / name) for name in taught_by),
            mixed_precision=False,
            watch=watched,
            journal=journal,
        )
        if is_file and not unlabelled:
            check_trained_on_classes(search)
        search = deploy(search)
        if stays_file:
            trials = without_training(search)
        else:
            screening = screen(search, _SCREENING_SHARE * search.seconds_left)
            trials = recover(search, screening, finish_seconds(search, sum(not trial.stopped for trial in screening.trials)))
        return finish(search, job, trials, record, name)


def _found(runtime: str) -> str:
    require_runtime(runtime)
    return runtime


def _runtimes() -> tuple[str, ...]:
    """Return the runtimes for ONNX files on this machine, where accuracy is evaluated, and on the current device."""
    found, device = tuple(available("onnx")), current_device()
    if not found:
        raise RuntimeMissingError(
            f"{device.address or 'this machine'} has no runtime for ONNX files that is also installed here",
            "a file is timed where it will run, and evaluated here",
            f"planish device-setup {device.address} installs ONNX Runtime there" if device.address else "pip install onnxruntime",
        )
    return found


def _default_precisions() -> dict[str, str]:
    """Return ``default_precision_runtimes``, but none if a device has no bf16: its outputs would differ from those evaluated here."""
    device = current_device()
    return default_precision_runtimes() if not device.address or _BF16 & set(device.instruction_sets) else {}


def _check(limits: Goal, threads: int, batch: int) -> None:
    if not limits.max_drop_points >= 0:
        raise _impossible_drop(limits)
    cores = current_device().cores
    if not 1 <= threads <= cores:
        raise GoalError(f"{threads} threads", f"{current_device().address or 'this machine'} has {cores} cores", f"choose 1 to {cores}")
    if not 1 <= batch <= 1024:
        raise GoalError(f"a batch of {batch} images", "it is between 1 and 1024", "for example --batch 1")


def _max_drop(goal: GoalSettings) -> float | None:
    if goal.max_drop is not None and goal.max_change is not None:
        raise GoalError(
            f"--max-drop {goal.max_drop:g} and --max-change {goal.max_change:g}",
            "a drop is of a metric of labelled images; a change is of the original's answers, on images without labels",
            "give one of them",
        )
    if goal.max_change is not None and not 0 <= goal.max_change <= 100:
        raise GoalError(f"--max-change {goal.max_change:g}", "it is a share of the answers, 0 to 100 %", "for example --max-change 1")
    return goal.max_drop if goal.max_change is None else goal.max_change


def _check_unlabelled(unlabelled: bool, goal: GoalSettings, train_mode: TrainMode, extra_images: str | None) -> None:
    if goal.max_change is not None and not unlabelled:
        raise GoalError(
            f"--max-change {goal.max_change:g} for images with labels",
            "it limits how many of the original's answers change on images without labels",
            "use --max-drop; --unlabelled ignores the labels",
        )
    if unlabelled and train_mode == "always":
        raise GoalError("--train always for images without labels", "they are judged by the answers of a trained network", "omit it")
    if unlabelled and extra_images is not None:
        raise GoalError(f"--extra-images {extra_images} for images without labels", "all of those teach anyway", "put them into one folder")


def _accepted(risk: float) -> float:
    if not 0 < risk <= 0.5:
        meant = f"{risk / 100:g}" if 1 <= risk <= 50 else "0.1"
        raise GoalError(
            f"a risk of {risk:g}",
            "it is a probability above 0, at most 0.5",
            f"for example --risk {meant}, which is {100 * float(meant):g} %",
        )
    return risk


def limits_in_metric_unit(limits: Goal, max_drop: float | None, task: Task) -> Goal:
    """Convert the limits to the task's metric: the maximum drop in its unit, and the size of one point (``Goal.point``)."""
    metric = metric_of(task)
    if metric.unit == "%":
        if limits.max_drop_points > 100:
            raise _impossible_drop(limits)
        return limits
    point = metric.scale * abs(task.guessing(task.split("validation").targets) - metric.best) / 100 or 1.0
    return replace(limits, point=point, max_drop_points=point if max_drop is None else max_drop)


def _impossible_drop(limits: Goal) -> GoalError:
    return GoalError(f"a drop of {limits.max_drop_points} points", "it is between 0 and 100 points", "for example --max-drop 1")


def _check_teachers(teachers: int, model: str | nn.Module, train_mode: TrainMode, job: Job) -> None:
    if teachers < 1:
        raise GoalError(f"{teachers} teachers", "the original teaches, alone or with others", "for example --teachers 3")
    if teachers > 1 and isinstance(model, nn.Module):
        raise GoalError(f"{teachers} teachers", "a network that is handed over cannot be begun again from other weights", "name the model")
    if teachers > 1 and (train_mode == "never" or (train_mode == "auto" and job.trained_on_classes)):
        raise GoalError(f"{teachers} teachers", "a model that is not trained here has no others like it", "add --train always")


def _export_seconds(job: Job, runtime: str, target: DeploymentTarget) -> tuple[float, float]:
    """Return the seconds to export the model (about 0 if it is a file already), and the seconds of one process that times the file."""
    begun = monotonic()
    artifact = job.artifact if job.artifact.module is None else ToOnnx().apply(job.artifact, job.task)
    exporting = monotonic() - begun
    artifact = Plan(*steps_from_onnx(runtime)).apply(artifact, job.task)
    subject = subject_of(artifact, job.task, runtime, target.threads, target.batch)
    return exporting, process_seconds(subject, LatencySettings(target.threads, target.batch))


def default_folder(data: str | Path, model: str) -> Path:
    """Return ``runs/DATA-MODEL``, with a number appended if it exists."""
    stem = f"{Path(data).stem}-{Path(model).stem if '/' in model else model}".replace(":", "-").lower()
    folder, number = Path("runs") / stem, 2
    while folder.exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder
