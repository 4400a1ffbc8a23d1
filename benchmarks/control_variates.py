"""What narrows the interval of a drop without more labelled images, on networks whose true drop is known, and what is biased.

    .venv/bin/python benchmarks/control_variates.py FASHION_MNIST.npz [--draws 2000]

FASHION_MNIST.npz holds ``images`` uint8 ``(70000, 28, 28)`` and ``labels`` ``(70000,)``. An original learns 3,000 images; networks of
fewer channels are distilled from it. The drop on 24,000 further images is taken as the truth. Then 400 of them are drawn as validation
images many times, and the drop is estimated from them:

- plain: the mean difference of right and wrong;
- control: the same, with a control variate computed from both models' probabilities, whose mean is taken over 4,000 more images without
  labels (prediction-powered inference, Angelopoulos et al. 2023, arXiv:2301.09633), its weights fitted on the other folds;
- probabilities: the mean over the validation images of that difference as the calibrated probabilities give it, without labels;
- mirrored: the mean over each image and its mirror image, with the interval over images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from torch import nn
from torch.nn import functional as F

RESULTS = Path(__file__).parent / "results"
TRAIN, OTHERS, MIRRORED, VALIDATION, UNLABELLED, FOLDS = 3000, 24_000, 8000, 400, 4000, 5
WIDTH, WIDTHS = 12, (10, 9, 8, 7, 6, 5)
Logits = dict[str, np.ndarray]


def network(width: int) -> nn.Sequential:
    """Build six convolutions and a linear layer, for images ``(N, 1, 28, 28)``."""
    layers: list[nn.Module] = []
    for before, after, stride in (
        (1, width, 2),
        *((width * 2**i, width * 2**j, 1 + j - i) for i, j in ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2))),
    ):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def prepared(images: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(images).float().unsqueeze(1) / 255 - 0.286) / 0.353


def fit(net: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int, teacher: nn.Module | None = None) -> nn.Module:
    """Train with mirroring and shifts of a pixel; with a teacher, to match its outputs instead of the labels."""
    rng, batches = np.random.default_rng(0), len(images) // 64
    steps, order = epochs * batches, np.arange(len(images))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for step in range(steps):
        at = step % batches
        if at == 0:
            rng.shuffle(order)
        rows = order[64 * at : 64 * at + 64]
        batch = torch.roll(prepared(images[rows]), tuple(int(x) for x in rng.integers(-1, 2, 2)), (-2, -1))
        batch[::2] = batch[::2].flip(-1)
        if teacher is None:
            loss = F.cross_entropy(net(batch), torch.from_numpy(labels[rows]).long())
        else:
            with torch.no_grad():
                wanted = F.log_softmax(teacher(batch) / 4, 1)
            loss = 16 * F.kl_div(F.log_softmax(net(batch) / 4, 1), wanted, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def logits_of(net: nn.Module, images: np.ndarray) -> np.ndarray:
    return torch.cat([net(prepared(images[i : i + 500])) for i in range(0, len(images), 500)]).numpy()


def calibrated(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return probabilities with the temperature that fits these labels best."""
    rows = np.arange(len(labels))
    found = minimize_scalar(lambda t: -np.log(softmax(logits / t, 1)[rows, labels] + 1e-9).mean(), bounds=(0.3, 5), method="bounded")
    return np.asarray(softmax(logits / found.x, axis=1))


def controls(original: np.ndarray, model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected difference of right and wrong by the mean of both models' probabilities, ``(N,)``, and features ``(N, 5)``."""
    rows, first, second = np.arange(len(original)), original.argmax(1), model.argmax(1)
    mean, differ = (original + model) / 2, (first != second) * 1.0
    expected = mean[rows, first] - mean[rows, second]
    confident = differ * original[rows, first], differ * model[rows, second]
    return expected, np.stack([np.ones(len(rows)), expected, differ, *confident], axis=1)


def with_control(difference: np.ndarray, features: np.ndarray, more: np.ndarray) -> tuple[float, float]:
    """Return the estimate and its standard error; the weights of each fold are fitted on the others.

    Args:
        difference: original right minus model right on labelled images ``(n,)``.
        features: features of these images ``(n, 5)``.
        more: features of images without labels ``(N, 5)``.
    """
    fold, rest, expected = np.arange(len(difference)) % FOLDS, np.zeros(len(difference)), np.zeros(len(more))
    for i in range(FOLDS):
        kept = fold != i
        ridge = features[kept].T @ features[kept] + np.diag([0, *[1.0] * (features.shape[1] - 1)])
        weights = np.linalg.solve(ridge, features[kept].T @ difference[kept])
        rest[~kept] = difference[~kept] - features[~kept] @ weights
        expected += more @ weights / FOLDS
    return float(expected.mean() + rest.mean()), float((rest.var() / len(rest) + expected.var() / len(expected)) ** 0.5)


def study(name: str, logits: Logits, labels: np.ndarray, train_labels: np.ndarray, draws: int) -> dict[str, Any]:
    """Return coverage of the 95 % intervals, bias in points, and width relative to the plain interval, of one network."""
    rng = np.random.default_rng(0)
    right = {key: value.argmax(1) == (train_labels if key.startswith("train ") else labels[: len(value)]) for key, value in logits.items()}
    difference = right["original"] * 1.0 - right[name]
    mirrored = right["mirrored original"] * 1.0 - right[f"mirrored {name}"]
    truth, first = difference.mean(), difference[:MIRRORED]
    probabilities = [calibrated(logits[key], labels) for key in ("original", name)]
    expected, features = controls(*probabilities)
    estimates: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(draws):
        rows = rng.permutation(OTHERS)[: VALIDATION + UNLABELLED]
        seen, more, of_both = rows[:VALIDATION], rows[VALIDATION:], rng.choice(MIRRORED, VALIDATION, replace=False)
        both = (first[of_both] + mirrored[of_both]) / 2
        found = {
            "plain": (difference[seen].mean(), difference[seen].std() / VALIDATION**0.5, truth),
            "control": (*with_control(difference[seen], features[seen], features[more]), truth),
            "probabilities": (expected[seen].mean(), expected[seen].std() / VALIDATION**0.5, truth),
            "mirrored": (both.mean(), both.std() / VALIDATION**0.5, first.mean()),
        }
        for rule, one in found.items():
            estimates.setdefault(rule, []).append(one)
    plain = np.mean([error for _, error, _ in estimates["plain"]])
    rows_of: dict[str, Any] = {
        "network": name,
        "drop": round(100 * float(truth), 2),
        "discordant": round(100 * float((difference != 0).mean()), 2),
        "drop_on_train": round(100 * float((right["train original"] * 1.0 - right[f"train {name}"]).mean()), 2),
        "variance_explained": round(
            float(1 - (difference - features @ np.linalg.lstsq(features, difference)[0]).var() / difference.var()), 3
        ),
        "mirrored_minus_plain": round(100 * float((mirrored - first).mean()), 2),
        "standard_error_of_that": round(100 * float((mirrored - first).std() / MIRRORED**0.5), 2),
    }
    for rule, found_all in estimates.items():
        value, error, target = np.array(found_all).T
        rows_of[rule] = {
            "coverage": round(float((np.abs(value - target) <= 1.96 * error).mean()), 3),
            "bias": round(100 * float((value - target).mean()), 2),
            "width": round(float(error.mean() / plain), 3),
        }
    return rows_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=2000)
    asked = parser.parse_args()
    torch.manual_seed(0)
    with np.load(asked.data) as stored:
        order = np.random.default_rng(0).permutation(len(stored["labels"]))[: TRAIN + OTHERS]
        images, labels = stored["images"][order], stored["labels"][order].astype(np.int64)
    splits = {"train ": images[:TRAIN], "": images[TRAIN:], "mirrored ": images[TRAIN : TRAIN + MIRRORED, :, ::-1].copy()}
    networks = {"original": fit(network(WIDTH), images[:TRAIN], labels[:TRAIN], 10)}
    rows = []
    for width in (WIDTH, *WIDTHS):
        name = "original" if width == WIDTH else f"width {width}"
        if name not in networks:
            networks[name] = fit(network(width), images[:TRAIN], labels[:TRAIN], 12, networks["original"])
        logits = {split + key: logits_of(networks[key], some) for split, some in splits.items() for key in {"original", name}}
        if name != "original":
            rows.append(study(name, logits, labels[TRAIN:], labels[:TRAIN], asked.draws))
            print(json.dumps(rows[-1]), flush=True)
    (RESULTS / "control_variates.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
