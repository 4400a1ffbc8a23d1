"""How a network is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.data.augmentation.policy import Augmentation
from planish.task import AugmentSettings, ClassWeights, LossKind, LossSettings
from planish.training.schedules.freezing import Freeze

MixedPrecision = Literal["auto", "off", "bf16"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FitSettings:
    """Hyper-parameters of one training.

    The learning rate rises linearly during ``warmup_epochs``, then falls to 0 along a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983).
    Weights can be averaged on the way (``ema_decay``, ``swa_share``), or kept at several ends (``cycles``).

    Args:
        epochs: passes over the training images.
        batch_size: images a step.
        optimizer: ``sgd`` with Nesterov momentum, or ``adamw`` (Loshchilov & Hutter 2019, arXiv:1711.05101).
        learning_rate: at its highest.
        momentum: of ``sgd``.
        weight_decay: on weights; biases and the parameters of normalisation layers are not decayed.
        l1: times the sum of the absolute weights is added to the loss; it leaves biases and normalisation layers alone, as the decay does.
            Weights come close to 0, hardly any becomes 0 itself.
        warmup_epochs: may be a fraction.
        loss: ``cross_entropy``, or ``focal``, which gives images with confident predictions less weight (Lin et al. 2017,
            arXiv:1708.02002): for classes that are rare, or images that are mostly easy.
        focal_gamma: how much less; 0 is cross-entropy.
        class_weights: ``balanced`` weighs a class by images / (classes * its images), so that rare ones count as much as frequent ones.
        sampler: ``balanced`` shows each class equally often, rare ones more than once an epoch and not all images of frequent ones; the
            epoch keeps its length. Balance by weights or by the sampler: both at once favour rare classes.
        label_smoothing: 0 for none (Szegedy et al. 2016, arXiv:1512.00567).
        ema_decay: of the running average of weights that is evaluated and returned; None for the last weights themselves.
        swa_share: of the training, at its end, during which the learning rate stays where the cosine has come to, and the average of the
            weights after each step is evaluated and returned, with batch-norm statistics of its own; 0 for none (Izmailov et al. 2018,
            arXiv:1803.05407; each step instead of each epoch: Cha et al. 2021, arXiv:2102.08604).
        cycles: times the rate falls to 0, and begins at its highest again; the weights at the end of each are kept: ``Fitted.snapshots``
            (Huang et al. 2017, arXiv:1704.00109).
        mixup_alpha: of Beta(alpha, alpha), from which the weights of two images and of their losses are drawn, in all tasks alike; 0 for no
            mixup (Zhang et al. 2018, arXiv:1710.09412).
        cutmix_alpha: the same for CutMix, for classification (Yun et al. 2019, arXiv:1905.04899); with both, each batch gets one of them.
        augmentation: a strength, or operations with their strengths, ``{"rotate": 15}``; see ``planish.data.augmentation.policy``.
        flip: whether augmentation mirrors left to right; False for digits, letters, arrows.
        mosaic: share of the images of a detector or segmenter that are put together from four (Bochkovskiy et al. 2020, arXiv:2004.10934).
        copy_paste: share of the images that get objects of another image, where there are masks (Ghiasi et al. 2021, arXiv:2012.07177).
        clip_norm: largest norm of the gradient, None for no limit.
        patience: epochs without a better validation score after which training stops, and the best weights are restored;
            None to train to the end and keep the last.
        freeze: ``none``; ``backbone``: the classifier alone learns (a linear probe); ``gradual``: one part of the network after the other,
            the last first, until half of the training. Frozen batch norm stays in eval mode.
        layer_decay: each quarter of the network learns at that factor of the rate of the one behind it; 1 for one rate.
        mixed_precision: ``auto`` uses bfloat16 where this device gains by it, which is measured: by a single training for itself, by
            comparisons and searches once for all their trainings.
        channels_last: memory layout in which most devices run convolutions faster.
        seed: of shuffling, augmentation and dropout. Equal seeds give equal results on the same CPU, unless a deadline cuts in;
            a GPU adds up in no fixed order.
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=128, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    l1: float = Field(default=0.0, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    loss: LossKind = "cross_entropy"
    focal_gamma: float = Field(default=2.0, ge=0)
    class_weights: ClassWeights = "none"
    sampler: Literal["shuffled", "balanced"] = "shuffled"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    swa_share: float = Field(default=0.0, ge=0, lt=1)
    cycles: int = Field(default=1, ge=1)
    mixup_alpha: float = Field(default=0.0, ge=0)
    cutmix_alpha: float = Field(default=0.0, ge=0)
    augmentation: Augmentation = "light"
    flip: bool = True
    mosaic: float = Field(default=0.0, ge=0, le=1)
    copy_paste: float = Field(default=0.0, ge=0, le=1)
    clip_norm: float | None = Field(default=None, gt=0)
    patience: int | None = Field(default=None, ge=1)
    freeze: Freeze = "none"
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    mixed_precision: MixedPrecision = "auto"
    channels_last: bool = True
    seed: int = 0

    @property
    def warmup_share(self) -> float:
        """Of the training, during which the learning rate rises."""
        return min(0.5, self.warmup_epochs / self.epochs)

    @property
    def augment_settings(self) -> AugmentSettings:
        """What the task's augmentation is told."""
        return AugmentSettings(self.augmentation, self.flip, self.mixup_alpha, self.cutmix_alpha, self.mosaic, self.copy_paste)

    @property
    def loss_settings(self) -> LossSettings:
        """What the task's loss is told."""
        return LossSettings(self.loss, self.focal_gamma, self.class_weights, self.label_smoothing)
