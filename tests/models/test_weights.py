"""Weights from files: what fits, what is replaced, and what is refused before any code of it runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from planish.errors import ModelError
from planish.models import create
from planish.models.weights.checkpoints import read_checkpoint

SIZES = {"channels": 3, "image_size": 32}


def weights_of(name: str, num_classes: int, channels: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return create(name, num_classes=num_classes, channels=channels, image_size=32).module.state_dict()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}, "module."])
def test_state_dicts_are_found_bare_wrapped_and_prefixed(tmp_path: Path, wrap):
    state = weights_of("resnet8", 10)
    stored = {wrap + key: value for key, value in state.items()} if isinstance(wrap, str) else wrap(state)
    torch.save(stored, tmp_path / "w.pth")
    created = create("resnet8", num_classes=10, weights=tmp_path / "w.pth", **SIZES)
    assert created.pretrained
    assert not created.new_classifier
    assert all(torch.equal(value, state[key]) for key, value in created.module.state_dict().items())


def test_safetensors_are_read(tmp_path: Path):
    state = weights_of("resnet8", 10)
    save_file(state, tmp_path / "w.safetensors")
    assert read_checkpoint(tmp_path / "w.safetensors").keys() == state.keys()


def test_a_classifier_of_another_size_is_replaced_and_said_so(tmp_path: Path):
    state = weights_of("mobilenet_v2", 1000)
    torch.save(state, tmp_path / "w.pth")
    created = create("mobilenet_v2", num_classes=10, weights=str(tmp_path / "w.pth"), **SIZES)
    assert created.new_classifier
    assert any("1000" in note and "fresh" in note for note in created.notes)
    assert created.source.small_stem
    own = created.module.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith("classifier"))
    assert created.mean == pytest.approx((0.485, 0.456, 0.406))


def test_a_trained_classifier_keeps_the_stem_it_was_trained_with(tmp_path: Path):
    torch.save(create("mobilenet_v2", num_classes=10, channels=3, image_size=96).module.state_dict(), tmp_path / "w.pth")
    created = create("mobilenet_v2", num_classes=10, weights=tmp_path / "w.pth", **SIZES)
    assert not created.source.small_stem
    assert any("stays as they were trained" in note for note in created.notes)


def test_rgb_weights_on_grey_images_answer_as_on_grey_rgb(tmp_path: Path):
    torch.save(weights_of("resnet8", 10), tmp_path / "w.pth")
    colour = create("resnet8", num_classes=10, weights=tmp_path / "w.pth", **SIZES).module.eval()
    grey = create("resnet8", num_classes=10, weights=tmp_path / "w.pth", channels=1, image_size=32).module.eval()
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)))


def test_grey_weights_on_colour_images_answer_as_on_grey(tmp_path: Path):
    torch.save(weights_of("resnet8", 10, channels=1), tmp_path / "w.pth")
    colour = create("resnet8", num_classes=10, weights=tmp_path / "w.pth", **SIZES).module.eval()
    grey = create("resnet8", num_classes=10, weights=tmp_path / "w.pth", channels=1, image_size=32).module.eval()
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)))


def test_other_mismatches_name_the_keys(tmp_path: Path):
    state = weights_of("resnet8", 10)
    state["extra.weight"] = torch.zeros(1)
    state["bn1.bias"] = torch.zeros(5)
    del state["stages.0.0.conv1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError) as caught:
        create("resnet8", num_classes=10, weights=tmp_path / "w.pth", **SIZES)
    for words in ("missing: stages.0.0.conv1.weight", "unexpected: extra.weight", "bn1.bias (5,) instead of (16,)"):
        assert words in str(caught.value)


class Trap:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickled_code_is_refused_and_never_runs(tmp_path: Path):
    torch.save({"state_dict": Trap(tmp_path / "ran")}, tmp_path / "w.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    for name in ("w.pt", "whole.pt", "plain.pt"):
        with pytest.raises(ModelError, match=r"state_dict\(\)"):
            create("resnet8", num_classes=10, weights=tmp_path / name, **SIZES)
    assert not (tmp_path / "ran").exists()


def test_what_is_not_weights_is_refused(tmp_path: Path):
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text.pth", "text.safetensors", "list.pth", "absent.pth"):
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            create("resnet8", num_classes=10, weights=tmp_path / name, **SIZES)
    with pytest.raises(ModelError, match="no ImageNet weights"):
        create("resnet8", num_classes=10, weights="imagenet", **SIZES)


def test_without_a_network_connection_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match="give --weights FILE"):
        create("mobilenet_v2", num_classes=10, weights="imagenet", **SIZES)


DETECTOR = """
from torch import nn
class Own(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 4 + classes, 3, 8, 1)
    def forward(self, x):
        return {"map": self.conv(x)}
    def decode(self, outputs):
        return outputs
def make(num_classes):
    return Own(num_classes)
"""


def test_a_detector_of_ones_own_gets_its_weights_and_the_given_network_stays_as_it_is(tmp_path: Path):
    (tmp_path / "detector.py").write_text(DETECTOR)
    name, file, wanted = f"{tmp_path / 'detector.py'}:make", tmp_path / "weights.pth", torch.rand(7, 3, 3, 3)
    torch.save({"conv.weight": wanted, "conv.bias": torch.zeros(7)}, file)
    how = {"num_classes": 3, "channels": 3, "image_size": 64, "task": "detection"}
    assert torch.equal(create(name, weights=file, **how).module.conv.weight, wanted)
    given = create(name, **how).module
    before = given.conv.weight.clone()
    assert torch.equal(create(given, weights=file, **how).module.conv.weight, wanted)
    assert torch.equal(given.conv.weight, before)
    torch.save({"conv.weight": wanted}, file)
    with pytest.raises(ModelError, match=r"missing: conv\.bias"):
        create(given, weights=file, **how)
