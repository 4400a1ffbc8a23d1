"""A compiled teacher gives the outputs of the network, and the network itself is used where it cannot be compiled."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from planish.artifact import InputSpec
from planish.models.zoo import create
from planish.training.distillation.compiled_teacher import CompiledTeacher, compiled_teacher

SPEC = InputSpec(3, 32, 32)


@pytest.mark.parametrize(("bf16", "limit"), [(False, 1e-4), (True, 0.05)])
def test_it_gives_the_outputs_of_the_network(bf16: bool, limit: float) -> None:
    torch.manual_seed(0)
    network = create("resnet8", num_classes=5, channels=3, image_size=32).module.eval()
    compiled = compiled_teacher(network, SPEC, 8, bf16)
    assert isinstance(compiled, CompiledTeacher)
    images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = network(images)
    found = compiled(images)
    assert (found - wanted).square().mean().sqrt() < limit * wanted.std()
    kept = found.clone()
    compiled(-images)
    assert torch.equal(found, kept), "outputs are not overwritten by the next batch"


class _Named(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": x.mean((2, 3))}


class _Random(nn.Module):
    """Code that the converter does not see: its outputs differ from call to call."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.mean((2, 3)) * (1 if self.calls == 1 else -1)


@pytest.mark.parametrize("network", [_Named(), _Random()])
def test_other_networks_stay_in_pytorch(network: nn.Module) -> None:
    assert compiled_teacher(network.eval(), SPEC, 4, False) is network


def test_without_openvino_the_network_stays_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = nn.Identity()
    monkeypatch.setattr("planish.training.distillation.compiled_teacher.find_spec", lambda _: None)
    assert compiled_teacher(network, SPEC, 4, False) is network


def test_it_is_compiled_once_for_trainings_that_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    converted, convert = [], openvino.convert_model
    monkeypatch.setattr(openvino, "convert_model", lambda *given, **named: converted.append(1) or convert(*given, **named))
    torch.manual_seed(1)
    network = create("resnet8", num_classes=3, channels=3, image_size=32).module.eval()
    first = compiled_teacher(network, SPEC, 4, False)
    assert compiled_teacher(copy.deepcopy(network), SPEC, 4, False) is first
    assert len(converted) == 1
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    images = torch.randn(4, 3, 32, 32)
    other = compiled_teacher(network, SPEC, 4, False)
    assert len(converted) == 2
    with torch.no_grad():
        assert torch.allclose(other(images), network(images), atol=1e-3)
    assert compiled_teacher(network, SPEC, 8, False)(torch.randn(8, 3, 32, 32)).shape == (8, 3)
