"""The commands, one typed function each. The command line is generated from their signatures and docstrings."""

from planish.commands.bench import bench
from planish.commands.check import CheckedFile, check
from planish.commands.compress import Compressed, compress
from planish.commands.datasets.crossval import crossval
from planish.commands.datasets.data import data
from planish.commands.datasets.few_shot import few_shot
from planish.commands.datasets.label_issues import label_issues
from planish.commands.datasets.learning_curve import learning_curve
from planish.commands.datasets.retrain import retrain
from planish.commands.datasets.synthesize import synthesize
from planish.commands.datasets.tile import tile
from planish.commands.demo import demo
from planish.commands.deployment.alert_rules import alert_rules
from planish.commands.deployment.label_candidates import label_candidates
from planish.commands.deployment.monitor import monitor
from planish.commands.deployment.pull import pull
from planish.commands.deployment.push import push
from planish.commands.deployment.serve import serve
from planish.commands.deployment.sign import sign
from planish.commands.deployment.verify import verify
from planish.commands.evaluate import evaluate
from planish.commands.experiments.backbones import backbones
from planish.commands.experiments.compare import compare
from planish.commands.experiments.ensembles import ensembles
from planish.commands.experiments.experiment import experiment
from planish.commands.experiments.search import search
from planish.commands.explain import explain
from planish.commands.export import export
from planish.commands.machines.device_setup import device_setup
from planish.commands.machines.doctor import doctor
from planish.commands.machines.worker import worker
from planish.commands.optimize import optimize
from planish.commands.pages.report import report
from planish.commands.pages.ui import ui
from planish.commands.recipes import recipes
from planish.commands.train import Trained, train

__all__ = [
    "CheckedFile", "Compressed", "Trained", "alert_rules", "backbones", "bench", "check", "compare", "compress", "crossval", "data", "demo",
    "device_setup", "doctor", "ensembles", "evaluate", "experiment", "explain", "export", "few_shot", "label_candidates", "label_issues",
    "learning_curve", "monitor", "optimize", "pull", "push", "recipes", "report", "retrain", "search", "serve", "sign", "synthesize",
    "tile", "train", "ui", "verify", "worker",
]  # fmt: skip
