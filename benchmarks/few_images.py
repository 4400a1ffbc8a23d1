"""How often the shipped model loses more than allowed on new images, and how fast it is, by number of validation images and `--risk`.

    .venv/bin/python benchmarks/few_images.py [--families 600]

Each family is what a search measures at its end: the original, INT8 alone, and five pruned and distilled networks, each faster and on
average less accurate than the one before. Drops and shares of discordant images are drawn around those of `planish demo`. All models see
the same validation images, so their errors are correlated. The true drop of each is known, since it was drawn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from planish.evaluation.statistics.drop_risk import drop_risk
from planish.measurement import Metric

RESULTS = Path(__file__).parent / "results"
IMAGES, RISKS, LIMIT_POINTS = (200, 400, 1000, 5000), (0.05, 0.1, 0.16, 0.2, 0.25, 0.35), 1.0
ACCURACY = Metric("accuracy")
RULES = ("fastest", "least risk", "about the least", "original")
CORRELATION = 0.5  # of the latent difficulty of an image for two models
Choice = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], int]


def family(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw speeds relative to INT8 alone, true drops in points, and shares of discordant images, ``(6,)`` each, INT8 alone first."""
    speeds = np.exp(np.sort(rng.uniform(np.log(1.15), np.log(3.0), 5)))
    slope, hardness = 0.8 * np.exp(rng.normal(0, 0.7)), np.exp(rng.normal(0, 0.5))
    drops = slope * np.log2(speeds) ** 1.5 + rng.normal(0, 0.35 * hardness, 5)
    discordant = 0.035 * hardness + 0.012 * np.abs(drops)
    int8 = rng.normal(0.03, 0.1 * hardness)
    return np.r_[1.0, speeds], np.r_[int8, drops], np.r_[0.006 * hardness + 0.012 * abs(int8), discordant]


def measured(drops: np.ndarray, discordant: np.ndarray, images: int, rng: np.random.Generator) -> np.ndarray:
    """Draw, for each model and image, original right minus model right: 1, 0 or -1, ``(6, images)``."""
    latent = CORRELATION**0.5 * rng.normal(size=images) + (1 - CORRELATION) ** 0.5 * rng.normal(size=(len(drops), images))
    lost = np.clip((discordant + drops / 100) / 2, 0, 1)
    gained = np.clip((discordant - drops / 100) / 2, 0, 1)
    difference = (latent > stats.norm.isf(lost)[:, None]).astype(int)
    # of the images that are not lost, those next to the lost ones are gained: they are as difficult
    edge = stats.norm.isf(lost + gained)[:, None]
    return np.asarray(difference - ((latent > edge) & (difference == 0)))


def one_standard_error(difference: np.ndarray) -> np.ndarray:
    """Return the bound that was used before: the drop plus one standard error of the Bonett-Price interval, in points."""
    n = difference.shape[1]
    lost, gained = ((difference == sign).sum(axis=1) + 1 for sign in (1, -1))
    error = np.sqrt(lost + gained - (lost - gained) ** 2 / (n + 2)) / (n + 2)
    return np.asarray(100 * (difference.mean(axis=1) + error))


def ships(speeds: np.ndarray, drops: np.ndarray, risks: np.ndarray, accepted: float, otherwise: str) -> int:
    """Return the model that ships: the fastest with an accepted risk; -1 for the original.

    Args:
        speeds: speed of each model.
        drops: measured drops in points.
        risks: measured risks, 0 to 1.
        accepted: the accepted risk.
        otherwise: what ships if no risk is accepted: the ``fastest`` within the limit, that of the ``least risk`` or the fastest with
            ``about the least``, or the ``original``.
    """
    meeting = np.flatnonzero(drops <= LIMIT_POINTS)
    safe = [i for i in meeting if risks[i] <= accepted]
    if safe:
        return int(max(safe, key=lambda i: speeds[i]))
    if not len(meeting) or otherwise == "original":
        return -1
    if otherwise == "about the least":
        meeting, otherwise = meeting[risks[meeting] <= risks[meeting].min() + accepted / 4], "fastest"
    return int(max(meeting, key=lambda i: speeds[i] if otherwise == "fastest" else -risks[i]))


def study(families: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return, for each number of images and rule, how often the limit is exceeded, by how much, and the geometric mean of the speeds."""
    rows = []
    for images in IMAGES:
        rng = np.random.default_rng(seed)
        shipped: dict[tuple[str, float], list[tuple[float, float]]] = {}
        for _ in range(families):
            speeds, drops, discordant = family(rng)
            difference = measured(drops, discordant, images, rng)
            seen, bound = 100 * difference.mean(axis=1), one_standard_error(difference)
            risks = np.array([drop_risk(d > 0, d < 0, LIMIT_POINTS, ACCURACY).value / 100 for d in difference])
            chosen = {("before", 0.16): ships(speeds, seen, (bound > LIMIT_POINTS) * 1.0, 0.5, "fastest")}
            chosen |= {(rule, r): ships(speeds, seen, risks, r, rule) for r in RISKS for rule in RULES}
            chosen[("point estimate", 0.5)] = ships(speeds, seen, risks * 0, 0.5, "original")
            able = drops <= LIMIT_POINTS
            chosen[("known", 0.0)] = int(np.argmax(np.where(able, speeds, 0))) if able.any() else -1
            for rule, index in chosen.items():
                shipped.setdefault(rule, []).append((speeds[index], drops[index]) if index >= 0 else (0.3, 0.0))
        for (rule, risk), results in shipped.items():
            speed, drop = np.array(results).T
            rows.append(
                {
                    "images": images,
                    "rule": rule,
                    "risk": risk,
                    "exceeded": round(float((drop > LIMIT_POINTS).mean()), 3),
                    "excess_points": round(float(np.clip(drop - LIMIT_POINTS, 0, None).mean()), 3),
                    "speed": round(float(np.exp(np.log(speed).mean())), 2),
                    "int8_or_original": round(float((speed <= 1).mean()), 3),
                }
            )
            print(" ".join(f"{value:>14}" for value in rows[-1].values()), flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=600)
    asked = parser.parse_args()
    (RESULTS / "few_images.json").write_text(json.dumps({"families": asked.families, "rows": study(asked.families)}, indent=1) + "\n")
