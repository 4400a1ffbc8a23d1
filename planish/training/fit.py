"""The training loop, with or without distillation from a teacher."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from planish.data.normalisation import Normalise
from planish.devices.allocator import keep_freed_memory, return_freed_memory
from planish.errors import TrainingError, first_line
from planish.evaluation.torch_predictor import TorchPredictor
from planish.measurement import digits_of, in_words
from planish.models.batch_norm import raise_momentum
from planish.models.folding import fold_batch_norm
from planish.models.outputs import each
from planish.models.storage import fingerprint
from planish.models.strided import SafeStrides
from planish.progress import Stage, log_values, note
from planish.task import OUTPUTS, metric_of
from planish.training.batches import batches, batches_per_epoch, random_seed
from planish.training.checkpoint import Stateful, TrainingState, identity, read_checkpoint, write_checkpoint
from planish.training.distillation.compiled_teacher import compiled_teacher
from planish.training.distillation.feature_transfer import FeatureStudent
from planish.training.distillation.teacher_cache import TeacherCache, cache_of
from planish.training.input_speed import Waiting, notes_on_input_speed
from planish.training.memory_layout import memory_format
from planish.training.optimizers import optimizer_of
from planish.training.parallel.batch_norm import whole_batch_norm
from planish.training.parallel.processes import current_processes
from planish.training.precision import use_bf16
from planish.training.resizing import ProgressiveResizing
from planish.training.schedules.averaging import STATISTICS_IMAGES, check_averaging, decay, fit_statistics, update_average
from planish.training.schedules.freezing import LayerFreezer
from planish.training.schedules.learning_rate import cycles_done, learning_rate
from planish.training.schedules.schedule import Schedule
from planish.training.settings import FitSettings
from planish.training.sparsity_constraint import SparsityConstraint

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Pixels, Preprocessing
    from planish.task import Split, Task

_CHECKPOINT_SECONDS = 5.0  # minimum time between two checkpoints


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch.

    Args:
        epoch: number of the epoch, from 1.
        train_loss: mean loss over its batches of augmented images, including distillation and penalty terms.
        validation_score: the task's primary metric on the validation split, in its unit; NaN without validation.
        seconds: duration, including validation.
        learning_rate: learning rate at its end.
    """

    epoch: int
    train_loss: float
    validation_score: float
    seconds: float
    learning_rate: float


@dataclass(frozen=True)
class Fitted:
    """A trained network, in eval mode on the CPU.

    Args:
        module: the trained copy.
        history: one entry per epoch; the last epoch may be cut short by the time limit.
        epochs: number of passes over the training images, 2.4 if the time ended in the third.
        seconds: duration of the training, without time lost by interruptions.
        step_seconds: of one step, without the preparations before the first.
        stopped: why training ended: ``finished``, ``deadline`` (the schedule was shortened to the time limit) or ``patience``.
        snapshots: the network at the end of each learning-rate cycle; the last one is ``module``.
    """

    module: nn.Module
    history: tuple[Epoch, ...]
    epochs: float
    seconds: float
    step_seconds: float
    stopped: str
    snapshots: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Teacher:
    """A teacher for distillation, whose outputs the student is trained to match besides the targets.

    The loss is ``(1 - weight) * task.loss + weight * task.distillation_loss`` (Hinton et al. 2015, arXiv:1503.02531). The teacher, in eval
    mode, gets the same augmented images as the student. A ``FeatureStudent`` adds the distance between its feature maps and the teacher's.

    Args:
        module: the teacher network, which takes the same images as the student.
        weight: weight of the distillation loss, 0 to 1.
        temperature: softmax temperature of teacher and student.
        decoupled: see ``Task.distillation_loss``.
    """

    module: nn.Module
    weight: float = 0.9
    temperature: float = 4.0
    decoupled: bool = False


@dataclass(frozen=True)
class FitRun:
    """Time limit, checkpoint and validation of a training.

    Args:
        checkpoint: checkpoint file, written after epochs, at most every few seconds. If the file exists, training resumes from it, with the
            same result as without the interruption.
        max_seconds: time limit for training and validation, to which the schedule is shortened; see ``Schedule``.
        validate: whether to validate after each epoch; False saves time if the caller evaluates the network, and disables ``patience``.
    """

    checkpoint: Path | None = None
    max_seconds: float | None = None
    validate: bool = True


_UNBOUNDED = FitRun()


def fit(
    module: nn.Module,
    task: Task,
    input_spec: InputSpec,
    preprocessing: Preprocessing,
    settings: FitSettings,
    *,
    teacher: Teacher | None = None,
    run: FitRun = _UNBOUNDED,
    weights: str = "dense",
) -> Fitted:
    """Train a copy of ``module`` on the task's train split.

    If several processes train together (``planish.training.parallel``), the first one calls this, and it runs in all of them. Each computes
    the gradients of its share of every batch, whose means are those of the batch.

    Args:
        module: takes normalised float images ``(N, C, H, W)``; not changed.
        task: images, loss and metric.
        input_spec: size and channels of the images.
        preprocessing: normalisation.
        settings: hyper-parameters.
        teacher: teacher for distillation; None to train on the targets alone.
        run: time limit, checkpoint and validation.
        weights: sparsity or weight sharing that training preserves: the artifact's fact ``weights``, see ``SparsityConstraint``.

    Raises:
        TrainingError: the loss is not finite, there are fewer than 2 training images, no parameter is trainable, the network's code
            prevents gradients, settings of weight averaging conflict, or the checkpoint belongs to another training.
    """
    check_averaging(settings)
    begun, metric = monotonic(), metric_of(task)
    images, targets = task.split("train").images(input_spec, preprocessing), task.split("train").targets
    validation = task.split("validation").images(input_spec, preprocessing)
    processes = current_processes()
    if len(images) < max(2, processes.count):
        raise TrainingError(f"there are {len(images)} training images", f"at least {max(2, processes.count)} are needed")
    processes.start(fit, module, task, input_spec, preprocessing, settings, teacher=teacher, run=run, weights=weights)
    device = Accelerator().device
    if device.type == "cpu":
        keep_freed_memory()
    layout = memory_format([module] if teacher is None else [module, teacher.module], input_spec, settings.channels_last)
    student = copy.deepcopy(module).to(memory_format=layout)
    raise_momentum(student)
    freezer = LayerFreezer(student, input_spec, settings.freeze, settings.layer_decay)
    optimizer = optimizer_of(student, input_spec, settings, freezer)
    student.to(device)
    averages = bool(settings.ema_decay or settings.swa_share)
    evaluated = copy.deepcopy(student) if averages else student
    parts: dict[str, Stateful] = {"module": student, "optimizer": optimizer}
    if averages:
        parts["average"] = evaluated
    keep, keep_evaluated = SparsityConstraint(student, weights), SparsityConstraint(evaluated, weights)
    key = identity(
        settings, _identity_of(task.split("train")), input_spec, preprocessing, fingerprint(module),
        None if teacher is None else (fingerprint(teacher.module), teacher.weight, teacher.temperature, teacher.decoupled),
        run.max_seconds, metric.name,
    )  # fmt: skip

    def begin() -> tuple[TrainingState, dict[str, Any]]:
        begun = None if run.checkpoint is None else read_checkpoint(run.checkpoint, key, parts)
        return begun or (TrainingState(use_bf16(settings.mixed_precision, device, module, input_spec)), {})

    done, states = processes.shared(begin)
    for name, state in states.items():
        parts[name].load_state_dict(state)
    cache = None
    if teacher is not None:
        # feature transfer needs the teacher's feature maps, so its outputs are not cached
        cache = None if isinstance(module, FeatureStudent) else cache_of(teacher.module, settings.batch_size, done.bf16)
        taught_by = copy.deepcopy(teacher.module).eval().to(device)
        if cache is not None:
            fold_batch_norm(taught_by)
            if device.type == "cpu" and task.name != OUTPUTS:  # coordinates need more digits than bfloat16 has
                taught_by = compiled_teacher(taught_by, input_spec, settings.batch_size, done.bf16)
        teacher = replace(teacher, module=taught_by.to(memory_format=layout))
    resizing = ProgressiveResizing(module, input_spec, settings.start_scale, preprocessing.normalisation, targets)
    loss_of = _Loss(task, settings, Normalise.of(preprocessing), resizing, student, teacher, cache, device, done.bf16, layout)
    count = batches_per_epoch(len(images), settings.batch_size, processes.count)
    steps, written = done.steps, -math.inf
    first_validation = 0.5 * len(validation) / settings.batch_size if run.validate else 0.0  # a forward pass is a third of a step
    schedule = Schedule(key, settings.epochs * count, count, run.max_seconds, first_validation, monotonic() - begun, resizing.cost)
    if done.schedule:
        schedule.restore(done.schedule)
    with Stage("training" if teacher is None else "distilling", schedule.expected_steps()) as stage:
        stage.done = steps
        if done.history:
            stage.advance(0, f"going on after epoch {len(done.history)}")
        for text in done.notes:
            note(text)
        for each in done.history:
            _log(Epoch(**each), metric.name)
        while not done.stopped:
            epoch, epoch_begun, rate = len(done.history) + 1, schedule.seconds, 0.0
            losses: list[float] = []
            waiting = Waiting()
            student.train()
            freezer(schedule.progress(steps), restart=True)
            with _random_state_of(random_seed(settings.seed, epoch, processes.rank), device), whole_batch_norm(processes):
                ahead = device.type != "cpu"
                made = batches(images, targets, input_spec, task, settings, epoch, ahead=ahead, processes=processes)
                for batch, wanted in waiting.on(made):
                    schedule.correct(steps, processes.shared)
                    if schedule.progress(steps) >= 1:
                        break
                    freezer(schedule.progress(steps))
                    rate = _set_rate(optimizer, schedule.progress(steps + 0.5), settings)
                    whole = min(settings.batch_size, len(images) - len(losses) * settings.batch_size)
                    loss = loss_of(batch, wanted, schedule.progress(steps)) * (processes.count * len(batch) / whole)
                    losses.append(processes.mean(loss.item()))
                    if not math.isfinite(losses[-1]):
                        raise _diverged(losses[-1], epoch, len(losses), rate, settings)
                    optimizer.zero_grad()
                    with _explained_gradients():
                        loss.backward()  # type: ignore[no-untyped-call]
                    processes.average_gradients(student)
                    if settings.clip_norm is not None:
                        nn.utils.clip_grad_norm_(student.parameters(), settings.clip_norm)
                    optimizer.step()
                    keep()
                    steps += 1
                    if evaluated is not student:
                        if done.averaged_steps or schedule.progress(steps) > 1 - settings.swa_share:
                            done.averaged_steps += 1
                        update_average(evaluated, student, decay(settings, steps, done.averaged_steps))
                    if len(done.snapshots) + 1 < settings.cycles and _ends_a_cycle(done, schedule.progress(steps), settings):
                        done.snapshots.append(_state(evaluated))
                    stage.total = schedule.expected_steps()
                    stage.advance()
            if not done.history and device.type == "cpu" and processes.first:
                done.notes += notes_on_input_speed(waiting.seconds, schedule.seconds - epoch_begun, images, input_spec, settings)
            keep_evaluated()  # averages of equal values may differ by rounding
            validated = monotonic()
            if done.averaged_steps:
                fit_statistics(evaluated, task, input_spec, preprocessing, settings)
            score = math.nan
            if run.validate:
                score = processes.shared(lambda: _validated(evaluated, task, validation, preprocessing, settings))
                to_come = min(STATISTICS_IMAGES, len(images)) if settings.swa_share and not done.averaged_steps else 0
                took = monotonic() - validated
                schedule.validated(took, (0.2 + 1.2 * to_come / len(validation)) * took)
            mean_loss = float(np.mean(losses)) if losses else math.nan
            ended = Epoch(epoch, mean_loss, score, schedule.seconds - epoch_begun, rate)
            done.history.append(asdict(ended))
            _log(ended, metric.name)
            value = f"{score:,.{digits_of(metric.unit, score)}f} {metric.unit}"
            shown = f", validation {in_words(metric.name)} {value}".rstrip() if run.validate else ""
            stage.advance(0, f"epoch {epoch}: loss {mean_loss:.3f}{shown}")
            _judge(done, score if metric.higher_is_better else -score, evaluated, settings.patience if run.validate else None)
            schedule.correct(steps, processes.shared)
            done.steps, done.schedule = steps, schedule.state()
            if not done.stopped and schedule.progress(steps) >= 1:
                done.stopped = "finished" if steps >= schedule.total_steps else "deadline"
            if run.checkpoint is not None and processes.first and (done.stopped or monotonic() - written > _CHECKPOINT_SECONDS):
                write_checkpoint(run.checkpoint, key, done, parts)
                written = monotonic()
        stage.total = stage.done
        step_seconds = schedule.seconds_per_step(steps)
    freezer.release()

    if done.best_state is not None:
        evaluated.load_state_dict(done.best_state)
    fitted = evaluated.to("cpu").to(memory_format=torch.contiguous_format).eval()
    snapshots = []
    for state in done.snapshots:
        snapshots.append(copy.deepcopy(fitted))
        snapshots[-1].load_state_dict(state)
    history = tuple(Epoch(**epoch) for epoch in done.history)
    return_freed_memory()
    return Fitted(fitted, history, steps / count, done.schedule["seconds"], step_seconds, done.stopped, (*snapshots, fitted))


def _validated(module: nn.Module, task: Task, images: Pixels, preprocessing: Preprocessing, settings: FitSettings) -> float:
    """The score on the validation images, in the metric's unit."""
    outputs = TorchPredictor(module, preprocessing, 2 * settings.batch_size)(images)
    return metric_of(task).scale * float(np.mean(task.scores(outputs, task.split("validation").targets)))


def _log(epoch: Epoch, metric: str) -> None:
    values = {"train_loss": epoch.train_loss, f"validation_{metric}": epoch.validation_score, "learning_rate": epoch.learning_rate}
    log_values(values, step=epoch.epoch)


@contextmanager
def _explained_gradients() -> Iterator[None]:
    """Explain errors of the backward pass that the network's own code causes.

    Raises:
        TrainingError: forward changes in place what a gradient needs, or cuts its outputs off from the parameters.
    """
    try:
        yield
    except RuntimeError as error:
        if "inplace operation" in str(error):
            raise TrainingError(
                f"the network changes in place what its gradient needs: {first_line(error)}",
                "what an operation such as ReLU returned stays unchanged until the backward pass",
                "write x = x + y instead of x += y, and relu(x) instead of relu_(x)",
            ) from error
        if "does not require grad" in str(error):
            raise TrainingError(
                "the logits have no gradient", "forward must not detach them, nor run under torch.no_grad()", "remove it for training"
            ) from error
        raise


def _identity_of(split: Split) -> str:
    """A hash of the names of a split's images and, for class indices and numbers, of their targets."""
    known = hashlib.sha256("\n".join(split.keys).encode(errors="surrogateescape"))
    if isinstance(split.targets, np.ndarray):
        known.update(np.ascontiguousarray(split.targets).tobytes())
    return known.hexdigest()


@dataclass(frozen=True)
class _Loss:
    """The loss of one batch: the losses on targets and teacher, and the L1 penalty."""

    task: Task
    settings: FitSettings
    normalise: nn.Module
    resizing: ProgressiveResizing
    student: nn.Module
    teacher: Teacher | None
    cache: TeacherCache | None
    device: torch.device
    bf16: bool
    layout: torch.memory_format

    def __call__(self, batch: torch.Tensor, targets: Any, progress: float) -> torch.Tensor:
        """The loss of images ``batch`` ``(N, H, W, C)`` in 0..255 at this progress of the training; a scalar."""
        targets = each(lambda t: t.to(self.device), targets)
        pixels = self.normalise.to(self.device)(batch.to(self.device))
        pixels = pixels.contiguous(memory_format=self.layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            with SafeStrides():
                outputs = self.student(self.resizing(pixels, progress).contiguous(memory_format=self.layout))
            from_teacher = None if self.teacher is None else self._taught(self.teacher.module, batch, pixels)
        outputs, from_teacher = each(_float, outputs), each(_float, from_teacher)
        loss = self.task.loss(_reads(self.student), outputs, targets, self.settings.loss_settings)
        if self.teacher is not None:
            hard = targets if self.teacher.decoupled else None
            distilled = self.task.distillation_loss(_reads(self.student), outputs, from_teacher, self.teacher.temperature, hard)
            loss = (1 - self.teacher.weight) * loss + self.teacher.weight * distilled
            if isinstance(self.student, FeatureStudent):
                loss = loss + self.student.distance(self.teacher.module)
        if self.settings.l1:
            weights = [p for p in self.student.parameters() if p.requires_grad and p.ndim > 1]
            loss = loss + self.settings.l1 * sum(weight.abs().sum() for weight in weights)
        return loss

    @torch.no_grad()
    def _taught(self, teacher: nn.Module, batch: torch.Tensor, pixels: torch.Tensor) -> Any:
        return teacher(pixels) if self.cache is None else self.cache.ask(batch, lambda asked: teacher(pixels[asked]))


def _float(values: torch.Tensor) -> torch.Tensor:
    return values.float()


def _reads(student: nn.Module) -> nn.Module:
    """The network itself, whose methods interpret its outputs, without the wrapper ``FeatureStudent``."""
    return student.network if isinstance(student, FeatureStudent) else student


def _set_rate(optimizer: torch.optim.Optimizer, progress: float, settings: FitSettings) -> float:
    rate = learning_rate(progress, settings.learning_rate, settings.warmup_share, settings.cycles, 1 - settings.swa_share)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


@contextmanager
def _random_state_of(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state, used for example by dropout; restore the caller's state afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _judge(done: TrainingState, score: float, module: nn.Module, patience: int | None) -> None:
    """Update early stopping: keep the best weights, and stop after ``patience`` epochs without improvement."""
    if patience is None:
        return
    if score > done.best_score:
        done.best_score, done.epochs_without_better = score, 0
        done.best_state = _state(module)
        return
    done.epochs_without_better += 1
    if done.epochs_without_better >= patience:
        done.stopped = "patience"


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _ends_a_cycle(done: TrainingState, progress: float, settings: FitSettings) -> bool:
    return cycles_done(progress, settings.warmup_share, settings.cycles) > len(done.snapshots)


def _diverged(loss: float, epoch: int, step: int, rate: float, settings: FitSettings) -> TrainingError:
    fixes = [f"a learning rate below {settings.learning_rate / 3:.2g}"]
    if settings.clip_norm is None:
        fixes.append("clip_norm=1")
    if settings.warmup_epochs < 1:
        fixes.append("more warmup_epochs")
    return TrainingError(
        f"the loss became {loss} in epoch {epoch}, step {step}, at learning rate {rate:.3g}",
        "training cannot go on from there",
        f"try {', or '.join(fixes)}",
    )
