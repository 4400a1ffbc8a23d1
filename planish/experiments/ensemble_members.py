"""The networks of ensembles and weight averages, each trained once and stored on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from planish.evaluation.evaluate import evaluate
from planish.evaluation.torch_predictor import TorchPredictor
from planish.models.storage import load_artifact, save_artifact
from planish.runs.store import Store
from planish.runs.trainings import MAX_EPOCHS_WITH_TIME_LIMIT, Arm, Scores, Trainer
from planish.task import SplitName, Task
from planish.training.ensembles import Ensemble, Soup, Views, greedy_soup, uniform_soup
from planish.training.fit import FitRun, Teacher, fit
from planish.training.schedules.averaging import fit_statistics
from planish.training.settings import FitSettings

COPIES = 3
COPY_SHARE = 0.25  # additional training of each copy for a soup, as a share of a full training
SWA_SHARE = 0.25
_EMA_DECAY = 0.99  # if the recipe has none
_COPY_RATE = 0.2  # share of the highest rate: copies that leave the basin cannot be averaged
_MOST_CYCLES = 3


@dataclass(frozen=True)
class TrainedModel:
    """A network, or several combined in one module, in eval mode, and the seconds of all the training that it needed."""

    module: nn.Module
    seconds: float


class MemberTrainer:
    """Trains the networks of the arms; ``number`` is the index of the seed, from 0.

    Args:
        trainer: prepares images and networks, and has the time limit of a training, if there is one.
        arm: model, weights and recipe.
        folder: folder for the trained networks.
        seed: first seed.
        seeds: number of networks in an ensemble.
    """

    def __init__(self, trainer: Trainer, arm: Arm, folder: Path, seed: int, seeds: int) -> None:
        self.store: Store = trainer.store
        self._trainer, self._arm, self._folder, self._seed, self.seeds = trainer, arm, folder, seed, seeds
        self.plain = replace(arm.recipe.training, ema_decay=None, swa_share=0.0, cycles=1, seed=0)
        self.ema_decay = arm.recipe.training.ema_decay or _EMA_DECAY
        self.cycles = min(_MOST_CYCLES, self.plain.epochs)
        job, self.artifact = trainer.start(arm, seed)
        self.task: Task = job.task

    def single(self, number: int) -> TrainedModel:
        """Return the network with its last weights."""
        return self._one("single", number, self.plain)

    def ema(self, number: int) -> TrainedModel:
        """Return the network with the exponential moving average of its weights."""
        return self._one("ema", number, replace(self.plain, ema_decay=self.ema_decay))

    def swa(self, number: int) -> TrainedModel:
        """Return the network with the average of its weights at the end of training."""
        return self._one("swa", number, replace(self.plain, swa_share=SWA_SHARE))

    def snapshots(self, number: int) -> TrainedModel:
        """Return the ensemble of the snapshots of one training with several cycles."""
        networks, seconds = self._trained("snapshots", number, replace(self.plain, cycles=self.cycles))
        return TrainedModel(Ensemble(networks).eval(), seconds)

    def views(self, number: int, shift: int) -> TrainedModel:
        """Return the single network with test-time augmentation."""
        one = self.single(number)
        return replace(one, module=Views(one.module, flip=self.plain.flip, shift=shift).eval())

    def trained_on(self, number: int, copy: int = 0) -> TrainedModel:
        """Return a copy of the single network after more training, with a lower learning rate and its own order of images."""
        start, settings = self.single(number), self.plain
        settings = replace(
            settings,
            epochs=max(1, round(COPY_SHARE * settings.epochs)),
            learning_rate=_COPY_RATE * settings.learning_rate,
            warmup_epochs=0.0,
            seed=1000 * (copy + 1),
        )
        more = self._one(f"copy {copy}", number, settings, share=COPY_SHARE, start=start.module)
        return replace(more, seconds=start.seconds + more.seconds)

    def soup(self, number: int, greedy: bool) -> TrainedModel:
        """Return the soup of fine-tuned copies of one network."""
        copies = [self.trained_on(number, copy) for copy in range(COPIES)]
        once = self.single(number).seconds
        networks = [copy.module for copy in copies]
        soup = greedy_soup(networks, self._validation, self._fit_statistics) if greedy else self._uniform(networks)
        return TrainedModel(soup.module, once + sum(copy.seconds - once for copy in copies))

    def soup_of_seeds(self, number: int) -> TrainedModel:
        """Return the uniform soup of the single networks of all seeds."""
        every = [self.single(i) for i in range(self.seeds)]
        return TrainedModel(self._uniform([one.module for one in every]).module, sum(one.seconds for one in every))

    def ensemble(self, number: int, count: int) -> TrainedModel:
        """Return the ensemble of ``count`` single networks, starting with this one."""
        every = [self.single((number + i) % self.seeds) for i in range(count)]
        return TrainedModel(Ensemble([one.module for one in every]).eval(), sum(one.seconds for one in every))

    def student(self, number: int) -> TrainedModel:
        """Return a network with the same initial weights as the single network, distilled from the ensemble of all seeds."""
        teacher = self.ensemble(0, self.seeds)
        learned = self._one("student", number, self.plain, teacher=Teacher(teacher.module))
        return replace(learned, seconds=teacher.seconds + learned.seconds)

    def scores(self, module: nn.Module, split: SplitName) -> Scores:
        """Return one score per image, ``(N,)``."""
        spec, preprocessing = self.artifact.input_spec, self.artifact.preprocessing
        found = evaluate(TorchPredictor.fastest(module, preprocessing), self.task, split, spec, preprocessing)
        return np.asarray(self.task.scores(found.outputs, found.targets))

    def _validation(self, module: nn.Module) -> float:
        return float(self.scores(module, "validation").mean())

    def _uniform(self, networks: list[nn.Module]) -> Soup:
        return uniform_soup(networks, self._fit_statistics)

    def _fit_statistics(self, module: nn.Module) -> None:
        fit_statistics(module, self.task, self.artifact.input_spec, self.artifact.preprocessing, self.plain)

    def _one(self, method: str, number: int, settings: FitSettings, **more: Any) -> TrainedModel:
        networks, seconds = self._trained(method, number, settings, **more)
        return TrainedModel(networks[-1], seconds)

    def _trained(
        self,
        method: str,
        number: int,
        settings: FitSettings,
        *,
        share: float = 1.0,
        start: nn.Module | None = None,
        teacher: Teacher | None = None,
    ) -> tuple[list[nn.Module], float]:
        """Return all snapshots of one training, and its seconds.

        Args:
            method: name of the method.
            number: index of the seed.
            settings: settings of the training; the training's seed is added to theirs.
            share: share of the time limit of a training, if there is one.
            start: network to train; None for the initial weights.
            teacher: see ``fit``.
        """
        folder = self._folder / f"{method.replace(' ', '-')}-{number}"
        checkpoint, seed = folder.with_name(folder.name + ".checkpoint"), self._seed + number

        def work() -> tuple[int, float]:
            artifact = self._trainer.start(self._arm, seed)[1]
            resolved, most = replace(settings, seed=seed + settings.seed), None
            if self._trainer.seconds is not None:
                resolved, most = replace(resolved, epochs=MAX_EPOCHS_WITH_TIME_LIMIT), share * self._trainer.seconds
            module = artifact.module if start is None else start
            fitted = fit(
                module, self.task, artifact.input_spec, artifact.preprocessing, resolved, teacher=teacher,
                run=FitRun(checkpoint, most),
            )  # fmt: skip
            for place, snapshot in enumerate(fitted.snapshots):
                save_artifact(replace(artifact, module=snapshot), folder / str(place))
            return len(fitted.snapshots), fitted.seconds

        def read(found: tuple[int, float]) -> tuple[list[nn.Module], float]:
            count, seconds = found
            return [load_artifact(folder / str(place)).module for place in range(count)], float(seconds)

        trained = self.store.load(f"trained:{method}:{number}", "training", work, read)
        checkpoint.unlink(missing_ok=True)
        return trained
