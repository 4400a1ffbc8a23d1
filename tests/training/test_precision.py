"""bfloat16 is taken where the network itself gains by it, and the measurement leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch

from planish.artifact import InputSpec
from planish.models.zoo import create
from planish.training import precision

SPEC = InputSpec(channels=3, height=16, width=16)
CPU = torch.device("cpu")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.setattr(precision, "_known", {})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    return create("resnet8", num_classes=3, channels=3, image_size=16).module


def test_the_network_and_randomness_are_left_as_they_were(network: torch.nn.Module) -> None:
    before, drawn = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    precision.use_bf16("auto", CPU, network.requires_grad_(False), SPEC)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(("seconds", "gains"), [((1.0, 0.5), True), ((1.0, 0.95), False), ((1.0, 2.0), False)])
def test_what_is_faster_is_taken_and_remembered(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], gains: bool
) -> None:
    asked = []
    monkeypatch.setattr(precision, "_step_seconds", lambda *_: asked.append(1) or seconds)
    assert [precision.use_bf16("auto", CPU, network, SPEC) for _ in range(2)] == [gains, gains]
    assert len(asked) == 1
    assert precision.use_bf16("bf16", CPU, network, SPEC)
    assert not precision.use_bf16("off", CPU, network, SPEC)
