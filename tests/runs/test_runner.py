"""Steps of a plan run from fixed random states, and leave those of the caller as they were."""

from __future__ import annotations

import random

import numpy as np
import torch

from planish.plan import Plan
from planish.runs.runner import _randomness_of


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_the_random_states_of_the_caller_are_left_as_they_were() -> None:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    with _randomness_of(Plan()):
        first = draws()
    with _randomness_of(Plan()):
        assert draws() == first
    assert draws() == expected
