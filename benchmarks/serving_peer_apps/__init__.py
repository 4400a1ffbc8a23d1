"""Other servers with a bundle's model, each set up as its documentation advises for a CPU; see ``benchmarks/serving_peers.py``."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.serving.model import ServedModel

MAX_PIXELS = 32_000_000
WAIT_S = 0.001  # for a batch to fill


def named(model: ServedModel, pixels: list[np.ndarray[Any, Any]]) -> list[str]:
    """The class of each image; one call of the model."""
    return [said["class"] for said in model.answers(model.run(np.concatenate(pixels)))]
