"""Ready-made experiments on common questions, each with a network on which the effect is visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planish.experiments.experiment import GIVEN, Design
from planish.training.recipe import NOTHING


@dataclass(frozen=True)
class Study:
    """A ready-made experiment.

    Args:
        question: the question that it answers.
        factors: values by factor, the reference value first.
        model: name of the network.
        changes: changes to the recipe, for all arms.
        design: see ``experiment.arms_with``.
        recipe: recipe of all arms.
    """

    question: str
    factors: Mapping[str, Sequence[Any]]
    model: str = "resnet8"
    changes: Sequence[str] = ()
    design: Design = "factorial"
    recipe: str = "scratch-small"


STUDIES: dict[str, Study] = {
    "initialization": Study(
        "how should the weights of a network without normalisation begin?",
        {"modifications.initialization": ["he_normal", "he_uniform", "xavier_normal", "lecun_normal", "orthogonal", "normal", "zeros"]},
        model="plain8",
        changes=["norm=none", "learning_rate=0.02", "clip_norm=1", "augmentation=none"],
    ),
    "activation": Study(
        "which activation, in a deep network without shortcuts?",
        {
            "modifications.activation": [
                "relu",
                "leaky_relu",
                "prelu",
                "elu",
                "selu",
                "gelu",
                "silu",
                "hard_swish",
                "mish",
                "tanh",
                "sigmoid",
            ]
        },
        model="plain20",
        changes=["initialization=matched", "augmentation=none"],
    ),
    "pooling": Study(
        "how should the last maps become one vector?",
        {"modifications.pooling": ["average", "max", "gem", "attention", "pyramid"]},
        changes=["augmentation=none"],
    ),
    "normalization": Study(
        "which normalisation, with large batches and with tiny ones?",
        {"modifications.norm": ["batch", "group", "layer", "instance", "standardised"], "training.batch_size": [64, 2]},
        changes=["learning_rate=0.01", "augmentation=none"],
    ),
    "augmentation": Study(
        "how much should training images be changed?",
        {"training.augmentation": ["none", "light", "standard"], "training.mixup_alpha": [0.0, 0.2], "training.cutmix_alpha": [0.0, 1.0]},
        design="one",
    ),
    "regularization": Study(
        "what keeps the network from learning images by heart?",
        {
            "modifications.dropout": ["none", 0.3],
            "modifications.dropconnect": ["none", 0.3],
            "modifications.stochastic_depth": ["none", 0.1],
            "training.weight_decay": [5e-4, 0.0, 5e-3],
            "training.label_smoothing": [0.0, 0.1],
        },
        model="resnet14",
        changes=["augmentation=none"],
        design="one",
    ),
    "depth-width": Study(
        "deeper or wider?",
        {"modifications.depth": ["none", 2.0], "modifications.width": ["none", 0.5, 2.0]},
        model="resnet14",
        changes=["augmentation=none"],
    ),
    "shortcuts": Study(
        "what do shortcuts do for a deep network?",
        {"model": ["plain44", "resnet44", "plain8", "resnet8"]},
        changes=["augmentation=none"],
    ),
    "transfer": Study(
        "how should good weights be adapted? (needs --weights)",
        {"training.freeze": ["none", "gradual", "backbone"], "training.layer_decay": [1.0, 0.7], "weights": [GIVEN, NOTHING]},
        model="mobilenet_v2",
        design="one",
        recipe="finetune-few",
    ),
}
