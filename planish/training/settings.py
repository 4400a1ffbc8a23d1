"""Hyper-parameters of training."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.data.augmentation.operations import Operations
from planish.data.augmentation.policy import Augmentation
from planish.task import AugmentSettings, ClassWeights, LossKind, LossSettings
from planish.training.schedules.freezing import Freeze

MixedPrecision = Literal["auto", "off", "bf16"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FitSettings:
    """Hyper-parameters of one training.

    The learning rate rises linearly during ``warmup_epochs``, then falls to 0 along a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983).
    Weights can be averaged during training (``ema_decay``, ``swa_share``), or kept at the end of each of several cycles (``cycles``).

    Args:
        epochs: number of passes over the training images.
        batch_size: images per step.
        optimizer: ``sgd`` with Nesterov momentum; ``adamw`` (Loshchilov & Hutter 2019, arXiv:1711.05101); or ``muon``, which is ``sgd``
            with orthogonal updates of the weights of all convolutions and linear layers but the classifier, for short trainings of
            networks with batch norm (Jordan 2024, https://kellerjordan.github.io/posts/muon/).
        learning_rate: peak learning rate.
        muon_rate: peak learning rate of the weights that ``muon`` updates orthogonally: their relative change per step. Their norm stays.
        bias_rate: learning rate of the biases of batch norm relative to that of all other parameters; in short trainings a large one
            saves epochs (Page 2019, How to train your ResNet).
        momentum: momentum of ``sgd`` and ``muon``.
        weight_decay: weight decay; not applied to biases and parameters of normalisation layers.
        l1: factor of the L1 penalty on weights, added to the loss; not applied to biases and normalisation layers. It brings weights close
            to 0, hardly any to exactly 0.
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        loss: ``cross_entropy``, or ``focal``, which down-weights images that are already predicted with confidence (Lin et al. 2017,
            arXiv:1708.02002): for rare classes, or when most images are easy.
        focal_gamma: strength of that down-weighting; 0 is cross-entropy.
        class_weights: ``balanced`` weights each class by images / (classes * images of the class), so that rare classes count as much as
            frequent ones.
        sampler: ``balanced`` shows each class equally often: images of rare classes more than once per epoch, and not all of frequent ones;
            the length of an epoch stays the same. Use class weights or the sampler; both together favour rare classes.
        logit_adjustment: strength of logit adjustment, with which the loss adds that many times the logarithm of each class's share of the
            training images to its logit; with 1 the network learns to predict as if all classes were equally frequent (Menon et al. 2021,
            arXiv:2007.07314). None for 1 if classes are unbalanced, the primary metric is balanced accuracy, and neither class weights nor
            the sampler balance them; otherwise for 0.
        label_smoothing: amount of label smoothing; 0 for none (Szegedy et al. 2016, arXiv:1512.00567).
        ema_decay: decay of an exponential moving average of the weights, which is then evaluated and returned; None for no averaging.
        swa_share: share of the training, at its end, during which the learning rate is held constant and the weights are averaged over
            steps; the average, with batch-norm statistics of its own, is evaluated and returned. 0 for none (Izmailov et al. 2018,
            arXiv:1803.05407; steps instead of epochs: Cha et al. 2021, arXiv:2102.08604).
        cycles: number of learning-rate cycles, each from the peak to 0; the weights at the end of each are kept in ``Fitted.snapshots``
            (Huang et al. 2017, arXiv:1704.00109).
        mixup_alpha: parameter of the Beta(alpha, alpha) distribution from which mixup's weights are drawn, for every task; 0 for no mixup
            (Zhang et al. 2018, arXiv:1710.09412).
        cutmix_alpha: the same for CutMix, for classification (Yun et al. 2019, arXiv:1905.04899); with both, each batch gets one of them.
        augmentation: a strength, or operations with their strengths, ``{"rotate": 15}``; see ``planish.data.augmentation.policy``.
        flip: whether augmentation includes horizontal flips; False for digits, letters, arrows.
        alternating_flip: mirror each image in every second epoch instead of at random, if ``flip`` and ``augmentation`` mirror images; not
            for targets with positions (Jordan 2024, arXiv:2404.00498).
        mosaic: share of training images of a detector or segmenter that are mosaics of four (Bochkovskiy et al. 2020, arXiv:2004.10934).
        copy_paste: share of training images with objects pasted from another image, given masks (Ghiasi et al. 2021, arXiv:2012.07177).
        start_scale: height and width of images in the first 70 % of the training, as a share of the full ones, rounded to multiples of 32
            pixels; 1 for full size throughout, which images stay at if the smaller ones would have less than 64 pixels a side. Small images
            cost less, so that a training of equal duration sees more of them. For classes only; see ``ProgressiveResizing``.
        clip_norm: maximum norm of the gradient; None for no clipping.
        patience: early stopping: epochs without a better validation score after which training stops and the best weights are restored;
            None to train to the end and keep the last weights.
        freeze: ``none``; ``backbone`` trains only the classifier (a linear probe), and of detectors and segmenters all but the backbone;
            ``early`` trains all but the first quarter of the layers, whose maps are large, so that steps are much shorter; ``gradual``
            unfreezes one part after the other, starting from the last, until half of the training. Frozen batch norm stays in eval mode.
        layer_decay: factor between the learning rates of successive quarters of the network, lowest at the input; 1 for a single rate.
        mixed_precision: ``auto`` uses bfloat16 if it is measured to be faster on this device. A single training measures for itself;
            comparisons and searches measure once for all their trainings.
        channels_last: use the channels-last memory layout, in which most devices run convolutions faster.
        seed: seed of shuffling, augmentation and dropout. Equal seeds give equal results on the same CPU, unless a time limit intervenes;
            a GPU sums in no fixed order.
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=128, ge=2)
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    muon_rate: float = Field(default=0.1, gt=0)
    bias_rate: float = Field(default=1.0, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    l1: float = Field(default=0.0, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    loss: LossKind = "cross_entropy"
    focal_gamma: float = Field(default=2.0, ge=0)
    class_weights: ClassWeights = "none"
    sampler: Literal["shuffled", "balanced"] = "shuffled"
    logit_adjustment: float | None = Field(default=None, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    swa_share: float = Field(default=0.0, ge=0, lt=1)
    cycles: int = Field(default=1, ge=1)
    mixup_alpha: float = Field(default=0.0, ge=0)
    cutmix_alpha: float = Field(default=0.0, ge=0)
    augmentation: Augmentation = "light"
    flip: bool = True
    alternating_flip: bool = False
    mosaic: float = Field(default=0.0, ge=0, le=1)
    copy_paste: float = Field(default=0.0, ge=0, le=1)
    start_scale: float = Field(default=1.0, gt=0, le=1)
    clip_norm: float | None = Field(default=None, gt=0)
    patience: int | None = Field(default=None, ge=1)
    freeze: Freeze = "none"
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    mixed_precision: MixedPrecision = "auto"
    channels_last: bool = True
    seed: int = 0

    @property
    def warmup_share(self) -> float:
        """Share of the training during which the learning rate rises."""
        return min(0.5, self.warmup_epochs / self.epochs)

    @property
    def alternates_flips(self) -> bool:
        """Whether images are mirrored in every second epoch."""
        mirrors = self.augmentation.flip if isinstance(self.augmentation, Operations) else self.augmentation != "none"
        return self.alternating_flip and self.flip and mirrors

    @property
    def augment_settings(self) -> AugmentSettings:
        """Settings of the task's augmentation."""
        return AugmentSettings(self.augmentation, self.flip, self.mixup_alpha, self.cutmix_alpha, self.mosaic, self.copy_paste)

    @property
    def loss_settings(self) -> LossSettings:
        """Settings of the task's loss."""
        balanced = "balanced" in (self.class_weights, self.sampler)
        adjustment = 0.0 if balanced and self.logit_adjustment is None else self.logit_adjustment
        return LossSettings(self.loss, self.focal_gamma, self.class_weights, self.label_smoothing, adjustment)
