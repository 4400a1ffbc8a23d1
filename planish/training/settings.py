"""How a network is trained, and settings that are known to work."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.data.augmentation import Augmentation


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FitSettings:
    """Hyper-parameters of one training.

    The learning rate rises linearly during ``warmup_epochs``, then falls to 0 along a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983).

    Args:
        epochs: times every training image is seen.
        batch_size: images a step.
        optimizer: ``sgd`` with Nesterov momentum, or ``adamw`` (Loshchilov & Hutter 2019, arXiv:1711.05101).
        learning_rate: at its highest.
        momentum: of ``sgd``.
        weight_decay: on weights; biases and the parameters of normalisation layers are not decayed.
        warmup_epochs: may be a fraction.
        label_smoothing: 0 for none (Szegedy et al. 2016, arXiv:1512.00567).
        ema_decay: of the running average of weights that is evaluated and returned; None for the last weights themselves.
        mixup_alpha: of the Beta distribution, 0 for no mixup (Zhang et al. 2018, arXiv:1710.09412).
        cutmix_alpha: the same for CutMix (Yun et al. 2019, arXiv:1905.04899); with both, each batch gets one of them.
        augmentation: a strength, or operations with their strengths, ``{"rotate": 15}``; see ``planish.data.augmentation``.
        flip: whether augmentation mirrors left to right; False for digits, letters, arrows.
        clip_norm: largest norm of the gradient, None for no limit.
        patience: epochs without a better validation score after which training stops, and the best weights are restored;
            None to train to the end and keep the last.
        mixed_precision: ``auto`` uses bfloat16 where this device gains by it, which is measured.
        channels_last: memory layout in which most devices run convolutions faster.
        seed: of shuffling, augmentation and dropout. Equal seeds give equal results on the same machine, unless a deadline cuts in.
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=128, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    mixup_alpha: float = Field(default=0.0, ge=0)
    cutmix_alpha: float = Field(default=0.0, ge=0)
    augmentation: Augmentation = "light"
    flip: bool = True
    clip_norm: float | None = Field(default=None, gt=0)
    patience: int | None = Field(default=None, ge=1)
    mixed_precision: Literal["auto", "off", "bf16"] = "auto"
    channels_last: bool = True
    seed: int = 0

    @classmethod
    def for_scratch(cls, **changes: Any) -> FitSettings:
        """For a network with fresh weights: small batches, a high learning rate, label smoothing and an average of the weights.

        Where there is time for fewer than about ten epochs, ``augmentation="none"`` gets further.
        """
        preset = {"batch_size": 64, "learning_rate": 0.1, "warmup_epochs": 1, "label_smoothing": 0.05, "ema_decay": 0.99}
        return cls(**{**preset, **changes})

    @classmethod
    def for_finetune(cls, **changes: Any) -> FitSettings:
        """For a network with good weights: a low learning rate and little decay, so that they are not forgotten."""
        return cls(**{"epochs": 8, "learning_rate": 0.02, "warmup_epochs": 0.5, "weight_decay": 1e-4, "label_smoothing": 0.05, **changes})
