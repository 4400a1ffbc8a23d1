"""Networks of the search space: built from their names, the same every time, and what is no such name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from planish.errors import ModelError
from planish.models import build, create
from planish.models.space.architecture import Architecture, StageSpec
from planish.models.space.network import SearchedBlock

NAME = "searched:c16s2-r32n2k3s1-d48n1k5s2-i64n2k3e4s2"


def test_a_name_is_the_network() -> None:
    found = Architecture.named(NAME)
    assert found.name == NAME
    assert found.stages[2] == StageSpec("inverted", 64, 2, 3, 4, 2)
    torch.manual_seed(0)
    created = create(NAME, num_classes=5, channels=3, image_size=64)
    created.module.eval()
    again = build(created.source)
    again.load_state_dict(created.module.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert created.module(images).shape == (2, 5)
    assert torch.equal(again.eval()(images), created.module(images))
    torch.manual_seed(0)
    same = create(NAME, num_classes=5, channels=3, image_size=64).module.eval()
    assert torch.equal(same(images), created.module(images)), "the same seed gives the same weights"


def test_its_layers_are_those_of_the_name() -> None:
    module = create(NAME, num_classes=5, channels=1, image_size=64).module
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    # stem; two residual blocks of two and one projection; depthwise and pointwise; two inverted blocks of three
    assert len(convolutions) == 1 + 5 + 2 + 6
    assert [m.groups for m in convolutions if m.groups > 1] == [32, 4 * 48, 4 * 64]
    assert [m.kernel_size[0] for m in convolutions if m.groups > 1] == [5, 3, 3]
    assert not [m for m in module.modules() if isinstance(m, (nn.ReLU6, nn.Hardswish, nn.GELU))]
    with torch.no_grad():
        assert module.stages(module.stem(torch.zeros(1, 1, 64, 64))).shape == (1, 64, 8, 8)


def test_blocks_add_their_input_where_the_shape_stays() -> None:
    x = torch.randn(1, 8, 6, 6)
    for kind, has in (("residual", True), ("inverted", True), ("separable", False)):
        block = SearchedBlock(kind, 8, 8, 3, 2, 1).eval()  # type: ignore[arg-type]
        nn.init.zeros_(list(block.layers.children())[-1].weight)  # type: ignore[arg-type]
        with torch.no_grad():
            assert torch.equal(block(x), (x if kind == "inverted" else x.relu()) if has else torch.zeros_like(x)), kind
    assert isinstance(SearchedBlock("residual", 8, 16, 3, 1, 2).shortcut, nn.Sequential)
    assert SearchedBlock("inverted", 8, 16, 3, 2, 1).shortcut is None


@pytest.mark.parametrize(
    "name",
    [
        "searched:", "searched:c16s1", "searched:c16s1-x16n1k3s1", "searched:c16s1-r16n1k4s1", "searched:c16s1-r9999n1k3s1",
        "searched:c16s1-r16n99k3s1", "searched:c016s1-r16n1k3s1", "searched:c16s1-r16n1k3e2s1", "searched:c16s3-r16n1k3s1",
        "searched:c16s1" + 9 * "-r16n1k3s1",
    ],
)  # fmt: skip
def test_other_names_are_refused_with_an_example(name: str) -> None:
    with pytest.raises(ModelError, match=r"describes no network.*searched:c16s1-r16n1k3s1-d64n2k5s2"):
        create(name, num_classes=5, channels=3, image_size=32)
