"""Networks by name: what is built, what is changed for the images at hand, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from planish.errors import ModelError
from planish.models import build, create

FACTORY = """
from torch import nn

def tiny(num_classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

def greedy(num_classes, depth):
    return tiny(num_classes, depth)

def wrong(num_classes):
    return num_classes
"""


def small_network(outputs: int = 7) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs))


def rebuilt_equals(created, size: int) -> bool:
    again = build(created.source)
    again.load_state_dict(created.module.state_dict())
    images = torch.randn(2, created.source.channels, size, size)
    return torch.equal(again.eval()(images), created.module.eval()(images))


@pytest.mark.parametrize(("name", "parameters"), [("resnet20", 0.27e6), ("resnet32", 0.46e6), ("resnet44", 0.66e6), ("resnet56", 0.85e6)])
def test_ours_are_as_large_as_the_paper_says(name, parameters):
    module = create(name, num_classes=10, channels=3, image_size=32).module
    # table 6 of the paper, whose shortcuts have no weights; our two projections add 2,560 and their normalisation
    assert sum(p.numel() for p in module.parameters()) == pytest.approx(parameters, rel=0.03)


def test_width_factor_multiplies_the_channels():
    module = create("resnet14x2", num_classes=10, channels=1, image_size=28).module
    assert next(m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)) == 32
    assert module.fc.in_features == 128


def test_activations_keep_their_scale_when_fresh():
    torch.manual_seed(0)
    module = create("resnet56", num_classes=10, channels=3, image_size=32).module
    logits = module(torch.randn(32, 3, 32, 32))
    assert 0.01 < float(logits.std()) < 10


@pytest.mark.parametrize(
    ("name", "height"), [("resnet18", 4), ("mobilenet_v2", 2), ("shufflenet_v2_x1_0", 4), ("squeezenet1_1", 7), ("convnext_tiny", 2)]
)
def test_small_images_keep_their_resolution_in_the_stem(name, height):
    small = create(name, num_classes=10, channels=3, image_size=32)
    large = create(name, num_classes=10, channels=3, image_size=96)
    assert small.source.small_stem
    assert not large.source.small_stem
    assert any("resolution" in note for note in small.notes)
    assert last_map(small.module, 32) == height
    assert rebuilt_equals(small, 32)
    assert small.module.state_dict().keys() == large.module.state_dict().keys()  # so pretrained weights still fit


def last_map(module: nn.Module, size: int) -> int:
    """Height of the last convolution's output."""
    heights = []
    handles = [
        m.register_forward_hook(lambda _, __, out: heights.append(out.shape[2])) for m in module.modules() if isinstance(m, nn.Conv2d)
    ]
    with torch.no_grad():
        module.eval()(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return heights[-1]


def test_nothing_is_changed_where_there_is_no_such_stem():
    created = create("vgg11_bn", num_classes=10, channels=3, image_size=32)
    assert not created.source.small_stem


def test_grey_images_get_a_first_convolution_of_their_own():
    created = create("timm:mobilenetv3_small_050", num_classes=5, channels=1, image_size=96)
    assert created.module(torch.zeros(2, 1, 96, 96)).shape == (2, 5)
    assert rebuilt_equals(created, 96)


def test_bare_names_go_to_torchvision_then_timm():
    assert create("resnet18", num_classes=2, channels=3, image_size=96).source.name == "torchvision:resnet18"
    assert create("resnet10t", num_classes=2, channels=3, image_size=96).source.name == "timm:resnet10t"
    assert create("timm:resnet18", num_classes=2, channels=3, image_size=96).source.name == "timm:resnet18"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet21", "did you mean"),
        ("torchvision:mobilnet_v2", "torchvision:mobilenet_v2"),
        ("hub:resnet18", "before the colon"),
        ("nothere.py:net", "no file"),
    ],
)
def test_unknown_names_say_what_is_near(name, words):
    with pytest.raises(ModelError, match=words):
        create(name, num_classes=10, channels=3, image_size=32)


def test_a_size_the_network_cannot_take_is_refused():
    with pytest.raises(ModelError, match="larger image size"):
        create("vgg11_bn", num_classes=10, channels=3, image_size=16)


def test_factories_are_given_what_they_take(tmp_path: Path):
    file = tmp_path / "net.py"
    file.write_text(FACTORY)
    created = create(f"{file}:tiny", num_classes=3, channels=1, image_size=16)
    assert created.module(torch.zeros(2, 1, 16, 16)).shape == (2, 3)
    assert rebuilt_equals(created, 16)
    for name, words in (("greedy", "depth"), ("wrong", "must return a torch"), ("absent", "has no function")):
        with pytest.raises(ModelError, match=words):
            create(f"{file}:{name}", num_classes=3, channels=1, image_size=16)
    file.write_text(FACTORY + "\n# edited\n")
    with pytest.raises(ModelError, match="has changed"):
        build(created.source)


def test_a_network_handed_over_is_copied_and_keeps_its_weights():
    network = small_network()
    same = create(network, num_classes=7, channels=3, image_size=16)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(same.module(images), network(images))
    assert same.module is not network
    assert not same.new_classifier
    other = create(network, num_classes=4, channels=3, image_size=16)
    assert other.module(images).shape == (2, 4)
    assert network(images).shape == (2, 7)
    assert other.new_classifier
    assert "fresh classifier" in other.notes[0]
    assert build(other.source, network, 16)(images).shape == (2, 4)
    with pytest.raises(ModelError, match="module="):
        build(other.source)


@pytest.mark.parametrize("module", [small_network()[:3], nn.Sequential(nn.Flatten(), nn.Linear(5, 2))])
def test_networks_that_do_not_classify_are_refused(module):
    with pytest.raises(ModelError):
        create(module, num_classes=2, channels=3, image_size=16)


def test_sources_are_all_that_a_rebuild_needs():
    created = create("densenet121", num_classes=10, channels=1, image_size=28)
    assert rebuilt_equals(created, 28)
    assert build(replace(created.source, num_classes=3)).eval()(torch.zeros(1, 1, 28, 28)).shape == (1, 3)
