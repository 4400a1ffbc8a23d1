"""Files that can run code when they are opened are refused unless this process made them, the user named them, or PLANISH_TRUST says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.errors import TechniqueError, TrustError
from planish.export.runtimes.registry import RUNTIMES, executed_precisions, load
from planish.files.trust import TRUST, file_sha256, trust
from planish.models.storage import load_artifact, save_artifact
from planish.models.zoo import create
from planish.task import Task
from planish.training import Student

DANGEROUS = {"torch_export", "executorch", "stablehlo", "tensorrt"}
FACTORY = "import pathlib, torch\npathlib.Path(r'{mark}').touch()\ndef net(num_classes):\n    return torch.nn.Sequential({layers})\n"


@pytest.fixture(autouse=True)
def _nobody_vouches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST, "")


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_only_formats_that_are_data_are_opened_unasked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, opened = RUNTIMES[name], list[Path]()
    monkeypatch.setattr(kind, "version", staticmethod(lambda: "1"))
    monkeypatch.setattr(kind, "load", staticmethod(lambda file, threads, batch: opened.append(file)))
    monkeypatch.setattr(kind, "executed_precisions", staticmethod(lambda file: opened.append(file)))
    file = tmp_path / "model"
    file.write_bytes(b"from elsewhere")
    if not DANGEROUS & set(kind.formats):
        load([file], name)
        assert opened == [file]
        return
    for reader in (load, executed_precisions):
        with pytest.raises(TrustError, match=f"{TRUST}={file_sha256(file)}"):
            reader([file], name)
    assert not opened
    for vouched in ("1", file_sha256(file), f"{'0' * 64}, {file_sha256(file).upper()}"):
        monkeypatch.setenv(TRUST, vouched)
        load([file], name)
    assert len(opened) == 3
    monkeypatch.setenv(TRUST, "0" * 64)
    with pytest.raises(TrustError):
        load([file], name)


def test_what_is_trusted_is_the_bytes_here_and_in_processes_that_are_started(tmp_path: Path) -> None:
    file, copy = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"made here")
    copy.write_bytes(b"made here")
    trust(file)
    program = "import sys, pathlib, planish.files.trust as t; t.require_trust(pathlib.Path(sys.argv[1]), 'it runs code')"
    assert subprocess.run([sys.executable, "-c", program, str(copy)], capture_output=True).returncode == 0
    copy.write_bytes(b"made here, and changed")
    refused = subprocess.run([sys.executable, "-c", program, str(copy)], capture_output=True, text=True)
    assert "TrustError" in refused.stderr


def saved(folder: Path, layers: str) -> tuple[Path, Path]:
    """A saved model whose network is built by a Python file, and the file that appears when that is run."""
    code, mark = folder / "net.py", folder / "it-was-run"
    code.write_text(FACTORY.format(mark=mark, layers=layers))
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    source = Source(f"{code}:net", 2, 3)  # without a hash, which whoever wrote it may leave away
    how = Preprocessing(32, "squash", (0.5,) * 3, (0.2,) * 3)
    save_artifact(Artifact("torch", InputSpec(3, 32, 32), how, ("a", "b"), Lineage(source), module=module), folder / "model")
    return folder / "model", mark


LAYERS = "torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, num_classes)"


def test_a_saved_model_does_not_run_the_python_file_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mark = saved(tmp_path, LAYERS)
    with pytest.raises(TrustError, match=r"net\.py"):
        load_artifact(folder)
    assert not mark.exists()
    monkeypatch.setenv(TRUST, "1")
    assert load_artifact(folder).module is not None
    assert mark.exists()


def test_naming_the_file_is_trusting_it(tmp_path: Path) -> None:
    folder, mark = saved(tmp_path, LAYERS)
    create(f"{tmp_path / 'net.py'}:net", num_classes=2, channels=3, image_size=32)
    mark.unlink()
    assert load_artifact(folder).module is not None
    assert mark.exists()


def test_a_plan_does_not_run_the_python_file_it_names(tmp_path: Path) -> None:
    _, mark = saved(tmp_path, LAYERS)
    before = Artifact(
        "torch", InputSpec(3, 32, 32), Preprocessing(32, "squash", (0.5,) * 3, (0.2,) * 3), ("a", "b"), Lineage(Source("module", 2, 3)),
        module=nn.Flatten(),
    )  # fmt: skip
    with pytest.raises(TrustError, match=r"net\.py"):
        Student(f"{tmp_path / 'net.py'}:net").apply(before, cast(Task, None))
    assert not mark.exists()
    with pytest.raises(TechniqueError, match="there is no file"):
        Student(f"{tmp_path / 'other.py'}:net").apply(before, cast(Task, None))


def test_a_program_is_opened_by_who_wrote_it(tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(nn.Flatten(), (torch.zeros(1, 2, 3),)), file)
    with pytest.raises(TrustError, match="unpickle"):
        load([file], "torch")
    trust(file)
    assert load([file], "torch")
