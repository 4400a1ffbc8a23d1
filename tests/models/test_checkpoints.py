"""Checkpoints as training scripts write them: the network's own tensors are found, and what a file is instead is named."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from planish.errors import ModelError
from planish.models.weights.checkpoints import aligned, read_checkpoint
from planish.models.weights.loading import fit_weights, read_weights
from planish.progress import collecting_notes

NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
STATE = NET.state_dict()
AVERAGED = {key: value + 1 for key, value in STATE.items()}


def prefixed(prefix: str, state: dict[str, torch.Tensor] = STATE) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "saved",
    [
        {"net": STATE, "acc": 93.2, "epoch": 7},
        {"epoch": 7, "network": STATE, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []}},
        {"weights": {"model": STATE}},
        {"model": STATE, "args": argparse.Namespace(lr=0.1, out=Path("x"))},
        {"state_dict": prefixed("model.") | {"criterion.weight": torch.ones(2)}, "pytorch-lightning_version": "2.5", "loops": {}},
        {"model": prefixed("_orig_mod.module.")},
        prefixed("encoder.backbone."),
        {key.replace("3.", "3._orig_mod."): value for key, value in STATE.items()},  # one layer compiled
    ],
    ids=["kuangliu", "optimizer", "nested", "namespace", "lightning", "compiled", "prefix", "regional"],
)
def test_the_network_is_found_wherever_it_lies(tmp_path: Path, saved: Any):
    torch.save(saved, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth", NET)
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


@pytest.mark.parametrize(
    "saved",
    [
        {"state_dict": STATE, "state_dict_ema": AVERAGED},
        {"model": STATE, "model_ema": prefixed("module.", AVERAGED) | {"n_averaged": torch.tensor(5)}},
        {"params": STATE, "params_ema": AVERAGED},
        {"ema": {"module": AVERAGED}, "model": STATE},
    ],
)
def test_averaged_weights_are_preferred_and_it_is_noted(tmp_path: Path, saved: Any):
    torch.save(saved, tmp_path / "w.pth")
    with collecting_notes() as notes:
        found = read_weights(tmp_path / "w.pth", NET)
    assert all(torch.equal(found[key], value) for key, value in AVERAGED.items())
    assert any("averaged weights" in note for note in notes)


def test_two_networks_of_equal_standing_are_not_guessed_between(tmp_path: Path):
    torch.save({"student": STATE, "teacher": AVERAGED}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="student, teacher"):
        read_checkpoint(tmp_path / "w.pth")


def test_a_prefix_that_the_network_has_itself_is_kept():
    wrapped = nn.ModuleDict({"model": NET})
    assert aligned(prefixed("model."), wrapped.state_dict()).keys() == wrapped.state_dict().keys()
    assert aligned(STATE, wrapped.state_dict()).keys() == wrapped.state_dict().keys()
    assert aligned(prefixed("module.model."), wrapped.state_dict()).keys() == wrapped.state_dict().keys()


def test_a_file_in_parts_is_read_whole(tmp_path: Path):
    keys = list(STATE)
    parts = {"model-00001-of-00002.safetensors": keys[:3], "model-00002-of-00002.safetensors": keys[3:]}
    for name, own in parts.items():
        save_file({key: STATE[key] for key in own}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, own in parts.items() for key in own}}))
    assert all(torch.equal(value, STATE[key]) for key, value in read_checkpoint(index).items())
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="00002-of-00002"):
        read_checkpoint(index)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(ModelError, match="elsewhere"):
        read_checkpoint(index)


def test_other_files_are_named_as_what_they_are(tmp_path: Path):
    torch.save(STATE, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:1500])
    save_file(STATE, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:700])
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "notes.pth").write_text("weights are at https://example.org")
    torch.jit.script(NET).save(str(tmp_path / "scripted.pt"))
    words = {
        "cut.pth": "cut short", "cut.safetensors": "safetensors", "lfs.pth": "git lfs pull", "page.pth": "web page", "empty.pth": "empty",
        "notes.pth": "text file", "scripted.pt": "TorchScript",
    }  # fmt: skip
    for name, said in words.items():
        with pytest.raises(ModelError, match=said):
            read_checkpoint(tmp_path / name)


class Config:
    """Somebody's own class."""


def test_objects_that_are_refused_are_named(tmp_path: Path):
    torch.save({"model": STATE, "config": Config()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="Config"):
        read_checkpoint(tmp_path / "w.pth")


def test_missing_names_come_with_the_nearest_that_is_there():
    renamed = {key.replace("1.running", "1.moving"): value for key, value in STATE.items()}
    with pytest.raises(ModelError, match=r"1\.running_mean \(the file has 1\.moving_mean\)"):
        fit_weights(NET, renamed, "3")
