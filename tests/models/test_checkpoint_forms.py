"""Checkpoints in the forms that training scripts, wrappers and weight norms leave behind."""

from __future__ import annotations

import copy
import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from planish.errors import ModelError
from planish.models.weights.checkpoints import State, read_checkpoint
from planish.models.weights.loading import fit_weights, read_weights
from planish.progress import collecting_notes


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 5, 2)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.up(self.features(x)).mean((2, 3)))


torch.manual_seed(3)
NET = Net().eval()
STATE = NET.state_dict()
IMAGES = torch.randn(2, 3, 12, 12)


def renamed(prefix: str, shift: float = 0.0) -> State:
    return {prefix + key: value + shift if value.is_floating_point() else value for key, value in STATE.items()}


def loaded(tmp_path: Path, saved: Any) -> tuple[nn.Module, list[str]]:
    torch.save(saved, tmp_path / "w.pth")
    module = Net().eval()
    with collecting_notes() as notes:
        fit_weights(module, read_weights(tmp_path / "w.pth", module), "fc")
    return module, [str(note) for note in notes]


def assert_same(module: nn.Module, expected: nn.Module = NET) -> None:
    with torch.no_grad():
        assert torch.allclose(module(IMAGES), expected(IMAGES), atol=1e-6)


OPTIMIZER = torch.optim.Adam(copy.deepcopy(NET).parameters())
for _parameter in OPTIMIZER.param_groups[0]["params"]:
    _parameter.grad = torch.ones_like(_parameter)
OPTIMIZER.step()


@pytest.mark.parametrize(
    "saved",
    [
        {key: value.numpy() for key, value in STATE.items()},
        {"state_dict": {key: value.numpy() for key, value in STATE.items()}, "epoch": 3},
        {"model": STATE, "opt": OPTIMIZER.state_dict()},  # fastai
        {key.replace("features.", "features.module."): value for key, value in STATE.items()},  # PyTorch's ImageNet example
        {key.replace("features.", "_fsdp_wrapped_module.features._checkpoint_wrapped_module."): v for key, v in STATE.items()},
        {"state_dict": STATE, "classes": np.array(["a", "b"]), "sizes": frozenset((1, 2)), "mean": np.float16(0.5)},
    ],
    ids=["numpy", "nested numpy", "fastai", "inner DataParallel", "FSDP", "harmless types"],
)
def test_a_network_is_found_in_the_form_it_was_saved_in(tmp_path: Path, saved: Any):
    module, notes = loaded(tmp_path, saved)
    assert_same(module)
    assert notes == []


def test_counters_of_operations_are_left_out(tmp_path: Path):
    counts = {f"{layer}{kind}": torch.zeros(1) for layer in ("", "fc.", "features.0.") for kind in ("total_ops", "total_params")}
    module, notes = loaded(tmp_path, STATE | counts)
    assert_same(module)
    assert "total_ops" in notes[0]


@pytest.mark.parametrize("layer", ["features.0", "up", "fc"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        weight_norm,
        lambda layer: weight_norm(layer, dim=None),
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ],
    ids=["prune", "weight_norm", "weight_norm of the whole", "spectral_norm", "new weight_norm", "new spectral_norm"],
)
def test_weights_are_computed_from_the_parts_in_the_file(tmp_path: Path, wrap: Any, layer: str):
    given = copy.deepcopy(NET)
    wrap(given.get_submodule(layer))
    given.train()(IMAGES)  # one step of the power iteration
    given.eval()
    with torch.no_grad():
        for name, parameter in given.named_parameters():
            if name.endswith(("_g", "original0")):
                parameter *= 1.5  # so that the parts are not those of the plain weight
    module, notes = loaded(tmp_path, given.state_dict())
    assert_same(module, given)
    assert "computed" in notes[0]


def test_weight_norm_is_read_under_its_older_names(tmp_path: Path):
    older, newer = copy.deepcopy(NET), copy.deepcopy(NET)
    weight_norm(older.fc)
    older.fc.weight_g.data *= 2
    parametrizations.weight_norm(newer.fc)
    torch.save(older.state_dict(), tmp_path / "w.pth")
    fit_weights(newer, read_weights(tmp_path / "w.pth", newer), "fc")
    assert_same(newer, older)


def test_of_two_networks_under_prefixes_none_is_taken_unseen(tmp_path: Path):
    for one, other in (("student.", "teacher."), ("encoder_q.", "encoder_k."), ("b.", "a.")):
        with pytest.raises(ModelError, match=f"several networks, whose names begin with '{one}', '{other}'"):
            loaded(tmp_path, renamed(one) | renamed(other, 1.0))
    module, notes = loaded(tmp_path, renamed("model.", 1.0) | renamed("ema_model.module."))
    assert_same(module)
    assert "ema_model." in notes[0]


def test_a_file_is_read_by_its_content(tmp_path: Path):
    safetensors.torch.save_file(STATE, tmp_path / "a.pth")
    torch.save(STATE, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        assert read_checkpoint(tmp_path / name).keys() == STATE.keys()


def test_what_a_file_is_instead_of_weights_is_said(tmp_path: Path):
    torch.save(STATE, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth.gz").write_bytes(gzip.compress(whole))
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        member = tarfile.TarInfo("w.pth")
        member.size = len(whole)
        archive.addfile(member, io.BytesIO(whole))
    np.savez(tmp_path / "w.npz", **{key: value.numpy() for key, value in STATE.items()})
    torch.export.save(torch.export.export(NET, (IMAGES,)), tmp_path / "w.pt2")
    (tmp_path / "w.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    (tmp_path / "folder").mkdir()
    safetensors.torch.save_file(STATE, tmp_path / "folder" / "model.safetensors")
    torch.save({}, tmp_path / "empty.pth")
    torch.save(OPTIMIZER.state_dict(), tmp_path / "optimizer.pth")
    words = {
        "w.pth.gz": "gunzip", "w.tar": "tar archive", "w.npz": "NumPy arrays", "w.pt2": "torch.export wrote", "w.h5": "Keras",
        "folder": "folder.*model.safetensors", "empty.pth": "nothing in it", "optimizer.pth": "dict with state, param_groups",
    }  # fmt: skip
    for name, said in words.items():
        with pytest.raises(ModelError, match=said):
            read_checkpoint(tmp_path / name)


def test_weights_of_a_diverged_training_are_named():
    with pytest.raises(ModelError, match=r"NaN or infinite values in features\.0\.weight"):
        fit_weights(Net(), STATE | {"features.0.weight": STATE["features.0.weight"] * torch.nan}, "fc")


def test_a_classifier_that_does_not_fit_is_described_by_what_differs():
    for changed, words in (
        ({"fc.weight": torch.zeros(10, 5), "fc.bias": torch.zeros(10)}, "a classifier of 10 outputs"),
        ({"fc.weight": torch.zeros(3, 20)}, r"another shape (fc.weight is (3, 20), not (3, 5))"),
    ):
        fresh, notes = fit_weights(Net(), STATE | changed, "fc")
        assert fresh
        assert words in notes[0]
    assert "only a part of the classifier" in fit_weights(Net(), {k: v for k, v in STATE.items() if k != "fc.bias"}, "fc")[1][0]
