"""Conformance: the zoo is pruned, equals its masked self, is smaller, and is rebuilt from its structure and weights."""

from __future__ import annotations

import copy
import json
from unittest import mock

import pytest
import timm
import torch
import torchvision
from pruning_nets import randomised
from torch import nn

from planish.compression.graph import structure
from planish.compression.pruning.channel_pruning import choose, exact
from planish.compression.pruning.importance import unit_scores

# What must be gone of the parameters when 40 % of the channels are; the others lose more than half.
LEAST = {
    **dict.fromkeys(("vit_", "swin_", "maxvit", "convnext", "timm:convnext", "timm:edgenext"), 0.2),
    **dict.fromkeys(("inception_v3", "timm:rexnet", "timm:eca_"), 0.35),
}
FAST = ("shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1", "resnet18", "timm:ghostnet_100", "timm:mixnet_s")
TIMM = (
    "efficientnet_b0", "tf_efficientnet_lite0", "mobilenetv3_small_100", "mobilenetv4_conv_small", "ghostnet_100", "repvgg_a0",
    "regnety_002", "convnext_atto", "densenet121", "hrnet_w18_small", "res2net50_26w_4s", "resnest14d", "dla34", "cspresnet50",
    "ese_vovnet19b_dw", "mixnet_s", "rexnet_100", "selecsls42b", "skresnet18", "xception41", "inception_next_atto", "mobileone_s0",
    "resnetblur50", "eca_resnet33ts", "edgenext_xx_small", "lcnet_050", "starnet_s1", "gernet_s", "cspdarknet53", "tinynet_e",
)  # fmt: skip
SLOW = (*torchvision.models.list_models(module=torchvision.models), *(f"timm:{name}" for name in TIMM))


def build(name: str) -> nn.Module:
    if name.startswith("timm:"):
        return timm.create_model(name.removeprefix("timm:"), num_classes=10)
    options: dict[str, object] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if name.startswith("vit_"):
        options = {"image_size": resolution(name)}
    # Values are drawn afterwards, so the slow initialisation of the large ones is skipped.
    with mock.patch.object(nn.init, "trunc_normal_", lambda t, *_, **__: t.data.normal_(0, 0.02)):
        return torchvision.models.get_model(name, weights=None, num_classes=10, **options)


def resolution(name: str) -> int:
    if name.startswith("maxvit"):
        return 224
    if name == "vit_h_14":
        return 56
    return 96 if "inception_v3" in name else 64


def check(name: str, ratio: float = 0.4) -> float:
    """Prune by norm and uniformly; returns the share of parameters left."""
    torch.manual_seed(0)
    original = randomised(build(name))
    blank = copy.deepcopy(original)
    size = resolution(name)
    example = torch.randn(1, 3, size, size)
    graph = structure.trace(original, example)
    scores = unit_scores("l2", original, graph, list, lambda network, outputs, _: outputs.sum())
    chosen, frozen = exact(original, graph, choose(graph, scores, ratio, "uniform", 4), example)
    units = [unit for cut in chosen.values() for unit in cut]
    other = torch.randn(1, 3, size, size)
    assert structure.difference(original, graph, units, other) <= 1e-5
    pruned = structure.prune(original, graph, units)
    left = sum(p.numel() for p in pruned.parameters()) / sum(p.numel() for p in original.parameters())
    least = next((share for prefix, share in LEAST.items() if name.startswith(prefix)), 0.5)
    assert left <= 1 - least, f"{name}: {left:.2f} of the parameters are left; frozen: {frozen}"
    recorded = json.loads(json.dumps(structure.structure_of(original, pruned, graph, units)))
    rebuilt = structure.rebuild(blank, recorded)
    rebuilt.load_state_dict(pruned.state_dict())
    with torch.no_grad():
        expected = pruned(other)
        assert expected.abs().max() > 0
        assert torch.equal(rebuilt(other), expected)
    print(f"{name}: {left:.2f} of the parameters left, {len(frozen)} of {len(graph.groups)} groups frozen")
    return left


@pytest.mark.parametrize("name", FAST)
def test_zoo(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SLOW if name not in FAST])
def test_whole_zoo(name: str) -> None:
    check(name)
