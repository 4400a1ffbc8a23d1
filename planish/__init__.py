"""Planish makes convolutional networks accurate, small and fast, and backs every claim with measurements.

Every command is a function in ``planish.commands``; unless a subpackage has the same name, it can also be called from here:
``planish.optimize("photos/", model="mobilenet_v2", weights="imagenet")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planish.commands.bench import bench
    from planish.commands.check import check
    from planish.commands.compress import compress
    from planish.commands.datasets.crossval import crossval
    from planish.commands.datasets.few_shot import few_shot
    from planish.commands.datasets.label_issues import label_issues
    from planish.commands.datasets.learning_curve import learning_curve
    from planish.commands.datasets.retrain import retrain
    from planish.commands.demo import demo
    from planish.commands.deployment.monitor import monitor
    from planish.commands.deployment.pull import pull
    from planish.commands.deployment.push import push
    from planish.commands.deployment.serve import serve
    from planish.commands.deployment.verify import verify
    from planish.commands.evaluate import evaluate
    from planish.commands.experiments.backbones import backbones
    from planish.commands.experiments.compare import compare
    from planish.commands.experiments.ensembles import ensembles
    from planish.commands.experiments.experiment import experiment
    from planish.commands.explain import explain
    from planish.commands.machines.device_setup import device_setup
    from planish.commands.machines.doctor import doctor
    from planish.commands.optimize import optimize
    from planish.commands.train import train

__all__ = [
    "backbones", "bench", "check", "compare", "compress", "crossval", "demo", "device_setup", "doctor", "ensembles", "evaluate",
    "experiment", "explain", "few_shot", "label_issues", "learning_curve", "monitor", "optimize", "pull", "push", "retrain", "serve",
    "train", "verify",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'planish' has no attribute {name!r}")
    from planish import commands

    return getattr(commands, name)
